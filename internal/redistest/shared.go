package redistest

import (
	"sync"
	"testing"
)

// shared are the instances that a test binary starts once. They are stopped by
// [M.Run].
//
//nolint:gochecknoglobals // the tests of a binary have nothing else in common
var shared struct {
	mu         sync.Mutex
	standalone *Server
	cluster    *ClusterServers
	stop       []func()
}

// Shared returns the standalone server of this test binary, started by the
// first who asks. Tests share it: they use key prefixes (or namespaces) of
// their own, never FLUSHALL, and leave it running. The package's TestMain must
// run its tests through [M].
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.standalone == nil {
		shared.standalone = Standalone(&binary{TB: t})
	}
	return shared.standalone
}

// SharedCluster is [Shared] for a cluster without replicas.
func SharedCluster(t testing.TB) *ClusterServers {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		shared.cluster = Cluster(&binary{TB: t})
	}
	return shared.cluster
}

// binary is a testing.TB whose clean-ups run at the end of the test binary.
type binary struct{ testing.TB }

// Cleanup is called with shared.mu held.
func (b *binary) Cleanup(f func()) { shared.stop = append(shared.stop, f) }

// M runs a package's tests and then stops what they shared, before goleak
// looks:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(redistest.M{M: m}) }
type M struct{ *testing.M }

// Run runs the tests.
func (m M) Run() int {
	code := m.M.Run()
	StopShared()
	return code
}

// StopShared stops the shared instances. Only [M] and those who write a
// TestMain of their own need it.
func StopShared() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for i := len(shared.stop) - 1; i >= 0; i-- {
		shared.stop[i]()
	}
	shared.standalone, shared.cluster, shared.stop = nil, nil, nil
}
