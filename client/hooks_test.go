package client_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// Each event is a line of its own level.
func TestLogHooks(t *testing.T) {
	var out bytes.Buffer
	h := client.LogHooks(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	bad := errors.New("bad")
	h.OnHit("k", soracache.TierNear)
	h.OnStale("k", soracache.TierL1, client.StaleRefreshing)
	h.OnStale("k", soracache.TierL1, client.StaleFailedLoader)
	h.OnMiss("k")
	h.OnLoad("k", time.Second, nil)
	h.OnLoad("k", time.Second, bad)
	h.OnFillSuperseded("k", soracache.ReasonSuperseded)
	h.OnNotStored("k", bad)
	h.OnParked(client.Parked{Key: "k", Why: "bad", Times: 2})
	h.OnFailOpen("k", bad)
	h.OnUnreadable("k", "json", bad)
	h.OnRefresh("k", client.RefreshEager)
	h.OnRefreshed("k", time.Second, bad)
	h.OnInvalidate(client.Invalidation{Keys: []string{"k"}, Tags: []string{"a", "b"}}, nil)
	h.OnInvalidate(client.Invalidation{All: true}, bad)
	h.OnBreaker("http://a", true)
	h.OnBreaker("http://a", false)
	h.OnNearReset()
	want := `level=DEBUG msg="soracache: hit" key=k tier=near
level=DEBUG msg="soracache: stale" key=k tier=l1 reason=refreshing
level=INFO msg="soracache: stale" key=k tier=l1 reason=failed_loader
level=DEBUG msg="soracache: miss" key=k
level=DEBUG msg="soracache: load" key=k took=1s
level=WARN msg="soracache: load" key=k took=1s error=bad
level=DEBUG msg="soracache: not stored" key=k reason=superseded
level=INFO msg="soracache: not stored" key=k reason=bad
level=WARN msg="soracache: parked" key=k reason=bad times=2
level=WARN msg="soracache: fail open" key=k error=bad
level=INFO msg="soracache: unreadable" key=k encoding=json error=bad
level=DEBUG msg="soracache: refresh begins" key=k reason=eager
level=WARN msg="soracache: refresh" key=k took=1s error=bad
level=DEBUG msg="soracache: invalidate" keys=[k] tags="[a b]" all=false
level=WARN msg="soracache: invalidate" keys=[] tags=[] all=true error=bad
level=WARN msg="soracache: breaker" node=http://a open=true
level=INFO msg="soracache: breaker" node=http://a open=false
level=INFO msg="soracache: near cache reset"
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\ndiffers in %q", got, difference(got, want))
	}
}

func difference(got, want string) []string {
	var diff []string
	for line := range strings.Lines(got) {
		if !strings.Contains(want, line) {
			diff = append(diff, line)
		}
	}
	return diff
}
