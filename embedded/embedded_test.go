package embedded_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/embedded"
	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
	"github.com/soracache/soracache/l2/redis"
)

func TestMain(m *testing.M) {
	redis.LogClient(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(redistest.M{M: m},
		// The Redis client's pool tries on for up to a second after it was closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"),
		// And memberlist lets a probe end by itself that waits for its answer.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// open starts a node that is closed when the test ends.
func open(t *testing.T, cfg embedded.Config) *embedded.Node {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n, err := embedded.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func connect(t *testing.T, n *embedded.Node) *client.Client {
	t.Helper()
	c, err := n.Client(client.Namespace("shop"), client.Logger(nil), client.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// source is what is loaded, and how often it was.
type source struct {
	version, loads atomic.Int64
}

func (s *source) load(context.Context) (int64, error) {
	s.loads.Add(1)
	return s.version.Load(), nil
}

// expect asserts what a client is given, and how many loads there have been.
func (s *source) expect(t *testing.T, c *client.Client, want, loads int64) {
	t.Helper()
	got, err := client.GetOrSet(t.Context(), c, "k", s.load, client.WithTags("products"))
	if got != want || err != nil || s.loads.Load() != loads {
		t.Errorf("got %d, %v after %d loads, want %d after %d", got, err, s.loads.Load(), want, loads)
	}
}

// change changes the source, invalidates at one client, and waits until another
// sees it: no longer than a notice takes, since both trust their memory for a
// minute.
func (s *source) change(t *testing.T, at, seenBy *client.Client) {
	t.Helper()
	want, loads := s.version.Add(1), s.loads.Load()
	if _, err := at.InvalidateTags(t.Context(), "products"); err != nil {
		t.Error(err)
	}
	redistest.Eventually(t, 20*time.Second, "the other node was told", func() bool {
		got, err := client.GetOrSet(t.Context(), seenBy, "k", s.load, client.WithTags("products"))
		return err == nil && got == want
	})
	s.expect(t, at, want, loads+1)
	s.expect(t, seenBy, want, loads+1)
}

// ofCluster is a node over Redis that hears those at some addresses.
func ofCluster(server *redistest.Server, prefix string, join ...string) embedded.Config {
	return embedded.Config{
		Store: server.URL(), KeyPrefix: prefix, Partitions: 2,
		// Longer than the test: what one node knows of the other, it has been told.
		Bound:  time.Minute,
		Gossip: embedded.Gossip{Listen: "127.0.0.1:0", Join: join},
	}
}

func together(t *testing.T, want int, nodes ...*embedded.Node) {
	t.Helper()
	for _, n := range nodes {
		redistest.Eventually(t, 20*time.Second, fmt.Sprintf("%d members", want), func() bool {
			alive := 0
			for _, m := range n.Members() {
				if m.State == embedded.MemberAlive {
					alive++
				}
			}
			return alive == want
		})
	}
}

// Two applications with a node each share what is cached, and what is invalidated
// at one is dead at the other.
func TestTwoNodesOverRedis(t *testing.T) {
	server := redistest.Shared(t)
	first := open(t, ofCluster(server, "two:"))
	second := open(t, ofCluster(server, "two:", first.GossipAddress()))
	together(t, 2, first, second)
	a, b := connect(t, first), connect(t, second)

	var s source
	s.expect(t, a, 0, 1)
	s.expect(t, b, 0, 1) // from Redis
	s.expect(t, b, 0, 1) // from its memory
	for range 3 {
		s.change(t, a, b)
		s.change(t, b, a)
	}

	if err := first.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	together(t, 1, second)
	s.change(t, b, b)
}

// What the embedded store holds outlives the process.
func TestRestartKeepsWhatIsStored(t *testing.T) {
	dir := t.TempDir()
	var s source
	for range 3 {
		n, err := embedded.Open(t.Context(), embedded.Config{Store: "embedded:" + dir, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.Client(client.Namespace("shop"), client.Timeout(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		s.expect(t, c, 0, 1)
		if err := errors.Join(c.Close(), n.Close(), n.Close()); err != nil {
			t.Error(err)
		}
	}
}

// Nodes over a store of one's own share what it holds, as over a Redis. It is told where
// it is, how long it is waited for, and whom to tell what an operator should know.
func TestStoreOfOnesOwn(t *testing.T) {
	shared := l2model.New(l2model.Config{})
	log := slog.New(slog.DiscardHandler)
	var urls []string
	own := l2.Scheme{Name: "own+memory", Open: func(_ context.Context, url string, o l2.OpenOptions) (l2.Store, error) {
		urls = append(urls, url)
		if o.Timeout != time.Minute || o.Logger != log {
			t.Errorf("opened with %+v", o)
		}
		return shared, nil
	}}
	var s source
	for i := range 2 {
		c := connect(t, open(t, embedded.Config{
			Store: "own+memory://somewhere", Schemes: []l2.Scheme{own}, StoreTimeout: time.Minute, Logger: log,
		}))
		s.expect(t, c, 0, 1)
		if len(urls) != i+1 || urls[i] != "own+memory://somewhere" {
			t.Errorf("opened %q", urls)
		}
	}

	for name, opened := range map[string]error{"an error": soracache.ErrUnavailable, "nothing": nil} {
		own.Open = func(context.Context, string, l2.OpenOptions) (l2.Store, error) { return nil, opened }
		if _, err := embedded.Open(t.Context(), embedded.Config{Store: "own+memory:", Schemes: []l2.Scheme{own}}); !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("a scheme that opens %s: %v", name, err)
		}
	}
}

// A directory belongs to one process, and to one node in it.
func TestFolderIsTaken(t *testing.T) {
	dir := t.TempDir()
	open(t, embedded.Config{Store: "embedded:" + dir})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if n, err := embedded.Open(ctx, embedded.Config{Store: "embedded:" + dir}); err == nil {
		t.Error("opened it twice", n.Close())
	}
}

// Without its second tier, a node has loaders run. It starts before Redis does.
func TestRedisIsDown(t *testing.T) {
	port := redistest.FreePort(t)
	n := open(t, embedded.Config{Store: fmt.Sprintf("redis://127.0.0.1:%d", port)})
	var s source
	s.expect(t, connect(t, n), 0, 1)
	if err := n.Ready(t.Context()); err == nil {
		t.Error("it is ready")
	}
}

func TestAfterClose(t *testing.T) {
	n := open(t, embedded.Config{Store: "embedded:" + t.TempDir()})
	c := connect(t, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.InvalidateTags(t.Context(), "t"); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	var s source
	s.expect(t, c, 0, 1)
}

// What is under way when a node is closed is answered, also what has not been
// sent to Redis by then: of this batch, a part waits for the answers to others.
func TestCloseLetsReadsEnd(t *testing.T) {
	server, proxy := redistest.Shared(t), redistest.NewProxy(t)
	cfg := embedded.Config{
		Store: "redis://" + proxy.Front(server.Addr), KeyPrefix: "ending:", StoreTimeout: time.Minute, Limits: soracache.DefaultLimits(),
	}
	cfg.Limits.Batch = 3000
	n := open(t, cfg)
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Backend().Get(t.Context(), soracache.GetRequest{}); err != nil { // asks for the number of partitions
		t.Fatal(err)
	}
	proxy.Stall(true)
	proxy.Reset()
	answered := make(chan error, 1)
	go func() {
		reads := make([]soracache.Read, cfg.Limits.Batch)
		for i := range reads {
			reads[i].Key = strconv.Itoa(i)
		}
		results, err := n.Backend().Get(t.Context(), soracache.GetRequest{Reads: reads})
		for _, r := range results {
			err = errors.Join(err, r.Err)
		}
		answered <- err
	}()
	redistest.Eventually(t, 10*time.Second, "a part of it was sent", func() bool { return proxy.Counts().Total() > 0 })
	closed := make(chan error, 1)
	go func() { closed <- n.Close() }()
	redistest.Eventually(t, 10*time.Second, "the node takes nothing more", func() bool {
		_, err := n.Backend().Get(t.Context(), soracache.GetRequest{})
		return errors.Is(err, soracache.ErrUnavailable)
	})
	proxy.Stall(false)
	if err := <-answered; err != nil {
		t.Errorf("%.200v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A node of an application and a soracached are members of one cluster. Clients
// are told of the one that serves, and not of the other.
func TestMixedFleet(t *testing.T) {
	server := redistest.Shared(t)
	n := open(t, ofCluster(server, "mixed:"))
	url := "http://127.0.0.1:" + strconv.Itoa(redistest.FreePort(t))
	serve(t, url, "--l2", server.URL(), "--key-prefix", "mixed:", "--partitions", "2", "--bound", "60s",
		"--gossip-listen", "127.0.0.1:0", "--join", n.GossipAddress())
	together(t, 2, n)

	inProcess := connect(t, n)
	remote, err := client.Dial([]string{url}, client.Namespace("shop"), client.NoNear(), client.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = remote.Close() }()
	var s source
	s.expect(t, remote, 0, 1)
	s.expect(t, inProcess, 0, 1)
	for range 3 {
		s.change(t, inProcess, remote)
		s.change(t, remote, inProcess)
	}

	var told struct {
		Members []struct{ Name, RPCAddress string }
	}
	res, err := web().Post(url+"/soracache.v1.ClusterService/Members", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(&told); err != nil || len(told.Members) != 2 {
		t.Fatalf("members %+v, %v", told, err)
	}
	for _, m := range told.Members {
		if served := strings.HasPrefix(m.Name, "server"); served != (m.RPCAddress == url) || (!served && m.RPCAddress != "") {
			t.Errorf("clients are sent to %s at %q", m.Name, m.RPCAddress)
		}
	}
}

// serve builds soracached and runs it at a URL until the test ends.
func serve(t *testing.T, url string, args ...string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "soracached")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./cmd/soracached")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out := &proctest.Output{}
	cmd := exec.Command(binary, append([]string{"serve", "--name", "server", "--listen", strings.TrimPrefix(url, "http://")}, args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, os.Environ()
	p := proctest.Start(t, cmd)
	redistest.Eventually(t, 30*time.Second, "the server answers", func() bool {
		if !p.Running() {
			t.Fatalf("it has ended:\n%s", out)
		}
		res, err := web().Get(url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func web() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
}

// What soracached would refuse at its door is refused here as well.
func TestRequestsAreChecked(t *testing.T) {
	b := open(t, embedded.Config{Store: "embedded:" + t.TempDir(), Limits: limits()}).Backend()
	ctx, long := t.Context(), strings.Repeat("k", 11)
	reads, err := b.Get(ctx, soracache.GetRequest{Reads: []soracache.Read{
		{Key: "a"}, {Key: ""}, {Key: long}, {Key: "\xff"}, {Key: "b", Wait: -1}, {Key: "c"},
	}})
	if err != nil || len(reads) != 6 {
		t.Fatal(reads, err)
	}
	for i, r := range reads {
		if valid := i == 0 || i == 5; valid != (r.Err == nil) || (valid && r.Status != soracache.StatusMiss) || (!valid && !errors.Is(r.Err, soracache.ErrInvalid)) {
			t.Errorf("read %d: %v", i, r)
		}
	}
	put := func(change func(*soracache.Write)) soracache.Write {
		w := soracache.Write{Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v")}, Lifetime: soracache.Lifetime{TTL: time.Minute}}
		change(&w)
		return w
	}
	writes := []soracache.Write{
		put(func(*soracache.Write) {}),
		put(func(w *soracache.Write) { w.Key = "" }),
		put(func(w *soracache.Write) { w.Op = 9 }),
		put(func(w *soracache.Write) { w.Op = soracache.OpFill }),
		put(func(w *soracache.Write) { w.Lifetime.TTL = 0 }),
		put(func(w *soracache.Write) { w.Entry.Value = bytes.Repeat([]byte("v"), 101) }),
		put(func(w *soracache.Write) { w.Entry.Kind = soracache.KindNotFound }),
		put(func(w *soracache.Write) { w.Entry.Tags = []string{long} }),
	}
	stored, err := b.Write(ctx, soracache.WriteRequest{Writes: writes})
	if err != nil || len(stored) != len(writes) {
		t.Fatal(stored, err)
	}
	for i, r := range stored {
		if r.Stored != (i == 0) || (i > 0) != (errors.Is(r.Err, soracache.ErrInvalid) || errors.Is(r.Err, soracache.ErrTooLarge)) {
			t.Errorf("write %d: %+v", i, r)
		}
	}
	key := []soracache.Target{soracache.Key("k")}
	for i, req := range []soracache.InvalidateRequest{
		{Targets: key}, {}, {Targets: key, Settle: -1}, {Targets: key, Settle: time.Hour},
		{Targets: []soracache.Target{soracache.Key(long)}}, {Targets: []soracache.Target{soracache.Tag("")}}, {Targets: []soracache.Target{{Kind: 9}}},
	} {
		if _, err := b.Invalidate(ctx, req); (i == 0) != (err == nil) || (i > 0 && !errors.Is(err, soracache.ErrInvalid)) {
			t.Errorf("invalidation %d: %v", i, err)
		}
	}
	many := make([]soracache.Read, 9)
	if _, err := b.Get(ctx, soracache.GetRequest{Reads: many}); !errors.Is(err, soracache.ErrTooLarge) {
		t.Errorf("a batch that is too large: %v", err)
	}
}

func limits() soracache.Limits {
	l := soracache.DefaultLimits()
	l.KeyBytes, l.TagBytes, l.ValueBytes, l.Batch = 10, 10, 100, 8
	return l
}

func TestConfig(t *testing.T) {
	gossiping := embedded.Gossip{Listen: "127.0.0.1:0"}
	own := l2.Scheme{Name: "own", Open: func(context.Context, string, l2.OpenOptions) (l2.Store, error) { return nil, nil }}
	for name, tt := range map[string]struct {
		cfg embedded.Config
		ok  bool
	}{
		"Redis":                      {embedded.Config{Store: "redis://a"}, true},
		"a directory":                {embedded.Config{Store: "embedded:d"}, true},
		"a cluster":                  {embedded.Config{Store: "redis+cluster://a,b", Gossip: gossiping, Partitions: 16}, true},
		"nothing":                    {embedded.Config{}, false},
		"a store of no kind":         {embedded.Config{Store: "mysql://a"}, false},
		"a scheme of one's own":      {embedded.Config{Store: "own:a", Schemes: []l2.Scheme{own}}, true},
		"a cluster over one's own":   {embedded.Config{Store: "own:a", Schemes: []l2.Scheme{own}, Gossip: gossiping}, true},
		"a scheme that is ours":      {embedded.Config{Store: "redis://a", Schemes: []l2.Scheme{{Name: "redis", Open: own.Open}}}, false},
		"a scheme given twice":       {embedded.Config{Store: "own:a", Schemes: []l2.Scheme{own, own}}, false},
		"a scheme of no name":        {embedded.Config{Store: "redis://a", Schemes: []l2.Scheme{{Name: "O", Open: own.Open}}}, false},
		"a scheme that is not open":  {embedded.Config{Store: "own:a", Schemes: []l2.Scheme{{Name: "own"}}}, false},
		"a prefix for one's own":     {embedded.Config{Store: "own:a", Schemes: []l2.Scheme{own}, KeyPrefix: "p:"}, false},
		"no URL":                     {embedded.Config{Store: "10.0.0.1"}, false},
		"a prefix for a directory":   {embedded.Config{Store: "embedded:d", KeyPrefix: "p:"}, false},
		"TLS for Redis in clear":     {embedded.Config{Store: "redis://a", StoreTLS: &tls.Config{}}, false},
		"TLS for a cluster in clear": {embedded.Config{Store: "redis+cluster://a", StoreTLS: &tls.Config{}}, false},
		"TLS":                        {embedded.Config{Store: "rediss://a", StoreTLS: &tls.Config{}}, true},
		"TLS to sentinels":           {embedded.Config{Store: "rediss+sentinel://a/m", StoreTLS: &tls.Config{}}, true},
		"a cluster without gossip":   {embedded.Config{Store: "redis://a", Gossip: embedded.Gossip{Cluster: "c"}}, false},
		"room for Redis":             {embedded.Config{Store: "redis://a", StoreMaxBytes: 1}, false},
		"gossip about a directory":   {embedded.Config{Store: "embedded:d", Gossip: gossiping}, false},
		"join without listening":     {embedded.Config{Store: "redis://a", Gossip: embedded.Gossip{Join: []string{"b"}}}, false},
		"plaintext off loopback":     {embedded.Config{Store: "redis://a", Gossip: embedded.Gossip{Listen: "10.0.0.1:1"}}, false},
		"plaintext that is allowed":  {embedded.Config{Store: "redis://a", Gossip: embedded.Gossip{Listen: "10.0.0.1:1", AllowPlaintext: true}}, true},
		"too many partitions":        {embedded.Config{Store: "embedded:d", Partitions: soracache.MaxPartitions + 1}, false},
		"partitions of no namespace": {embedded.Config{Store: "embedded:d", NamespacePartitions: map[string]int{"A": 1}}, false},
		"a bound of nothing":         {embedded.Config{Store: "embedded:d", Bound: time.Microsecond}, false},
		"negative memory":            {embedded.Config{Store: "embedded:d", L1MaxBytes: -1}, false},
	} {
		if err := tt.cfg.Validate(); (err == nil) != tt.ok || (err != nil && !errors.Is(err, soracache.ErrInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := embedded.Open(t.Context(), embedded.Config{}); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("opened: %v", err)
	}
}
