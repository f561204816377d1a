package gossip

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// Gossip is a member of a cluster.
type Gossip struct {
	config  Config
	port    uint16
	table   *table
	spread  *Spread
	network *network
	list    *memberlist.Memberlist
	keyring *memberlist.Keyring
	status  atomic.Uint32 // a status

	// inbox holds packets until they are delivered.
	inbox inbox
	// outgoing and incoming wake those who send and deliver.
	outgoing, incoming chan struct{}

	conflicts, implausible atomic.Uint64

	// ctx ends when the member is closed; work counts its goroutines.
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	keysMu sync.Mutex
	// ending is held by whoever uses memberlist in a way that it does not stand
	// after its end.
	ending sync.Mutex
	// Guarded by ending.
	started, left, closed bool
}

// UniqueName makes a name that no other boot of any member has, from where the
// member serves: "host:7070-3f9a2c01".
func UniqueName(address string) string {
	b := make([]byte, 4)
	_, _ = crand.Read(b) // it never fails
	return address + "-" + hex.EncodeToString(b)
}

// New makes a member and binds its address. It is alone, and what it receives
// waits, until Start. It must be closed.
func New(c Config) (*Gossip, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	g := &Gossip{
		config:   c,
		table:    newTable(c.Name, time.Now),
		outgoing: make(chan struct{}, 1),
		incoming: make(chan struct{}, 1),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.spread = NewSpread(SpreadConfig{
		Transport:  g,
		Random:     newRandom(),
		PacketSize: packetSize(c),
		Direct:     c.direct,
	})
	if err := g.create(); err != nil {
		g.cancel()
		return nil, err
	}
	g.work.Go(g.send)
	return g, nil
}

// newRandom is seeded anew for each member: members that drew the same numbers
// would choose each other, and name their publications alike.
func newRandom() *rand.Rand {
	return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // no secret hangs on whom it chooses
}

// packetSize is what remains of a packet of 1,400 bytes when memberlist has
// wrapped it: label, kind of message, checksum, and encryption.
func packetSize(c Config) int { return 1400 - (2 + len(c.Label)) - 1 - 5 - 29 }

// create binds and makes the memberlist.
func (g *Gossip) create() error {
	bind, err := bindAddress(g.config.Bind)
	if err != nil {
		return err
	}
	network, err := listen(bind, len(g.config.Keys) > 0, g.config.Logger)
	if err != nil {
		return err
	}
	g.network = network
	g.port = network.bound().Port()
	c, err := g.listConfig(bind)
	if err == nil {
		c.Transport, c.Logger = network, newLog(g.config.Logger)
		if g.config.wrap != nil {
			c.Transport = g.config.wrap(network)
		}
		g.list, err = memberlist.Create(c)
	}
	if err != nil {
		_ = network.Shutdown() // it never fails
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

func (g *Gossip) listConfig(bind netip.AddrPort) (*memberlist.Config, error) {
	t := g.config.Timing
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label = g.config.Name, g.config.Label
	c.BindAddr, c.BindPort, c.AdvertisePort = bind.Addr().String(), int(g.port), int(g.port)
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = t.ProbeInterval, t.ProbeTimeout, t.Suspicion
	c.GossipInterval, c.GossipToTheDeadTime = t.GossipInterval, t.GossipToTheDead
	c.PushPullInterval, c.TCPTimeout = t.PushPull, t.Stream
	// Packets are small, and compressing each costs more than it saves.
	c.EnableCompression = false
	c.DelegateProtocolVersion, c.DelegateProtocolMin, c.DelegateProtocolMax = protocolVersion, protocolVersion, protocolVersion
	c.Delegate, c.Events, c.Alive, c.Ping, c.Conflict = g, g.table, g.table, (*pings)(g), g
	// memberlist asks this when a member has not answered a probe, and tells so
	// in no other way. It is to go on and try TCP.
	c.DisableTcpPingsForNode = func(name string) bool {
		g.table.probed(name, false, 0)
		return false
	}
	if err := g.advertise(c); err != nil {
		return nil, err
	}
	if len(g.config.Keys) > 0 {
		ring, err := memberlist.NewKeyring(g.config.Keys, g.config.Keys[0])
		if err != nil {
			return nil, err
		}
		g.keyring, c.Keyring = ring, ring
	}
	if g.config.meddle != nil {
		g.config.meddle(c)
	}
	return c, nil
}

// advertise settles by which address others reach this member. memberlist
// resolves no names here.
func (g *Gossip) advertise(c *memberlist.Config) error {
	if g.config.Advertise == "" {
		return nil
	}
	host, port, err := splitHostPort(g.config.Advertise, g.port)
	if err != nil {
		return err
	}
	addrs, err := g.lookup(g.ctx, host)
	if err != nil {
		return err
	}
	if len(addrs) == 0 {
		return fmt.Errorf("%s has no address", host)
	}
	c.AdvertiseAddr, c.AdvertisePort = addrs[0].Unmap().String(), int(port)
	return nil
}

// Start joins the cluster and begins to deliver. Notices are delivered one
// after the other, and receive should not take long. It must be called once at
// most.
func (g *Gossip) Start(receive func(invalidation.Notice)) {
	g.ending.Lock()
	defer g.ending.Unlock()
	if g.started || g.closed {
		return
	}
	g.started = true
	g.work.Go(func() { g.deliver(receive) })
	g.work.Go(func() { g.keepJoined(g.ctx) })
}

// Name is this member's.
func (g *Gossip) Name() string { return g.config.Name }

// Address is where others reach this member.
func (g *Gossip) Address() string {
	for _, m := range g.Members() {
		if m.Self {
			return m.Address
		}
	}
	return ""
}

// Publish sends a notice to every other member. It does not block.
func (g *Gossip) Publish(n invalidation.Notice) {
	g.spread.Publish(n)
	wake(g.outgoing)
}

// Tell sends a notice to one member. It does not block.
func (g *Gossip) Tell(member string, n invalidation.Notice) {
	g.spread.Tell(member, n)
	wake(g.outgoing)
}

// Bound is the largest bound of any member, among them those that went lately.
func (g *Gossip) Bound() time.Duration { return g.table.bound() }

// Left says whether a member said that it is going, and serves nothing any more.
// It is not enough that others hold it to be dead.
func (g *Gossip) Left(member string) bool { return g.table.left(member) }

// Members are all that are known, this one among them, by name. Those that are
// gone are shown for an hour.
func (g *Gossip) Members() []Member { return g.table.members() }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake, and will look once more
	}
}

// send sends whatever waits. What is published meanwhile shares the next
// packets.
func (g *Gossip) send() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.outgoing:
			g.spread.Flush()
		}
	}
}

