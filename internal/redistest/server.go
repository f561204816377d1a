package redistest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/soracache/soracache/internal/proctest"
)

// startTimeout is how long a server may take to answer, also on a machine that
// is busy with other tests.
const startTimeout = 20 * time.Second

// Option changes how a server is started.
type Option func(*options)

type options struct {
	config         []string // lines of redis.conf
	user, password string
	tls, mutualTLS bool
	replicas       bool
	sentinels      int
	proxy          *Proxy
	dir            string
	env            []string // of the process, beside what it inherits
}

// Config adds a line to the server's configuration, such as
// Config("maxmemory", "32mb"). By default nothing is saved to disk; what is
// configured here comes after the defaults and overrides them.
func Config(name string, values ...string) Option {
	return func(o *options) {
		quoted := make([]string, 0, len(values))
		for _, v := range values {
			quoted = append(quoted, strconv.Quote(v))
		}
		o.config = append(o.config, name+" "+strings.Join(quoted, " "))
	}
}

// Password protects the server by a password for the default user.
func Password(password string) Option {
	return func(o *options) {
		o.password = password
		o.config = append(o.config, fmt.Sprintf("requirepass %q", password), fmt.Sprintf("masterauth %q", password))
	}
}

// User makes an ACL user with the rules given, such as "~sora:*", "+@all", and
// has [Server.URL] and [Server.Client] use it. The default user can still do
// everything without a password.
func User(name, password string, rules ...string) Option {
	return func(o *options) {
		o.user, o.password = name, password
		o.config = append(o.config, fmt.Sprintf("user %s on >%s %s", name, password, strings.Join(rules, " ")))
	}
}

// TLS has the server listen with TLS only, with a certificate for 127.0.0.1
// and localhost from an authority of its own: see [Server.CAFile].
func TLS() Option { return func(o *options) { o.tls = true } }

// MutualTLS is [TLS] that also demands a client certificate: see
// [Server.ClientCertFile].
func MutualTLS() Option { return func(o *options) { o.tls, o.mutualTLS = true, true } }

// Server is one redis-server process.
type Server struct {
	// Addr is where it listens: 127.0.0.1 and a port that stays the same
	// across restarts.
	Addr string
	// Dir holds its configuration, its log and what it saves.
	Dir string
	// CAFile, ClientCertFile and ClientKeyFile are set with [TLS].
	CAFile, ClientCertFile, ClientKeyFile string

	opts     options
	sentinel bool

	mu   sync.Mutex // guards proc
	proc *proctest.Process
}

// Standalone starts a server that is stopped when the test ends.
func Standalone(t testing.TB, opts ...Option) *Server {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	return start(t, o, false)
}

// start finds a free port and starts a server on it. Another process may take
// the port between the look and the start: then it tries another one.
func start(t testing.TB, o options, sentinel bool) *Server {
	t.Helper()
	requireServer(t)
	if o.dir == "" {
		o.dir = tempDir(t)
	}
	s := &Server{Dir: o.dir, opts: o, sentinel: sentinel}
	if o.tls {
		s.makeCertificates(t)
	}
	var err error
	for range 5 {
		s.Addr = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		if err = s.launch(); err == nil {
			t.Cleanup(s.Kill)
			return s
		}
	}
	t.Fatalf("redis-server: %v", err)
	return nil
}

// tempDir is t.TempDir for servers that may be shared, and then outlive the
// test that asked for them first.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "redistest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// launch writes the configuration, starts the process and waits until it
// answers.
func (s *Server) launch() error {
	conf := filepath.Join(s.Dir, "redis.conf")
	// A sentinel rewrites its configuration: it keeps its own on a restart.
	if _, err := os.Stat(conf); err != nil || !s.sentinel {
		if err := os.WriteFile(conf, []byte(s.configuration()), 0o600); err != nil {
			return err
		}
	}
	args := []string{conf}
	if s.sentinel {
		args = append(args, "--sentinel")
	}
	p, err := s.spawn(args)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	if err := s.awaitReady(p); err != nil {
		p.Kill()
		return fmt.Errorf("%w\n%s", err, s.Log())
	}
	return nil
}

// spawn starts the process; its output is appended to the log.
func (s *Server) spawn(args []string) (*proctest.Process, error) {
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(serverBinary(), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), s.opts.env...)
	return proctest.Launch(cmd)
}

func (s *Server) configuration() string {
	_, port, _ := net.SplitHostPort(s.Addr)
	lines := []string{"bind 127.0.0.1", "protected-mode no", "dir " + s.Dir, "daemonize no"}
	if s.opts.tls {
		lines = append(lines, "port 0", "tls-port "+port, "tls-ca-cert-file "+s.CAFile,
			"tls-cert-file "+filepath.Join(s.Dir, "server.pem"), "tls-key-file "+filepath.Join(s.Dir, "server.key"))
		if !s.opts.mutualTLS {
			lines = append(lines, "tls-auth-clients no")
		}
	} else {
		lines = append(lines, "port "+port)
	}
	if !s.sentinel {
		lines = append(lines, `save ""`, "appendonly no", "repl-diskless-sync yes", "repl-diskless-sync-delay 0",
			"repl-diskless-load swapdb")
	}
	return strings.Join(append(lines, s.opts.config...), "\n") + "\n"
}

