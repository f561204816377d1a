package l2test

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
