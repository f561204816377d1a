package l2model

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/soracache/soracache/l2"
)

// LoseLedger makes a partition lose its ledger and keep its entries, leases,
// tag sets and registrations, as a database does that evicts the wrong thing.
func (m *Model) LoseLedger(at l2.Partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partition(at).ledger = nil
}

// Later makes a partition's ledger one of a later version, until it is restored.
func (m *Model) Later(at l2.Partition) (restore func()) {
	set := func(later bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.partition(at).later = later
	}
	set(true)
	return func() { set(false) }
}

// LoseNumber makes a namespace forget how many partitions it has, and nothing
// else.
func (m *Model) LoseNumber(namespace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.numbers, namespace)
}

// LoseRegistrations makes a partition forget who is registered, and nothing
// else.
func (m *Model) LoseRegistrations(at l2.Partition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partition(at).registered = nil
}

// LoseEntry makes a partition lose one entry, as a database does that evicts. It
// reports whether there was one.
func (m *Model) LoseEntry(at l2.Partition, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.partition(at).entries[key]
	delete(m.partition(at).entries, key)
	return ok
}

// Restart makes every ledger take a new epoch when it is next used, as a
// database does in whose place another process answers. A failover of Redis is
// a restored [Model.Snapshot] and this: not all that it loses can be told from
// histories, registrations least of all.
func (m *Model) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.partitions {
		p.attach = true
	}
}

// Flush makes the model forget everything.
func (m *Model) Flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.partitions)
	clear(m.numbers)
}

// Snapshot returns a function that brings everything back to what it is now,
// as restoring a backup does, or a failover to a replica that lagged. It can
// be called any number of times.
func (m *Model) Snapshot() (restore func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	saved, numbers := clonePartitions(m.partitions), maps.Clone(m.numbers)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.partitions, m.numbers = clonePartitions(saved), maps.Clone(numbers)
	}
}

// Copy returns another model that holds what this one does at this moment, as an
// old primary does that was cut off from the new one.
func (m *Model) Copy() *Model {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Model{config: m.config, partitions: clonePartitions(m.partitions), numbers: maps.Clone(m.numbers)}
}

func clonePartitions(from map[place]*partition) map[place]*partition {
	to := make(map[place]*partition, len(from))
	for at, p := range from {
		to[at] = p.clone()
	}
	return to
}

// Dump returns a function that puts one stored entry back as it is now,
// whatever has happened since: what DUMP and RESTORE do in Redis. It reports
// whether there is such an entry.
func (m *Model) Dump(at l2.Partition, key string) (restore func(), ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.partition(at).entries[key]
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.partition(at).entries[key] = e
	}, ok
}

// String summarises the model, for the logs of tests.
func (m *Model) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	places := make([]place, 0, len(m.partitions))
	for at := range m.partitions {
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.index, b.index))
	})
	var out strings.Builder
	for _, at := range places {
		p := m.partitions[at]
		fmt.Fprintf(&out, "%s/%d: %d entries, %d leases", at.namespace, at.index, len(p.entries), len(p.leases))
		if p.ledger != nil {
			fmt.Fprintf(&out, ", epoch %x head %d", p.ledger.epoch, p.ledger.head)
		}
		out.WriteByte('\n')
	}
	return out.String()
}
