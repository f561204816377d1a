package cluster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache/client/internal/cluster/rpc"
	"github.com/soracache/soracache/internal/wire"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

const (
	// learnEvery is how often the members are asked for, give or take a quarter,
	// and learnAtMost how often if calls fail.
	learnEvery  = 10 * time.Second
	learnAtMost = time.Second
	// learnTimeout is how long one node may take to tell them, and learnFrom how
	// many are asked.
	learnTimeout = 2 * time.Second
	learnFrom    = 3
	// forgetAfter is how long a node that the cluster has no more is kept, for
	// calls that are under way, and for its return.
	forgetAfter = 2 * time.Minute
)

// directory knows the nodes of the cluster: the seeds, which the client was
// given, and those that a node tells of. It learns from the first request on, in
// the background, and nothing waits for it.
//
// What a node tells is a hint. A new address is used only once it has answered
// with the name that was told, so an address that only the cluster can reach, or
// that means somebody else from here, changes nothing. Nor is an address used
// whose scheme is weaker than that of all seeds, or one of the loopback unless a
// seed is. Seeds that are no members are kept as a last resort. A node without
// gossip knows of nobody, so what was used before stays in use.
type directory struct {
	seeds   []*member
	connect func(url string) *member
	// list asks the node at a URL for the members that it knows.
	list   func(ctx context.Context, url string) ([]*cachev1.Member, error)
	static bool
	log    *slog.Logger

	secure, loopback bool // of the seeds: all are https; any is loopback

	current atomic.Pointer[[]*member]
	begun   atomic.Bool
	wake    chan struct{} // holds one message if a call has failed

	mu     sync.Mutex
	closed bool
	// known holds every member by its URL, retired ones too.
	known   map[string]*member
	closing context.Context //nolint:containedctx // lasts as long as the directory
	end     context.CancelFunc
	running sync.WaitGroup
	mute    bool // that no node tells the members was logged
}

func newDirectory(seeds []string, connect func(string) *member, log *slog.Logger) *directory {
	d := &directory{
		connect: connect, log: log, secure: true,
		wake: make(chan struct{}, 1), known: make(map[string]*member),
	}
	d.closing, d.end = context.WithCancel(context.Background())
	for _, seed := range seeds {
		if d.known[seed] != nil {
			continue
		}
		m := connect(seed)
		d.known[seed] = m
		d.seeds = append(d.seeds, m)
		d.secure = d.secure && strings.HasPrefix(seed, "https:")
		d.loopback = d.loopback || isLoopback(seed)
	}
	first := slices.Clone(d.seeds)
	d.current.Store(&first)
	return d
}

// members returns the nodes to use at present. The slice is not changed.
func (d *directory) members() []*member {
	if !d.begun.Load() && !d.static {
		d.begin()
	}
	return *d.current.Load()
}

// begin starts to learn, once.
func (d *directory) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed && !d.begun.Swap(true) {
		d.running.Go(d.learn)
	}
}

// troubled has the members asked for soon.
func (d *directory) troubled() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// close ends the directory and all of its members. Callers are to have gone.
func (d *directory) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.end()
	d.running.Wait()
	for _, m := range d.known {
		m.close()
	}
}

// learn asks for the members every now and then, and soon after a call failed.
func (d *directory) learn() {
	for d.closing.Err() == nil {
		asked := time.Now()
		d.refresh()
		d.sleep(jittered(learnEvery), d.wake)
		if since := time.Since(asked); since < learnAtMost {
			d.sleep(jittered(learnAtMost-since), nil)
		}
	}
}

// sleep ends early if it is woken.
func (d *directory) sleep(how time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(how)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-d.closing.Done():
	}
}

// jittered is a time, give or take a quarter.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2)) //nolint:gosec // spread, not secrecy
}

// refresh asks some nodes, those first that are well, until one tells the
// members.
func (d *directory) refresh() {
	nodes := slices.Clone(*d.current.Load())
	rotate(nodes, rand.Uint64()) //nolint:gosec // spread, not secrecy
	slices.SortStableFunc(nodes, func(a, b *member) int { return doubts(a) - doubts(b) })
	var why error
	for _, m := range nodes[:min(len(nodes), learnFrom)] {
		told, err := d.ask(m.url)
		if err == nil {
			d.adopt(told)
			return
		}
		if d.closing.Err() != nil {
			return
		}
		why = err
	}
	if !d.mute && !rpc.Failed(wire.Error(why)) { // a node that is down is logged elsewhere
		d.mute = true
		d.log.Warn("soracache: the members of the cluster cannot be learned", "error", why)
	}
}

