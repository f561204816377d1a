package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// asClient makes this test binary a client process: see clientProcess.
const asClient = "SORACACHE_VERIFY_CLIENT"

// job is what a client process is to do.
type job struct {
	URL     string
	Key     string
	Callers int
	Load    time.Duration
	Timeout time.Duration // zero: the client's default
}

// done is what it then tells.
type done struct {
	Loads, Right int64
	Errors       []string
	Took         []time.Duration // by each caller
}

// clientProcess is main in a client process: it says that it is ready, waits
// for a line, lets all its callers ask for the key at once, and tells what
// happened.
func clientProcess(arg string) int {
	var j job
	if err := json.Unmarshal([]byte(arg), &j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var opts []client.DialOption
	if j.Timeout > 0 {
		opts = append(opts, client.Timeout(j.Timeout))
	}
	c, err := client.Dial(strings.Split(j.URL, ","), opts...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer func() { _ = c.Close() }()
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return 2
	}
	var d done
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range j.Callers {
		wg.Go(func() {
			began := time.Now()
			v, err := client.GetOrSet(context.Background(), c, j.Key, func(context.Context) (string, error) {
				atomic.AddInt64(&d.Loads, 1)
				time.Sleep(j.Load)
				return "loaded", nil
			})
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			d.Took = append(d.Took, took)
			switch {
			case err != nil:
				d.Errors = append(d.Errors, err.Error())
			case v == "loaded":
				d.Right++
			}
		})
	}
	wg.Wait()
	if err := json.NewEncoder(os.Stdout).Encode(d); err != nil {
		return 2
	}
	return 0
}

// process is a client process under way.
type process struct {
	*proctest.Process

	stdin io.WriteCloser
	out   *bufio.Reader
}

func startClient(t *testing.T, j job) *process {
	t.Helper()
	arg, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asClient+"="+string(arg))
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, os.Stderr
	p := &process{out: bufio.NewReader(out)}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	p.Process = proctest.Start(t, cmd)
	if line, err := p.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("client process: %q, %v", line, err)
	}
	return p
}

func (p *process) result(t *testing.T) (d done) {
	t.Helper()
	if err := json.NewDecoder(p.out).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if code := p.ExitCode(t, 10*time.Second); code != 0 {
		t.Fatalf("client process: exit code %d", code)
	}
	return d
}

var binary struct {
	once sync.Once
	dir  string // that it was built in
	path string
	err  error
}

