package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

func TestMain(m *testing.M) {
	LogClient(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(redistest.M{M: m})
}

// openAt opens a store that is closed when the test ends.
func openAt(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// prefixOf is a key prefix that no other test uses.
func prefixOf(t testing.TB) string {
	h := uint64(14695981039346656037)
	for _, b := range []byte(t.Name()) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return fmt.Sprintf("t%x:", h)
}

// base is what the names of a partition's keys begin with.
func base(prefix string, p l2.Partition) string {
	return fmt.Sprintf("%s{%s/%d}", prefix, p.Namespace, p.Index)
}

// user speaks to one partition of a store, one request at a time.
type user struct {
	testing.TB
	*Store
	at    l2.Partition
	admin goredis.UniversalClient
}

// newUser opens a store on the shared server.
func newUser(t testing.TB) *user {
	t.Helper()
	server := redistest.Shared(t)
	c := Config{URL: server.URL(), Prefix: prefixOf(t)}
	return &user{t, openAt(t, c), l2.Partition{Namespace: "shop", Count: 1}, server.Client(t)}
}

// another is one more store on the same data.
func (u *user) another(c Config) *user {
	c.Prefix = u.config.Prefix
	return &user{u.TB, openAt(u.TB, c), u.at, u.admin}
}

// name is the name of one of the partition's keys.
func (u *user) name(kind string) string { return base(u.config.Prefix, u.at) + kind }

func (u *user) do(args ...any) any {
	u.Helper()
	reply, err := u.admin.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		u.Fatalf("%v: %v", args, err)
	}
	return reply
}

func (u *user) since(s soracache.Stamp) soracache.Delta {
	u.Helper()
	a := u.Since(context.Background(), []l2.SinceRequest{{Partition: u.at, Since: s}})[0]
	if a.Err != nil {
		u.Fatal(a.Err)
	}
	return a.Delta
}

func (u *user) head() soracache.Stamp {
	u.Helper()
	d := u.since(soracache.Stamp{})
	return soracache.Stamp{Epoch: d.Epoch, Position: d.Head}
}

func (u *user) tryRead(k l2.ReadKey) (l2.KeyAnswer, error) {
	a := u.Read(context.Background(), []l2.ReadRequest{{Partition: u.at, Keys: []l2.ReadKey{k}}})[0]
	if a.Err != nil {
		return l2.KeyAnswer{}, a.Err
	}
	return a.Keys[0], nil
}

func (u *user) ask(k l2.ReadKey) l2.KeyAnswer {
	u.Helper()
	a, err := u.tryRead(k)
	if err != nil {
		u.Fatal(err)
	}
	return a
}

func (u *user) hit(key, value string) {
	u.Helper()
	if a := u.ask(l2.ReadKey{Key: key}); !a.Found || string(a.Entry.Value) != value {
		u.Fatalf("read of %q: found %v, %d bytes", key, a.Found, len(a.Entry.Value))
	}
}

func (u *user) miss(key string) {
	u.Helper()
	if a := u.ask(l2.ReadKey{Key: key}); a.Found {
		u.Fatalf("read of %q found %.40q", key, a.Entry.Value)
	}
}

// lease takes the lease of a key.
func (u *user) lease(key string, n byte) soracache.Lease {
	u.Helper()
	nonce := soracache.Lease{n, 1}
	if a := u.ask(l2.ReadKey{Key: key, Nonce: nonce, RefreshWithin: 24 * time.Hour}); a.Lease != soracache.LeaseGranted {
		u.Fatalf("no lease on %q: %+v", key, a)
	}
	return nonce
}

var hour = soracache.Lifetime{TTL: time.Hour}

func (u *user) write(w l2.WriteRequest) l2.WriteAnswer {
	u.Helper()
	w.Partition = u.at
	a := u.Write(context.Background(), []l2.WriteRequest{w})[0]
	if a.Err != nil {
		u.Fatal(a.Err)
	}
	return a
}

func (u *user) fill(key string, nonce soracache.Lease, value string, tags ...string) l2.WriteAnswer {
	u.Helper()
	return u.write(l2.WriteRequest{
		Op: soracache.OpFill, Key: key, Nonce: nonce,
		Entry: soracache.Entry{Value: []byte(value), Tags: tags}, Lifetime: hour,
	})
}

func (u *user) put(key, value string, tags ...string) l2.WriteAnswer {
	u.Helper()
	return u.write(l2.WriteRequest{
		Op: soracache.OpPut, Key: key,
		Entry: soracache.Entry{Value: []byte(value), Tags: tags}, Lifetime: hour,
	})
}

func (u *user) invalidate(targets ...soracache.Target) soracache.Record {
	u.Helper()
	a := u.Invalidate(context.Background(), []l2.InvalidateRequest{{Partition: u.at, Targets: targets}})[0]
	if a.Err != nil {
		u.Fatal(a.Err)
	}
	return a.Record
}