func doubts(m *member) int {
	n := 0
	if m.aside.Load() {
		n = 1
	}
	if !m.well() {
		n += 2
	}
	return n
}

func (d *directory) ask(url string) ([]*cachev1.Member, error) {
	ctx, cancel := context.WithTimeout(d.closing, learnTimeout)
	defer cancel()
	return d.list(ctx, url)
}

// adopt uses the members that a node told of.
func (d *directory) adopt(told []*cachev1.Member) {
	if knowsNobody(told) {
		return
	}
	usable := make(map[string]*cachev1.Member)
	for _, m := range told {
		u, ok := d.acceptable(m.GetRpcAddress())
		if ok && (usable[u] == nil || leaves(usable[u])) { // of two starts of a node, the one that is there
			usable[u] = m
		}
	}
	d.probe(usable)
	if len(usable) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	var members []*member
	for u, m := range usable {
		if d.known[u] == nil {
			d.known[u] = d.connect(u)
		}
		d.known[u].aside.Store(leaves(m))
		d.known[u].retired = time.Time{}
		members = append(members, d.known[u])
	}
	for _, m := range d.seeds {
		if usable[m.url] == nil {
			m.aside.Store(true)
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b *member) int { return strings.Compare(a.url, b.url) })
	d.current.Store(&members)
	d.forget(members)
}

// knowsNobody tells whether a node that does not gossip has told of itself, which
// says nothing of the others: they share its second tier, and it has never heard
// of them.
func knowsNobody(told []*cachev1.Member) bool {
	return len(told) == 1 && told[0].GetSelf() && told[0].GetGossipAddress() == ""
}

// leaves tells whether a member is to be asked only if no other answers.
func leaves(m *cachev1.Member) bool {
	switch m.GetState() {
	case cachev1.MemberState_MEMBER_STATE_DEAD, cachev1.MemberState_MEMBER_STATE_LEFT, cachev1.MemberState_MEMBER_STATE_DRAINING:
		return true
	default:
		return false
	}
}

// acceptable returns the URL of a member in the form of a seed's.
func (d *directory) acceptable(address string) (string, bool) {
	u, err := rpc.ParseURL(address)
	u = strings.TrimRight(u, "/")
	if err != nil || d.secure && !strings.HasPrefix(u, "https:") || !d.loopback && isLoopback(u) {
		return "", false
	}
	return u, true
}

// isLoopback tells whether a URL is of this machine, or of none.
func isLoopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && (addr.IsLoopback() || addr.IsUnspecified()) || u.Hostname() == "localhost"
}

// probe removes the addresses that are new and do not answer as who they are
// said to be.
func (d *directory) probe(usable map[string]*cachev1.Member) {
	var mu sync.Mutex
	var probes sync.WaitGroup
	var strangers []string
	for u, m := range usable {
		if d.isKnown(u) {
			continue
		}
		probes.Go(func() {
			told, err := d.ask(u)
			self := slices.IndexFunc(told, func(t *cachev1.Member) bool { return t.GetSelf() })
			if err != nil || self < 0 || told[self].GetName() != m.GetName() {
				mu.Lock()
				defer mu.Unlock()
				strangers = append(strangers, u)
			}
		})
	}
	probes.Wait()
	for _, u := range strangers {
		delete(usable, u)
	}
}

func (d *directory) isKnown(url string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[url] != nil
}

// forget closes the nodes that the cluster has had no more for a while. The
// mutex is held.
func (d *directory) forget(members []*member) {
	for u, m := range d.known {
		switch {
		case slices.Contains(members, m):
		case m.retired.IsZero():
			m.retired = time.Now()
		case time.Since(m.retired) > forgetAfter && m.calls.Load() == 0 && m.streams.Load() == 0:
			delete(d.known, u)
			m.close()
		}
	}
}
