package gossip

import (
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"

	"github.com/soracache/soracache/invalidation"
)

// Transport carries packets between members.
type Transport interface {
	// Peers are the names of all other members. Nobody changes the slice.
	Peers() []string
	// Send sends a packet to one member, best effort. The packet is never
	// changed afterwards.
	Send(to string, packet []byte) error
}

// SpreadConfig says how a [Spread] spreads.
type SpreadConfig struct {
	Transport Transport
	// Random chooses members, and names publications. It is used under a lock.
	Random *rand.Rand
	// PacketSize is the most bytes of a packet: 1,340 by default, which with
	// memberlist's wrapping stays below what an Ethernet carries in one piece.
	PacketSize int
	// Direct is up to how many members, this one among them, a notice is sent
	// to each of them by its publisher: 64 by default.
	Direct int
	// Queue is how many records and acknowledgements may wait to be sent, how
	// many freed leases, and how many notices to pass on: 8,192 each by default.
	Queue int
}

const (
	defaultPacketSize = 1340
	defaultDirect     = 64
	defaultQueue      = 8192
	// seenWindow is how many publications are remembered as seen. What comes
	// again comes within milliseconds.
	seenWindow = 8192
)

// Spread decides who is sent what. Up to SpreadConfig.Direct members, whoever
// publishes a notice sends it to each of the others. Beyond that a record goes
// to a few members chosen at random, and whoever sees it for the first time
// passes it on to as many: see fanout.
//
// It has no goroutine and no clock. What is published waits until Flush sends
// all of it, so that what comes while packets are being sent shares the next
// ones. Publish, Tell and Stats may be called at any time; calls of Flush must
// not overlap, nor calls of Receive.
type Spread struct {
	cfg SpreadConfig
	counts

	mu sync.Mutex
	// Guarded by mu: what waits to be sent, in order. Freed leases wait apart, and
	// so does what is passed on for others, so that neither ever takes a record's
	// place.
	queue, freed, passed []item
	seen                 window
}

// item is a notice that waits to be sent.
type item struct {
	entry
	// to is the one member to tell, or empty for all.
	to string
}

// NewSpread returns a spread that has nothing to send.
func NewSpread(c SpreadConfig) *Spread {
	c.PacketSize = orElse(c.PacketSize, defaultPacketSize)
	c.Direct = orElse(c.Direct, defaultDirect)
	c.Queue = orElse(c.Queue, defaultQueue)
	return &Spread{cfg: c}
}

// Publish queues a notice for all other members.
func (s *Spread) Publish(n invalidation.Notice) {
	s.published.add(n.Kind)
	if len(s.cfg.Transport.Peers()) == 0 {
		return
	}
	s.enqueue(item{entry: s.encode(n)})
}

// Tell queues a notice for one member.
func (s *Spread) Tell(member string, n invalidation.Notice) {
	s.told.add(n.Kind)
	s.enqueue(item{entry: s.encode(n), to: member})
}

// encode leaves out the targets of a record that has too many for a packet:
// whoever gets it then asks the ledger.
func (s *Spread) encode(n invalidation.Notice) entry {
	e := entry{notice: n, raw: invalidation.AppendNotice(nil, &n)}
	if len(e.raw) > s.cfg.PacketSize-packetHeader-entryOverhead && len(n.Record.Targets) > 0 {
		s.stripped.Add(1)
		e.notice.Record.Targets = nil
		e.raw = invalidation.AppendNotice(nil, &e.notice)
	}
	return e
}

func (s *Spread) enqueue(i item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := &s.queue
	switch {
	case i.hops > 0:
		queue = &s.passed
	case i.notice.Kind == invalidation.NoticeFreed:
		queue = &s.freed
	}
	if len(*queue) >= s.cfg.Queue {
		s.dropped.add(i.notice.Kind)
		return
	}
	*queue = append(*queue, i)
}

// Flush sends everything that waits. It says whether there was anything.
func (s *Spread) Flush() bool {
	peers := s.cfg.Transport.Peers()
	all, some, told := s.take(peers)
	s.sendAll(all, peers)
	s.sendSome(some, peers)
	s.sendTold(told)
	return len(all)+len(some)+len(told) > 0
}

// take empties the queues into what goes to all members, what spreads by way of
// some, and what is for one each.
func (s *Spread) take(peers []string) (all, some, told []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	direct := len(peers)+1 <= s.cfg.Direct
	for _, queue := range [][]item{s.queue, s.freed} {
		for _, i := range queue {
			switch {
			case i.to != "":
				told = append(told, i)
			case direct:
				all = append(all, i)
			case i.notice.Kind == invalidation.NoticeFreed:
				// Its waiters poll. It is not worth so many packets.
				s.dropped.add(i.notice.Kind)
			default:
				i.id, i.hops = s.cfg.Random.Uint64(), hops(len(peers)+1)
				s.seen.add(i.id) // its own comes back to its publisher, too
				some = append(some, i)
			}
		}
	}
	some = append(some, s.passed...)
	s.queue, s.freed, s.passed = nil, nil, nil
	return all, some, told
}

func (s *Spread) sendAll(items []item, peers []string) {
	s.pack(items, func(packet []byte, of []item) {
		for _, to := range peers {
			s.send(to, packet, of)
		}
	})
}

func (s *Spread) sendSome(items []item, peers []string) {
	s.pack(items, func(packet []byte, of []item) {
		for _, to := range s.choose(peers, fanout(len(peers)+1)) {
			s.send(to, packet, of)
		}
	})
}

