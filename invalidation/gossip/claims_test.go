package gossip

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/invalidation"
)

// TestWhoIsBelievedIn: a member whose name, address or metadata cannot be those of
// one is not taken in.
func TestWhoIsBelievedIn(t *testing.T) {
	table, _ := tableOf("self")
	at := func(name string, ip net.IP, port uint16, metadata int) *memberlist.Node {
		return &memberlist.Node{Name: name, Addr: ip, Port: port, Meta: make([]byte, metadata)}
	}
	loopback := net.IPv4(127, 0, 0, 1).To4()
	for _, step := range []struct {
		what string
		node *memberlist.Node
		fine bool
	}{
		{"itself", at("self", nil, 0, 0), true},
		{"a member", at("node-1", loopback, 7946, 100), true},
		{"by IPv6", at("node-1", net.ParseIP("2001:db8::1"), 7946, 512), true},
		{"the longest name", at(strings.Repeat("n", 255), loopback, 1, 0), true},
		{"no name", at("", loopback, 1, 0), false},
		{"a longer name", at(strings.Repeat("n", 256), loopback, 1, 0), false},
		{"a name that is no text", at("node\xff", loopback, 1, 0), false},
		{"a name of two lines", at("node\nlevel=ERROR", loopback, 1, 0), false},
		{"too much metadata", at("node", loopback, 1, 513), false},
		{"no port", at("node", loopback, 0, 0), false},
		{"no address", at("node", nil, 1, 0), false},
		{"half an address", at("node", net.IP{127, 0}, 1, 0), false},
		{"all addresses", at("node", net.IPv4zero, 1, 0), false},
		{"a group", at("node", net.IPv4(224, 0, 0, 1), 1, 0), false},
		{"everybody", at("node", net.IPv4bcast, 1, 0), false},
	} {
		if err := table.NotifyAlive(step.node); (err == nil) != step.fine {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}

// TestHowManyMembers: there are no more members than there may be, nor more new
// names in a minute, which bounds what is remembered of those that came and went.
func TestHowManyMembers(t *testing.T) {
	racetest.Without(t)
	table, pass := tableOf("self")
	come := func(i int) error {
		n := nodeOf(fmt.Sprintf("node-%d", i), 1, meta{})
		if err := table.NotifyAlive(n); err != nil {
			return err
		}
		table.NotifyJoin(n)
		return nil
	}
	for i := range maxMembers {
		if err := come(i); err != nil {
			t.Fatal(err)
		}
	}
	if come(maxMembers) == nil {
		t.Error("there is one more")
	}
	if come(7) != nil {
		t.Error("one that is there is not believed")
	}
	for i := range maxMembers {
		table.NotifyLeave(nodeOf(fmt.Sprintf("node-%d", i), 1, meta{}))
	}
	if come(maxMembers) == nil {
		t.Error("there are more new ones in a minute")
	}
	if got := table.turnedAway(); got != 2 {
		t.Errorf("%d were counted", got)
	}
	pass(time.Minute)
	if err := come(maxMembers); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}

// TestManyComeAtOnce: what it takes to note that a member came does not depend on
// how many there are. Counted is what is allocated.
func TestManyComeAtOnce(t *testing.T) {
	table, _ := tableOf("self")
	const members = 4000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range members {
		table.NotifyJoin(nodeOf(fmt.Sprintf("node-%d", i), 1, meta{}))
	}
	runtime.ReadMemStats(&after)
	if allocated := (after.TotalAlloc - before.TotalAlloc) / members; allocated > 4096 {
		t.Errorf("%d bytes for each of %d", allocated, members)
	}
}

// fresh are so many publications that were never seen, each of which says that it
// may be passed on as often as can be said.
func fresh(from, n int) []byte {
	var entries []entry
	for i := range n {
		entries = append(entries, entry{hops: 255, id: uint64(from + i), notice: freed(strconv.Itoa(from + i))})
	}
	return noticesPacket(entries...)
}

// TestWhatOnePacketMakesANodeSend: each notice of a packet is passed on to a few
// members, packed as it came; once, however often it comes; and for as many hops
// as a publisher here would have it.
func TestWhatOnePacketMakesANodeSend(t *testing.T) {
	w := newWire(99)
	s := spreadOver(w, SpreadConfig{})
	packet := fresh(1, 40)
	if len(packet) > defaultPacketSize {
		t.Fatalf("%d bytes are more than a packet", len(packet))
	}
	for range 3 {
		s.Receive(packet)
	}
	s.Flush()
	if len(w.sent) != fanout(100) {
		t.Errorf("one packet became %d, want %d", len(w.sent), fanout(100))
	}
	for _, sent := range w.sent {
		if len(sent.packet) > len(packet) {
			t.Errorf("%d bytes became %d", len(packet), len(sent.packet))
		}
		for _, e := range w.entries(t, sent.to) {
			if e.hops != hops(100)-1 {
				t.Fatalf("passed on with %d hops, want %d", e.hops, hops(100)-1)
			}
		}
	}
}

// TestOthersDoNotDisplaceOwn: however much is to be passed on for others, there is
// room for what a node has to say itself, and that goes first.
func TestOthersDoNotDisplaceOwn(t *testing.T) {
	w := newWire(99)
	s := spreadOver(w, SpreadConfig{Queue: 100})
	for i := range 10 {
		s.Receive(fresh(1+40*i, 40))
	}
	for i := range 100 {
		s.Publish(record(1 + i))
		s.Tell("peer-1", invalidation.Notice{Kind: invalidation.NoticeApplied, Namespace: "shop", From: "n"})
		if i >= 49 {
			break
		}
	}
	s.Flush()
	got := s.Stats()
	if got.Dropped.Records+got.Dropped.Applied > 0 || got.Sent.Applied != 50 {
		t.Errorf("its own was dropped: %+v", got)
	}
	if got.Dropped.Freed != 300 {
		t.Errorf("%d of others were dropped, want all that is over 100", got.Dropped.Freed)
	}
}

// TestPacketsAreBounded: a packet that is too large, or has too many notices, is
// malformed, by whatever way it comes; and not all that waits is decoded at once.
func TestPacketsAreBounded(t *testing.T) {
	smallest := []byte{0, 4, 200, 0, 0, 0} // no hops, and a notice of an unknown kind
	of := func(n int) []byte {
		return sealPacket(append(beginPacket(nil, packetNotices), bytes.Repeat(smallest, n)...))
	}
	s := spreadOver(newWire(1), SpreadConfig{})
	if got := s.Receive(of(maxPacketNotices)); len(got) != maxPacketNotices {
		t.Errorf("%d notices", len(got))
	}
	if got := s.Receive(of(maxPacketNotices + 1)); got != nil || s.Stats().PacketsMalformed != 1 {
		t.Errorf("%d notices, %+v", len(got), s.Stats())
	}
	m := start(t, configOf(t, "node"))
	m.NotifyMsg(make([]byte, maxPacketBytes+1))
	if got := m.Stats(); got.PacketsMalformed != 1 || got.Waiting != 0 {
		t.Errorf("a large message: %+v", got)
	}
	var in inbox
	for in.put(make([]byte, maxPacketBytes)) {
	}
	taken := 0
	for packets := in.take(); len(packets) > 0; packets = in.take() {
		if size := len(packets) * maxPacketBytes; size > takenBytes {
			t.Fatalf("%d bytes are taken at once", size)
		}
		taken += len(packets)
	}
	if taken != inboxBytes/maxPacketBytes || in.bytes != 0 || in.packets != nil {
		t.Errorf("%d packets were taken, %d bytes are left", taken, in.bytes)
	}
}

// TestPositionsFarAhead: a record that says that it lies far ahead of the clock is
// delivered without its targets, so that nobody moves to where it says.
func TestPositionsFarAhead(t *testing.T) {
	members := cluster(t, 2, nil)
	ahead := func(by time.Duration) invalidation.Notice {
		n := record(1)
		n.Record.Position = soracache.Position(time.Now().Add(by).UnixMicro())
		return n
	}
	members[0].Publish(ahead(aheadMost / 2))
	members[0].Publish(ahead(2 * aheadMost))
	last := record(1)
	last.Record.Position = 1<<64 - 1
	members[0].Publish(last)
	got := members[1].until("three records", func(n []invalidation.Notice) bool { return len(n) == 3 })
	targets := 0
	for _, n := range got {
		targets += len(n.Record.Targets)
	}
	if targets != len(ahead(0).Record.Targets) || members[1].Stats().Implausible != 2 {
		t.Errorf("received %+v", got)
	}
}