// Peers are the members that notices are sent to.
func (g *Gossip) Peers() []string { return g.table.peers().names }

// Send sends a packet to a member.
func (g *Gossip) Send(to string, packet []byte) error {
	node := g.table.node(to)
	if node == nil {
		return errUnknownMember
	}
	return g.list.SendBestEffort(node, packet)
}

// deliver hands over whatever was received.
func (g *Gossip) deliver(receive func(invalidation.Notice)) {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.incoming:
		}
		for packets := g.inbox.take(); len(packets) > 0 && g.ctx.Err() == nil; packets = g.inbox.take() {
			for _, n := range inOrder(g.receive(packets)) {
				receive(n)
			}
		}
	}
}

func (g *Gossip) receive(packets [][]byte) []invalidation.Notice {
	var notices []invalidation.Notice
	for _, b := range packets {
		p, err := g.spread.decode(b)
		switch {
		case err != nil:
		case p.kind == packetStatus:
			g.table.said(p.name, p.status)
		default:
			notices = append(notices, g.spread.deliver(p.entries)...)
		}
	}
	now := time.Now()
	for i := range notices {
		if !plausible(&notices[i], now) {
			g.implausible.Add(1)
			notices[i].Record.Targets = nil
		}
	}
	if g.spread.Waiting() {
		wake(g.outgoing)
	}
	return notices
}

// aheadMost is how far ahead of this machine's clock a record's position may be,
// which is a time of the store's clock.
const aheadMost = time.Hour

