package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// masters is a store of two parts, named by their addresses, each of which can
// hang.
type masters struct {
	*l2model.Model
	mu    sync.Mutex
	hangs map[string]bool
}

var addresses = []string{"10.9.8.7:7001", "10.9.8.7:7002"}

func (*masters) Part(at l2.Partition) string { return addresses[at.Index%2] }

func (m *masters) hang(which ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hangs = map[string]bool{}
	for _, part := range which {
		m.hangs[part] = true
	}
}

// pass is nil if a part answers, and takes as long as the caller waits if not.
func (m *masters) pass(ctx context.Context, part string) error {
	m.mu.Lock()
	hangs := m.hangs[part]
	m.mu.Unlock()
	if !hangs {
		return nil
	}
	<-ctx.Done()
	return l2.Unavailable(fmt.Errorf("%s: evalsha 0a1b2c: %w", part, ctx.Err()), "the store failed")
}

func (m *masters) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	if err := m.pass(ctx, m.Part(reqs[0].Partition)); err != nil {
		answers := make([]l2.ReadAnswer, len(reqs))
		for i := range answers {
			answers[i].Err = err
		}
		return answers
	}
	return m.Model.Read(ctx, reqs)
}

func (m *masters) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	if err := m.pass(ctx, m.Part(reqs[0].Partition)); err != nil {
		answers := make([]l2.SinceAnswer, len(reqs))
		for i := range answers {
			answers[i].Err = err
		}
		return answers
	}
	return m.Model.Since(ctx, reqs)
}

func (m *masters) Ping(ctx context.Context) error { return m.pass(ctx, addresses[0]) }

// probed is a server over a real node over such a store.
type probed struct {
	*testing.T
	store  *masters
	node   *node.Node
	server *server.Server
	log    logs
}

// readyz asks for readiness, after what was said before is forgotten, in both ways.
// It fails if they differ, or show anything of where the store is.
func (p *probed) readyz(token string) string {
	p.Helper()
	time.Sleep(time.Second)
	r := httptest.NewRequestWithContext(p.Context(), http.MethodGet, "/readyz", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	got := handle(p.server, r)
	if token != "admin" && (strings.Contains(got.body, "10.9.8.7") || strings.Contains(got.body, "shop") || strings.Contains(got.body, "evalsha")) {
		p.Errorf("callers are told %q", got.body)
	}
	message, err := proto.Marshal(&healthpb.HealthCheckRequest{})
	if err != nil {
		p.Fatal(err)
	}
	r = httptest.NewRequestWithContext(p.Context(), http.MethodPost, "/grpc.health.v1.Health/Check", strings.NewReader(string(message)))
	r.Header.Set("Content-Type", "application/proto")
	var health healthpb.HealthCheckResponse
	if err := proto.Unmarshal([]byte(handle(p.server, r).body), &health); err != nil {
		p.Fatal(err)
	}
	if ready := got.status == http.StatusOK; ready != (health.Status == healthpb.HealthCheckResponse_SERVING) || !ready && got.status != http.StatusServiceUnavailable {
		p.Errorf("readyz says %d, and gRPC %v", got.status, health.Status)
	}
	return got.body
}

// use reads keys of all partitions.
func (p *probed) use() {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), 5*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			_, _ = p.node.Get(ctx, soracache.GetRequest{Namespace: "shop", Reads: []soracache.Read{{Key: fmt.Sprint("k", i), Lease: true, LeaseFor: time.Second}}})
		})
	}
	all.Wait()
}

