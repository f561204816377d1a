package gossip

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLog(t *testing.T) {
	var b bytes.Buffer
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	logger := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	w := &logWriter{logger: logger, now: func() time.Time { return now }}
	for _, line := range []string{
		"[ERR] memberlist: one\n", "[WARN] memberlist: two\n", "[DEBUG] memberlist: three\n", "four\n", "[odd\n",
	} {
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Error(n, err)
		}
	}
	want := "level=WARN msg=memberlist message=one\nlevel=INFO msg=memberlist message=two\n"
	if b.String() != want {
		t.Errorf("logged\n%s, want\n%s", b.String(), want)
	}

	b.Reset()
	for range 100 {
		w.Write([]byte("[ERR] memberlist: flood\n"))
	}
	if n := strings.Count(b.String(), "flood"); n != logLines-2 {
		t.Errorf("%d lines in one second", n)
	}
	b.Reset()
	now = now.Add(time.Second)
	w.Write([]byte("[ERR] memberlist: later\n"))
	if want := "level=WARN msg=memberlist message=later omitted=82\n"; b.String() != want {
		t.Errorf("logged %s, want %s", b.String(), want)
	}
}
