package gossip

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// received says whether there is a record at a position among notices.
func received(position int) func([]invalidation.Notice) bool {
	return func(notices []invalidation.Notice) bool {
		return slices.ContainsFunc(notices, func(n invalidation.Notice) bool { return n.Record.Position == soracache.Position(position) })
	}
}

// names is a Resolver whose answers a test changes.
type names struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr
	asked   map[string]int
	again   chan struct{} // closed and replaced at every question
}

func newNames() *names {
	return &names{answers: make(map[string][]netip.Addr), asked: make(map[string]int), again: make(chan struct{})}
}

func (n *names) set(host string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[host] = nil
	for _, a := range addrs {
		n.answers[host] = append(n.answers[host], netip.MustParseAddr(a))
	}
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[host]++
	close(n.again)
	n.again = make(chan struct{})
	if addrs := n.answers[host]; len(addrs) > 0 {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// wasAsked waits until a name was looked up so many times more.
func (n *names) wasAsked(t *testing.T, host string, times int) {
	t.Helper()
	deadline := time.After(patience)
	n.mu.Lock()
	wanted := n.asked[host] + times
	n.mu.Unlock()
	for {
		n.mu.Lock()
		asked, again := n.asked[host], n.again
		n.mu.Unlock()
		if asked >= wanted {
			return
		}
		select {
		case <-again:
		case <-deadline:
			t.Fatalf("%s was looked up %d times, want %d", host, asked, wanted)
		}
	}
}

// TestJoinByName: names are resolved anew at every attempt, and all of their
// addresses are tried, by the port of one's own where none is given.
func TestJoinByName(t *testing.T) {
	names := newNames()
	first := start(t, configOf(t, "first"))
	_, port, _ := net.SplitHostPort(first.Address())
	at := func(name, ip string, join ...string) *member {
		c := configOf(t, name)
		c.Bind, c.Join, c.Resolver, c.Timing = ip+":"+port, join, names, quick
		return start(t, c)
	}
	second := at("second", "127.0.0.2", "cluster.test")
	names.wasAsked(t, "cluster.test", 2) // there is nobody of this name yet
	if members := second.Members(); len(members) != 1 {
		t.Fatalf("it found %v", members)
	}
	names.set("cluster.test", "127.0.0.9", "127.0.0.1") // at one of them is nobody
	meet(first, second)

	// All who were there are replaced, one by one, by members at other addresses.
	third := at("third", "127.0.0.3", "cluster.test:"+port)
	meet(first, second, third)
	first.Close()
	second.Close()
	third.seesAs("first", StateDead)
	third.seesAs("second", StateDead)
	fourth := at("fourth", "127.0.0.4", "nobody.test")
	names.wasAsked(t, "nobody.test", 1)
	names.set("cluster.test", "127.0.0.4")
	meet(third, fourth)
}

// fault is a network that loses what goes to some addresses.
type fault struct {
	memberlist.NodeAwareTransport
	mu sync.Mutex
	to map[string]bool // guarded by mu
}

func (f *fault) cut(addresses ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.to = make(map[string]bool)
	for _, a := range addresses {
		f.to[a] = true
	}
}

func (f *fault) lost(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.to[address]
}

func (f *fault) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if f.lost(a.Addr) {
		return time.Now(), nil
	}
	return f.NodeAwareTransport.WriteToAddress(b, a)
}

func (f *fault) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if f.lost(a.Addr) {
		return nil, errors.New("cut")
	}
	return f.NodeAwareTransport.DialAddressTimeout(a, timeout)
}

// faultyCluster is a cluster whose network can be cut, in the order of members.
func faultyCluster(t *testing.T, n int, adapt func(*Config)) ([]*member, []*fault) {
	faults := make([]*fault, 0, n)
	members := cluster(t, n, func(c *Config) {
		c.Timing = quick
		f := &fault{}
		faults = append(faults, f)
		c.wrap = func(t memberlist.NodeAwareTransport) memberlist.NodeAwareTransport {
			f.NodeAwareTransport = t
			return f
		}
		if adapt != nil {
			adapt(c)
		}
	})
	return members, faults
}

