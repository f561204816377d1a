package gossip

import (
	"fmt"
	"io"
	"log"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// BenchmarkSpread sends records from one of five members over loopback to the
// others: as this package does, and by memberlist's own queue with its defaults
// for a local network and with a gossip interval of 10 ms. It reports the share
// that was never delivered, how long it took, and how many were delivered after
// a later one.
func BenchmarkSpread(b *testing.B) {
	for _, load := range []load{{400, 20 * time.Millisecond}, {2000, time.Millisecond}} {
		b.Run(fmt.Sprintf("%d-a-second", time.Second/load.pace), func(b *testing.B) {
			b.Run("direct", func(b *testing.B) { load.bench(b, direct) })
			for _, interval := range []time.Duration{200 * time.Millisecond, 10 * time.Millisecond} {
				b.Run(fmt.Sprintf("queue-%v", interval), func(b *testing.B) {
					load.bench(b, func(b *testing.B, got func(node, i int)) func(i int) { return queues(b, interval, got) })
				})
			}
		})
	}
}

// BenchmarkFlush is a flush of what a full queue has to tell, to few members and
// to many. It reports how much longer one to many takes for each packet.
func BenchmarkFlush(b *testing.B) {
	const notices = 8192
	var few, many time.Duration
	for b.Loop() {
		for members, took := range map[int]*time.Duration{64: &few, 1000: &many} {
			s := told(members, notices)
			began := time.Now()
			s.Flush()
			*took += time.Since(began) / time.Duration(s.Stats().PacketsSent)
		}
	}
	b.ReportMetric(float64(many)/float64(few), "x/packet")
	b.ReportMetric(float64(many.Microseconds())/float64(b.N), "µs/packet-to-1000")
}

// load is so many messages, one each so often.
type load struct {
	messages int
	pace     time.Duration
}

// benchSettle is for how long nothing must arrive before the rest counts as
// lost.
const benchSettle = 3 * time.Second

// bench measures one way of sending. Its set-up is given what to call with each
// message that a node gets, and returns what sends one.
func (l load) bench(b *testing.B, setUp func(b *testing.B, got func(node, i int)) func(i int)) {
	var mu sync.Mutex
	sent := make([]time.Time, l.messages)
	var delivered [4]map[int]bool
	var latest [4]int
	var late int
	var latencies []time.Duration
	progress := make(chan struct{}, 1)
	send := setUp(b, func(node, i int) {
		mu.Lock()
		defer mu.Unlock()
		if delivered[node][i] {
			return
		}
		if delivered[node] == nil {
			delivered[node] = make(map[int]bool)
		}
		delivered[node][i] = true
		latencies = append(latencies, time.Since(sent[i]))
		if i < latest[node] {
			late++
		}
		latest[node] = max(latest[node], i)
		wake(progress)
	})
	for b.Loop() {
		mu.Lock()
		latencies, late, delivered, latest = nil, 0, [4]map[int]bool{}, [4]int{}
		mu.Unlock()
		pace := time.NewTicker(l.pace)
		for i := range l.messages {
			<-pace.C
			mu.Lock()
			sent[i] = time.Now()
			mu.Unlock()
			send(i)
		}
		pace.Stop()
		for settled := false; !settled; {
			select {
			case <-progress:
				mu.Lock()
				settled = len(latencies) == 4*l.messages
				mu.Unlock()
			case <-time.After(benchSettle):
				settled = true
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(latencies)
	got := len(latencies)
	b.ReportMetric(100*float64(4*l.messages-got)/float64(4*l.messages), "%lost")
	b.ReportMetric(float64(latencies[got/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(latencies[got*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(100*float64(late)/float64(got), "%late")
}

// direct is this package's way.
func direct(b *testing.B, got func(node, i int)) func(i int) {
	members := cluster(b, 5, func(c *Config) { c.Timing = Timing{} })
	for k, m := range members[1:] {
		m.hook(func(n invalidation.Notice) { got(k, int(n.Record.Position)) })
	}
	return func(i int) { members[0].Publish(record(i)) }
}

// queues is the other way: five memberlists, each with a queue of broadcasts as
// its documentation shows it.
func queues(b *testing.B, interval time.Duration, got func(node, i int)) func(i int) {
	var first *queued
	for k := range 5 {
		q := &queued{got: func(i int) {
			if k > 0 {
				got(k-1, i)
			}
		}}
		c := memberlist.DefaultLANConfig()
		c.Name, c.BindAddr, c.BindPort, c.AdvertisePort = fmt.Sprintf("node-%d", k), "127.0.0.1", 0, 0
		c.Logger = log.New(io.Discard, "", 0)
		c.Delegate = q
		c.GossipInterval = interval
		list, err := memberlist.Create(c)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { list.Shutdown() })
		q.queue = &memberlist.TransmitLimitedQueue{NumNodes: list.NumMembers, RetransmitMult: c.RetransmitMult}
		if k == 0 {
			first = q
			q.address = list.LocalNode().Address()
		} else if _, err := list.Join([]string{first.address}); err != nil {
			b.Fatal(err)
		}
	}
	return func(i int) { first.queue.QueueBroadcast(message(encodeRecord(i))) }
}

func encodeRecord(i int) []byte {
	n := record(i)
	return invalidation.AppendNotice(nil, &n)
}

// message is a broadcast that none other makes superfluous.
type message []byte

func (m message) Invalidates(memberlist.Broadcast) bool { return false }
func (m message) Message() []byte                       { return m }
func (m message) Finished()                             {}
func (m message) UniqueBroadcast()                      {}

// queued is a memberlist's delegate with a queue as memberlist's own examples have
// it: whoever hears something does not pass it on.
type queued struct {
	queue   *memberlist.TransmitLimitedQueue
	address string
	got     func(i int)
	mu      sync.Mutex
	seen    map[soracache.Position]bool // guarded by mu
}

func (q *queued) NotifyMsg(b []byte) {
	n, _, err := invalidation.DecodeNotice(slices.Clone(b))
	if err != nil {
		return
	}
	q.mu.Lock()
	if q.seen == nil {
		q.seen = make(map[soracache.Position]bool)
	}
	again := q.seen[n.Record.Position]
	q.seen[n.Record.Position] = true
	q.mu.Unlock()
	if !again {
		q.got(int(n.Record.Position))
	}
}

func (q *queued) GetBroadcasts(overhead, limit int) [][]byte {
	if q.queue == nil {
		return nil
	}
	return q.queue.GetBroadcasts(overhead, limit)
}

func (q *queued) NodeMeta(int) []byte           { return nil }
func (q *queued) LocalState(bool) []byte        { return nil }
func (q *queued) MergeRemoteState([]byte, bool) {}
