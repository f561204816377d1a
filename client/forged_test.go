package client_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/stamps"
)

// forger knows a stamp of a namespace, as any visitor does, and makes others up.
type forger struct {
	namespace string
	epoch     soracache.Epoch
}

func newForger(t *testing.T, seen stamps.Stamp, namespace string) forger {
	in := seen.In(namespace)
	if len(in) == 0 {
		t.Fatal("no stamp was seen")
	}
	return forger{namespace, in[0].Stamp.Epoch}
}

// context is that of a request with the made-up stamp in its header.
func (f forger) context(ctx context.Context, at soracache.Position) context.Context {
	forged := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: f.epoch, Position: at}}}
	h := http.Header{}
	h.Set(stamps.Header, f.namespace+"="+base64.RawURLEncoding.EncodeToString(forged.Encode()))
	return stamps.WithHeader(ctx, h)
}

func TestForgedStampsDoNotBypassTheCache(t *testing.T) {
	s := clienttest.NewServer(t)
	cache := client.NewCache[string](s.Dial(client.Namespace("shop"), client.Timeout(5*time.Second)), client.Default())
	loads := 0
	load := func(context.Context) (string, error) { loads++; return "v", nil }
	ctx := stamps.With(t.Context(), stamps.Stamp{})
	if _, err := cache.GetOrSet(ctx, "k", load); err != nil {
		t.Fatal(err)
	}
	f := newForger(t, stamps.From(ctx), "shop")
	for i := range 100 {
		if v, err := cache.GetOrSet(f.context(t.Context(), 1<<52-soracache.Position(i)), "k", load); v != "v" || err != nil {
			t.Fatal(v, err)
		}
	}
	if loads != 1 {
		t.Errorf("%d loads", loads)
	}
}

// A visitor whose stamp lies a little ahead of the store misses; whoever travels
// in the same batch does not.
func TestOneStampDoesNotSpoilTheBatch(t *testing.T) {
	s := clienttest.NewServer(t)
	cache := client.NewCache[string](s.Dial(client.Namespace("shop"), client.NoNear(), client.Timeout(5*time.Second)), client.Default())
	const keys = 50
	ctx := stamps.With(t.Context(), stamps.Stamp{})
	for i := range keys {
		if _, err := cache.GetOrSet(ctx, fmt.Sprint("k", i), returns("v")); err != nil {
			t.Fatal(err)
		}
	}
	f := newForger(t, stamps.From(ctx), "shop")
	var readers, forgers sync.WaitGroup
	var missed, forged atomic.Int64
	stop, end := context.WithCancel(t.Context())
	for range 4 {
		forgers.Go(func() {
			for stop.Err() == nil {
				ahead := soracache.Position(time.Now().Add(soracache.MaxAhead / 2).UnixMicro())
				if _, found, err := cache.Get(f.context(stop, ahead), "k0"); err == nil && !found {
					forged.Add(1)
				}
			}
		})
	}
	for g := range 32 {
		readers.Go(func() {
			for i := range 100 {
				_, found, err := cache.Get(t.Context(), fmt.Sprint("k", (g*31+i)%keys))
				if err != nil {
					t.Error(err)
					return
				}
				if !found {
					missed.Add(1)
				}
			}
		})
	}
	readers.Wait()
	end()
	forgers.Wait()
	if missed.Load() != 0 || forged.Load() == 0 {
		t.Errorf("%d of 3,200 reads missed what is cached, beside %d of a visitor's", missed.Load(), forged.Load())
	}
}