// TestPartitionHeals: both sides call each other dead and forget each other,
// and find together again although only one side was told whom to join.
func TestPartitionHeals(t *testing.T) {
	members, faults := faultyCluster(t, 4, nil)
	left, right := members[:2], members[2:]
	for i := range left {
		faults[i].cut(right[0].Address(), right[1].Address())
		faults[i+2].cut(left[0].Address(), left[1].Address())
	}
	for i := range left {
		for k := range right {
			left[i].seesAs(right[k].Name(), StateDead)
			right[k].seesAs(left[i].Name(), StateDead)
		}
	}
	if got := left[0].Bound(); got != time.Second {
		t.Errorf("the bound is %v without those who are held to be dead", got)
	}
	left[0].Publish(record(1)) // reaches its own side only
	left[1].until("a record on its side", received(1))

	for _, f := range faults {
		f.cut()
	}
	meet(members...)
	right[0].Publish(record(2))
	for _, m := range slices.Concat(left, right[1:]) {
		m.until("a record of the other side", received(2))
	}
	if notices, _ := right[1].all(); received(1)(notices) {
		t.Error("a record came through the partition")
	}
}

// TestPartitionHealsWithoutSeeds: nobody of either side was told to join
// anybody of the other.
func TestPartitionHealsWithoutSeeds(t *testing.T) {
	members, faults := faultyCluster(t, 3, nil)
	members[0].Close() // whom the others joined
	members[1].seesAs(members[0].Name(), StateDead)
	faults[1].cut(members[2].Address())
	faults[2].cut(members[1].Address())
	members[1].seesAs(members[2].Name(), StateDead)
	members[2].seesAs(members[1].Name(), StateDead)
	faults[1].cut()
	faults[2].cut()
	meet(members[1], members[2])
}

// TestSuspect: a member that does not answer is shown as such before the
// members agree that it is dead, and as alive again if it answers.
func TestSuspect(t *testing.T) {
	members, faults := faultyCluster(t, 2, func(c *Config) { c.Timing.Suspicion = 40 })
	faults[1].cut(members[0].Address())
	members[0].seesAs(members[1].Name(), StateSuspect)
	if peers := members[0].Peers(); len(peers) != 1 {
		t.Errorf("it sends to %v", peers)
	}
	faults[1].cut()
	members[0].seesAs(members[1].Name(), StateAlive)
	if rtt := members[0].Members()[1].RTT; rtt <= 0 {
		t.Errorf("it answered within %v", rtt)
	}
}

