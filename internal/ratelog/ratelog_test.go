package ratelog_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/internal/ratelog"
)

func TestOneLineInATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := ratelog.Logger(slog.New(slog.NewTextHandler(&out, nil)), slog.LevelWarn, "an answer failed")
		for range 1000 {
			log.Println("write tcp: broken pipe")
		}
		if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "omitted=0") {
			t.Errorf("logged %s", got)
		}
		time.Sleep(10*time.Second - 1)
		log.Println("once more")
		time.Sleep(time.Nanosecond)
		log.Println("once more")
		if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `what="once more" omitted=1000`) {
			t.Errorf("logged %s", got)
		}
	})
}
