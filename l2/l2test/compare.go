package l2test

import (
	"errors"
	"slices"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// pair reports whether two stamps belong together, which they do if neither
// was seen with another one before.
func (a *agreement) pair(at l2.Partition, engine, model soracache.Stamp) bool {
	if engine == (soracache.Stamp{}) || model == (soracache.Stamp{}) {
		return engine == model
	}
	p := a.pairs[at]
	m, inEngine := p.engine[engine]
	e, inModel := p.model[model]
	epoch, met := p.epochs[engine.Epoch]
	switch {
	case met && epoch != model.Epoch:
		return false
	case inEngine || inModel:
		return inEngine && inModel && m == model && e == engine
	}
	p.engine[engine], p.model[model], p.epochs[engine.Epoch] = model, engine, model.Epoch
	p.known = append(p.known, both{engine, model})
	return true
}

func (a *agreement) sameError(what string, engine, model error) bool {
	a.Helper()
	if (engine == nil) != (model == nil) || errors.Is(engine, soracache.ErrInvalid) != errors.Is(model, soracache.ErrInvalid) {
		a.disagree("error of "+what, engine, model)
		return false
	}
	return true
}

func (a *agreement) sameRecord(at l2.Partition, e, m soracache.Record) bool {
	prev := func(r soracache.Record) soracache.Stamp { return soracache.Stamp{Epoch: r.Epoch, Position: r.Prev} }
	return a.pair(at, stampOf(e), stampOf(m)) && a.pair(at, prev(e), prev(m)) &&
		slices.Equal(sortedTargets(e.Targets), sortedTargets(m.Targets))
}

// killer checks the record that is said to have killed an entry. If there are
// several, a store may name any of them.
func (a *agreement) killer(at l2.Partition, e, m soracache.Record, key string, tags []string) {
	a.Helper()
	if (e.Position == 0) != (m.Position == 0) || e.Epoch != 0 && len(e.Targets) == 0 {
		a.disagree("the record that killed "+key, e, m)
		return
	}
	key = soracache.KeyOf(key)
	if m.Epoch != a.model.Latest(at, soracache.Everything()).Epoch { // the same batch went on to a new epoch
		return
	}
	for _, t := range e.Targets {
		var latest soracache.Stamp
		if t == soracache.Everything() || t == soracache.Key(key) || t.Kind == soracache.TargetTag && slices.Contains(tags, t.Name) {
			latest = a.model.Latest(at, t)
		}
		if e.Position == 0 || slices.Contains(m.Targets, t) && a.pair(at, stampOf(e), stampOf(m)) {
			continue // it settles since another epoch; or the batch went on to put the key anew
		}
		if latest.Position == 0 || !a.pair(at, stampOf(e), latest) {
			a.disagree("the record that killed "+key, e, m)
		}
	}
}

// sameFollowers compares whom two appends were told of. On one clock, lists are
// of one age. An engine that keeps lists apart from what a snapshot restores has
// a younger one then, on which there may be more: both are safe.
func (a *agreement) sameFollowers(asked bool, e, m l2.InvalidateAnswer) {
	a.Helper()
	engine, model := sortedFollowers(e.Registered), sortedFollowers(m.Registered)
	same := slices.Equal(engine, model) && near(e.RegisteredFor, m.RegisteredFor)
	if a.engine.Now != nil {
		same = same && e.RegisteredFor == m.RegisteredFor
	}
	if a.restored {
		missing := slices.ContainsFunc(model, func(r l2.Registration) bool { return !slices.Contains(engine, r) })
		same = same || !missing && e.RegisteredFor < m.RegisteredFor
	}
	if !same {
		a.disagree("who is registered", e, m)
	}
	a.count(len(m.Registered) > 0, "followers")
	a.count(asked && m.RegisteredFor == 0, "lists born")
}

// sameDelta compares two deltas, each with the rest of it if it was cut off:
// where they are cut may differ. The follower that asked moves on, or stays
// behind for a while.
func (a *agreement) sameDelta(what string, at l2.Partition, shown both, follower *both, e, m soracache.Delta) {
	a.Helper()
	checkDelta(a, shown.engine, e)
	checkDelta(a, shown.model, m)
	if a.Failed() {
		return
	}
	if e.Reset != m.Reset || !a.pair(at, headOf(e), headOf(m)) {
		a.disagree("the delta of "+what, e, m)
		return
	}
	head := both{headOf(e), headOf(m)}
	a.count(len(m.Records) > 0, "deltas")
	a.count(m.More, "cut-off deltas")
	a.count(m.Reset, "resets")
	a.count(m.Epoch != a.pairs[at].head.model.Epoch, "new epochs")
	a.pairs[at].head = head
	engine, model := a.essence(a.store, at, e), a.essence(a.model, at, m)
	same := len(engine) == len(model)
	for i := 0; same && i < len(engine); i++ {
		same = a.pair(at, stampOf(engine[i]), stampOf(model[i])) &&
			slices.Equal(sortedTargets(engine[i].Targets), sortedTargets(model[i].Targets))
	}
	if !same {
		a.disagree("the delta of "+what, engine, model)
	}
	if follower != nil && a.rng.IntN(3) > 0 {
		*follower = head
	}
}

// essence returns the records of a whole delta. What a clear among them makes
// needless to say is left out.
func (a *agreement) essence(s l2.Store, at l2.Partition, d soracache.Delta) []soracache.Record {
	a.Helper()
	records := d.Records
	for d.More {
		cursor := stampOf(records[len(records)-1])
		d = s.Since(a.Context(), []l2.SinceRequest{{Partition: at, Since: cursor}})[0].Delta
		checkDelta(a, cursor, d)
		if d.Reset {
			a.Errorf("reset in the middle of a delta")
			return nil
		}
		records = append(records, d.Records...)
	}
	for i := len(records) - 1; i >= 0; i-- {
		if slices.Contains(records[i].Targets, soracache.Everything()) {
			return records[i:]
		}
	}
	return records
}
