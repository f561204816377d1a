package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// dish is a key of which the value is made of others', its ingredients: its
// loader asks the client for them. It has no tags of its own.
type dish struct {
	name string
	from []string
}

// menu returns what a run cooks: one of one ingredient and one of two in a
// single partition, and one of ingredients of other partitions, if there are
// several.
func (c *Config) menu() []dish {
	partition := func(key string) int { return int(soracache.PartitionOf(key, c.Partitions)) }
	named := func(prefix string, partition0 int) string {
		for i := 0; ; i++ {
			if name := prefix + strconv.Itoa(i); partition(name) == partition0 {
				return name
			}
		}
	}
	first := keyName(0)
	dishes := []dish{{named("soup", partition(first)), []string{first}}}
	for i := 1; i < c.Keys; i++ {
		if p := partition(keyName(i)); p == partition(first) {
			dishes = append(dishes, dish{named("stew", p), []string{first, keyName(i)}})
			break
		}
	}
	for i := 1; i < c.Keys; i++ {
		if p := partition(keyName(i)); p != partition(first) {
			dishes = append(dishes, dish{named("stray", p), []string{first, keyName(i)}})
			break
		}
	}
	return dishes
}

func (c *Config) ingredients(key string) []string {
	for _, d := range c.Dishes {
		if d.name == key {
			return d.from
		}
	}
	return nil
}

// loader is one run of an application's loader.
type loader struct {
	app *app
	key string
	use *use // in which it runs; nil: in nobody's
	// lease is the one that the client loads under; it may have none.
	lease lease
	began int
	takes time.Duration
	parts []*computation
	value *computation
	// fails: the source cannot be read. unstorable: its value is not to be kept.
	fails, unstorable bool
	// done: it returned a value. told is how its client ended the lease.
	done bool
	told opKind
	// inside is the call that it has made and that has not returned.
	inside *use
}

// load is the application's loader.
func (a *app) load(ctx context.Context, key string, policy client.Policy) (string, error) {
	l := &loader{app: a, key: key}
	l.use, _ = ctx.Value(useKey{}).(*use)
	defer a.w.arrive(l.name("ends"), l.ends)
	if err := a.meet(ctx, l.name("begins"), l.begins); err != nil {
		return "", err
	}
	for _, part := range a.w.cfg.ingredients(key) {
		if err := l.add(ctx, part, policy); err != nil {
			return "", err
		}
	}
	if err := a.meet(ctx, l.name("computes"), l.computes); err != nil {
		return "", err
	}
	if len(l.parts) == 0 {
		client.LoadContextFrom(ctx).AddTags(l.value.tags...)
	}
	if l.fails {
		return "", errSource
	}
	if l.unstorable {
		client.LoadContextFrom(ctx).DoNotCache()
	}
	l.done = true
	return string(l.value.value()), nil
}

// errSource is the failure of a source.
var errSource = errors.New("the source has failed")

func (l *loader) name(what string) string {
	id := 0
	if l.use != nil {
		id = l.use.id
	}
	return fmt.Sprintf("loader %d %08d %s %s", l.app.number, id, l.key, what)
}

// add asks the client for an ingredient.
func (l *loader) add(ctx context.Context, part string, policy client.Policy) error {
	a := l.app
	u := &use{app: a, key: part, inside: l.use, under: l.lease.stamp, policy: policy}
	if err := a.meet(ctx, l.name("asks for "+part), func() time.Duration { l.asks(u); return 0 }); err != nil {
		return err
	}
	value, err := client.NewCache[string](a.client, policy).GetOrSet(context.WithValue(ctx, useKey{}, u), part,
		func(ctx context.Context) (string, error) { return a.load(ctx, part, policy) })
	if err != nil {
		return err
	}
	return a.meet(ctx, l.name("gets "+part), func() time.Duration {
		l.inside = nil
		u.done, u.found, u.got = true, true, a.w.check.of([]byte(value))
		a.w.check.used(u, value)
		if u.got != nil {
			l.parts = append(l.parts, u.got)
		}
		return 0
	})
}

// asks is told when it is about to make a call.
func (l *loader) asks(u *use) {
	l.inside = u
	l.app.begun(u)
}

// ends is told when it has returned.
func (l *loader) ends() {
	l.app.loading--
	if l.inside != nil {
		l.inside.done = true
	}
	l.app.w.check.loaded(l)
	l.app.running = slices.DeleteFunc(l.app.running, func(other *loader) bool { return other == l })
}

// begins is told when the client has called the loader.
func (l *loader) begins() time.Duration {
	a := l.app
	w := a.w
	a.loading++
	a.running = append(a.running, l)
	w.count.cooked++
	l.began = w.step
	if l.use != nil {
		at := granted{l.use.id, l.key}
		l.lease = a.known.granted[at]
		delete(a.known.granted, at)
	}
	l.takes = a.l.upTo(w.cfg.Load)
	if a.x.slow > 0 && w.rng.IntN(2) == 0 {
		a.x.slow--
		a.x.inject(SlowLoader, l.key)
		l.takes += a.l.upTo(5*w.cfg.Load) + a.l.upTo(w.cfg.LeaseFor)
	}
	if w.tracing() {
		w.logf("app %d begins to load %s%s", a.number, l.key, map[bool]string{true: " without a lease"}[l.lease.grant == nil])
	}
	return time.Duration(w.rng.Int64N(int64(l.takes)))
}

// computes reads the source.
func (l *loader) computes() time.Duration {
	a := l.app
	w := a.w
	began := l.began
	if l.lease.grant != nil {
		began = l.lease.step
	}
	l.value = w.check.cook(l.key, began, l.parts)
	l.value.loader = l
	if a.x.on {
		l.fails, l.unstorable = w.rolls(w.cfg.Failing), w.rolls(w.cfg.Unstorable)
	}
	if w.tracing() {
		w.logf("app %d reads the source of %s: version %d as %s%s", a.number, l.key, l.value.version, l.value.value(), partsText(l.parts))
	}
	return l.takes/2 + time.Duration(w.rng.Int64N(int64(l.takes)))
}

func partsText(parts []*computation) string {
	var text strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&text, " with %s=%s", p.key, p.value())
	}
	return text.String()
}

var errWorldEnds = errors.New("the world has ended")

// meet lets the scheduler do something in its turn, and returns after as much
// time as that says.
func (a *app) meet(ctx context.Context, name string, do func() time.Duration) error {
	done := make(chan struct{})
	if !a.w.arrive(name, func() { a.w.after(do(), func() { close(done) }) }) {
		return errWorldEnds
	}
	select {
	case <-done:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
