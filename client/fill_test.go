package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

func TestFill(t *testing.T) {
	tests := []struct {
		name string
		play func(w *world)
	}{
		{"the loader finds out what the value depends on", func(w *world) {
			w.must("k", func(ctx context.Context) (string, error) {
				client.LoadContextFrom(ctx).AddTags("product:7", "products")
				return "v", nil
			}, client.WithTags("products"))
			if e, _ := w.service.Stored("k"); !slices.Equal(e.Tags, []string{"product:7", "products"}) {
				w.Errorf("stored with tags %v", e.Tags)
			}
			w.invalidate("product:7")
			if v := w.must("k", returns("new")); v != "new" {
				w.Errorf("got %q", v)
			}
		}},
		{"a tag that the loader adds is invalidated while it loads: not kept", func(w *world) {
			w.must("k", func(ctx context.Context) (string, error) {
				client.LoadContextFrom(ctx).AddTags("t")
				w.invalidate("t")
				return "old", nil
			})
			if len(w.heard.superseded) != 1 {
				w.Errorf("heard %v", w.heard.superseded)
			}
		}},
		{"the loader shortens the TTL", func(w *world) {
			w.must("k", func(ctx context.Context) (string, error) {
				client.LoadContextFrom(ctx).SetTTL(time.Second)
				return "v", nil
			})
			if got := w.service.Writes[0].Lifetime; got.TTL != time.Second || got.Keep != time.Second {
				w.Errorf("stored for %+v", got)
			}
		}},
		{"the loader says do not cache: returned, not stored, the lease handed back", func(w *world) {
			v := w.must("k", func(ctx context.Context) (string, error) { client.LoadContextFrom(ctx).DoNotCache(); return "v", nil })
			if _, ok := w.service.Stored("k"); v != "v" || ok || w.service.Leased("k") || len(w.heard.notStored) != 1 {
				w.Errorf("got %q, stored: %t, leased: %t, heard %v", v, ok, w.service.Leased("k"), w.heard.notStored)
			}
		}},
		{"a TTL of nothing means do not cache", func(w *world) {
			w.must("k", func(ctx context.Context) (string, error) { client.LoadContextFrom(ctx).SetTTL(0); return "v", nil })
			if _, ok := w.service.Stored("k"); ok {
				w.Error("stored")
			}
		}},
		{"outside of a loader there is no fill, and speaking to it does nothing", func(w *world) {
			f := client.LoadContextFrom(w.Context())
			f.AddTags("t")
			f.SetTTL(time.Second)
			f.DoNotCache()
			if f != nil {
				w.Error("a fill outside of a loader")
			}
		}},
		{"what a goroutine says after the loader has returned comes too late", func(w *world) {
			said := make(chan struct{})
			w.service.Look = func(op, key string) {
				if op == "fill" && key == "inner" {
					<-said
				}
			}
			inner := func(ctx context.Context) (string, error) {
				go func() {
					synctest.Wait() // until the value is on its way
					client.LoadContextFrom(ctx).AddTags("late")
					close(said)
				}()
				return "v", nil
			}
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", inner, client.WithTags("t"))
			})
			if e, ok := w.service.Stored("outer"); !ok || !slices.Equal(e.Tags, []string{"t"}) {
				w.Errorf("stored: %t, with tags %v", ok, e.Tags)
			}
		}},
		{"the tags of an ingredient that was found become the dish's", func(w *world) {
			w.must("inner", returns("i"), client.WithTags("t"))
			w.must("outer", w.reads("inner"), client.WithTags("u"))
			if e, _ := w.service.Stored("outer"); !slices.Equal(e.Tags, []string{"t", "u"}) {
				w.Errorf("stored with tags %v", e.Tags)
			}
		}},
		{"the tags of an ingredient that was loaded become the dish's", func(w *world) {
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", func(ctx context.Context) (string, error) {
					client.LoadContextFrom(ctx).AddTags("t2")
					return "i", nil
				}, client.WithTags("t1"))
			})
			if e, ok := w.service.Stored("outer"); !ok || !slices.Equal(e.Tags, []string{"t1", "t2"}) {
				w.Errorf("stored: %t, with tags %v", ok, e.Tags)
			}
			w.invalidate("t2")
			if v := w.must("outer", returns("new")); v != "new" {
				w.Errorf("got %q after its ingredient was invalidated", v)
			}
		}},
		{"the tags of an ingredient got by Get become the dish's", func(w *world) {
			w.must("inner", returns("i"), client.WithTags("t"))
			w.must("outer", func(ctx context.Context) (string, error) {
				v, _, err := client.Get[string](ctx, w.client, "inner")
				return v, err
			})
			if e, _ := w.service.Stored("outer"); !slices.Equal(e.Tags, []string{"t"}) {
				w.Errorf("stored with tags %v", e.Tags)
			}
		}},
		{"an ingredient is asked for at least as new as the lease", func(w *world) {
			w.must("inner", returns("i"))
			if _, err := w.join().InvalidateTags(w.Context(), "x"); err != nil { // unseen by this client
				w.Fatal(err)
			}
			w.must("outer", w.reads("inner"))
			inner := w.service.Asked("inner")
			got, ok := inner[len(inner)-1].MinStamp.At(0)
			if want := (soracache.Stamp{Epoch: 7, Position: 101}); !ok || got != want {
				w.Errorf("asked with %v, %t; the lease reflects %v", got, ok, want)
			}
		}},
		{"an ingredient invalidated between its reading and the end of the load: not kept", func(w *world) {
			w.must("inner", returns("i"), client.WithTags("t"))
			w.must("outer", func(ctx context.Context) (string, error) {
				v, err := w.reads("inner")(ctx)
				w.invalidate("t")
				return v, err
			})
			if !slices.Equal(w.heard.superseded, []soracache.Reason{soracache.ReasonSuperseded}) {
				w.Errorf("heard %v", w.heard.superseded)
			}
		}},
		{"an ingredient older than the lease: not kept", func(w *world) {
			w.must("inner", returns("i"))
			w.must("outer", func(ctx context.Context) (string, error) {
				w.service.Bend = func(res *soracache.ReadResult) {
					res.Stamp = soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: 99}}}
				}
				defer func() { w.service.Bend = nil }()
				return w.reads("inner")(ctx)
			})
			w.notKept("outer")
		}},
		{"an ingredient without proof: not kept", func(w *world) {
			w.must("inner", returns("i"))
			w.must("outer", func(ctx context.Context) (string, error) {
				w.service.Bend = func(res *soracache.ReadResult) { res.Stamp = nil }
				defer func() { w.service.Bend = nil }()
				return w.reads("inner")(ctx)
			})
			w.notKept("outer")
		}},
		{"an ingredient of another epoch: not kept", func(w *world) {
			w.must("inner", returns("i"))
			w.must("outer", func(ctx context.Context) (string, error) {
				w.service.Bend = func(res *soracache.ReadResult) {
					res.Stamp = soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 8, Position: 1 << 40}}}
				}
				defer func() { w.service.Bend = nil }()
				return w.reads("inner")(ctx)
			})
			w.notKept("outer")
		}},
		{"a stale ingredient: not kept", func(w *world) {
			p := client.WithPolicy(client.Policy{TTL: time.Minute, Keep: time.Hour})
			w.must("inner", returns("i"), p)
			time.Sleep(2 * time.Minute)
			w.service.Lease("inner") // another process refreshes it
			if v := w.must("outer", w.reads("inner")); v != "i" {
				w.Fatalf("got %q", v)
			}
			w.notKept("outer")
		}},
		{"an ingredient of another partition: not kept", func(w *world) {
			w.service.Partition = func(key string) uint16 { return uint16(len(key)) }
			w.must("other partition", returns("i"))
			w.must("outer", w.reads("other partition"))
			w.notKept("outer")
			w.must("inner", returns("i"))
			w.must("plain", w.reads("inner"))
			if _, ok := w.service.Stored("plain"); !ok {
				w.Error("an ingredient of the same partition forbids storing")
			}
		}},
		{"an ingredient loaded in another partition: not kept", func(w *world) {
			w.service.Partition = func(key string) uint16 { return uint16(len(key)) }
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "other partition", returns("i"))
			})
			w.notKept("outer")
		}},
		{"an ingredient of another namespace: not kept", func(w *world) {
			other := newWorld(w.T, client.Namespace("other"))
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, other.client, "k", returns("i"))
			})
			w.notKept("outer")
			if _, ok := other.service.Stored("k"); !ok {
				w.Error("the ingredient itself was not stored")
			}
		}},
		{"an ingredient that did not take part in anything because it failed", func(w *world) {
			w.must("outer", func(ctx context.Context) (string, error) {
				_, err := client.GetOrSet(ctx, w.client, "inner", func(context.Context) (string, error) { return "", errBoom }, client.WithTags("t"))
				if !errors.Is(err, errBoom) {
					return "", err
				}
				return "without", nil
			})
			if e, ok := w.service.Stored("outer"); !ok || len(e.Tags) != 0 {
				w.Errorf("stored: %t, with tags %v", ok, e.Tags)
			}
		}},
		{"an ingredient's ingredients count, three deep", func(w *world) {
			w.must("a", returns("a"), client.WithTags("ta"))
			w.must("c", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "b", w.reads("a"), client.WithTags("tb"))
			}, client.WithTags("tc"))
			if e, _ := w.service.Stored("c"); !slices.Equal(e.Tags, []string{"ta", "tb", "tc"}) {
				w.Errorf("stored with tags %v", e.Tags)
			}
		}},
		{"an ingredient that had no lease passes on what it was made of", func(w *world) {
			w.service.Partition = func(key string) uint16 {
				if key == "far" {
					return 9
				}
				return 0
			}
			w.must("far", returns("f"), client.WithTags("tf"))
			w.service.Lease("inner") // somebody else loads it
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", w.reads("far"), client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Wait = -1 })))
			})
			w.notKept("outer")
		}},
		{"an ingredient that had no lease and no ingredients forbids nothing", func(w *world) {
			w.service.Lease("inner")
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", returns("i"), client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Wait = -1 }).WithTags("t")))
			})
			if e, ok := w.service.Stored("outer"); !ok || !slices.Equal(e.Tags, []string{"t"}) {
				w.Errorf("stored: %t, with tags %v", ok, e.Tags)
			}
		}},
		{"an ingredient that is not to be cached does not forbid the dish, nor hide what does", func(w *world) {
			w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", func(ctx context.Context) (string, error) {
					client.LoadContextFrom(ctx).DoNotCache()
					return "i", nil
				})
			})
			if _, ok := w.service.Stored("outer"); !ok {
				w.Error("the dish was not stored")
			}
			other := newWorld(w.T)
			w.must("tainted", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", func(ctx context.Context) (string, error) {
					client.LoadContextFrom(ctx).DoNotCache()
					return client.GetOrSet(ctx, other.client, "k", returns("x"))
				})
			})
			w.notKept("tainted")
		}},
		{"a loader that asks for its own key gets an error, not a deadlock", func(w *world) {
			_, err := client.GetOrSet(w.Context(), w.client, "k", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "via", w.reads("k"))
			})
			if !errors.Is(err, client.ErrCycle) {
				w.Errorf("got %v", err)
			}
			other := newWorld(w.T)
			w.must("same name elsewhere", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, other.client, "same name elsewhere", returns("v"))
			})
		}},
		{"what outlives a loader with its context may ask for the same key", func(w *world) {
			ctxs := make(chan context.Context, 1)
			w.must("k", func(ctx context.Context) (string, error) { ctxs <- context.WithoutCancel(ctx); return "v", nil })
			if v, err := client.GetOrSet(<-ctxs, w.client, "k", returns("?")); v != "v" || err != nil {
				w.Errorf("got %q, %v", v, err)
			}
		}},
		{"the service is down: ingredients and dish are loaded, nothing is stored, nothing hangs", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
			v := w.must("outer", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, w.client, "inner", returns("i"))
			})
			if v != "i" || w.heard.failOpen != 2 {
				w.Errorf("got %q, heard %d", v, w.heard.failOpen)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.play(newWorld(t)) })
		})
	}
}