// plausible says whether a record can be where it says that it is. One that
// cannot is left without its targets, so that it marks nothing and moves nobody:
// whoever gets it asks the ledger, which knows.
func plausible(n *invalidation.Notice, now time.Time) bool {
	return n.Kind != invalidation.NoticeRecord ||
		n.Record.Position <= soracache.Position(now.Add(aheadMost).UnixMicro())
}

// inOrder puts records that came together in the order of their positions.
// memberlist hands over what waits from its end, and records of several
// members pass each other; each that comes before its predecessor would cost a
// question to the ledger.
func inOrder(notices []invalidation.Notice) []invalidation.Notice {
	var places []int
	var records []invalidation.Notice
	for i := range notices {
		if notices[i].Kind == invalidation.NoticeRecord {
			places, records = append(places, i), append(records, notices[i])
		}
	}
	slices.SortStableFunc(records, func(a, b invalidation.Notice) int {
		return cmp.Compare(a.Record.Position, b.Record.Position)
	})
	for i, place := range places {
		notices[place] = records[i]
	}
	return notices
}

// SetDraining tells the others that this member takes no new work. It waits
// until that has been passed on, or ctx ends; they are told either way.
func (g *Gossip) SetDraining(ctx context.Context) error { return g.say(ctx, draining) }

// say tells the others what this member says of itself: each at once, and by
// its metadata those as well whom that does not reach.
func (g *Gossip) say(ctx context.Context, s status) error {
	g.ending.Lock()
	defer g.ending.Unlock()
	if g.closed || g.left {
		return errClosed
	}
	g.raise(s)
	g.table.said(g.config.Name, s)
	if err := g.list.UpdateNode(g.patience(ctx)); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// raise notes and sends a status.
func (g *Gossip) raise(s status) {
	g.status.Store(uint32(s))
	packet := statusPacket(g.config.Name, s)
	for _, name := range g.Peers() {
		// Best effort: whoever misses it learns it from memberlist.
		_ = g.Send(name, packet)
	}
}

var errClosed = errors.New("gossip: closed")

// patience is how long to wait: memberlist takes a time, and no context.
func (g *Gossip) patience(ctx context.Context) time.Duration {
	patience := g.config.Timing.Leave
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	return max(patience, time.Millisecond)
}

// Leave tells the others that this member is going, and waits until that has
// been passed on or ctx ends. They do not hold it to be dead then. What is
// published afterwards may not be sent. Leaving twice is leaving once.
func (g *Gossip) Leave(ctx context.Context) error {
	g.ending.Lock()
	defer g.ending.Unlock()
	if g.closed || g.left {
		return nil
	}
	g.left = true
	g.raise(leaving)
	g.table.said(g.config.Name, leaving)
	if err := g.list.Leave(g.patience(ctx)); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Close ends the member without a word to the others; see Leave. It waits for
// everything that it started.
func (g *Gossip) Close() error {
	g.ending.Lock()
	defer g.ending.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.cancel()
	err := g.list.Shutdown()
	g.work.Wait()
	return err
}

// Stats counts what a member did.
type Stats struct {
	SpreadStats
	// InboxDropped are packets that came faster than they were delivered.
	InboxDropped uint64
	// Waiting are packets that were received and not yet delivered.
	Waiting int
	// Conflicts is how often somebody else appeared under a name in use.
	Conflicts uint64
	// Members counts them by state, and MembersRefused those that were not
	// admitted because there were too many.
	Members        map[State]int
	MembersRefused uint64
	// Implausible are records that came with a position far ahead of the clock.
	// They were delivered without their targets.
	Implausible uint64
	// PacketsRefused were not given to memberlist: without keys, what is
	// compressed.
	PacketsRefused uint64
	// Streams are connections for exchanges of state.
	Streams StreamStats
}

// Stats returns what was counted so far.
func (g *Gossip) Stats() Stats {
	s := Stats{
		SpreadStats: g.spread.Stats(), Conflicts: g.conflicts.Load(), Implausible: g.implausible.Load(),
		PacketsRefused: g.network.refused.Load(), Streams: g.network.guard.stats(),
		Members: make(map[State]int), MembersRefused: g.table.turnedAway(),
	}
	s.InboxDropped, s.Waiting = g.inbox.stats()
	for _, m := range g.Members() {
		s.Members[m.State]++
	}
	return s
}
