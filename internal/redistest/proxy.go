package redistest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and any number of Redis servers. It counts the
// commands that pass and the dependent round trips that they make, and can
// disturb the connections.
//
// A client reaches a server through it by the address that Front returns, by
// giving Dial to go-redis as Dialer, or, in a cluster started with [Through],
// without knowing of it.
type Proxy struct {
	t testing.TB

	mu     sync.Mutex // guards what follows; changed is signalled on every change of a fault
	fronts map[string]*front
	links  map[*link]struct{}
	counts Counts
	// pending counts commands sent and not yet answered, on all connections,
	// without set-up: the sum over links of the sum of their pending.
	pending int
	faults  faults
	changed chan struct{}
	closed  bool
	wg      sync.WaitGroup
}

type faults struct {
	refuse  bool
	stall   bool
	lose    int
	latency time.Duration
}

// Counts are what passed since the last reset.
type Counts struct {
	// Commands by name in capitals ("EVALSHA", "ZADD").
	Commands map[string]int
	// Setup are the commands by which a client prepares its connections and
	// learns the topology. They are not in Commands and make no round trip.
	Setup map[string]int
	// RoundTrips counts how often a command was sent while none was waiting
	// for its answer, on any connection: a pipeline is one, and so are
	// pipelines to several servers that overlap in time. Set a [Proxy.Latency]
	// of some milliseconds, so that what does not wait for each other does
	// overlap.
	RoundTrips int
}

// Total is the number of commands, without set-up.
func (c Counts) Total() int {
	n := 0
	for _, k := range c.Commands {
		n += k
	}
	return n
}

// String lists the commands by name.
func (c Counts) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d round trips, %d commands:", c.RoundTrips, c.Total())
	for _, name := range slices.Sorted(maps.Keys(c.Commands)) {
		fmt.Fprintf(&b, " %s=%d", name, c.Commands[name])
	}
	return b.String()
}

// isSetup reports whether a command is one of [Counts.Setup].
func isSetup(name string) bool {
	switch name {
	case "HELLO", "AUTH", "CLIENT", "SELECT", "READONLY", "READWRITE", "CLUSTER", "COMMAND", "SENTINEL":
		return true
	}
	return false
}

// NewProxy returns a proxy that is closed when the test ends.
func NewProxy(t testing.TB) *Proxy {
	t.Helper()
	p := &Proxy{
		t: t, fronts: map[string]*front{}, links: map[*link]struct{}{},
		counts: newCounts(), changed: make(chan struct{}),
	}
	t.Cleanup(p.Close)
	return p
}

func newCounts() Counts { return Counts{Commands: map[string]int{}, Setup: map[string]int{}} }

// front listens in the name of one server.
type front struct {
	target   string
	listener net.Listener
}

// Front returns the address on which the proxy forwards to a server.
func (p *Proxy) Front(server string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := p.fronts[server]; ok {
		return f.listener.Addr().String()
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatalf("proxy: %v", err)
	}
	f := &front{target: server, listener: l}
	p.fronts[server] = f
	p.wg.Add(1)
	go p.accept(f)
	return l.Addr().String()
}

// Dial connects to a server through the proxy; it fits the Dialer field of
// go-redis options.
func (p *Proxy) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.mu.Lock()
	refuse := p.faults.refuse || p.closed
	p.mu.Unlock()
	if refuse {
		return nil, errors.New("proxy: connection refused")
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	return d.DialContext(ctx, network, p.Front(addr))
}

// Reset sets all counts to zero. Commands that are still unanswered count as
// answered.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts, p.pending = newCounts(), 0
	for l := range p.links {
		for i := range l.pending {
			l.pending[i] = 0
		}
	}
}

// Counts returns what passed since the last reset.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Counts{
		Commands: maps.Clone(p.counts.Commands), Setup: maps.Clone(p.counts.Setup),
		RoundTrips: p.counts.RoundTrips,
	}
}

// Latency has every answer delivered no sooner than this after its request was
// sent.
func (p *Proxy) Latency(d time.Duration) { p.set(func(f *faults) { f.latency = d }) }

// Refuse has new connections fail until it is called with false; those that
// exist are kept.
func (p *Proxy) Refuse(on bool) { p.set(func(f *faults) { f.refuse = on }) }

// Stall holds back all bytes in both directions until it is called with false;
// connections stay open.
func (p *Proxy) Stall(on bool) { p.set(func(f *faults) { f.stall = on }) }

// LoseAnswers has the next n answers lost: the server has done what was asked,
// but the client sees its connection reset.
func (p *Proxy) LoseAnswers(n int) { p.set(func(f *faults) { f.lose = n }) }