// reads is a loader that returns what another key has.
func (w *world) reads(key string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		return client.GetOrSet(ctx, w.client, key, func(context.Context) (string, error) {
			return "", errors.New(key + " had to be loaded")
		})
	}
}

// notKept checks that a loaded value was neither stored nor its lease kept.
func (w *world) notKept(key string) {
	w.Helper()
	if _, ok := w.service.Stored(key); ok {
		w.Errorf("%s was stored", key)
	}
	if w.service.Leased(key) {
		w.Errorf("the lease of %s was not handed back", key)
	}
	if len(w.heard.notStored) == 0 {
		w.Error("nobody was told that the value was not stored")
	}
}

// What a loader says later counts.
func TestSetTTLCanBeTakenBack(t *testing.T) {
	said := func(say func(f *client.LoadContext)) func(context.Context) {
		return func(ctx context.Context) { say(client.LoadContextFrom(ctx)) }
	}
	tests := []struct {
		name   string
		say    func(f *client.LoadContext)
		stored bool
	}{
		{"nothing, then a minute", func(f *client.LoadContext) { f.SetTTL(0); f.SetTTL(time.Minute) }, true},
		{"a minute, then nothing", func(f *client.LoadContext) { f.SetTTL(time.Minute); f.SetTTL(0) }, false},
		{"less than nothing", func(f *client.LoadContext) { f.SetTTL(-time.Minute) }, false},
		{"nothing, then another policy", func(f *client.LoadContext) {
			f.SetTTL(0)
			f.AdjustPolicy(func(p *client.Policy) { *p = p.WithTTL(time.Minute) })
		}, true},
		{"nothing, then a change of something else", func(f *client.LoadContext) {
			f.SetTTL(0)
			f.AdjustPolicy(func(p *client.Policy) { p.Near = time.Minute })
		}, false},
		{"not to be stored, then a minute", func(f *client.LoadContext) { f.DoNotCache(); f.SetTTL(time.Minute) }, false},
		{"nothing of all, then a minute of one", func(f *client.LoadContext) { f.SetTTL(0); f.For("k").SetTTL(time.Minute) }, true},
		{"a minute of one, then nothing of all", func(f *client.LoadContext) { f.For("k").SetTTL(time.Minute); f.SetTTL(0) }, false},
	}
	for _, tt := range tests {
		playAll(t, []act{{tt.name, func(s *stage) {
			for _, key := range []error{nil, client.ErrNotFound} {
				src := newOrigin("v")
				src.err, src.with = key, said(tt.say)
				<-s.a.get(src, client.AdjustPolicy(func(p *client.Policy) { p.NotFoundTTL = time.Hour }))
				if e := s.explain("k"); e.Live != tt.stored || e.Live && e.FreshFor > time.Hour {
					s.Errorf("stored, with the error %v: %t for %s", key, e.Live, e.FreshFor)
				}
				_, _ = s.a.Remove(s.Context(), "k")
			}
		}}})
	}
}
