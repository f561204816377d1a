package redistest

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(M{M: m},
		// The client's pool tries on for up to a second after it was closed.
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func TestStandaloneKillAndRestart(t *testing.T) {
	s := Standalone(t, Config("save", "900", "1"))
	s.Do(t, "SET", "k", "v")
	s.Do(t, "SAVE")
	s.Kill()
	if s.Running() {
		t.Fatal("runs after Kill")
	}
	s.Restart(t)
	if got := s.Do(t, "GET", "k"); got != "v" {
		t.Fatalf("after restart: %v", got)
	}
	s.RestartEmpty(t)
	if got := s.Do(t, "GET", "k"); got != nil {
		t.Fatalf("after an empty restart: %v", got)
	}
}

func TestPauseHoldsAnswersBack(t *testing.T) {
	s := Standalone(t)
	c := s.Client(t)
	s.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Ping(ctx).Err(); err == nil {
		t.Fatal("a paused server answered")
	}
	s.Continue()
	if err := c.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsAndTLS(t *testing.T) {
	for name, opts := range map[string][]Option{
		"password": {Password("secret")},
		"user":     {User("sora", "secret", "~sora:*", "+@all")},
		"tls":      {TLS()},
		"mutual":   {MutualTLS(), Password("secret")},
	} {
		t.Run(name, func(t *testing.T) {
			s := Standalone(t, opts...)
			o, err := redis.ParseURL(s.URL())
			if err != nil {
				t.Fatal(err)
			}
			o.TLSConfig = s.TLSConfig()
			c := redis.NewClient(o)
			defer func() { _ = c.Close() }()
			if err := c.Set(t.Context(), "sora:k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			plain := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1})
			defer func() { _ = plain.Close() }()
			err = plain.Set(t.Context(), "k", "v", 0).Err()
			if refused := err != nil; refused != (name != "user") {
				t.Fatalf("without credentials: %v", err)
			}
		})
	}
}

func TestClusterServesEverySlot(t *testing.T) {
	c := SharedCluster(t)
	client := c.Client(t)
	owners := map[string]bool{}
	for i := range 30 {
		key := fmt.Sprintf("{%d}k", i)
		if err := client.Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		owners[c.Owner(t, key).Addr] = true
	}
	if len(owners) != 3 {
		t.Fatalf("30 keys live on %d masters", len(owners))
	}
}

func TestClusterFailsOver(t *testing.T) {
	c := Cluster(t, Replicas())
	client := c.Client(t)
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	killed := c.KillMaster(t, "k")
	if now := c.Owner(t, "k"); now == killed {
		t.Fatal("the killed master still owns the key")
	}
	Eventually(t, 10*time.Second, "writes go on", func() bool {
		return client.Set(t.Context(), "k", "w", 0).Err() == nil
	})
}

func TestSentinelFailsOver(t *testing.T) {
	s := Sentinel(t)
	client := s.Client(t)
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	old, promoted := s.Failover(t)
	if old == promoted || s.Primary(t) != promoted {
		t.Fatal("no failover")
	}
	s.Rejoin(t, old)
	start := time.Now()
	killed, next := s.KillPrimary(t)
	t.Logf("promoted %s after a kill", time.Since(start))
	if killed != promoted || next != old {
		t.Fatal("the wrong server was killed or promoted")
	}
	Eventually(t, 10*time.Second, "writes go on", func() bool {
		return client.Set(t.Context(), "k", "w", 0).Err() == nil
	})
}

func TestThreeSentinelsAgree(t *testing.T) {
	if len(Sentinel(t, Sentinels(3)).Sentinels) != 3 {
		t.Fatal("not three sentinels")
	}
}

func throughProxy(t *testing.T) (*Proxy, *redis.Client) {
	t.Helper()
	p := NewProxy(t)
	c := redis.NewClient(&redis.Options{
		Addr: Shared(t).Addr, Dialer: p.Dial, MaxRetries: -1, ContextTimeoutEnabled: true, DialerRetries: 1,
	})
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	p.Reset()
	return p, c
}

func TestProxyCountsRoundTrips(t *testing.T) {
	p, c := throughProxy(t)
	ctx := t.Context()
	big := make([]byte, 1<<20)
	if err := c.Set(ctx, "proxy:big", big, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "proxy:big").Bytes(); err != nil || len(got) != len(big) {
		t.Fatal(len(got), err)
	}
	p.Latency(20 * time.Millisecond)
	_, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range 10 {
			pipe.ZAdd(ctx, "proxy:z", redis.Z{Score: float64(i), Member: i})
		}
		pipe.ZRangeWithScores(ctx, "proxy:z", 0, -1)
		pipe.HGetAll(ctx, "proxy:none")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got := p.Counts()
	want := map[string]int{"SET": 1, "GET": 1, "ZADD": 10, "ZRANGE": 1, "HGETALL": 1}
	if !maps.Equal(got.Commands, want) || got.RoundTrips != 3 || got.Total() != 14 {
		t.Fatalf("got %s", got)
	}
}

func TestProxyCountsOverlappingRequestsAsOne(t *testing.T) {
	p, c := throughProxy(t)
	p.Latency(50 * time.Millisecond)
	pings := func() {
		errs := make(chan error)
		for range 5 {
			go func() { errs <- c.Ping(t.Context()).Err() }()
		}
		for range 5 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
	pings() // opens the connections
	p.Reset()
	pings()
	if got := p.Counts(); got.RoundTrips != 1 || got.Commands["PING"] != 5 {
		t.Fatalf("got %s", got)
	}
}

func TestProxyFaults(t *testing.T) {
	p, c := throughProxy(t)
	ping := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return c.Ping(ctx).Err()
	}
	p.Stall(true)
	if ping() == nil {
		t.Error("answered while stalled")
	}
	p.Stall(false)
	if err := ping(); err != nil {
		t.Error("after a stall:", err)
	}
	p.Down()
	if ping() == nil {
		t.Error("answered while down")
	}
	p.Up()
	if err := ping(); err != nil {
		t.Error("up again:", err)
	}
	Shared(t).Do(t, "SET", "proxy:n", 0)
	p.LoseAnswers(1)
	if c.Incr(t.Context(), "proxy:n").Err() == nil {
		t.Error("a lost answer arrived")
	}
	if n := Shared(t).Do(t, "GET", "proxy:n"); n != "1" {
		t.Errorf("the command whose answer was lost ran %v times", n)
	}
}

func TestClusterThroughProxy(t *testing.T) {
	p := NewProxy(t)
	c := Cluster(t, Through(p))
	client := c.Client(t)
	for i := range 30 {
		if err := client.Set(t.Context(), strconv.Itoa(i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.Counts(); got.Commands["SET"] < 30 || got.RoundTrips != got.Total() {
		t.Fatalf("got %s", got)
	}
}

func TestRESPInAnyPieces(t *testing.T) {
	stream := "*3\r\n$3\r\nset\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n" + // a request with line ends in its value
		"+OK\r\n" + "$-1\r\n" + "*-1\r\n" + "*0\r\n" + ":1\r\n" +
		"%2\r\n+a\r\n*2\r\n:1\r\n$1\r\nx\r\n+b\r\n_\r\n" +
		">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n" +
		"|1\r\n+ttl\r\n:3\r\n+OK\r\n" +
		"=5\r\ntxt:x\r\n" + "*1\r\n*1\r\n*1\r\n:1\r\n"
	want := "*+$**:%>|=*"
	for size := 1; size <= len(stream); size++ {
		var p respParser
		kinds, first := "", ""
		for at := 0; at < len(stream); at += size {
			for _, m := range p.feed([]byte(stream[at:min(at+size, len(stream))])) {
				if kinds == "" {
					first = m.first
				}
				kinds += string(m.kind)
			}
		}
		if kinds != want || first != "set" {
			t.Fatalf("pieces of %d: kinds %q, want %q; first %q", size, kinds, want, first)
		}
	}
}

// A server's clock goes as far ahead or back as it is told, at once.
func TestClock(t *testing.T) {
	clock := NewClock(t)
	s := Standalone(t, WithClock(clock))
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour, 10 * time.Minute} {
		clock.Set(t, ahead)
		seconds, err := strconv.ParseInt(s.Do(t, "TIME").([]any)[0].(string), 10, 64)
		if off := clock.Now().Sub(time.Unix(seconds, 0)); err != nil || off < 0 || off > 20*time.Second {
			t.Errorf("%s ahead, the server's clock is off by %s, %v", ahead, off, err)
		}
	}
}
