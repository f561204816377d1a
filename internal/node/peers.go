package node

import (
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node/parking"
	"github.com/soracache/soracache/invalidation"
)

// Peers carries notices to the other nodes of a cluster. All of it is best-effort: what
// is lost costs time, for at most the bound, and nothing else.
// None of it blocks, and none of it calls back into the node.
type Peers interface {
	// Publish sends a notice to every other member.
	Publish(n invalidation.Notice)
	// Tell sends a notice to one member, by its name.
	Tell(member string, n invalidation.Notice)
	// Bound is the largest bound that any member is known to have. It leaves out
	// the members that claim one of more than [l2.MaxBound], since those serve
	// nothing from memory: an answer above that counts as none.
	Bound() time.Duration
	// Left reports whether a member has said of itself that it serves nothing
	// any more. (What others think of it does not count.)
	Left(member string) bool
}

// alone is the Peers of a node that has none.
type alone struct{}

func (alone) Publish(invalidation.Notice)      {}
func (alone) Tell(string, invalidation.Notice) {}
func (alone) Bound() time.Duration             { return 0 }
func (alone) Left(string) bool                 { return false }

// Receive takes in a notice from a peer. It does not block. What a notice says
// is believed only so far as it makes this node refuse more, or ask: what it
// may serve, it learns from the store.
func (n *Node) Receive(notice invalidation.Notice) {
	if !n.notices.Enter() {
		return
	}
	defer n.notices.Leave()
	if notice.Kind == invalidation.NoticeApplied {
		n.acks.take(notice)
		return
	}
	ns := n.pinned(notice.Namespace)
	if ns == nil {
		// Nobody reads it here, so nothing of it can be served from memory: what
		// is read from now on is asked for after the record was appended.
		if notice.Kind == invalidation.NoticeRecord && notice.Acknowledge {
			n.acknowledge(notice)
		}
		return
	}
	defer ns.unpin()
	if int(notice.Partition) >= len(ns.partitions) {
		n.doubt(notice.Namespace) // the other node counts otherwise: what it means is not known here
		return
	}
	p := ns.partitions[notice.Partition]
	switch {
	case notice.Kind == invalidation.NoticeRecord:
		p.received(notice)
	case notice.Kind == invalidation.NoticeFreed && notice.Lost:
		p.parked.WakeHash(notice.Key, parking.Lost)
	case notice.Kind == invalidation.NoticeFreed && notice.Passed:
		p.parked.WakeHash(notice.Key, parking.Passed)
	case notice.Kind == invalidation.NoticeFreed:
		p.parked.WakeHash(notice.Key, parking.Ended)
	default: // of a later version: whatever it says, the ledger knows
		p.pull(invalidation.Notice{})
	}
}

// received takes in a record that a peer appended.
func (p *partition) received(notice invalidation.Notice) {
	r := notice.Record
	o := p.follower.Record(r)
	p.hear(r.Position)
	if len(o.New) > 0 {
		p.node.totals.recordsPushed.Add(1)
		p.node.observe(p, r, FromPeer)
		if took := p.node.cfg.Observer.Propagated; took != nil {
			took(time.Duration(time.Now().UnixMicro()-notice.Appended) * time.Microsecond)
		}
	}
	if o.Missed {
		p.node.totals.gaps.Add(1)
	}
	switch {
	case notice.Acknowledge && o.Marked:
		p.node.acknowledge(notice)
	case notice.Acknowledge:
		p.pull(notice) // and then acknowledge it
	}
	if !p.active.Load() {
		o.Pull = false // nobody reads here: the next reader asks anyway
	}
	p.act(o)
	for _, t := range r.Targets {
		switch t.Kind {
		case soracache.TargetKey:
			p.parked.WakeKey(t.Name, parking.Lost)
		case soracache.TargetAll:
			p.parked.WakeAll(parking.Lost)
		case soracache.TargetTag:
		}
	}
}

// publish tells the other nodes of a record that this node appended.
func (p *partition) publish(r soracache.Record, acknowledge bool) {
	p.node.cfg.Peers.Publish(p.recordNotice(r, acknowledge))
}

func (p *partition) recordNotice(r soracache.Record, acknowledge bool) invalidation.Notice {
	return invalidation.Notice{
		Kind: invalidation.NoticeRecord, Namespace: p.id.Namespace, Partition: p.id.Index,
		Record: r, Appended: time.Now().UnixMicro(), Acknowledge: acknowledge, From: p.node.cfg.Name,
	}
}

// freed lets whoever waits for a key's lease, here or on another node, read
// again.
func (p *partition) freed(key string, why parking.Why) {
	p.parked.Wake(key, why)
	p.node.cfg.Peers.Publish(invalidation.Notice{
		Kind: invalidation.NoticeFreed, Namespace: p.id.Namespace, Partition: p.id.Index,
		Key: invalidation.KeyHash(key), Lost: why == parking.Lost, Passed: why == parking.Passed,
	})
}

// observe reports a record that was taken in.
func (n *Node) observe(p *partition, r soracache.Record, from Source) {
	if n.cfg.Observer.Recorded != nil {
		n.cfg.Observer.Recorded(p.id.Namespace, int(p.id.Index), r, from)
	}
}
