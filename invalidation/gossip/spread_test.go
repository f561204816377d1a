package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// wire is a transport that keeps what is sent.
type wire struct {
	peers []string
	sent  []sentPacket
	err   error
}

type sentPacket struct {
	to     string
	packet []byte
}

func (w *wire) Peers() []string { return w.peers }

func (w *wire) Send(to string, packet []byte) error {
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, sentPacket{to, packet})
	return nil
}

func newWire(others int) *wire {
	w := &wire{}
	for i := range others {
		w.peers = append(w.peers, fmt.Sprintf("peer-%d", i))
	}
	return w
}

func spreadOver(w *wire, c SpreadConfig) *Spread {
	c.Transport, c.Random = w, rand.New(rand.NewPCG(7, 7))
	return NewSpread(c)
}

// entries are those of all packets to one member.
func (w *wire) entries(t *testing.T, to string) []entry {
	t.Helper()
	var entries []entry
	for _, s := range w.sent {
		if s.to == to {
			p, err := decodePacket(s.packet)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, p.entries...)
		}
	}
	return entries
}

func freed(key string) invalidation.Notice {
	return invalidation.Notice{Kind: invalidation.NoticeFreed, Namespace: "shop", Key: invalidation.KeyHash(key)}
}

func TestUpTo64MembersAreSentDirectly(t *testing.T) {
	w := newWire(63)
	s := spreadOver(w, SpreadConfig{})
	s.Publish(record(1))
	s.Publish(freed("a"))
	if !s.Flush() || s.Flush() {
		t.Error("it does not say rightly whether there was anything to send")
	}
	if len(w.sent) != 63 {
		t.Fatalf("%d packets, want one for each of 63", len(w.sent))
	}
	for _, to := range w.peers {
		entries := w.entries(t, to)
		if len(entries) != 2 || entries[0].hops != 0 || !reflect.DeepEqual(entries[0].notice, record(1)) || !reflect.DeepEqual(entries[1].notice, freed("a")) {
			t.Errorf("%s is sent %+v", to, entries)
		}
	}
}

func TestFrom65MembersARecordSpreads(t *testing.T) {
	w := newWire(64)
	s := spreadOver(w, SpreadConfig{})
	s.Publish(record(1))
	s.Publish(freed("a"))
	s.Tell("peer-5", freed("b"))
	s.Flush()
	told := w.sent[len(w.sent)-1]
	if got := w.entries(t, told.to); told.to != "peer-5" || got[len(got)-1].notice.Key != freed("b").Key {
		t.Errorf("told %+v", told)
	}
	spread := w.sent[:len(w.sent)-1]
	var to []string
	for _, sent := range spread {
		to = append(to, sent.to)
		p, err := decodePacket(sent.packet)
		if err != nil || len(p.entries) != 1 || p.entries[0].hops != hops(65) || p.entries[0].id == 0 || !reflect.DeepEqual(p.entries[0].notice, record(1)) {
			t.Errorf("%s is sent %+v, %v", sent.to, p, err)
		}
	}
	slices.Sort(to)
	if len(slices.Compact(to)) != fanout(65) {
		t.Errorf("sent to %v, want to %d members", to, fanout(65))
	}
	if got := s.Stats(); got.Dropped.Freed != 1 || got.Sent.Freed != 1 || got.Sent.Records != uint64(fanout(65)) {
		t.Errorf("counted %+v", got)
	}
	// What comes back to its publisher is not delivered.
	if got := s.Receive(spread[0].packet); len(got) != 0 || s.Stats().Duplicates != 1 {
		t.Errorf("it received its own %+v", got)
	}
}

func TestReceiversPassOnOnce(t *testing.T) {
	w := newWire(99)
	s := spreadOver(w, SpreadConfig{})
	first := noticesPacket(entry{hops: 3, id: 42, notice: record(1)})
	if got := s.Receive(first); len(got) != 1 || !reflect.DeepEqual(got[0], record(1)) {
		t.Fatalf("received %+v", got)
	}
	clear(first) // a receiver's buffer is used again
	if got := s.Receive(noticesPacket(entry{hops: 2, id: 42, notice: record(1)})); len(got) != 0 {
		t.Errorf("received %+v again", got)
	}
	s.Flush()
	if len(w.sent) != fanout(100) {
		t.Fatalf("passed on %d times, want %d", len(w.sent), fanout(100))
	}
	for _, sent := range w.sent {
		if e := w.entries(t, sent.to)[0]; e.hops != 2 || e.id != 42 || !reflect.DeepEqual(e.notice, record(1)) {
			t.Errorf("passed on %+v", e)
		}
	}
	w.sent = nil

	// The last time that it may be passed on.
	if got := s.Receive(noticesPacket(entry{hops: 1, id: 43, notice: record(2)})); len(got) != 1 {
		t.Errorf("received %+v", got)
	}
	// What is sent directly is delivered as often as it comes: its publisher
	// repeats it to those who did not answer.
	for range 2 {
		if got := s.Receive(noticesPacket(entry{notice: record(3)})); len(got) != 1 {
			t.Errorf("received %+v", got)
		}
	}
	if s.Flush() || len(w.sent) != 0 {
		t.Errorf("passed on %+v", w.sent)
	}
	if got := s.Stats(); got.Forwarded != 1 || got.Duplicates != 1 || got.Received.Records != 4 {
		t.Errorf("counted %+v", got)
	}
}