// TestReadinessSaysWhy: readiness gives the reason that there is, and not another
// one, in words that everybody may know. The log has the rest, once for each change.
func TestReadinessSaysWhy(t *testing.T) {
	t.Parallel()
	const (
		ready   = "ready\n"
		full    = "ready, but the store is full: nothing new is cached\n"
		silent  = "but a part of the store does not answer\n"
		numbers = "not ready: the number of partitions of a namespace is not what this node was told, or is being changed\n"
	)
	for name, act := range map[string]func(p *probed){
		"all is well": func(p *probed) { p.want(ready, 0) },
		"nobody uses the store": func(p *probed) {
			if got := p.readyz("admin"); got != ready+"store own, all of it: reachable for 0s\n" {
				p.Errorf("an operator is told %q", got)
			}
		},
		"a wrong number of partitions": func(p *probed) {
			p.store.Partitions(p.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 3}}) // as another node does
			p.use()
			p.want(numbers, 1, "namespace shop has 3, and this node was told 2")
		},
		"a change of the number": func(p *probed) {
			p.use()
			if left, err := p.store.Repartition(p.Context(), "shop", 3); err != nil || left == 0 {
				p.Fatalf("%v left, %v", left, err)
			}
			p.use()
			p.want(numbers, 1, "is being changed")
		},
		"no memory": func(p *probed) {
			p.use()
			p.store.SetFull(true)
			time.Sleep(2 * time.Second) // the leases are over
			p.use()
			p.want(full, 0)
		},
		"a part hangs": func(p *probed) {
			p.use()
			p.store.hang(addresses[1])
			time.Sleep(3 * time.Second)
			p.want(ready+silent, 0)
			if got := p.readyz("reader"); got != ready+silent {
				p.Errorf("a caller without the scope is told %q", got)
			}
			told := regexp.MustCompile(`^` + ready + silent + `store own, 10.9.8.7:7001: reachable for \d[\d.]*s
store own, 10.9.8.7:7002: unreachable for \d[\d.]*s
$`)
			if got := p.readyz("admin"); !told.MatchString(got) {
				p.Errorf("an operator is told %q", got)
			}
		},
		"a part hangs, and there is no memory": func(p *probed) {
			p.store.SetFull(true)
			p.use()
			p.store.hang(addresses[1])
			time.Sleep(1500 * time.Millisecond)
			p.want(full+silent, 0)
		},
		"all parts hang": func(p *probed) {
			p.use()
			p.store.hang(addresses...)
			time.Sleep(3 * time.Second)
			p.want("not ready: the store does not answer\n", 1, "10.9.8.7:7001 for ")
			if got := p.readyz("admin"); strings.Count(got, "unreachable for") != 2 || strings.Contains(got, ": reachable") {
				p.Errorf("an operator is told %q", got)
			}
		},
		"one reason after another": func(p *probed) {
			p.store.hang(addresses[0]) // nothing was asked of it so far
			p.want("not ready: the store did not answer in time\n", 1, "10.9.8.7:7001: evalsha")
			p.store.hang()
			p.store.Partitions(p.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 3}})
			p.use()
			p.want(numbers, 2, "namespace shop has 3")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &probed{T: t, store: &masters{Model: l2model.New(l2model.Config{})}}
				var err error
				if p.node, err = node.New(node.Config{Store: p.store, Partitions: func(string) int { return 2 }}); err != nil {
					t.Fatal(err)
				}
				tokens := tokensFile(t, "TOKEN(admin) monitor admin *", "TOKEN(reader) shop read shop")
				p.server = newServer(t, server.Config{AuthTokens: tokens, StoreScheme: "own"}, p.node, server.Hooks{Log: textLog(&p.log)})
				defer func() {
					if err := p.node.Close(); err != nil {
						t.Error(err)
					}
				}()
				act(p)
			})
		})
	}
}

// want wants readiness to say something, again and again, and the log to have had
// lines of it, with words in the last.
func (p *probed) want(body string, lines int, words ...string) {
	p.Helper()
	for i := range 3 {
		if got := p.readyz(""); got != body {
			p.Errorf("%d: %q, want %q", i, got, body)
		}
	}
	var all []string
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, "not ready") {
			all = append(all, line)
		}
	}
	if len(all) != lines {
		p.Errorf("the log has %d lines, want %d:\n%s", len(all), lines, p.log.String())
		return
	}
	for _, word := range words {
		if !strings.Contains(all[lines-1], word) {
			p.Errorf("the log does not say %q: %s", word, all[lines-1])
		}
	}
}
