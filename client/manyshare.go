package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/flight"
)

// shareAll has keys found or loaded together with whoever wants any of them at this
// moment, by this call or by others, for one key or for many, and whatever stamps
// they carry: see demands. Those that are begun in a moment, and that nobody else is
// about to find or load, are served together.
func (m *many[T]) shareAll(ctx context.Context, keys []string) {
	if carried := StampFrom(ctx); !carried.IsZero() {
		for _, key := range keys {
			defer m.kind.demands.add(key, carried)()
		}
	}
	more := m.client.carriedMore(ctx)
	for way := sharePlain; len(keys) > 0; way++ {
		m.retried = false
		again, behind := m.shareOnce(ctx, keys, way, more)
		for len(again) > 0 {
			var too []string
			again, too = m.shareOnce(ctx, again, way, more)
			behind = append(behind, too...)
		}
		keys = behind
	}
	m.outwaited(ctx)
}

// shareOnce returns the keys to be asked for again. Of some the run began inside of a
// loader, and failed because of that: a caller that is in none asks for them once more.
// To others this caller was admitted when their loader began, and it brought something
// else than what that returned. And it returns those whose outcome does not reflect what
// this caller carries.
func (m *many[T]) shareOnce(ctx context.Context, keys []string, way int, more soracache.Stamps) (again, behind []string) {
	ids, suffix := keys, sharedSuffix(way, more)
	if suffix != "" {
		ids = make([]string, len(keys))
		for i, key := range keys {
			ids[i] = key + suffix
		}
	}
	most := max(m.settings.policy.waitHere()-time.Since(m.came), 1)
	if m.warming {
		most = -1
	}
	serve := m.serving(way, len(suffix))
	m.kind.flights[way].Many(ctx, ids, most, serve, func(i int, o outcome[T], part flight.Part, err error) {
		switch {
		case part == flight.Led || err != nil:
		case way < shareOneStamp && !o.reflects(more):
			behind = append(behind, keys[i])
			return
		case part == flight.Admitted && !o.how.Loaded:
			again = append(again, keys[i])
			return
		}
		for _, proof := range o.proofs {
			m.client.carry(ctx, proof)
		}
		switch _, tired := err.(*flight.WaitError); { //nolint:errorlint // not one that a loader returned
		case tired:
			m.tire(keys[i], err)
		case part != flight.Led && m.inside == nil && !m.retried && errors.Is(err, ErrCycle):
			again = append(again, keys[i])
		default:
			m.land(ctx, keys[i], o, err)
		}
	})
	m.retried = true
	return again, behind
}

// land takes what a run brought for a key.
func (m *many[T]) land(ctx context.Context, key string, o outcome[T], err error) {
	switch {
	case err == flight.ErrElsewhere: //nolint:errorlint // itself
		m.count.Elsewhere++
	case err == flight.ErrCycle: //nolint:errorlint // itself
		m.fail(key, fmt.Errorf("client: %w: %q", ErrCycle, key))
	case errors.Is(err, ErrNotFound):
		m.take(key, outcome[T]{marker: err, ingredient: o.ingredient, how: Outcome{Loaded: true}})
	case err != nil:
		m.fail(key, m.client.blame(ctx, err))
	default:
		m.take(key, o)
	}
}

// serving returns what finds or loads the keys of a run, which is shared in one of
// the ways to do so. They end with as many bytes that are no part of them.
func (m *many[T]) serving(way, suffix int) func(context.Context, []*flight.Turn[outcome[T]]) {
	call, inside, warming := m.manyCall, m.inside, m.warming
	return func(ctx context.Context, turns []*flight.Turn[outcome[T]]) {
		run := &many[T]{
			manyCall: call, warming: warming, turns: make(map[string]*flight.Turn[outcome[T]], len(turns)),
			found: map[string]outcome[T]{}, failed: map[string]error{},
		}
		if own := flight.RunOf(ctx); own != inside {
			at, _ := own.Latest()
			run.due = due(at)
		}
		keys := make([]string, len(turns))
		for i, turn := range turns {
			id := turn.Key()
			keys[i] = id[:len(id)-suffix]
			run.turns[keys[i]] = turn
		}
		if !turns[0].Led() { // as are all of a run, or none
			run.joined = true
			var all Stamp
			for _, key := range keys {
				all = all.Merge(call.kind.demands.merged(key))
			}
			ctx = call.client.carriedBy(ctx, way, all).in(ctx)
		}
		run.admits = call.client.carriedMore(ctx) == nil
		ctx, leave, err := call.client.enter(ctx)
		if err != nil {
			run.failAll(ctx, keys, err)
			return
		}
		defer leave()
		run.findOrLoad(ctx, keys)
	}
}

// tire notes that a key was waited for long enough.
func (m *many[T]) tire(key string, cause error) {
	if m.tired == nil {
		m.tired = make(map[string]error)
	}
	m.tired[key] = cause
}

// outwaited is for the keys that were waited for as long as the policy says, while
// this process loads them. See loading.outwaited.
func (m *many[T]) outwaited(ctx context.Context) {
	if len(m.tired) == 0 {
		return
	}
	p := &m.settings.policy
	open := make(pending[T], len(m.tired))
	for key := range m.tired {
		open[key] = &claim[T]{loading: m.of(key)}
	}
	var now map[string]*standby[T]
	var unknown map[string]bool
	if p.FailSafe > 0 {
		now, unknown = m.again(ctx, open, true)
	}
	for key, c := range open {
		there := now[key]
		switch {
		case there != nil && p.allows(there.freshFor):
			m.take(key, c.serve(there, StaleSlowLoader))
		case unknown[key] && m.takeUnconfirmed(ctx, key):
		default:
			m.fail(key, c.tooLong(p.waitHere(), m.tired[key]))
		}
	}
}
