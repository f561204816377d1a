package gossip

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// State is what is known of a member.
type State string

// The states of a member.
const (
	// StateAlive: it answers.
	StateAlive State = "alive"
	// StateDraining: it answers, and takes no new work.
	StateDraining State = "draining"
	// StateSuspect: it did not answer when this member last asked it.
	StateSuspect State = "suspect"
	// StateDead: the members agree that it does not answer. It may well serve.
	StateDead State = "dead"
	// StateLeft: it said that it leaves, or drains, before it was gone.
	StateLeft State = "left"
)

// Gone says whether a member is not there any more, as far as one knows.
func (s State) Gone() bool { return s == StateDead || s == StateLeft }

// Member is what is known of one member.
type Member struct {
	Name string
	// Address is where it is reached by gossip, and RPC where it serves.
	Address, RPC string
	Version      string
	Capabilities uint64
	Protocol     uint8
	State        State
	// Since is when it came to be in this state, as seen from here.
	Since time.Time
	// Bound is the longest that it trusts its memory without confirmation; 0 if it
	// has told none that a node can have.
	Bound time.Duration
	// RTT is how long it took to answer when it was last asked; 0 if it has not
	// been yet.
	RTT time.Duration
	// Self marks the member that was asked.
	Self bool
}

const (
	// Members that are gone are shown for as long, and as many of them.
	rememberGone    = time.Hour
	rememberGoneMax = 100
	// maxMembers is how many there may be in a cluster, and how many names that
	// were not known before are admitted in a minute: what memberlist keeps of the
	// dead is bounded by that.
	maxMembers = 8192
	// boundOfGone is for how long the bound of a member that is gone counts: more
	// than any bound.
	boundOfGone = 2 * maxBound
)

// table is who is a member. memberlist calls it while it holds its own lock, so
// that nothing here may call memberlist, nor wait.
type table struct {
	self string
	now  func() time.Time

	mu sync.Mutex
	// Guarded by mu. Rows are replaced in place; see row.
	rows map[string]*row
	// changes is closed and replaced at every change.
	changes chan struct{}

	// newcomers are the names that were not known before, of the minute that began
	// at minute.
	newcomers int
	minute    time.Time
	// refused counts members that were not admitted because of the limit.
	refused uint64

	// current is derived from rows when it is asked for after they have changed:
	// nil then. A state brings thousands of members at once.
	current atomic.Pointer[peers]
}

// row is what is known of a member. Its state is derived: see Member.
type row struct {
	Member
	node memberlist.Node
	// present: memberlist has it among those that live.
	present bool
	// silent: it did not answer the last probe of this member.
	silent bool
	// said is the furthest that it said of itself, by whatever way.
	said status
}

// peers are the others that notices are sent to.
type peers struct {
	// names are those that are present.
	names []string
	// nodes has those that are held to be dead as well: they may be told
	// something that they alone are concerned by.
	nodes map[string]*memberlist.Node
}

func newTable(self string, now func() time.Time) *table {
	t := &table{self: self, now: now, rows: make(map[string]*row), changes: make(chan struct{})}
	return t
}

