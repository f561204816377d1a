package l2model

import (
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Holder tells who holds the lease of a key at this moment, and for how long at
// most: whoever asks for it is told so. It is no step of the partition and
// changes nothing, so a checker can ask at any time.
func (m *Model) Holder(at l2.Partition, key string) (nonce soracache.Lease, left time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[place{at.Namespace, at.Index}]
	if p == nil || p.ledger == nil || p.attach {
		return nonce, 0, false // the next step takes a new epoch, in which no lease stands
	}
	s := step{partition: p, m: m, now: m.config.Now()}
	held, ok := s.lease(key)
	return held.nonce, held.until.Sub(s.now), ok
}

// Value is what is stored under a key, live or not; nil: nothing is. Like Holder, it is no
// step of the partition.
func (m *Model) Value(at l2.Partition, key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[place{at.Namespace, at.Index}]
	if p == nil {
		return nil
	}
	e, ok := p.entries[key]
	if !ok {
		return nil
	}
	return e.Value
}

// Latest is the stamp of the latest record of a target. Its position is zero if the
// ledger knows none, and all of it is if there is no ledger. Like Holder, it is no step
// of the partition.
func (m *Model) Latest(at l2.Partition, target soracache.Target) soracache.Stamp {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[place{at.Namespace, at.Index}]
	if p == nil || p.ledger == nil {
		return soracache.Stamp{}
	}
	latest := soracache.Stamp{Epoch: p.ledger.epoch}
	switch target.Kind {
	case soracache.TargetAll:
		latest.Position = p.ledger.cleared
	case soracache.TargetKey:
		latest.Position = p.ledger.keys.latest[target.Name]
	case soracache.TargetTag:
		latest.Position = p.ledger.tags.latest[target.Name]
	}
	return latest
}

// Settling is how many targets of a partition settle. Like Holder, it is no step of the
// partition.
func (m *Model) Settling(at l2.Partition) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[place{at.Namespace, at.Index}]
	if p == nil {
		return 0
	}
	return len(p.settling)
}
