package verify

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// site is where a node is reached.
type site struct {
	t       testing.TB
	url     string
	cache   soracachev1connect.CacheServiceClient
	cluster soracachev1connect.ClusterServiceClient
}

func newSite(t testing.TB, addr string) *site {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	h, url := &http.Client{Transport: transport}, "http://"+addr
	return &site{
		t: t, url: url,
		cache:   soracachev1connect.NewCacheServiceClient(h, url),
		cluster: soracachev1connect.NewClusterServiceClient(h, url),
	}
}

// daemon is a soracached process of a cluster. It can be ended, and started
// again on the same addresses.
type daemon struct {
	*site

	args []string
	log  *proctest.Output
	proc *proctest.Process
	// command makes the command of the process.
	command func(args []string) *exec.Cmd
}

// fleet is a cluster of them.
type fleet []*daemon

// startFleet starts processes over one Redis that know each other.
func startFleet(t *testing.T, count int, redisURL string, args ...string) fleet {
	t.Helper()
	var f fleet
	var gossip []string
	for range count {
		gossip = append(gossip, fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t)))
	}
	for i := range count {
		addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
		f = append(f, newDaemon(t, addr, append([]string{
			"--l2", redisURL, "--gossip-listen", gossip[i], "--join", strings.Join(gossip, ","),
		}, args...)))
	}
	f.start()
	return f
}

// newDaemon returns one that is not started.
func newDaemon(t *testing.T, addr string, args []string) *daemon {
	t.Helper()
	path := soracached(t)
	return &daemon{
		site:    newSite(t, addr),
		log:     &proctest.Output{},
		args:    append([]string{"serve", "--listen", addr}, args...),
		command: func(args []string) *exec.Cmd { return exec.Command(path, args...) },
	}
}

// start starts all of them and returns once they are ready and know each other.
func (f fleet) start() {
	for _, d := range f {
		d.start()
	}
	for _, d := range f {
		d.awaitReady()
		d.awaitMembers(len(f))
	}
}

func (f fleet) urls() string {
	var urls []string
	for _, d := range f {
		urls = append(urls, d.url)
	}
	return strings.Join(urls, ",")
}

func (d *daemon) start() {
	d.t.Helper()
	cmd := d.command(d.args)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	p, err := proctest.Launch(cmd)
	if err != nil {
		d.t.Fatal(err)
	}
	d.proc = p
	d.t.Cleanup(func() {
		p.Continue()
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.Done():
		case <-time.After(20 * time.Second):
			d.t.Errorf("%s does not end", d.url)
			p.Kill()
		}
		if d.t.Failed() {
			d.t.Logf("%s:\n%s", d.url, tail(d.log.String()))
			d.log = &proctest.Output{}
		}
	})
}

// tail is the end of a log.
func tail(log string) string { return log[max(0, len(log)-4096):] }

func (s *site) awaitReady() {
	s.t.Helper()
	eventually(s.t, 20*time.Second, s.url+" is ready", s.ready)
}

// ready asks the node whether it is.
func (s *site) ready() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// awaitMembers waits until the node knows so many that are alive.
func (s *site) awaitMembers(want int) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, fmt.Sprintf("%s knows %d members", s.url, want), func() bool { return s.members() == want })
}

func (s *site) members() (alive int) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	res, err := s.cluster.Members(ctx, &soracachev1.MembersRequest{})
	if err != nil {
		return 0
	}
	for _, m := range res.GetMembers() {
		if m.GetState() == soracachev1.MemberState_MEMBER_STATE_ALIVE {
			alive++
		}
	}
	return alive
}

func (d *daemon) kill() { d.proc.Kill() }

// terminate asks the process to end and waits until it has.
func (d *daemon) terminate() {
	d.t.Helper()
	d.proc.Signal(syscall.SIGTERM)
	if code := d.proc.ExitCode(d.t, 20*time.Second); code != 0 {
		d.t.Errorf("%s: exit code %d after SIGTERM", d.url, code)
	}
}

func (d *daemon) pause()  { d.proc.Pause() }
func (d *daemon) resume() { d.proc.Continue() }
