package command

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/soracache/soracache"
)

// parse returns the options of serve, or the error.
func parse(t *testing.T, args ...string) (serveCmd, error) {
	t.Helper()
	p := newProgram(&console{out: io.Discard, err: io.Discard}, nil)
	var serve serveCmd
	p.run = func(_ context.Context, r runner) error {
		if c, ok := r.(*serveCmd); ok {
			serve = *c
		}
		return nil
	}
	err := p.execute(t.Context(), args)
	return serve, err
}

func mustParse(t *testing.T, args ...string) serveCmd {
	t.Helper()
	c, err := parse(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func configFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "soracached.yaml")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDefaultsAreTheLibrarys(t *testing.T) {
	c := mustParse(t)
	if got, want := c.limits(), soracache.DefaultLimits(); got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
	if c.Listen != "127.0.0.1:7070" || c.L1MaxBytes != 256<<20 || c.Bound != time.Second || c.partitionsOf("x") != 1 {
		t.Errorf("got %+v", c)
	}
	if err := c.validate(); err != nil {
		t.Error(err)
	}
}

func TestServeIsTheDefaultCommand(t *testing.T) {
	if with, without := mustParse(t, "serve", "--listen", ":1"), mustParse(t, "--listen", ":1"); !reflect.DeepEqual(with, without) {
		t.Errorf("%+v\n%+v", with, without)
	}
}

// TestPrecedence sets each option in all three places, then in two, then in
// one: the command line comes before the environment, and that before the file.
func TestPrecedence(t *testing.T) {
	for _, c := range []struct {
		option, line, env, file string
		got                     func(serveCmd) any
		want                    [4]any // line, environment, file, default
	}{
		{"listen", "a:1", "b:1", "c:1", func(c serveCmd) any { return c.Listen }, [4]any{"a:1", "b:1", "c:1", "127.0.0.1:7070"}},
		{"l2", "redis://a", "redis://b", "redis://c", func(c serveCmd) any { return c.L2 },
			[4]any{"redis://a", "redis://b", "redis://c", ""}},
		{"l1-max-bytes", "1MiB", "2MiB", "3MB", func(c serveCmd) any { return int64(c.L1MaxBytes) },
			[4]any{int64(1 << 20), int64(2 << 20), int64(3e6), int64(256 << 20)}},
		{"bound", "1ms", "2ms", "3ms", func(c serveCmd) any { return c.Bound },
			[4]any{time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond, time.Second}},
		{"max-tags", "1", "2", "3", func(c serveCmd) any { return c.MaxTags }, [4]any{1, 2, 3, 64}},
		{"gossip-listen", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", func(c serveCmd) any { return c.gossipListen() },
			[4]any{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", ""}},
		{"join", "a,b", "c", "[d, e, f]", func(c serveCmd) any { return strings.Join(c.Join, " ") },
			[4]any{"a b", "c", "d e f", ""}},
		{"insecure", "true", "false", "true", func(c serveCmd) any { return c.Insecure }, [4]any{true, false, true, false}},
		{"log-format", "json", "text", "json", func(c serveCmd) any { return c.LogFormat }, [4]any{"json", "text", "json", "text"}},
		{"namespace-partitions", "a=1", "a=2;b=3", "{a: 4, c: 5}", func(c serveCmd) any {
			return [2]int{c.NamespacePartitions["a"], len(c.NamespacePartitions)}
		}, [4]any{[2]int{1, 1}, [2]int{2, 2}, [2]int{4, 2}, [2]int{0, 0}}},
	} {
		t.Run(c.option, func(t *testing.T) {
			args := []string{"serve", "--config", configFile(t, c.option+": "+c.file)}
			t.Setenv(envName(c.option), c.env)
			check := func(what string, want any, args ...string) {
				t.Helper()
				if got := c.got(mustParse(t, args...)); got != want {
					t.Errorf("%s: %v, want %v", what, got, want)
				}
			}
			check("all three", c.want[0], append(args, "--"+c.option+"="+c.line)...)
			check("environment and file", c.want[1], args...)
			_ = os.Unsetenv(envName(c.option))
			check("file", c.want[2], args...)
			check("none", c.want[3])
		})
	}
}

func envName(option string) string {
	return "SORACACHE_" + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// TestEveryOptionHasAVariable holds the promise that each option can also be
// set by the environment: all of serve, and of the other commands those that
// are not about one call.
func TestEveryOptionHasAVariable(t *testing.T) {
	perCall := []string{
		"accept-unconfirmed", "tag", "key", "ttl", "keep", "l1-ttl", "encoding", "etag", "limit", "page-size",
		"page-token", "scopes", "namespaces", "ack", "settle", "file", "schema", "cluster", "nodes", "port", "no-restart",
	}
	options := 0
	for _, c := range newProgram(&console{}, nil).root.Commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			options++
			want := envName(f.Name)
			if c.Name() != "serve" && slices.Contains(perCall, f.Name) {
				want = ""
			}
			if got := note(f, noteVariable); got != want {
				t.Errorf("%s --%s: variable %q, want %q", c.Name(), f.Name, got, want)
			}
		})
	}
	if options < 60 {
		t.Errorf("only %d options were looked at", options)
	}
}

func TestConfigFileByEnvironment(t *testing.T) {
	t.Setenv("SORACACHE_CONFIG", configFile(t, "listen: a:1"))
	if c := mustParse(t); c.Listen != "a:1" {
		t.Errorf("listen %q", c.Listen)
	}
	t.Setenv("SORACACHE_CONFIG", filepath.Join(t.TempDir(), "absent.yaml"))
	if _, err := parse(t); err == nil {
		t.Error("an absent file is no error")
	}
	if _, err := parse(t, "get", "k"); err != nil {
		t.Error("a command without --config looks at the file:", err)
	}
}

func TestConfigFileNestsNames(t *testing.T) {
	c := mustParse(t, "serve", "--config", configFile(t, `
# a comment
tls: {cert: c.pem, key: k.pem}
l2:
  max-bytes: 64MiB
log:
  level: debug
insecure: true
namespace-partitions:
  shop: 4
`))
	if c.TLSCert != "c.pem" || c.TLSKey != "k.pem" || c.L2MaxBytes != 64<<20 || !c.Insecure ||
		c.LogLevel.String() != "DEBUG" || !maps.Equal(c.NamespacePartitions, map[string]int{"shop": 4}) {
		t.Errorf("got %+v", c)
	}
	if c := mustParse(t, "serve", "--config", configFile(t, "")); c.Listen != "127.0.0.1:7070" {
		t.Errorf("an empty file: %+v", c)
	}
}

func TestBadOptions(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		args   []string
		want   string
		not    string // what must not be shown
	}{
		"unknown option in the file":   {config: "lisen: a:1", want: "line 1: there is no option lisen"},
		"unknown nested option":        {config: "tls:\n  cret: x", want: "line 2: there is no option tls-cret"},
		"config in the file":           {config: "config: x", want: "no option config"},
		"given twice":                  {config: "tls-cert: a\ntls: {cert: b}", want: "line 2: tls-cert is given twice"},
		"a list of options":            {config: "- listen", want: "want option: value"},
		"a bad value in the file":      {config: "bound: soon", want: "bound"},
		"no YAML":                      {config: "a: [", want: "yaml"},
		"a nested list":                {config: "listen: [[1]]", want: "want plain values"},
		"a mapping in a mapping":       {config: "namespace-partitions: {a: {b: 1}}", want: "want plain values"},
		"unknown flag":                 {args: []string{"--lisen=x"}, want: "unknown flag"},
		"no size":                      {args: []string{"--l1-max-bytes=lots"}, want: "not a size"},
		"no duration":                  {args: []string{"--bound=1"}, want: "duration"},
		"no log format":                {args: []string{"--log-format=xml"}, want: "must be one of"},
		"no log level":                 {args: []string{"--log-level=loud"}, want: "loud"},
		"stray argument":               {args: []string{"serve", "now"}, want: "unexpected argument"},
		"partitions out of range":      {args: []string{"--partitions=0"}, want: "--partitions"},
		"too many partitions":          {args: []string{"--namespace-partitions=a=2000"}, want: "want 1 to 1024"},
		"partitions of a bad name":     {args: []string{"--namespace-partitions=A=2"}, want: "namespace"},
		"a limit out of range":         {args: []string{"--max-tags=0"}, want: "tags per entry"},
		"half of TLS":                  {args: []string{"--tls-cert=x"}, want: "--tls-key"},
		"off loopback":                 {args: []string{"--listen=:7070"}, want: "refusing to listen"},
		"no address":                   {args: []string{"--listen=nowhere"}, want: "host:port"},
		"a store of no kind":           {args: []string{"--l2=mysql://x"}, want: "mysql"},
		"a store without a folder":     {args: []string{"--l2=embedded:"}, want: "directory"},
		"embedded store with a prefix": {args: []string{"--l2=embedded:x", "--key-prefix=p"}, want: "--key-prefix"},
		"Redis with embedded's room":   {args: []string{"--l2=redis://x", "--l2-max-bytes=1GiB"}, want: "--l2-max-bytes"},
		"absent URL file":              {args: []string{"--l2-url-file=/absent"}, want: "/absent"},
		"a URL and a file for it":      {args: []string{"--l2=redis://u:hunter2@x", "--l2-url-file=/absent"}, want: "a file for it too", not: "hunter2"},
		"a password for no Redis":      {args: []string{"--l2=embedded:x", "--l2-password-file=options_test.go"}, want: "one line"},
		"a host that is a password":    {args: []string{"--l2=redis://:hunter2"}, want: "host 1 is malformed", not: "hunter2"},
		"a node that is none":          {args: []string{"get", "k", "--server=ftp://u:hunter2@x"}, want: "--server", not: "hunter2"},
		"absent CA of Redis":           {args: []string{"--l2=rediss://x", "--l2-ca=/absent"}, want: "/absent"},
		"no keys off loopback":         {args: []string{"--gossip-listen=0.0.0.0:0"}, want: "--gossip-key-file"},
		"absent gossip keys":           {args: []string{"--join=127.0.0.1:1", "--gossip-key-file=/absent"}, want: "/absent"},
		"gossip keys without gossip":   {args: []string{"--gossip-key-file=/absent"}, want: "--gossip-listen or --join"},
		"a name to gossip on":          {args: []string{"--gossip-listen=nowhere:1"}, want: "no IP address"},
		"a bad address to join":        {args: []string{"--join=a:b"}, want: "a:b"},
		"dev without nodes":            {args: []string{"dev", "--nodes=0"}, want: "--nodes"},
		"dev with too many nodes":      {args: []string{"dev", "--nodes=65"}, want: "--nodes"},
		"dev on a port out of range":   {args: []string{"dev", "--port=70000"}, want: "--port"},
		"dev over an embedded store":   {args: []string{"dev", "--l2=embedded:x"}, want: "needs a Redis"},
		"absent tokens":                {args: []string{"--listen=127.0.0.1:0", "--l2=redis://127.0.0.1:1", "--auth-tokens=/absent"}, want: "/absent"},
	} {
		t.Run(name, func(t *testing.T) {
			args := c.args
			if c.config != "" {
				args = append(args, "--config", configFile(t, c.config))
			}
			got := invoke(t, "", args...)
			if got.code != exitUsage || !strings.Contains(got.err, c.want) || c.not != "" && strings.Contains(got.err, c.not) {
				t.Errorf("code %d, message %q; want %d and %q", got.code, got.err, exitUsage, c.want)
			}
		})
	}
}

