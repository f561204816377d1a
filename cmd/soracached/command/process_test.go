package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
)

// buildDir is where build puts the binary.
var buildDir string

// build returns the real binary, built once for all tests of this file into a
// folder that TestMain removes.
var build = sync.OnceValues(func() (string, error) {
	var err error
	if buildDir, err = os.MkdirTemp("", "soracached-"); err != nil {
		return "", err
	}
	binary := filepath.Join(buildDir, "soracached")
	out, err := exec.Command("go", "build", "-o", binary, "..").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return binary, err
})

func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// daemon is a soracached that serves.
type daemon struct {
	*proctest.Process
	url      string
	out, log *proctest.Output
}

var servesOn = regexp.MustCompile(`serves on (\S+),`)

// startDaemon starts the binary with a free port, a cache folder, and what env
// adds, and waits until it serves.
func startDaemon(t *testing.T, cache string, env []string, args ...string) *daemon {
	t.Helper()
	d := launchDaemon(t, cache, env, args...)
	redistest.Eventually(t, 20*time.Second, "the node serves", func() bool {
		if !d.Running() {
			t.Fatalf("ended: %s", d.log)
		}
		found := servesOn.FindStringSubmatch(d.out.String())
		if found != nil {
			d.url = found[1]
		}
		return found != nil
	})
	return d
}

func launchDaemon(t *testing.T, cache string, env []string, args ...string) *daemon {
	t.Helper()
	d := &daemon{out: &proctest.Output{}, log: &proctest.Output{}}
	cmd := exec.Command(binary(t), args...)
	cmd.Stdout, cmd.Stderr = d.out, d.log
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache, "HOME="+cache, "SORACACHE_LISTEN=127.0.0.1:0")
	cmd.Env = append(cmd.Env, env...)
	d.Process = proctest.Start(t, cmd)
	return d
}

// operate runs an operator's command as a process of its own.
func (d *daemon) operate(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(t.Context(), binary(t), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	cmd.Env = append(os.Environ(), "SORACACHE_SERVER="+d.url, "SORACACHE_NAMESPACE=shop")
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// expect runs an operator's command and compares what it prints.
func (d *daemon) expect(t *testing.T, code int, out string, args ...string) {
	t.Helper()
	if got := d.operate(t, "", args...); got.code != code || got.out != out {
		t.Errorf("%v: %+v, want code %d and %q", args, got, code, out)
	}
}

// post does what curl -d does, and returns the status and the answer.
func (d *daemon) post(t *testing.T, method, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		d.url+"/soracache.v1.CacheService/"+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("content-type", "application/json")
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer := map[string]any{}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// status returns the status and body of a GET.
func (d *daemon) status(t *testing.T, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

// TestOnlyWhatIsUsedIsLinked: one call of a method by a name that is not known when the
// program is linked, as in a template, has the linker keep every exported method of
// every type, which is a third of the binary.
func TestOnlyWhatIsUsedIsLinked(t *testing.T) {
	linked, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if unused := "v9.cmdable.GeoAdd"; bytes.Contains(linked, []byte(unused)) {
		t.Errorf("the binary of %d bytes has %s, which nobody calls: go build -ldflags=-dumpdep tells of a <ReflectMethod>", len(linked), unused)
	}
	if used := "v9.cmdable.GetRange"; !bytes.Contains(linked, []byte(used)) {
		t.Errorf("%s has another name now, and so has what nobody calls", used)
	}
}

// TestServeWithoutArguments is the newcomer's first minute.
func TestServeWithoutArguments(t *testing.T) {
	cache := t.TempDir()
	d := startDaemon(t, cache, nil)
	if _, err := os.Stat(filepath.Join(cache, "soracache")); err != nil {
		t.Error("no store in the user's cache folder:", err)
	}
	t.Run("curl lines of the contract", func(t *testing.T) {
		for _, call := range []struct{ method, body, field, want string }{
			{"Set", `{"namespace":"shop","key":"k","value":"aGk=","tags":["t"],"ttl":"300s"}`, "", ""},
			{"Get", `{"namespace":"shop","key":"k"}`, "status", "STATUS_HIT"},
			{"Get", `{"namespace":"shop","key":"k"}`, "value", "aGk="},
			{"Invalidate", `{"namespace":"shop","tags":["t"]}`, "", ""},
			{"Get", `{"namespace":"shop","key":"k"}`, "status", "STATUS_MISS"},
		} {
			status, answer := d.post(t, call.method, call.body)
			if status != http.StatusOK || call.field != "" && answer[call.field] != call.want {
				t.Errorf("%s %s: %d %v, want %s", call.method, call.body, status, answer, call.want)
			}
		}
	})
	t.Run("the lines that it prints", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip(err)
		}
		_, lines, _ := strings.Cut(d.out.String(), "try:\n")
		out, err := exec.CommandContext(t.Context(), "sh", "-ec", strings.ReplaceAll(lines, "  curl ", "curl -sf ")).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "STATUS_HIT") {
			t.Errorf("%s\n%v: %s", lines, err, out)
		}
	})
	t.Run("grpcurl", func(t *testing.T) { testGrpcurl(t, d) })
	t.Run("operator's commands", func(t *testing.T) { testOperatorsCommands(t, d) })
	t.Run("health and metrics", func(t *testing.T) {
		for path, want := range map[string]string{"/healthz": "", "/readyz": "", "/metrics": "soracache_hits_total"} {
			if status, body := d.status(t, path); status != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s: %d %.200s", path, status, body)
			}
		}
	})
	t.Run("a second process on the same store", func(t *testing.T) {
		second := launchDaemon(t, cache, nil)
		if code := second.ExitCode(t, 20*time.Second); code == 0 || !strings.Contains(second.log.String(), "soracache") {
			t.Errorf("code %d: %s", code, second.log)
		}
		t.Logf("%s", second.log)
	})
}

