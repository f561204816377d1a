package redistest

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// SentinelMaster is the name under which the sentinels know the primary.
const SentinelMaster = "mymaster"

// SentinelServers is a primary with one replica, watched by sentinels.
type SentinelServers struct {
	// Nodes are the two data servers; which one is the primary changes: see
	// [SentinelServers.Primary].
	Nodes [2]*Server
	// Sentinels watch them; a majority decides.
	Sentinels []*Server

	opts options
}

// Sentinels is how many sentinels [Sentinel] starts (one unless given).
func Sentinels(n int) Option { return func(o *options) { o.sentinels = n } }

// Sentinel starts a primary, a replica in step with it, and sentinels that
// know both. A killed primary is replaced within about two seconds.
func Sentinel(t testing.TB, opts ...Option) *SentinelServers {
	t.Helper()
	o := options{sentinels: 1}
	for _, opt := range opts {
		opt(&o)
	}
	s := &SentinelServers{opts: o}
	s.Nodes[0] = start(t, o, false)
	host, port, _ := net.SplitHostPort(s.Nodes[0].Addr)
	s.Nodes[1] = start(t, o, false)
	s.Nodes[1].Do(t, "REPLICAOF", host, port)
	s.awaitReplica(t, s.Nodes[1])

	watch := options{config: []string{
		fmt.Sprintf("sentinel monitor %s %s %s %d", SentinelMaster, host, port, o.sentinels/2+1),
		"sentinel down-after-milliseconds " + SentinelMaster + " 600",
		"sentinel failover-timeout " + SentinelMaster + " 1000",
		"sentinel parallel-syncs " + SentinelMaster + " 1",
	}}
	if o.password != "" {
		watch.config = append(watch.config, fmt.Sprintf("sentinel auth-pass %s %s", SentinelMaster, o.password))
		if o.user != "" {
			watch.config = append(watch.config, fmt.Sprintf("sentinel auth-user %s %s", SentinelMaster, o.user))
		}
	}
	for range o.sentinels {
		s.Sentinels = append(s.Sentinels, start(t, watch, true))
	}
	s.AwaitReady(t)
	return s
}

func (s *SentinelServers) awaitReplica(t testing.TB, replica *Server) {
	t.Helper()
	Eventually(t, startTimeout, "replica in step", func() bool {
		info, err := replica.try("INFO", "replication")
		return err == nil && strings.Contains(fmt.Sprint(info), "role:slave") &&
			strings.Contains(fmt.Sprint(info), "master_link_status:up")
	})
}

// AwaitReady returns once every sentinel knows the primary, a healthy replica
// of it and the other sentinels, so that a failover can succeed.
func (s *SentinelServers) AwaitReady(t testing.TB) {
	t.Helper()
	want := fmt.Sprintf("status=ok,address=%s,slaves=1,sentinels=%d", s.Primary(t).Addr, len(s.Sentinels))
	Eventually(t, startTimeout, "sentinels know all: "+want, func() bool {
		for _, w := range s.Sentinels {
			info, err := w.try("INFO", "sentinel")
			if err != nil || !strings.Contains(fmt.Sprint(info), want) || !replicaHealthy(w) {
				return false
			}
		}
		return true
	})
}

func replicaHealthy(sentinel *Server) bool {
	answer, err := sentinel.try("SENTINEL", "REPLICAS", SentinelMaster)
	return err == nil && strings.Contains(fmt.Sprint(answer), "master-link-status:ok")
}

// Primary returns the server that the first running sentinel calls primary.
func (s *SentinelServers) Primary(t testing.TB) *Server {
	t.Helper()
	for _, w := range s.Sentinels {
		if !w.Running() {
			continue
		}
		answer, _ := w.Do(t, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SentinelMaster).([]any)
		if len(answer) != 2 {
			t.Fatalf("sentinel knows no primary: %v", answer)
		}
		for _, n := range s.Nodes {
			if n.Addr == fmt.Sprintf("%s:%s", answer...) {
				return n
			}
		}
		t.Fatalf("sentinel names a primary that is not ours: %v", answer)
	}
	t.Fatal("no sentinel runs")
	return nil
}

// Failover has the replica promoted while both are healthy, and returns the
// old and the new primary. The old one goes on as an isolated primary until
// the sentinels make it follow, about ten seconds later, or until
// [SentinelServers.Rejoin] does.
func (s *SentinelServers) Failover(t testing.TB) (old, promoted *Server) {
	t.Helper()
	old = s.Primary(t)
	s.Sentinels[0].Do(t, "SENTINEL", "FAILOVER", SentinelMaster)
	return old, s.awaitPromotion(t, old)
}

// Rejoin has a server follow the primary, starting it if it does not run, and
// returns once the sentinels could fail over to it.
func (s *SentinelServers) Rejoin(t testing.TB, server *Server) {
	t.Helper()
	if !server.Running() {
		server.Restart(t)
	}
	host, port, _ := net.SplitHostPort(s.Primary(t).Addr)
	server.Do(t, "REPLICAOF", host, port)
	s.awaitReplica(t, server)
	s.AwaitReady(t)
}

// KillPrimary kills the primary and returns it and the promoted replica once
// the sentinels have made the change.
func (s *SentinelServers) KillPrimary(t testing.TB) (killed, promoted *Server) {
	t.Helper()
	killed = s.Primary(t)
	killed.Kill()
	return killed, s.awaitPromotion(t, killed)
}

func (s *SentinelServers) awaitPromotion(t testing.TB, old *Server) *Server {
	t.Helper()
	var promoted *Server
	Eventually(t, startTimeout, "replica promoted", func() bool {
		promoted = s.Primary(t)
		if promoted == old {
			return false
		}
		info, err := promoted.try("INFO", "replication")
		return err == nil && strings.Contains(fmt.Sprint(info), "role:master")
	})
	return promoted
}

// Addrs are the sentinels' addresses.
func (s *SentinelServers) Addrs() []string {
	var addrs []string
	for _, w := range s.Sentinels {
		addrs = append(addrs, w.Addr)
	}
	return addrs
}

// URL is redis+sentinel:// with the sentinels' addresses, separated by commas,
// and the master's name as its path.
func (s *SentinelServers) URL() string {
	return "redis+sentinel://" + userInfo(s.opts) + strings.Join(s.Addrs(), ",") + "/" + SentinelMaster
}

// Client returns a client of whichever is the primary, closed when the test
// ends.
func (s *SentinelServers) Client(t testing.TB) *redis.Client {
	t.Helper()
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: SentinelMaster, SentinelAddrs: s.Addrs(),
		Username: s.opts.user, Password: s.opts.password, ContextTimeoutEnabled: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// userInfo is the part of a URL before the addresses.
func userInfo(o options) string {
	if o.password == "" {
		return ""
	}
	return url.UserPassword(o.user, o.password).String() + "@"
}