// TestPassedOnAsItCame: a member of this version does not cut off what one of a
// later version added.
func TestPassedOnAsItCame(t *testing.T) {
	w := newWire(99)
	s := spreadOver(w, SpreadConfig{})
	raw := append([]byte{13, 200, 4}, "shop\x00\x07tails"...)
	s.Receive(sealPacket(appendEntry(beginPacket(nil, packetNotices), &entry{hops: 5, id: 1, raw: raw})))
	s.Flush()
	if got := w.entries(t, w.sent[0].to); len(got) != 1 || !bytes.Equal(got[0].raw, raw) {
		t.Errorf("passed on %+v", got)
	}
	if got := s.Stats(); got.Received.Other != 1 || got.Sent.Other != uint64(fanout(100)) {
		t.Errorf("counted %+v", got)
	}
}

func TestPackets(t *testing.T) {
	w := newWire(1)
	s := spreadOver(w, SpreadConfig{PacketSize: 500})
	var want []invalidation.Notice
	for i := range 100 {
		n := record(1+i, soracache.Key(strings.Repeat("k", 1+i*7%200)))
		want = append(want, n)
		s.Publish(n)
	}
	s.Flush()
	var got []invalidation.Notice
	for i, sent := range w.sent {
		if len(sent.packet) > 500 {
			t.Errorf("packet %d has %d bytes", i, len(sent.packet))
		}
		if i > 0 && len(w.sent[i-1].packet)+len(sent.packet) < 500 {
			t.Errorf("packets %d and %d would have been one", i-1, i)
		}
		got = append(got, s.Receive(sent.packet)...)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("what was sent is not what was published, or in another order")
	}
	t.Logf("%d records in %d packets", len(want), len(w.sent))
}

func TestTooLargeForAPacket(t *testing.T) {
	w := newWire(1)
	s := spreadOver(w, SpreadConfig{PacketSize: 500})
	large := record(1, soracache.Key(strings.Repeat("a", 300)), soracache.Key(strings.Repeat("b", 300)))
	large.Acknowledge, large.From = true, "node-1"
	s.Publish(large)
	s.Flush()
	want := large
	want.Record.Targets = nil
	if got := s.Receive(w.sent[0].packet); len(w.sent) != 1 || !reflect.DeepEqual(got, []invalidation.Notice{want}) {
		t.Errorf("received %+v, want it without targets", got)
	}
	if len(large.Record.Targets) != 2 {
		t.Error("the caller's notice was changed")
	}
	if got := s.Stats().Stripped; got != 1 {
		t.Errorf("%d were counted", got)
	}
	// The largest that fits goes whole.
	fits := record(2, soracache.Key(strings.Repeat("a", 500-packetHeader-entryOverhead-len(invalidation.AppendNotice(nil, &want))-1)))
	for len(invalidation.AppendNotice(nil, &fits)) > 500-packetHeader-entryOverhead {
		fits.Record.Targets[0].Name = fits.Record.Targets[0].Name[1:]
	}
	s.Publish(fits)
	s.Flush()
	if got := s.Receive(w.sent[1].packet); !reflect.DeepEqual(got, []invalidation.Notice{fits}) || s.Stats().Stripped != 1 {
		t.Errorf("received %+v, want it whole", got)
	}
}

