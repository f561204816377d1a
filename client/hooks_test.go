package client_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// calling returns hooks of which each says its name.
func calling(who string, said *[]string) (h client.Hooks) {
	v := reflect.ValueOf(&h).Elem()
	for i := range v.NumField() {
		name := who + v.Type().Field(i).Name
		f := v.Field(i)
		f.Set(reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
			*said = append(*said, name)
			if f.Type().NumOut() == 0 {
				return nil
			}
			end := func(client.Outcome) { *said = append(*said, name+" end") }
			return []reflect.Value{args[0], reflect.ValueOf(end)}
		}))
	}
	return h
}

// call calls a hook with zero values.
func call(hook reflect.Value) {
	var args []reflect.Value
	for i := range hook.Type().NumIn() {
		arg := reflect.Zero(hook.Type().In(i))
		if hook.Type().In(i) == reflect.TypeFor[context.Context]() {
			arg = reflect.ValueOf(context.Background())
		}
		args = append(args, arg)
	}
	if out := hook.Call(args); len(out) == 2 {
		out[1].Call([]reflect.Value{reflect.ValueOf(client.Outcome{})})
	}
}

// Whoever adds a hook must also join it.
func TestJoinHooks(t *testing.T) {
	var said []string
	joined := reflect.ValueOf(client.JoinHooks(calling("a", &said), client.Hooks{}, calling("b", &said)))
	empty := reflect.ValueOf(client.JoinHooks(client.Hooks{}, client.Hooks{}))
	one := reflect.ValueOf(client.JoinHooks(client.Hooks{}, calling("c", &said)))
	for i := range joined.NumField() {
		name := joined.Type().Field(i).Name
		want := []string{"a" + name, "b" + name, "c" + name}
		if name == "OnStart" {
			want = []string{"aOnStart", "bOnStart", "bOnStart end", "aOnStart end", "cOnStart", "cOnStart end"}
		}
		said = nil
		if joined.Field(i).IsNil() || one.Field(i).IsNil() {
			t.Errorf("%s is not joined", name)
			continue
		}
		call(joined.Field(i))
		call(one.Field(i))
		if !slices.Equal(said, want) {
			t.Errorf("%s: told %v", name, said)
		}
		if !empty.Field(i).IsNil() {
			t.Errorf("%s of nothing is something, which costs", name)
		}
	}
}

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