// TestRestart: a member that comes back at its address has another name, and
// is sent everything once while the old one is not yet known to be dead.
func TestRestart(t *testing.T) {
	members := cluster(t, 3, nil)
	c := configOf(t, "again")
	c.Bind, c.Join = members[2].Address(), []string{members[0].Address()}
	members[2].Close()
	again := start(t, c)
	meet(members[0], members[1], again)
	for i := range 10 {
		members[0].Publish(record(1 + i))
	}
	notices := again.until("the last record", received(10))
	if len(notices) != 10 {
		t.Errorf("received %d notices of 10", len(notices))
	}
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func TestKeyRotation(t *testing.T) {
	members := cluster(t, 3, func(c *Config) { c.Keys = [][]byte{key(1)} })
	position := 0
	everybodyHears := func(step string) {
		t.Helper()
		for _, m := range members {
			position++
			m.Publish(record(position))
			for _, other := range members {
				if other != m {
					other.until(step, received(position))
				}
			}
		}
	}
	everybodyHears("the key before")
	for _, step := range [][][]byte{
		{key(1), key(2)}, {key(2), key(1)}, {key(2)}, {key(2), key(3), key(4)}, {key(4), key(2), key(3)}, {key(4), key(3)}, {key(4)},
	} {
		for _, m := range members {
			if err := m.SetKeys(step); err != nil {
				t.Fatal(err)
			}
			everybodyHears("between, at " + m.Name())
		}
		everybodyHears("all changed")
		for _, m := range members {
			if got := m.keyring.GetKeys(); !slices.EqualFunc(got, step, bytes.Equal) {
				t.Errorf("%s has the keys %x, want %x", m.Name(), got, step)
			}
		}
	}
	for _, bad := range [][][]byte{nil, {key(1)[:7]}} {
		if err := members[0].SetKeys(bad); err == nil {
			t.Errorf("it takes the keys %x", bad)
		}
	}
	plain := start(t, configOf(t, "plain"))
	if err := plain.SetKeys([][]byte{key(1)}); err == nil {
		t.Error("it begins to encrypt while it runs")
	}
}

// TestPassedOnOverTheNetwork: in a large cluster, a record reaches a member that
// its publisher does not.
func TestPassedOnOverTheNetwork(t *testing.T) {
	members, faults := faultyCluster(t, 4, func(c *Config) {
		c.direct = 3
		c.Timing = steady
	})
	faults[0].cut(members[3].Address())
	for i := range 50 {
		members[0].Publish(record(1 + i))
	}
	notices := members[3].until("all records", func(n []invalidation.Notice) bool { return len(n) >= 50 })
	if len(notices) != 50 {
		t.Errorf("received %d notices of 50 records", len(notices))
	}
}

// TestKeysChangeUnderLoad: nothing moves under those who decrypt meanwhile; the
// race detector watches.
func TestKeysChangeUnderLoad(t *testing.T) {
	c := configOf(t, "node")
	c.Keys = [][]byte{key(1)}
	m := start(t, c)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			for _, k := range m.keyring.GetKeys() {
				if len(k) != 32 || k[0] != k[31] {
					t.Errorf("a key is %x", k)
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 200 {
		keys := [][]byte{key(byte(i)), key(byte(i + 1)), key(byte(i + 2)), key(byte(i + 3))}[:1+i%4]
		if err := m.SetKeys(keys); err != nil {
			t.Fatal(err)
		}
		if got := m.keyring.GetKeys(); !slices.EqualFunc(got, keys, bytes.Equal) {
			t.Fatalf("it has %x, want %x", got, keys)
		}
	}
	close(stop)
	readers.Wait()
}

// TestStrangers: whoever has another key, none, or another label neither joins
// nor is heard.
func TestStrangers(t *testing.T) {
	var log lockedBuffer
	members := cluster(t, 2, func(c *Config) {
		c.Keys = [][]byte{key(1)}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	for name, adapt := range map[string]func(*Config){
		"wrong-key":   func(c *Config) { c.Keys = [][]byte{key(2)} },
		"no-key":      func(c *Config) { c.Keys = nil },
		"wrong-label": func(c *Config) { c.Label = "another cluster" },
	} {
		t.Run(name, func(t *testing.T) {
			c := configOf(t, name)
			c.Label, c.Keys = members[0].config.Label, members[0].config.Keys
			adapt(&c)
			stranger := start(t, c)
			address := netip.MustParseAddrPort(members[0].Address())
			if err := stranger.join(address); err == nil {
				t.Error("it joined")
			}
			// What it sends to a member that it knows is not heard, either.
			target := &memberlist.Node{Name: "node-0", Addr: address.Addr().AsSlice(), Port: address.Port()}
			packet := noticesPacket(entry{notice: record(666)})
			if err := stranger.list.SendBestEffort(target, packet); err != nil {
				t.Fatal(err)
			}
			members[1].Publish(record(1))
			members[0].until("a record of its own", received(1))
			if notices, _ := members[0].all(); received(666)(notices) {
				t.Error("it was heard")
			}
			if got := stranger.Members(); len(got) != 1 {
				t.Errorf("it knows %v", got)
			}
			for _, m := range members {
				if got := m.Members(); len(got) != 2 {
					t.Errorf("%s knows %v", m.Name(), got)
				}
			}
		})
	}
	if !strings.Contains(log.String(), "level=WARN msg=memberlist message=\"Decrypt packet failed") {
		t.Errorf("the log says nothing of it:\n%s", log.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestNamesAreUnique: a second member of one name is not admitted, and that is
// counted.
func TestNamesAreUnique(t *testing.T) {
	members := cluster(t, 2, nil)
	c := configOf(t, members[1].Name())
	impostor := start(t, c)
	if err := impostor.join(netip.MustParseAddrPort(members[0].Address())); err != nil {
		t.Log(err)
	}
	for _, m := range members[0].Members() {
		if m.Name == members[1].Name() && m.Address != members[1].Address() {
			t.Errorf("%s has replaced the first of its name", m.Address)
		}
	}
	members[0].sees("a conflict", func([]Member) bool { return members[0].Stats().Conflicts > 0 })
	if a, b := UniqueName("host:7070"), UniqueName("host:7070"); a == b || !strings.HasPrefix(a, "host:7070-") {
		t.Errorf("%s and %s", a, b)
	}
}

// TestLargeRecordsOverTheNetwork: the largest packets arrive, with encryption
// and the longest label; a record that is larger arrives without its targets.
func TestLargeRecordsOverTheNetwork(t *testing.T) {
	members := cluster(t, 2, func(c *Config) {
		c.Label, c.Keys = strings.Repeat("l", 255), [][]byte{key(1)}
	})
	sizes := make(map[int]int)
	for size := 900; size < 1400; size += 5 {
		members[0].Publish(record(size, soracache.Key(strings.Repeat("k", size))))
	}
	for _, n := range members[1].until("all", func(n []invalidation.Notice) bool { return len(n) == 100 }) {
		size := -1
		if len(n.Record.Targets) > 0 {
			size = len(n.Record.Targets[0].Name)
		}
		sizes[size]++
	}
	if n := members[0].Stats().Stripped; n == 0 || sizes[-1] != int(n) || sizes[900] != 1 {
		t.Errorf("%d were sent without targets, %d received: %v", n, sizes[-1], sizes)
	}
}

// TestInboxIsBounded: what comes faster than it is delivered is dropped and
// counted, and memberlist is not held up.
func TestInboxIsBounded(t *testing.T) {
	g, err := New(configOf(t, "slow")) // it was not started, so nothing is delivered
	if err != nil {
		t.Fatal(err)
	}
	for i := range inboxPackets + 100 {
		packet := noticesPacket(entry{notice: record(inboxPackets - i)}) // memberlist hands over what waits from its end
		g.NotifyMsg(packet)
		clear(packet) // memberlist may use it again
	}
	if s := g.Stats(); s.InboxDropped != 100 || s.Waiting != inboxPackets {
		t.Errorf("counted %+v", s)
	}
	done := make(chan struct{})
	n := 0
	g.Start(func(notice invalidation.Notice) {
		if n++; int(notice.Record.Position) != n {
			t.Errorf("record %d was delivered as number %d", notice.Record.Position, n)
		}
		if n == inboxPackets {
			close(done)
		}
	})
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("what had come before it was started was not delivered")
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// TestClose: closing waits for nobody who does not answer, may be done twice and
// in any state, and leaves nothing behind (see TestMain).
func TestClose(t *testing.T) {
	hole, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	c := configOf(t, "joining")
	c.Join = []string{hole.Addr().String()}
	c.Timing.Stream = time.Hour
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	g.Start(func(invalidation.Notice) {})
	if _, err := hole.Accept(); err != nil { // it is in the middle of joining
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	g.Start(func(invalidation.Notice) {})
	g.Publish(record(1))

	unstarted, err := New(configOf(t, "unstarted"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unstarted.Close(); err != nil {
		t.Error(err)
	}
}

// TestTwoVersionsSideBySide: a member that understands a later version as well,
// and tells more of itself, is one of the cluster.
func TestTwoVersionsSideBySide(t *testing.T) {
	members := cluster(t, 3, func(c *Config) {
		if c.Name == "node-1" {
			c.meddle = func(c *memberlist.Config) {
				c.DelegateProtocolMax = protocolVersion + 1
				c.Delegate = talkative{c.Delegate}
			}
		}
	})
	members[0].Publish(record(1))
	members[1].until("a record of the earlier version", received(1))
	members[1].Publish(record(2))
	members[2].until("a record of the later version", received(2))
	if got := members[0].Members()[1]; got.RPC != "node-1:7070" || got.Bound != time.Second {
		t.Errorf("of the later version is known %+v", got)
	}
}

// talkative is of a later version, which adds to metadata and to the states
// that are compared.
type talkative struct{ memberlist.Delegate }

func (d talkative) NodeMeta(limit int) []byte {
	return append(d.Delegate.NodeMeta(limit), "and more"...)
}
func (d talkative) LocalState(bool) []byte { return []byte("hints") }

func TestIPv6(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here:", err)
	} else {
		l.Close()
	}
	members := cluster(t, 2, func(c *Config) { c.Bind = "[::1]:0" })
	members[0].Publish(record(1))
	members[1].until("a record", received(1))
	if address := members[0].Address(); !strings.HasPrefix(address, "[::1]:") {
		t.Errorf("its address is %s", address)
	}
	// All addresses, of both kinds, by a name that is one of IPv4.
	c := configOf(t, "both")
	c.Label, c.Bind, c.Advertise, c.AllowPlaintext = members[0].config.Label, "[::]:0", "127.0.0.1", true
	both := start(t, c)
	c = configOf(t, "four")
	c.Join = []string{both.Address()}
	four := start(t, c)
	meet(both, four)
	both.Publish(record(2))
	four.until("a record over IPv4", received(2))
}

// TestAllAddresses: bound to all addresses, a member is known by one of this
// machine's.
func TestAllAddresses(t *testing.T) {
	c := configOf(t, "node")
	c.Bind, c.AllowPlaintext = ":0", true
	g, err := New(c)
	if err != nil {
		t.Skip("no address here:", err)
	}
	defer g.Close()
	if addr := netip.MustParseAddrPort(g.Address()); addr.Addr().IsUnspecified() || addr.Port() == 0 {
		t.Errorf("it is known by %v", addr)
	}
}

func TestAddressInUse(t *testing.T) {
	first := start(t, configOf(t, "first"))
	c := configOf(t, "second")
	c.Bind = first.Address()
	if g, err := New(c); err == nil {
		g.Close()
		t.Error("two members at one address")
	}
}