func TestPasswordsAreNotShown(t *testing.T) {
	for in, want := range map[string]string{
		"redis://u:p@h:1/2":                  "redis://h:1/2",
		"redis+sentinel://u:p@w@h:1,i:2/m":   "redis+sentinel://h:1,i:2/m",
		"redis+cluster://h:1,i:2":            "redis+cluster://h:1,i:2",
		"rediss://:secret@cache.example.com": "rediss://cache.example.com",
		"redis://:se/cret@h":                 "redis://h",
		"u:secret@h":                         "h",
	} {
		if got := withoutPassword(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestHalfWrittenKeys: a key that was cut off may be a shorter one, so that the
// last line must have an end.
func TestHalfWrittenKeys(t *testing.T) {
	text := strings.Repeat("ab", 32) + "\n" + strings.Repeat("cd", 32) + "\n"
	for size := range len(text) {
		if keys, err := parseKeys(strings.NewReader(text[:size])); err == nil && text[size-1] != '\n' {
			t.Errorf("%d bytes are %d keys", size, len(keys))
		}
	}
	if keys, err := parseKeys(strings.NewReader(text)); len(keys) != 2 || err != nil {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

// TestSecretsFromFiles: what others must not see on the command line can come from
// files.
func TestSecretsFromFiles(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	c := mustParse(t, "--l2-url-file", file("redis+sentinel://app@h/m\n"), "--l2-password-file", file("hunter2"),
		"--l2-sentinel-password-file", file("hunter3\r\n"))
	url, password, sentinel, err := c.secrets()
	if url != "redis+sentinel://app@h/m" || password != "hunter2" || sentinel != "hunter3" || err != nil {
		t.Errorf("%q %q %q %v", url, password, sentinel, err)
	}
	for _, text := range []string{"", "\n", "two\nlines\n"} {
		if got, err := readSecret(file(text)); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
}