// soracached builds the server once.
func soracached(t *testing.T) string {
	t.Helper()
	binary.once.Do(func() {
		dir, err := os.MkdirTemp("", "soracached")
		if err != nil {
			binary.err = err
			return
		}
		binary.dir = dir
		binary.path = filepath.Join(dir, "soracached")
		out, err := exec.Command("go", "build", "-o", binary.path, "github.com/soracache/soracache/cmd/soracached").CombinedOutput()
		if err != nil {
			binary.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// startServer starts a real server and returns its URL.
func startServer(t *testing.T, args ...string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(soracached(t), append([]string{"serve", "--listen", addr}, args...)...)
	var log proctest.Output
	cmd.Stdout, cmd.Stderr = &log, &log
	p := proctest.Start(t, cmd)
	t.Cleanup(func() {
		p.Signal(syscall.SIGTERM)
		<-p.Done()
		if t.Failed() {
			t.Logf("server %s:\n%s", addr, log.String())
		}
	})
	url = "http://" + addr
	eventually(t, 10*time.Second, "the server is ready", func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return url
}

// Ten real client processes of three hundred callers each, on three nodes that
// share one Redis, and one cold key: its loader runs once, and nobody waits for
// much longer than it takes. (Ten processes with the race detector on a busy
// machine may well be slower than what a client of the default timeout lets the
// service take, before it loads by itself: there, they have more.)
func TestOneLoadAmongProcesses(t *testing.T) {
	const processes, callers, load = 10, 300, 200 * time.Millisecond
	f := startFleet(t, 3, redistest.Standalone(t).URL())
	var took sample
	var timeout time.Duration
	if !full() {
		timeout = 10 * time.Second
	}
	for round := range count(3, 20) {
		key := fmt.Sprint("cold", round)
		var ps []*process
		for range processes {
			ps = append(ps, startClient(t, job{URL: f.urls(), Key: key, Callers: callers, Load: load, Timeout: timeout}))
		}
		for _, p := range ps {
			if _, err := io.WriteString(p.stdin, "go\n"); err != nil {
				t.Fatal(err)
			}
		}
		var all done
		var here sample
		for _, p := range ps {
			d := p.result(t)
			all.Loads += d.Loads
			all.Right += d.Right
			all.Errors = append(all.Errors, d.Errors...)
			for _, d := range d.Took {
				took.add(d)
				here.add(d)
			}
		}
		t.Logf("round %d: %d loads, %d callers answered, %d errors; %s", round, all.Loads, all.Right, len(all.Errors), &here)
		if all.Loads != 1 || all.Right != processes*callers || len(all.Errors) > 0 {
			t.Errorf("%d loads, %d right answers, errors %v; want 1 load and %d right answers", all.Loads, all.Right, all.Errors, processes*callers)
		}
	}
	t.Logf("all: %s", &took)
	if full() && took.at(0.99) >= 300*time.Millisecond {
		t.Errorf("the 99th percentile of all callers is %s: want less than 300ms", took.at(0.99))
	}
}

func rawClient(url string) soracachev1connect.CacheServiceClient {
	return soracachev1connect.NewCacheServiceClient(&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}, url)
}

// A thousand raw Gets on two nodes, without a client that would deduplicate
// them: there is never more than one lease at a time.
func TestOneLeaseForRawGets(t *testing.T) {
	redis := redistest.Standalone(t)
	var clients []soracachev1connect.CacheServiceClient
	for range 2 {
		clients = append(clients, rawClient(startServer(t, "--l2", redis.URL())))
	}
	var leases, hits, current, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			c := clients[i%2]
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			res, err := c.Get(ctx, &soracachev1.GetRequest{Key: "cold", Lease: true, Wait: durationpb.New(30 * time.Second)})
			if err != nil {
				t.Error(err)
				return
			}
			if len(res.GetLease()) == 0 {
				if res.GetStatus() != soracachev1.Status_STATUS_HIT || string(res.GetValue()) != "v" {
					t.Errorf("caller %d: %v", i, res)
				}
				hits.Add(1)
				return
			}
			leases.Add(1)
			now := current.Add(1)
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			time.Sleep(200 * time.Millisecond) // the load
			current.Add(-1)
			filled, err := c.Fill(ctx, &soracachev1.FillRequest{Key: "cold", Lease: res.GetLease(), Value: []byte("v"), Ttl: durationpb.New(time.Minute)})
			if err != nil || !filled.GetStored() {
				t.Errorf("fill: %v, %v", filled, err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d leases in all, at most %d at a time, %d hits", leases.Load(), most.Load(), hits.Load())
	if leases.Load() != 1 || most.Load() != 1 || hits.Load() != 999 {
		t.Error("want 1 lease and 999 hits")
	}
}

// When the holder of a lease is killed, the next one takes over as soon as the
// lease has run out, and not before.
func TestNextTakesOverFromAKilledHolder(t *testing.T) {
	t.Parallel() // it mostly waits
	redis := redistest.Standalone(t)
	var urls []string
	for range 2 {
		urls = append(urls, startServer(t, "--l2", redis.URL()))
	}
	holder := startClient(t, job{URL: urls[0], Key: "k", Callers: 1, Load: time.Hour})
	if _, err := io.WriteString(holder.stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
	c := rawClient(urls[1])
	eventually(t, 5*time.Second, "the holder has the lease", func() bool {
		e, err := c.Explain(t.Context(), &soracachev1.ExplainRequest{Key: "k"})
		return err == nil && e.GetLeased()
	})
	holder.Kill()
	e, err := c.Explain(t.Context(), &soracachev1.ExplainRequest{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	left, began := e.GetLeaseFor().AsDuration(), time.Now()
	res, err := c.Get(t.Context(), &soracachev1.GetRequest{Key: "k", Lease: true, Wait: durationpb.New(30 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("the lease had %s left; taken over after %s", left.Round(time.Millisecond), took.Round(time.Millisecond))
	if len(res.GetLease()) == 0 || took < left-100*time.Millisecond || took > left+500*time.Millisecond {
		t.Errorf("not taken over when the lease ran out: %v", res)
	}
}
