package flight_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/internal/flight"
)

// admission is a run that asks for a second and then computes for a second. How it is
// shared is up to the door.
type admission struct {
	*testing.T

	group flight.Group[int]
	mu    sync.Mutex
	runs  int // guarded by mu
}

const asks, computes = time.Second, time.Second

// compute returns the number of the run, or an error if its context ends.
func (a *admission) compute(ctx context.Context, admit func()) (int, error) {
	a.mu.Lock()
	a.runs++
	run := a.runs
	a.mu.Unlock()
	if _, err := heeds(ctx, asks, 0); err != nil {
		return 0, err
	}
	admit()
	return heeds(ctx, computes, run)
}

type came struct {
	run  int
	part flight.Part
	err  error
	took time.Duration
}

// doors are the ways to come: by a call that is led, and by one for many keys.
var doors = map[string]func(a *admission, ctx context.Context) came{
	"Lead": func(a *admission, ctx context.Context) (c came) {
		c.run, c.part, c.err = a.group.Lead(ctx, "k", 0, func(context.Context) (int, func(context.Context) (int, error), error) {
			return 0, func(ctx context.Context) (int, error) { return a.compute(ctx, flight.RunOf(ctx).Admit) }, nil
		})
		return c
	},
	"Many": func(a *admission, ctx context.Context) (c came) {
		serve := func(ctx context.Context, turns []*flight.Turn[int]) {
			turns[0].End(a.compute(ctx, turns[0].Admit))
		}
		a.group.Many(ctx, []string{"k"}, 0, serve, func(_ int, v int, part flight.Part, err error) {
			c.run, c.part, c.err = v, part, err
		})
		return c
	},
}

func (a *admission) come(ctx context.Context, door func(*admission, context.Context) came) <-chan came {
	ch := make(chan came, 1)
	began := time.Now()
	go func() {
		c := door(a, ctx)
		c.took = time.Since(began)
		ch <- c
	}()
	synctest.Wait()
	return ch
}

// Those who come while a run asks share what it computes then, whichever way they come;
// who comes later does not.
func TestAdmit(t *testing.T) {
	for firstName, first := range doors {
		for othersName, others := range doors {
			t.Run(firstName+", then "+othersName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := &admission{T: t}
					led := a.come(t.Context(), first)
					time.Sleep(asks / 2)
					early := []<-chan came{a.come(t.Context(), others), a.come(t.Context(), others)}
					time.Sleep(asks)
					late := a.come(t.Context(), others)
					if c := <-led; c != (came{1, flight.Led, nil, asks + computes}) {
						t.Errorf("who began it: %+v", c)
					}
					for _, ch := range early {
						if c := <-ch; c != (came{1, flight.Admitted, nil, asks/2 + computes}) {
							t.Errorf("who came while it asked: %+v", c)
						}
					}
					if c := <-late; c != (came{2, flight.Joined, nil, computes/2 + asks + computes}) {
						t.Errorf("who came while it computed: %+v", c)
					}
				})
			})
		}
	}
}

// Who was admitted keeps a run going when all others have gone, and the run ends when
// all have.
func TestWhoWasAdmittedIsACaller(t *testing.T) {
	for name, door := range doors {
		for _, stays := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := &admission{T: t}
					first, leave := context.WithCancel(t.Context())
					second, leaveToo := context.WithCancel(t.Context())
					led := a.come(first, door)
					admitted := a.come(second, door)
					time.Sleep(asks + computes/2)
					leave()
					if c := <-led; !errors.Is(c.err, context.Canceled) {
						t.Errorf("who left: %+v", c)
					}
					if !stays {
						leaveToo()
						synctest.Wait()
						// The run has been told, so the next one can begin.
						if c := <-a.come(t.Context(), door); c.run != 2 || c.took != asks+computes {
							t.Errorf("who came then: %+v", c)
						}
					}
					if c := <-admitted; stays != (c.err == nil) || stays && (c.run != 1 || c.took != asks+computes) {
						t.Errorf("who was admitted: %+v", c)
					}
					leaveToo()
				})
			})
		}
	}
}