func (s *Server) awaitReady(p *proctest.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := s.ping(ctx)
		// Any reply of the right process will do: also that access is denied.
		if err == nil || isReply(err) && !strings.HasPrefix(err.Error(), "LOADING") {
			if !p.Running() {
				return errors.New("another server holds the port")
			}
			return nil
		}
		select {
		case <-p.Done():
			return errors.New("exited at once")
		case <-ctx.Done():
			return fmt.Errorf("no answer in %s: %w", startTimeout, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ping first looks whether anybody listens: the client would log every
// connection that is refused.
func (s *Server) ping(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	_ = conn.Close()
	c := s.newClient()
	defer func() { _ = c.Close() }()
	return c.Ping(ctx).Err()
}

func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// URL is redis:// or rediss:// with user, password and address.
func (s *Server) URL() string {
	u := url.URL{Scheme: "redis", Host: s.Addr}
	if s.opts.tls {
		u.Scheme = "rediss"
	}
	if s.opts.password != "" {
		u.User = url.UserPassword(s.opts.user, s.opts.password)
	}
	return u.String()
}

// newClient returns a client that its caller closes.
func (s *Server) newClient() *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: s.Addr, Username: s.opts.user, Password: s.opts.password, TLSConfig: s.TLSConfig(),
		ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: 4, DialTimeout: time.Second,
		DialerRetries: 1, DisableIdentity: true,
	})
}

// Client returns a client of the server that is closed when the test ends.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	c := s.newClient()
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Do runs one command on a fresh connection and returns its answer; it fails
// the test on an error.
func (s *Server) Do(t testing.TB, args ...any) any {
	t.Helper()
	answer, err := s.try(args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return answer
}

// try is Do that returns the error; a nil answer is no error.
func (s *Server) try(args ...any) (any, error) {
	c := s.newClient()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	answer, err := c.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return answer, err
}

// TLSConfig trusts the server's authority and offers the client certificate;
// it is nil without [TLS].
func (s *Server) TLSConfig() *tls.Config {
	if !s.opts.tls {
		return nil
	}
	cfg, err := clientTLS(s.CAFile, s.ClientCertFile, s.ClientKeyFile)
	if err != nil {
		panic(err) // files that makeCertificates has just written
	}
	return cfg
}

// Kill ends the process by SIGKILL, as a crash would, and returns once it is
// gone. Killing it twice is harmless.
func (s *Server) Kill() {
	if p := s.process(); p != nil {
		p.Kill()
	}
}

// Shutdown ends the process by SIGTERM, upon which it saves if it is
// configured to, and returns once it is gone.
func (s *Server) Shutdown() {
	if p := s.process(); p != nil {
		p.Signal(syscall.SIGTERM)
		<-p.Done()
	}
}

// Restart kills the process if it runs and starts it again, on the same port
// and in the same directory: it loads what it had saved, if it saves.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill()
	if err := s.launch(); err != nil {
		t.Fatalf("restart of redis-server: %v", err)
	}
}

// RestartEmpty is [Server.Restart] without anything that was saved.
func (s *Server) RestartEmpty(t testing.TB) {
	t.Helper()
	s.Kill()
	for _, name := range []string{"dump.rdb", "appendonlydir"} {
		if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.Restart(t)
}

// Pause stops the process by SIGSTOP: connections stay open and nothing is
// answered until [Server.Continue].
func (s *Server) Pause() { s.process().Pause() }

// Continue ends a [Server.Pause].
func (s *Server) Continue() { s.process().Continue() }

// Running reports whether the process runs (or is paused).
func (s *Server) Running() bool {
	p := s.process()
	return p != nil && p.Running()
}

// Log returns the end of what the server logged.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	if len(b) > 4096 {
		b = b[len(b)-4096:]
	}
	return string(bytes.TrimSpace(b))
}

func (s *Server) process() *proctest.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// serverBinary is redis-server, or what SORACACHE_REDIS_SERVER names (such as
// valkey-server).
func serverBinary() string {
	if name := os.Getenv("SORACACHE_REDIS_SERVER"); name != "" {
		return name
	}
	return "redis-server"
}

func requireServer(t testing.TB) {
	t.Helper()
	_, err := exec.LookPath(serverBinary())
	if err == nil {
		return
	}
	if os.Getenv("SORACACHE_TEST_WITHOUT_REDIS") != "" {
		t.Skipf("%v, and SORACACHE_TEST_WITHOUT_REDIS is set", err)
	}
	t.Fatalf("%v: this test needs a real redis-server 7: run `make tools` "+
		"(or set SORACACHE_TEST_WITHOUT_REDIS=1 to skip)", err)
}

// FreePort returns a port below the range from which the system takes ports of
// outgoing connections, so that it is still free, for TCP and UDP, when a server
// is restarted on it.
func FreePort(t testing.TB) int {
	t.Helper()
	const low, high = 15_000, 32_000
	for range 100 {
		port := low + rand.IntN(high-low)
		if free(port) {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func free(port int) bool {
	var lc net.ListenConfig
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return false
	}
	_ = l.Close()
	c, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// Eventually polls a condition until it holds, and fails the test if it does
// not within the time given.
func Eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