func TestQueueIsBounded(t *testing.T) {
	w := newWire(1)
	s := spreadOver(w, SpreadConfig{Queue: 10})
	for i := range 30 {
		s.Publish(freed(strconv.Itoa(i)))
		if i >= 15 {
			s.Publish(record(i))
		}
	}
	s.Flush()
	// Freed leases never take a record's place.
	if got := s.Stats(); got.Dropped != (ByKind{Records: 5, Freed: 20}) || got.Sent != (ByKind{Records: 10, Freed: 10}) {
		t.Errorf("counted %+v", got)
	}
	// And come after the records.
	entries := w.entries(t, "peer-0")
	if entries[0].notice.Kind != invalidation.NoticeRecord || entries[19].notice.Kind != invalidation.NoticeFreed {
		t.Errorf("sent %+v", entries)
	}
}

func TestNobodyToSendTo(t *testing.T) {
	w := newWire(0)
	s := spreadOver(w, SpreadConfig{})
	s.Publish(record(1))
	if s.Waiting() || s.Flush() {
		t.Error("something waits for nobody")
	}
	w.peers, w.err = []string{"a"}, errors.New("network is unreachable")
	s.Publish(record(2))
	s.Flush()
	if got := s.Stats(); got.PacketsFailed != 1 || got.Dropped.Records != 1 || got.Sent.Records != 0 {
		t.Errorf("counted %+v", got)
	}
}

func TestWindowForgets(t *testing.T) {
	var w window
	for id := range uint64(3 * seenWindow) {
		if !w.add(id) {
			t.Fatalf("%d was never there", id)
		}
		if w.add(id) || len(w.ids) > seenWindow || len(w.ring) > seenWindow {
			t.Fatalf("%d: %d ids, %d places", id, len(w.ids), len(w.ring))
		}
	}
	if w.add(2*seenWindow) || !w.add(2*seenWindow-1) {
		t.Error("it does not remember the last ones and forget the first ones")
	}
}

// TestChoose: everybody is chosen as often as anybody else, and nobody twice.
func TestChoose(t *testing.T) {
	w := newWire(100)
	s := spreadOver(w, SpreadConfig{})
	times := make(map[string]int)
	const rounds = 10_000
	for range rounds {
		chosen := s.choose(w.peers, 8)
		for _, name := range chosen {
			times[name]++
		}
		slices.Sort(chosen)
		if len(slices.Compact(chosen)) != 8 {
			t.Fatalf("chose %v", chosen)
		}
	}
	for _, name := range w.peers {
		if n := times[name]; n < 700 || n > 900 { // 800 expected, standard deviation 27
			t.Errorf("%s was chosen %d times of %d", name, n, rounds)
		}
	}
}

func TestInOrder(t *testing.T) {
	got := inOrder([]invalidation.Notice{record(3), freed("a"), record(1), record(2), freed("b")})
	want := []invalidation.Notice{record(1), freed("a"), record(2), record(3), freed("b")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ordered as %+v", got)
	}
}

// told is a spread over so many members, with a full queue for them in turn.
func told(members, notices int) *Spread {
	s := spreadOver(newWire(members), SpreadConfig{Queue: notices})
	for i := range notices {
		s.Tell(fmt.Sprintf("peer-%d", i%members), invalidation.Notice{
			Kind: invalidation.NoticeApplied, Namespace: "shop", Stamp: soracache.Stamp{Epoch: 1, Position: soracache.Position(i)}, From: "n",
		})
	}
	return s
}

// TestFlushIsProportional: what a flush takes depends on what waits, and not on
// how many members it is for. Counted is what it allocates, of which the packets
// themselves are the most.
func TestFlushIsProportional(t *testing.T) {
	const notices = 4096
	for _, members := range []int{1, 64, 1000, notices} {
		s := told(members, notices)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.Flush()
		runtime.ReadMemStats(&after)
		packets := s.Stats().PacketsSent
		if got := s.Stats().Sent.Applied; got != notices {
			t.Fatalf("%d members: %d notices were sent", members, got)
		}
		allocated := after.TotalAlloc - before.TotalAlloc
		if most := 4096*packets + 2048*notices; allocated > most {
			t.Errorf("%d members: a flush of %d notices in %d packets allocates %d bytes, more than %d", members, notices, packets, allocated, most)
		}
	}
}

// TestToldInOrder: each member is told in the order in which it was to be.
func TestToldInOrder(t *testing.T) {
	s := told(3, 300)
	w := s.cfg.Transport.(*wire)
	s.Flush()
	for m, to := range w.peers {
		entries := w.entries(t, to)
		if len(entries) != 100 {
			t.Fatalf("%s was told %d times", to, len(entries))
		}
		for k, e := range entries {
			if want := soracache.Position(m + 3*k); e.notice.Stamp.Position != want {
				t.Fatalf("%s was told %d as number %d, want %d", to, e.notice.Stamp.Position, k, want)
			}
		}
	}
}