// Drop resets all connections that exist. New ones are accepted.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Down is Refuse(true) and Drop: the servers seem to be gone. Up ends it.
func (p *Proxy) Down() { p.Refuse(true); p.Drop() }

// Up ends Down, Refuse and Stall.
func (p *Proxy) Up() { p.set(func(f *faults) { f.refuse, f.stall = false, false }) }

// Close closes all connections and returns once nothing of the proxy runs.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	for _, f := range p.fronts {
		_ = f.listener.Close()
	}
	p.mu.Unlock()
	p.Up()
	p.Drop()
	p.wg.Wait()
}

func (p *Proxy) set(change func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.faults)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) accept(f *front) {
	defer p.wg.Done()
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		p.open(c, f.target)
	}
}

// open starts to forward between a client and a server.
func (p *Proxy) open(c net.Conn, target string) {
	d := net.Dialer{Timeout: 5 * time.Second}
	s, err := d.DialContext(context.Background(), "tcp", target)
	if err != nil {
		abort(c)
		return
	}
	l := &link{proxy: p, client: c, server: s, gone: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.refuse || p.closed {
		abort(c)
		_ = s.Close()
		return
	}
	p.links[l] = struct{}{}
	p.wg.Add(2)
	go l.requests()
	go l.answers()
}

// abort closes a connection so that its other side sees a reset.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// link is one connection through the proxy. The proxy's mu guards pending,
// due and opaque.
type link struct {
	proxy          *Proxy
	client, server net.Conn
	gone           chan struct{}
	once           sync.Once
	pending        []int     // what each unanswered command adds to the proxy's pending: 0 or 1
	due            time.Time // when the answers to what was last sent may be delivered
	opaque         bool      // subscribed, or a replication stream: not counted any more
}

// reset may be called with the proxy's mu held.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.gone)
		abort(l.client)
		abort(l.server)
	})
}

func (l *link) end() {
	l.reset()
	p := l.proxy
	p.mu.Lock()
	delete(p.links, l)
	p.settle(l, len(l.pending))
	p.mu.Unlock()
	p.wg.Done()
}

func (l *link) requests() {
	defer l.end()
	var parser respParser
	buf := make([]byte, 64<<10)
	for {
		n, err := l.client.Read(buf)
		for _, m := range parser.feed(buf[:n]) {
			l.sent(m)
		}
		if !l.pass() {
			return
		}
		if _, werr := l.server.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

func (l *link) answers() {
	defer l.end()
	var parser respParser
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		if n > 0 && (!l.pass() || !l.await()) {
			return
		}
		answers := 0
		for _, m := range parser.feed(buf[:n]) {
			if m.kind != '>' {
				answers++
			}
		}
		// Answered before it is delivered: the client may ask again at once.
		if !l.answered(answers) {
			return
		}
		if _, werr := l.client.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

// sent counts one command.
func (l *link) sent(m respMessage) {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	name := strings.ToUpper(m.first)
	if l.opaque {
		return
	}
	l.due = time.Now().Add(p.faults.latency)
	if name == "PSYNC" || name == "SYNC" || name == "SUBSCRIBE" || name == "PSUBSCRIBE" {
		l.opaque = true
		p.counts.Setup[name]++
		return
	}
	if isSetup(name) {
		p.counts.Setup[name]++
		l.pending = append(l.pending, 0)
		return
	}
	p.counts.Commands[name]++
	if p.pending == 0 {
		p.counts.RoundTrips++
	}
	l.pending = append(l.pending, 1)
	p.pending++
}

// settle takes the next n commands of a link for answered, with mu held.
func (p *Proxy) settle(l *link, n int) {
	for _, counted := range l.pending[:n] {
		p.pending -= counted
	}
	l.pending = l.pending[n:]
}

// answered counts answers, and reports whether they are to be delivered.
func (l *link) answered(n int) bool {
	p := l.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(n, len(l.pending))
	p.settle(l, n)
	if n > 0 && p.faults.lose > 0 {
		p.faults.lose--
		return false
	}
	return true
}

// pass blocks while the proxy stalls, and reports whether the link still
// exists.
func (l *link) pass() bool {
	p := l.proxy
	for {
		p.mu.Lock()
		stall, changed := p.faults.stall, p.changed
		p.mu.Unlock()
		if !stall {
			return true
		}
		select {
		case <-changed:
		case <-l.gone:
			return false
		}
	}
}

// await blocks until the answers are due, and reports whether the link still
// exists.
func (l *link) await() bool {
	l.proxy.mu.Lock()
	wait := time.Until(l.due)
	l.proxy.mu.Unlock()
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.gone:
		return false
	}
}
