package node

import (
	"context"
	"sync"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// learn takes in the answer to what may have appended a record of this node's
// own. The answer's delta holds the record, so it need only be applied itself
// where the delta was cut off or could not be taken in.
func (p *partition) learn(q invalidation.Question, d soracache.Delta, own soracache.Record) {
	o := p.answer(q, d, own.Position)
	if own.Position == 0 {
		return
	}
	if !o.Confirmed {
		o = p.follower.Record(own)
		if !o.Marked {
			// It is in an epoch that this node has not entered, and whose answer
			// came too late to lead there; or in one that it has left, to which the
			// store may have gone back. Until the ledger was asked anew, nothing is
			// served here.
			p.follower.Void()
		}
		p.act(o)
	}
	p.node.observe(p, own, FromSelf)
}

// answer takes in the delta of an answer, which may hold a record of this
// node's own at a position.
func (p *partition) answer(q invalidation.Question, d soracache.Delta, own soracache.Position) invalidation.Outcome {
	o := p.takeIn(q, d, own)
	p.act(o)
	return o
}

func (p *partition) takeIn(q invalidation.Question, d soracache.Delta, own soracache.Position) invalidation.Outcome {
	o := p.follower.Answer(q, d)
	if o.Reset {
		p.heard.Store(uint64(d.Head))
	}
	p.hear(d.Head)
	for _, r := range o.New {
		if r.Position != own {
			p.node.totals.recordsRepaired.Add(1)
			p.node.observe(p, r, FromLedger)
		}
	}
	return o
}

// hear notes the highest position heard of.
func (p *partition) hear(at soracache.Position) {
	for {
		old := p.heard.Load()
		if old >= uint64(at) || p.heard.CompareAndSwap(old, uint64(at)) {
			return
		}
	}
}

// act acts on what the follower made of an answer or a record.
func (p *partition) act(o invalidation.Outcome) {
	if o.Reset {
		p.node.totals.resets.Add(1)
	}
	if o.Confirmed {
		p.node.totals.confirmations.Add(1)
	}
	if o.Entered {
		p.node.cfg.Logger.Warn("new epoch: everything older is dead", "partition", p.id.String(), "epoch", p.follower.State().Epoch)
		p.node.chores.add(chore{at: p.id})
	}
	if o.Pull {
		p.pull(invalidation.Notice{})
	}
}

// pulls ask the ledger for what is missing. One runs at a time.
type pulls struct {
	mu             sync.Mutex
	running, again bool                  // again: it is to ask once more; guarded by mu
	owed           []invalidation.Notice // whom to acknowledge records to after the next asking; guarded by mu
}

// pull has the ledger asked for what is missing, after which the notice, if it
// asks for that, is acknowledged. A pull that is under way asks once more, since
// its question may have been sent before what is missing was appended.
func (p *partition) pull(notice invalidation.Notice) {
	p.pulls.mu.Lock()
	defer p.pulls.mu.Unlock()
	if notice.Acknowledge && len(p.pulls.owed) < maxOwed {
		p.pulls.owed = append(p.pulls.owed, notice)
	}
	if p.pulls.again = p.pulls.running; p.pulls.again {
		return
	}
	p.pulls.running = true
	p.background(p.pullAll)
}

// maxOwed bounds the acknowledgements that wait for a pull. Whoever wants one
// asks again.
const maxOwed = 1024

func (p *partition) pullAll() {
	for {
		p.pulls.mu.Lock()
		owed := p.pulls.owed
		p.pulls.owed, p.pulls.again = nil, false
		p.pulls.mu.Unlock()
		caughtUp := p.catchUp()
		for _, notice := range owed {
			r := notice.Record
			if caughtUp && p.follower.Reflects(soracache.Stamp{Epoch: r.Epoch, Position: r.Position}) {
				p.node.acknowledge(notice)
			}
		}
		p.pulls.mu.Lock()
		if p.pulls.running = p.pulls.again && caughtUp; !p.pulls.running {
			p.pulls.mu.Unlock()
			return
		}
		p.pulls.mu.Unlock()
	}
}

// catchUp asks until nothing is missing. It is false if the ledger could not be
// asked; the next confirmation asks again.
func (p *partition) catchUp() bool {
	for p.node.ctx.Err() == nil {
		p.node.totals.pulls.Add(1)
		q := p.follower.Ask()
		answers := callStore(p.node.ctx, p.node, "since", func(ctx context.Context) ([]l2.SinceAnswer, error) {
			as := p.node.cfg.Store.Since(ctx, []l2.SinceRequest{{Partition: p.id, Since: q.Since, Register: p.node.registration}})
			return as, as[0].Err
		})
		if answers[0].Err != nil {
			return false
		}
		o := p.takeIn(q, answers[0].Delta, 0)
		again := o.Pull
		o.Pull = false
		p.act(o)
		if !again {
			return true
		}
	}
	return false
}