// testGrpcurl drives the node by the tool that people use, over reflection.
func testGrpcurl(t *testing.T, d *daemon) {
	tool := filepath.Join(os.Getenv("SORACACHE_TEST_TOOLS"), "grpcurl")
	if os.Getenv("SORACACHE_TEST_TOOLS") == "" {
		t.Skip("SORACACHE_TEST_TOOLS is not set: make test sets it")
	}
	call := func(body, method string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), tool, "-plaintext", "-d", body, strings.TrimPrefix(d.url, "http://"), method).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	call(`{"namespace":"shop","key":"g","value":"aGk=","ttl":"300s"}`, "soracache.v1.CacheService/Set")
	if out := call(`{"namespace":"shop","key":"g"}`, "soracache.v1.CacheService/Get"); !strings.Contains(out, `"value": "aGk="`) {
		t.Error(out)
	}
	if out := call(`{}`, "grpc.health.v1.Health/Check"); !strings.Contains(out, "SERVING") {
		t.Error(out)
	}
}

func testOperatorsCommands(t *testing.T, d *daemon) {
	d.expect(t, 0, "stored a: 5 bytes, fresh for 5m0s\n", "set", "a", "value", "--tag", "x", "--tag", "y")
	if got := d.operate(t, "from a pipe", "set", "b", "-t", "x", "--ttl", "1h"); got.code != 0 {
		t.Error(got)
	}
	d.expect(t, 0, "value", "get", "a")
	d.expect(t, 0, "from a pipe", "get", "b")
	d.expect(t, 1, "", "get", "absent")
	d.expect(t, 1, "", "get", "a", "-n", "other")
	d.expect(t, 2, "", "get", "")
	keys := d.operate(t, "", "keys", "--tag", "x", "--page-size", "1", "--json")
	var listed struct{ Keys []string }
	if err := json.Unmarshal([]byte(keys.out), &listed); err != nil || len(listed.Keys) != 2 {
		t.Error(keys)
	}
	if got := d.operate(t, "", "explain", "a"); got.code != 0 || !strings.Contains(got.out, "hit in l") {
		t.Error(got)
	}
	d.expect(t, 0, "invalidated y\n", "invalidate", "--tag", "y")
	d.expect(t, 1, "", "get", "a")
	d.expect(t, 0, "from a pipe", "get", "b")
	d.expect(t, 0, "removed b\n", "rm", "b")
	d.expect(t, 1, "", "get", "b")
	d.expect(t, 0, "stored c: 1 byte, fresh for 5m0s\n", "set", "c", "1")
	d.expect(t, 0, "cleared namespace shop\n", "clear")
	d.expect(t, 1, "", "get", "c")
	stats := d.operate(t, "", "stats", "--json")
	var totals struct {
		Version string
		Totals  map[string]float64
	}
	if err := json.Unmarshal([]byte(stats.out), &totals); err != nil || len(totals.Totals) < 10 || totals.Version == "" {
		t.Error(stats)
	}
	if got := d.operate(t, "", "--version"); got.code != 0 || got.out != d.operate(t, "", "version").out {
		t.Errorf("--version: %+v", got)
	}
	if got := d.operate(t, "", "version"); got.code != 0 || !strings.HasPrefix(got.out, "soracached ") {
		t.Error(got)
	}
}

