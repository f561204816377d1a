package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// names gives what is random or large a short name, in the order in which the
// store made it: epochs are e1, e2; the position at which one began is e1+0,
// and e1+3 is the third that it gave out after that.
type names struct {
	epochs    []soracache.Epoch
	positions map[soracache.Epoch][]soracache.Position
	values    map[string]string // what the script calls a value, by its bytes
	keys      map[uint64]string // by their hash
}

func newNames() *names {
	return &names{positions: map[soracache.Epoch][]soracache.Position{}, values: map[string]string{}, keys: map[uint64]string{}}
}

// learn notes where a ledger is. It reports whether the epoch is a new one. If
// what was asked also appended a record, then nobody was told where the epoch
// began: it is known here as zero.
func (n *names) learn(s soracache.Stamp, appended bool) (entered bool) {
	if !slices.Contains(n.epochs, s.Epoch) {
		n.epochs = append(n.epochs, s.Epoch)
		entered = true
		if appended {
			n.positions[s.Epoch] = append(n.positions[s.Epoch], 0)
		}
	}
	if !slices.Contains(n.positions[s.Epoch], s.Position) {
		n.positions[s.Epoch] = append(n.positions[s.Epoch], s.Position)
	}
	return entered
}

func (n *names) epoch(e soracache.Epoch) string {
	return fmt.Sprintf("e%d", slices.Index(n.epochs, e)+1)
}

func (n *names) stamp(s soracache.Stamp) string {
	at := max(slices.Index(n.positions[s.Epoch], s.Position), 0)
	return fmt.Sprintf("%s+%d", n.epoch(s.Epoch), at)
}

func (n *names) record(r soracache.Record) string {
	return n.stamp(soracache.Stamp{Epoch: r.Epoch, Position: r.Position}) + " " + targetsText(r.Targets)
}

// notice says what a packet holds.
func (n *names) notice(x *invalidation.Notice) string {
	switch x.Kind {
	case invalidation.NoticeRecord:
		text := fmt.Sprintf("%s, after %s", n.record(x.Record), n.stamp(soracache.Stamp{Epoch: x.Record.Epoch, Position: x.Record.Prev}))
		if x.Acknowledge {
			text += "; acknowledge it"
		}
		return text
	case invalidation.NoticeFreed:
		if x.Lost {
			return "the lease of " + n.keys[x.Key] + " has lost to an invalidation"
		}
		if x.Passed {
			return "the load of " + n.keys[x.Key] + " has left nothing"
		}
		return "the lease of " + n.keys[x.Key] + " has ended"
	case invalidation.NoticeApplied:
		return n.stamp(x.Stamp) + " is applied"
	}
	return "a notice of a kind that this version does not know"
}

// node is how a life of a node is called: n2, and then n2-2.
func (n *names) node(name string) string { return strings.TrimSuffix(name, "-1") }

func (n *names) nodes(all []string) string {
	called := make([]string, len(all))
	for i, name := range all {
		called[i] = n.node(name)
	}
	return strings.Join(called, ", ")
}

// outcome says what became of an operation.
func (n *names) outcome(o *op) string {
	if o.err != nil {
		return n.failure(o)
	}
	switch o.kind {
	case opGet:
		return o.reads[0].Key + n.read(&o.reads[0], &o.results[0])
	case opInvalidate:
		at, _ := o.invalidated.Stamp.At(0)
		text := "recorded as " + n.stamp(at)
		switch {
		case len(o.invalidated.Stragglers) > 0:
			text += ", and waited out " + n.nodes(o.invalidated.Stragglers)
		case o.acknowledge:
			text += ", and nobody serves the old values"
		}
		return text
	case opFill, opPut, opRenew, opRelease:
	}
	return o.write.Key + n.write(o)
}

func (n *names) failure(o *op) string {
	text := "failed: " + o.err.Error()
	if incomplete := (*soracache.IncompleteError)(nil); errors.As(o.err, &incomplete) {
		at, _ := incomplete.Stamp.At(0)
		text = fmt.Sprintf("the caller's time is over: recorded as %s, but not acknowledged by %s", n.stamp(at), n.nodes(incomplete.Stragglers))
	}
	return text
}

func (n *names) read(asked *soracache.Read, r *soracache.ReadResult) string {
	if r.Err != nil {
		return " failed: " + r.Err.Error()
	}
	var text string
	switch r.Status {
	case soracache.StatusHit, soracache.StatusStale:
		text = " = " + n.values[string(r.Entry.Value)] + " from " + map[soracache.Tier]string{
			soracache.TierL1: "memory", soracache.TierL2: "L2",
		}[r.Tier]
		if r.Status == soracache.StatusStale {
			text += ", stale"
		}
		if r.Unconfirmed {
			text += ", not confirmed"
		}
	case soracache.StatusMiss:
		text = ": miss"
	}
	switch {
	case r.Lease != (soracache.Lease{}):
		at, _ := r.Stamp.At(0)
		text += ", with the lease, stamped " + n.stamp(at)
	case r.Status == soracache.StatusMiss && asked.Lease:
		text += ", and somebody else has the lease"
	}
	return text
}

func (n *names) write(o *op) string {
	switch {
	case o.written.Reason == soracache.ReasonNone:
		return map[opKind]string{
			opFill:  " = " + n.values[string(o.write.Entry.Value)] + " is stored",
			opPut:   " = " + n.values[string(o.write.Entry.Value)] + " is put",
			opRenew: ": the lease is renewed", opRelease: ": the lease is handed back",
		}[o.kind]
	case o.written.SupersededBy.Position != 0:
		return ": refused, superseded by " + n.record(o.written.SupersededBy)
	}
	return ": refused, " + o.written.Reason.String()
}
