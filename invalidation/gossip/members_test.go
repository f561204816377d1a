package gossip

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/soracache/soracache/l2"
)

// tableOf is a table with a clock that the test moves.
func tableOf(self string) (*table, func(time.Duration)) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return newTable(self, func() time.Time { return now }), func(d time.Duration) { now = now.Add(d) }
}

func nodeOf(name string, port uint16, m meta) *memberlist.Node {
	return &memberlist.Node{Name: name, Addr: net.IPv4(127, 0, 0, 1), Port: port, Meta: m.encode()}
}

func (t *table) states() map[string]State {
	states := make(map[string]State)
	for _, m := range t.members() {
		states[m.Name] = m.State
	}
	return states
}

// TestBoundOfTheDead: a member called dead counts on for longer than any bound,
// because it may be serving all the same.
func TestBoundOfTheDead(t *testing.T) {
	table, pass := tableOf("self")
	table.NotifyJoin(nodeOf("self", 1, meta{Bound: time.Second}))
	table.NotifyJoin(nodeOf("node", 2, meta{Bound: 3 * time.Second}))
	table.NotifyLeave(nodeOf("node", 2, meta{}))
	for _, step := range []struct{ after, want time.Duration }{
		{0, 3 * time.Second}, {boundOfGone - 1, 3 * time.Second}, {1, time.Second},
	} {
		if pass(step.after); table.bound() != step.want {
			t.Errorf("after %v more, the bound is %v, want %v", step.after, table.bound(), step.want)
		}
	}
}

// TestBoundThatNobodyHas: what a member says of its bound is not heard if no node
// can have such a bound. No acknowledgement waits for that member, and those of
// others count as before.
func TestBoundThatNobodyHas(t *testing.T) {
	for _, claim := range []time.Duration{l2.MaxBound + time.Microsecond, 24 * time.Hour, math.MaxInt64} {
		table, pass := tableOf("self")
		table.NotifyJoin(nodeOf("self", 1, meta{Bound: time.Second}))
		table.NotifyJoin(nodeOf("odd", 2, meta{Bound: claim}))
		if got := table.bound(); got != time.Second {
			t.Errorf("%v is believed as %v, want %v", claim, got, time.Second)
		}
		table.NotifyJoin(nodeOf("slow", 3, meta{Bound: l2.MaxBound}))
		if got := table.bound(); got != l2.MaxBound {
			t.Errorf("beside one that claims %v, the longest bound is %v, want %v", claim, got, l2.MaxBound)
		}
		// What it said when it came holds on: it may be serving by that.
		table.NotifyUpdate(nodeOf("slow", 3, meta{Bound: claim}))
		if got := table.bound(); got != l2.MaxBound {
			t.Errorf("who claims %v later has a bound of %v, want %v", claim, got, l2.MaxBound)
		}
		table.NotifyLeave(nodeOf("odd", 2, meta{}))
		table.NotifyLeave(nodeOf("slow", 3, meta{}))
		if pass(boundOfGone); table.bound() != time.Second {
			t.Errorf("%v: the bound of one that is gone still counts: %v", claim, table.bound())
		}
	}
}

// TestClaimsThatCannotBeShown: what members tell of themselves goes into logs,
// answers and terminals, so that what is no text is not believed.
func TestClaimsThatCannotBeShown(t *testing.T) {
	for _, text := range []string{"a\nb", "\x1b[2J", "\xff\xfe", "a\x00b", "\u202eb"} {
		rpc := meta{RPC: text, Bound: time.Second}.encode()
		version := appendShort(bytes.TrimSuffix(meta{Bound: time.Second}.encode(), []byte{0}), text)
		for _, b := range [][]byte{rpc, version} {
			if got, err := decodeMeta(b); err == nil {
				t.Errorf("%q is believed: %+v", text, got)
			}
		}
	}
}