// TestKilledNodeComesBackWarm kills a node without warning. What it had stored
// is there when it is started again.
func TestKilledNodeComesBackWarm(t *testing.T) {
	cache := t.TempDir()
	d := startDaemon(t, cache, nil)
	for i := range 20 {
		d.expect(t, 0, "stored "+strconv.Itoa(i)+": 1 byte, fresh for 5m0s\n", "set", strconv.Itoa(i), "v", "-t", fmt.Sprint("t", i%2))
	}
	d.expect(t, 0, "invalidated t1\n", "invalidate", "-t", "t1")
	d.Kill()
	d = startDaemon(t, cache, nil)
	for i := range 20 {
		if i%2 == 0 {
			d.expect(t, 0, "v", "get", strconv.Itoa(i))
		} else {
			d.expect(t, 1, "", "get", strconv.Itoa(i))
		}
	}
}

// TestTermDrains parks a reader behind another's lease and ends the node: the
// reader still gets an answer, and the node exits with success.
func TestTermDrains(t *testing.T) {
	d := startDaemon(t, t.TempDir(), nil)
	if _, answer := d.post(t, "Get", `{"key":"k","lease":true}`); answer["lease"] == nil {
		t.Fatalf("no lease: %v", answer)
	}
	type reply struct {
		status int
		answer map[string]any
	}
	parked := make(chan reply, 1)
	go func() {
		status, answer := d.post(t, "Get", `{"key":"k","lease":true,"wait":"30s"}`)
		parked <- reply{status, answer}
	}()
	redistest.Eventually(t, 5*time.Second, "the reader is parked", func() bool {
		_, metrics := d.status(t, "/metrics")
		return strings.Contains(metrics, "\nsoracache_waits_total 1\n")
	})
	start := time.Now()
	d.Signal(syscall.SIGTERM)
	if got := <-parked; got.status != http.StatusOK || got.answer["status"] != "STATUS_MISS" {
		t.Errorf("the parked reader got %+v", got)
	}
	if code := d.ExitCode(t, 20*time.Second); code != 0 {
		t.Errorf("code %d: %s", code, d.log)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the drain took %s", took)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	d := startDaemon(t, t.TempDir(), nil, "--drain-delay", "1h")
	d.Signal(syscall.SIGTERM)
	redistest.Eventually(t, 10*time.Second, "the node is not ready", func() bool {
		status, _ := d.status(t, "/readyz")
		return status == http.StatusServiceUnavailable
	})
	if status, _ := d.post(t, "Get", `{"key":"k"}`); status != http.StatusOK {
		t.Errorf("a read during the delay: %d", status)
	}
	d.Signal(syscall.SIGTERM)
	if code := d.ExitCode(t, 10*time.Second); code != exitOther {
		t.Errorf("code %d", code)
	}
}

// TestAccess runs a node with TLS, client certificates and tokens, and replaces
// its tokens while it runs.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	certs := redistest.NewCertificates(t, dir)
	tokens := filepath.Join(dir, "tokens")
	newToken := func(scopes string) string {
		t.Helper()
		var made struct{ Token, Line string }
		if err := json.Unmarshal([]byte(invoke(t, "", "token", "ci", "--scopes", scopes, "--json").out), &made); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tokens, []byte(made.Line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return made.Token
	}
	token := newToken("read,write")
	d := startDaemon(t, t.TempDir(), []string{"SORACACHE_TLS_CERT=" + certs.ServerCertFile}, "serve", "--reload-every=1h",
		"--tls-key", certs.ServerKeyFile, "--tls-client-ca", certs.CAFile, "--auth-tokens", tokens)
	client := []string{"--ca", certs.CAFile, "--client-cert", certs.ClientCertFile, "--client-key", certs.ClientKeyFile}
	with := func(token string, args ...string) []string {
		return append(append(args, client...), "--token", token)
	}
	d.expect(t, 0, "stored k: 1 byte, fresh for 5m0s\n", with(token, "set", "k", "v")...)
	d.expect(t, 0, "v", with(token, "get", "k")...)
	d.expect(t, exitDenied, "", with(token, "stats")...)           // another scope
	d.expect(t, exitDenied, "", with("sora_WRONG", "get", "k")...) // another token
	d.expect(t, exitDenied, "", with("", "get", "k")...)
	d.expect(t, exitUnavailable, "", "get", "k", "--ca", certs.CAFile, "--token", token) // no client certificate

	next := newToken("read,admin")
	d.expect(t, exitDenied, "", with(next, "get", "k")...)
	d.Signal(syscall.SIGHUP)
	redistest.Eventually(t, 10*time.Second, "the new token is known", func() bool {
		return d.operate(t, "", with(next, "get", "k")...).code == 0
	})
	d.expect(t, exitDenied, "", with(token, "get", "k")...)
	if got := d.operate(t, "", with(next, "stats")...); got.code != 0 {
		t.Error(got)
	}
	if !strings.Contains(d.out.String(), "--cacert") || !strings.Contains(d.out.String(), "Bearer") {
		t.Errorf("the line to try: %s", d.out)
	}
}

// TestOverRedis takes Redis away from a node, and gives it back.
func TestOverRedis(t *testing.T) {
	store := redistest.Standalone(t, redistest.Password("secret"), redistest.Config("save", "900", "1"))
	d := startDaemon(t, t.TempDir(), []string{"SORACACHE_L2=" + store.URL()}, "--bound", "100ms", "--l2-timeout", "500ms")
	if strings.Contains(d.out.String()+d.log.String(), "secret") {
		t.Errorf("the password is shown: %s%s", d.out, d.log)
	}
	d.expect(t, 0, "stored k: 1 byte, fresh for 5m0s\n", "set", "k", "v")
	d.expect(t, 0, "v", "get", "k")
	store.Kill()
	redistest.Eventually(t, 10*time.Second, "the node is not ready", func() bool {
		status, _ := d.status(t, "/readyz")
		return status == http.StatusServiceUnavailable
	})
	d.expect(t, exitUnavailable, "", "get", "other")
	d.expect(t, exitUnavailable, "", "invalidate", "-t", "t")
	if status, _ := d.status(t, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	store.Restart(t)
	redistest.Eventually(t, 2*time.Second, "the service is back", func() bool {
		return d.operate(t, "", "get", "other").code == exitNoValue
	})
	d.Signal(syscall.SIGTERM)
	if code := d.ExitCode(t, 20*time.Second); code != 0 {
		t.Errorf("code %d: %s", code, d.log)
	}
}

// TestListenFailures starts nodes that cannot listen.
func TestListenFailures(t *testing.T) {
	d := startDaemon(t, t.TempDir(), nil)
	taken := strings.TrimPrefix(d.url, "http://")
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"taken":        {[]string{"--listen", taken}, exitUnavailable, "address already in use"},
		"off loopback": {[]string{"--listen", "0.0.0.0:0"}, exitUsage, "--insecure"},
	} {
		t.Run(name, func(t *testing.T) {
			second := launchDaemon(t, t.TempDir(), nil, c.args...)
			if code := second.ExitCode(t, 20*time.Second); code != c.code || !strings.Contains(second.log.String(), c.says) {
				t.Errorf("code %d: %s", code, second.log)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := invokeWith(ctx, false, "", "--listen", "127.0.0.1:0", "--l2", "embedded:"+t.TempDir()); got.code == exitOther {
		t.Errorf("an interrupted start: %+v", got)
	}
}