// sendTold packs what is for one member together, in order.
func (s *Spread) sendTold(items []item) {
	for _, own := range byMember(items) {
		s.pack(own, func(packet []byte, of []item) { s.send(own[0].to, packet, of) })
	}
}

// byMember gathers what is for each member, in order: in time proportional to
// the items, because a node that is asked to acknowledge by a thousand others
// has as many to tell.
func byMember(items []item) [][]item {
	places := make(map[string]int)
	var groups [][]item
	for _, i := range items {
		place, ok := places[i.to]
		if !ok {
			place = len(groups)
			places[i.to] = place
			groups = append(groups, nil)
		}
		groups[place] = append(groups[place], i)
	}
	return groups
}

// pack puts items into as few packets as they fit into in their order.
func (s *Spread) pack(items []item, send func(packet []byte, of []item)) {
	for len(items) > 0 {
		packet, n := beginPacket(make([]byte, 0, s.cfg.PacketSize), packetNotices), 0
		for n < len(items) && (n == 0 || len(packet)+entryOverhead+len(items[n].raw) <= s.cfg.PacketSize) {
			packet = appendEntry(packet, &items[n].entry)
			n++
		}
		send(sealPacket(packet), items[:n])
		items = items[n:]
	}
}

// errUnknownMember is what a [Transport] says of a member that it cannot reach
// because it does not know it.
var errUnknownMember = errors.New("no such member")

func (s *Spread) send(to string, packet []byte, of []item) {
	counter := &s.sent
	if err := s.cfg.Transport.Send(to, packet); err != nil {
		s.packetsFailed.Add(1)
		counter = &s.dropped
	} else {
		s.packetsSent.Add(1)
	}
	for i := range of {
		counter.add(of[i].notice.Kind)
	}
}

// fanout is to how many members, chosen at random, whoever sees a record for
// the first time passes it on. If each of n members tells ln(n) + c others
// once, all of them hear of it with probability exp(-exp(-c)), and each that
// does not costs one question to the ledger.
func fanout(members int) int {
	return int(math.Ceil(math.Log(float64(members)))) + 3
}

// hops is how often a record may be passed on, and one. It takes about
// log(members)/log(fanout) times to reach everybody; the limit is there to end
// what would circle because too much else was seen in between.
func hops(members int) byte {
	return byte(4 + bits.Len(uint(members))) //nolint:gosec // at most 68
}

// choose returns n of the peers.
func (s *Spread) choose(peers []string, n int) []string {
	if n >= len(peers) {
		return peers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Floyd's way: n draws, without copying the peers.
	chosen := make([]string, 0, n)
	taken := make(map[int]struct{}, n)
	for i := len(peers) - n; i < len(peers); i++ {
		k := s.cfg.Random.IntN(i + 1)
		if _, ok := taken[k]; ok {
			k = i
		}
		taken[k] = struct{}{}
		chosen = append(chosen, peers[k])
	}
	return chosen
}

// Receive reads a packet of notices, returns those to deliver, and queues those
// to pass on. The packet may be used again afterwards.
func (s *Spread) Receive(b []byte) []invalidation.Notice {
	p, err := s.decode(b)
	if err != nil || p.kind != packetNotices {
		return nil
	}
	return s.deliver(p.entries)
}

func (s *Spread) decode(b []byte) (packet, error) {
	s.packetsReceived.Add(1)
	p, err := decodePacket(b)
	switch {
	case errors.Is(err, errPacketVersion):
		s.packetsUnknown.Add(1)
	case err != nil:
		s.packetsMalformed.Add(1)
	}
	return p, err
}

func (s *Spread) deliver(entries []entry) []invalidation.Notice {
	notices := make([]invalidation.Notice, 0, len(entries))
	for i := range entries {
		if e := &entries[i]; e.hops == 0 || s.first(e) {
			s.received.add(e.notice.Kind)
			notices = append(notices, e.notice)
		}
	}
	return notices
}

// first says whether a publication is seen for the first time, and queues it to
// be passed on if it is.
func (s *Spread) first(e *entry) bool {
	s.mu.Lock()
	fresh := s.seen.add(e.id)
	s.mu.Unlock()
	if !fresh {
		s.duplicates.Add(1)
		return false
	}
	// However often it says that it may be passed on, no more than a publisher
	// here would say. What is too large for a packet of ours is not passed on.
	left := min(e.hops-1, hops(len(s.cfg.Transport.Peers())+1)-1)
	if left > 0 && len(e.raw) <= s.cfg.PacketSize-packetHeader-entryOverhead {
		s.forwarded.Add(1)
		raw := append([]byte(nil), e.raw...)
		s.enqueue(item{entry: entry{hops: left, id: e.id, raw: raw, notice: invalidation.Notice{Kind: e.notice.Kind}}})
	}
	return true
}

// Waiting says whether there is anything to flush.
func (s *Spread) Waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)+len(s.freed)+len(s.passed) > 0
}

// Stats returns what was counted so far.
func (s *Spread) Stats() SpreadStats { return s.stats() }

// window remembers the last seenWindow ids that were added.
type window struct {
	ids  map[uint64]struct{}
	ring []uint64
	next int
}

// add says whether an id was not there yet.
func (w *window) add(id uint64) bool {
	if _, ok := w.ids[id]; ok {
		return false
	}
	if w.ids == nil {
		w.ids = make(map[uint64]struct{})
	}
	if len(w.ring) < seenWindow {
		w.ring = append(w.ring, id)
	} else {
		delete(w.ids, w.ring[w.next])
		w.ring[w.next] = id
		w.next = (w.next + 1) % seenWindow
	}
	w.ids[id] = struct{}{}
	return true
}