func TestTheGoneAreForgotten(t *testing.T) {
	table, pass := tableOf("self")
	table.NotifyJoin(nodeOf("self", 1, meta{}))
	for i := range rememberGoneMax + 50 {
		n := nodeOf(fmt.Sprintf("node-%03d", i), uint16(10+i), meta{})
		table.NotifyJoin(n)
		table.NotifyLeave(n)
		pass(time.Second)
	}
	members := table.members()
	if len(members) != rememberGoneMax+1 || members[0].Name != "node-050" {
		t.Errorf("%d members, the first of them %s", len(members), members[0].Name)
	}
	if pass(rememberGone); len(table.members()) != 1 {
		t.Errorf("after an hour there are %d members", len(table.members()))
	}
}

// TestStates goes through what can be heard of a member.
func TestStates(t *testing.T) {
	table, pass := tableOf("self")
	node := nodeOf("node", 2, meta{})
	since := table.now()
	for i, step := range []struct {
		what  string
		event func()
		want  State
	}{
		{"it came", func() { table.NotifyJoin(node) }, StateAlive},
		{"it answered", func() { table.probed("node", true, time.Millisecond) }, StateAlive},
		{"it did not answer", func() { table.probed("node", false, 0) }, StateSuspect},
		{"it is dead", func() { table.NotifyLeave(node) }, StateDead},
		{"it is back", func() { table.NotifyJoin(node) }, StateAlive},
		{"it said something of a later version", func() { table.said("node", 0) }, StateAlive},
		{"it drains", func() { table.NotifyUpdate(nodeOf("node", 2, meta{Status: draining})) }, StateDraining},
		{"what it said before", func() { table.NotifyUpdate(node) }, StateDraining},
		{"it did not answer", func() { table.probed("node", false, 0) }, StateSuspect},
		{"it is gone", func() { table.NotifyLeave(node) }, StateLeft},
		{"it is back, and drains still", func() { table.NotifyJoin(node) }, StateDraining},
		{"it leaves", func() { table.said("node", leaving) }, StateDraining},
		{"it has left", func() { table.NotifyLeave(node) }, StateLeft},
		{"somebody else", func() { table.said("nobody", leaving); table.NotifyLeave(nodeOf("nobody", 9, meta{})) }, StateLeft},
	} {
		before := table.states()["node"]
		pass(time.Second)
		changes := table.changed()
		step.event()
		if got := table.states()["node"]; got != step.want {
			t.Errorf("%d: %s: %s, want %s", i, step.what, got, step.want)
		}
		if step.want != before {
			since = table.now()
		}
		if got := table.members()[0].Since; !got.Equal(since) {
			t.Errorf("%d: %s: since %v, want %v", i, step.what, got, since)
		}
		select {
		case <-changes:
		default:
			if step.what != "somebody else" {
				t.Errorf("%d: %s: nobody was woken", i, step.what)
			}
		}
	}
}

// TestWhoIsSentWhat: notices go to those present, once to each address; what is
// for one alone may also go to the dead.
func TestWhoIsSentWhat(t *testing.T) {
	table, pass := tableOf("self")
	table.NotifyJoin(nodeOf("self", 1, meta{}))
	table.NotifyJoin(nodeOf("before", 2, meta{}))
	pass(time.Second)
	table.NotifyJoin(nodeOf("again", 2, meta{}))
	table.NotifyJoin(nodeOf("dead", 3, meta{}))
	table.NotifyLeave(nodeOf("dead", 3, meta{}))
	table.NotifyJoin(nodeOf("left", 4, meta{Status: leaving}))
	table.NotifyLeave(nodeOf("left", 4, meta{}))
	table.NotifyJoin(nodeOf("suspect", 5, meta{}))
	table.probed("suspect", false, 0)
	table.NotifyJoin(&memberlist.Node{Name: "strange", Addr: net.IPv4(127, 0, 0, 1), Port: 6, Meta: []byte("?")})
	if got := table.peers().names; !slices.Equal(got, []string{"again", "strange", "suspect"}) {
		t.Errorf("notices go to %v", got)
	}
	for name, want := range map[string]bool{"again": true, "dead": true, "left": false, "self": false, "nobody": false} {
		if got := table.node(name) != nil; got != want {
			t.Errorf("%s can be told something: %t", name, got)
		}
	}
}
