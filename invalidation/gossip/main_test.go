package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// quick is a timing with which failures are noticed within half a second.
var quick = Timing{
	ProbeInterval:   50 * time.Millisecond,
	ProbeTimeout:    40 * time.Millisecond,
	Suspicion:       8,
	GossipInterval:  10 * time.Millisecond,
	PushPull:        time.Second,
	GossipToTheDead: 100 * time.Millisecond,
	Stream:          500 * time.Millisecond,
	Leave:           2 * time.Second,
}

// steady is a timing with which changes spread at once, and nobody is held to be
// dead because the machine is busy.
var steady = Timing{GossipInterval: 10 * time.Millisecond, ProbeInterval: 5 * time.Second, ProbeTimeout: 4 * time.Second}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// member is a Gossip of a test, with what it received.
type member struct {
	tb testing.TB
	*Gossip

	mu       sync.Mutex
	notices  []invalidation.Notice
	received chan struct{} // closed and replaced at every notice
	also     func(invalidation.Notice)
}

// configOf is a member of a test on loopback.
func configOf(t testing.TB, name string) Config {
	return Config{
		Name:        name,
		Bind:        "127.0.0.1:0",
		RejoinEvery: 100 * time.Millisecond,
		Label:       t.Name(),
		RPCAddress:  name + ":7070",
		Version:     "v1.2.3",
		Bound:       time.Second,
		Logger:      slog.New(slog.DiscardHandler),
		Timing:      steady,
	}
}

// start starts a member that ends with the test.
func start(t testing.TB, c Config) *member {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{tb: t, Gossip: g, received: make(chan struct{})}
	g.Start(m.receive)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *member) receive(n invalidation.Notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.also != nil {
		m.also(n)
		return
	}
	m.notices = append(m.notices, n)
	close(m.received)
	m.received = make(chan struct{})
}

// hook has it call f with every notice instead of keeping it.
func (m *member) hook(f func(invalidation.Notice)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.also = f
}

func (m *member) all() ([]invalidation.Notice, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.notices), m.received
}

// until waits until it has received what is wanted.
func (m *member) until(what string, enough func([]invalidation.Notice) bool) []invalidation.Notice {
	m.tb.Helper()
	deadline := time.After(patience)
	for {
		notices, more := m.all()
		if enough(notices) {
			return notices
		}
		select {
		case <-more:
		case <-deadline:
			m.tb.Fatalf("%s did not receive %s, only %d notices; %+v", m.Name(), what, len(notices), m.Stats())
		}
	}
}

// sees waits until what it knows of the members is as wanted.
func (m *member) sees(what string, wanted func([]Member) bool) {
	m.tb.Helper()
	deadline := time.After(patience)
	for {
		changed := m.table.changed()
		members := m.Members()
		if wanted(members) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			m.tb.Fatalf("%s does not see %s, but %+v", m.Name(), what, members)
		}
	}
}

// seesAs waits until it sees a member in a state.
func (m *member) seesAs(name string, states ...State) {
	m.tb.Helper()
	m.sees(fmt.Sprintf("%s as %v", name, states), func(members []Member) bool {
		return slices.ContainsFunc(members, func(o Member) bool { return o.Name == name && slices.Contains(states, o.State) })
	})
}

// meet waits until all see each other.
func meet(members ...*member) {
	for _, m := range members {
		m.tb.Helper()
		for _, other := range members {
			m.seesAs(other.Name(), StateAlive, StateDraining)
		}
	}
}

// cluster starts n members that join the first.
func cluster(t testing.TB, n int, adapt func(*Config)) []*member {
	t.Helper()
	var members []*member
	for i := range n {
		c := configOf(t, fmt.Sprintf("node-%d", i))
		if i > 0 {
			c.Join = []string{members[0].Address()}
		}
		if adapt != nil {
			adapt(&c)
		}
		members = append(members, start(t, c))
	}
	meet(members...)
	return members
}

// record is the notice of a record at a position.
func record(position int, targets ...soracache.Target) invalidation.Notice {
	if targets == nil {
		targets = []soracache.Target{soracache.Key("product:42"), soracache.Tag("products")}
	}
	return invalidation.Notice{
		Kind: invalidation.NoticeRecord, Namespace: "shop", Partition: 3, Appended: 1_790_000_000_000_000,
		Record: soracache.Record{
			Epoch: 77, Prev: soracache.Position(position - 1), Position: soracache.Position(position), Targets: targets,
		},
	}
}

// soon is a context for what should not take long.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
