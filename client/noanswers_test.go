package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/soracache/soracache/client"
)

// What a loader panics with it did not return: it is no answer, nothing is remembered
// of it, and no key is absent for it.
func TestPanicIsNoAnswer(t *testing.T) {
	for _, with := range []error{
		client.ErrNotFound, fmt.Errorf("row: %w", client.ErrNotFound), client.ErrNotModified, client.CacheError(errBoom, time.Hour),
	} {
		for _, door := range doors {
			t.Run(with.Error()+"/"+door.name, func(t *testing.T) {
				onStage(t, func(s *stage) {
					s.a.door, s.b.door = door, door
					p := policy(func(p client.Policy) client.Policy {
						return p.With(func(p *client.Policy) { p.Keep = time.Hour; p.NotFoundTTL = time.Hour })
					})
					src := newOrigin("v")
					s.a.want("v", src, p)
					time.Sleep(2 * time.Minute)
					src.set(func(src *origin) { src.crash = with })
					r := <-s.a.get(src, p)
					if crash, ok := errors.AsType[*client.PanicError](r.err); !ok || fmt.Sprint(crash.Value) != with.Error() || errors.Is(r.err, with) {
						s.Errorf("got %q, %.80v", r.value, r.err)
					}
					src.set(func(src *origin) { src.crash = nil })
					s.b.want("v", src, p)
					s.wantCalls(src, 3)
				})
			})
		}
	}
}