// NotifyAlive is asked whether to believe in a member.
func (t *table) NotifyAlive(n *memberlist.Node) error {
	switch {
	case n.Name == t.self:
		return nil
	case n.Name == "" || len(n.Name) > 255 || !printable(n.Name):
		return errors.New("its name cannot be one")
	case len(n.Meta) > memberlist.MetaMaxSize:
		return fmt.Errorf("its metadata has %d bytes, at most %d", len(n.Meta), memberlist.MetaMaxSize)
	case len(n.Addr) != net.IPv4len && len(n.Addr) != net.IPv6len, n.Port == 0,
		n.Addr.IsUnspecified(), n.Addr.IsMulticast(), n.Addr.Equal(net.IPv4bcast):
		return errors.New("its address cannot be that of a member")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows[n.Name] != nil {
		return nil
	}
	if now := t.now(); now.Sub(t.minute) >= time.Minute {
		t.minute, t.newcomers = now, 0
	}
	if len(t.rows) >= maxMembers+rememberGoneMax || t.newcomers >= maxMembers {
		t.refused++
		return fmt.Errorf("there are %d members, or as many new ones in a minute, which is the limit", maxMembers)
	}
	t.newcomers++
	return nil
}

// NotifyJoin, NotifyUpdate and NotifyLeave are memberlist's: a member came,
// changed its metadata, or is gone.
func (t *table) NotifyJoin(n *memberlist.Node) { t.meet(n) }

// NotifyUpdate is called when a member changed its metadata.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.meet(n) }

// NotifyLeave is called when a member left, or is held to be dead.
func (t *table) NotifyLeave(n *memberlist.Node) {
	t.change(n.Name, func(r *row) { r.present = false })
}

func (t *table) meet(n *memberlist.Node) {
	node := *n
	node.Addr, node.Meta = slices.Clone(n.Addr), slices.Clone(n.Meta)
	// What cannot be read is of a version with which there is nothing to share
	// but membership.
	m, _ := decodeMeta(node.Meta)
	t.mu.Lock()
	if t.rows[n.Name] == nil {
		t.rows[n.Name] = &row{Member: Member{Name: n.Name, Self: n.Name == t.self}}
	}
	t.mu.Unlock()
	defer t.current.Store(nil) // its address may be another
	t.change(n.Name, func(r *row) {
		if !r.present {
			r.present, r.silent = true, false
		}
		r.node = node
		r.said = max(r.said, m.Status)
		r.Address, r.RPC, r.Version = node.Address(), m.RPC, m.Version
		r.Capabilities, r.Protocol = m.Capabilities, m.Protocol
		r.Bound = max(r.Bound, m.Bound) // a name is that of one boot, and so is its bound
	})
}

// probed is told whether a member answered this one.
func (t *table) probed(name string, answered bool, rtt time.Duration) {
	t.change(name, func(r *row) {
		r.silent = !answered
		if answered {
			r.RTT = rtt
		}
	})
}

// said is told what a member said of itself.
func (t *table) said(name string, s status) {
	t.change(name, func(r *row) { r.said = max(r.said, s) })
}

// change changes what is known of a member, and all that follows from it.
func (t *table) change(name string, f func(*row)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[name]
	if r == nil {
		return
	}
	f(r)
	if s := r.state(); s != r.State {
		r.State, r.Since = s, t.now()
		if s.Gone() {
			t.forget()
		}
		t.current.Store(nil)
	}
	// Whoever waits looks anew.
	close(t.changes)
	t.changes = make(chan struct{})
}

func (r *row) state() State {
	switch {
	case !r.present && r.said >= draining:
		return StateLeft
	case !r.present:
		return StateDead
	case r.silent:
		return StateSuspect
	case r.said >= draining:
		return StateDraining
	}
	return StateAlive
}

// peers are the others as they are now.
func (t *table) peers() *peers {
	if p := t.current.Load(); p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.current.Load()
	if p == nil {
		p = t.peersLocked()
		t.current.Store(p)
	}
	return p
}

// peersLocked are those that are present. Of several at one address, which a
// member that was started again leaves behind until it is found to be dead,
// there is the last.
func (t *table) peersLocked() *peers {
	p := &peers{nodes: make(map[string]*memberlist.Node, len(t.rows))}
	byAddress := make(map[string]*row, len(t.rows))
	for _, r := range t.rows {
		if r.Self || r.State == StateLeft {
			continue
		}
		node := r.node
		p.nodes[r.Name] = &node
		if !r.present {
			continue
		}
		if other := byAddress[r.Address]; other == nil || other.Since.Before(r.Since) {
			byAddress[r.Address] = r
		}
	}
	for _, r := range byAddress {
		p.names = append(p.names, r.Name)
	}
	slices.Sort(p.names)
	return p
}

// forget drops members that are gone for long, or too many of them.
func (t *table) forget() {
	var gone []*row
	for name, r := range t.rows {
		switch {
		case !r.State.Gone():
		case t.now().Sub(r.Since) > rememberGone:
			delete(t.rows, name)
		default:
			gone = append(gone, r)
		}
	}
	slices.SortFunc(gone, func(a, b *row) int { return b.Since.Compare(a.Since) })
	for _, r := range gone[min(len(gone), rememberGoneMax):] {
		delete(t.rows, r.Name)
	}
}

// members are all that are known, by name.
func (t *table) members() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	members := make([]Member, 0, len(t.rows))
	for _, r := range t.rows {
		members = append(members, r.Member)
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return members
}

// turnedAway counts those that were not admitted.
func (t *table) turnedAway() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}

// left says whether a member said of itself that it is going: it does so once it
// serves nothing any more. That it is gone, or drained before, does not count.
func (t *table) left(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[name]
	return r != nil && r.said == leaving
}

// changed is closed at the next change.
func (t *table) changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// bound is the largest of all members, those among them that went lately: a
// member called dead is not taken to have stopped serving.
func (t *table) bound() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var bound time.Duration
	for _, r := range t.rows {
		if !r.State.Gone() || t.now().Sub(r.Since) < boundOfGone {
			bound = max(bound, r.Bound)
		}
	}
	return bound
}

// node is a member to send to, unless it left or is not known.
func (t *table) node(name string) *memberlist.Node { return t.peers().nodes[name] }
