package gossip

import (
	"fmt"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	ok := func(c *Config) {}
	for what, test := range map[string]struct {
		change func(*Config)
		err    string
	}{
		"loopback":                   {ok, ""},
		"IPv6 loopback":              {func(c *Config) { c.Bind = "[::1]:7946" }, ""},
		"localhost":                  {func(c *Config) { c.Bind = "localhost:0" }, ""},
		"no port":                    {func(c *Config) { c.Bind = "127.0.0.1" }, ""},
		"no name":                    {func(c *Config) { c.Name = "" }, "needs a name"},
		"a long name":                {func(c *Config) { c.Name = strings.Repeat("n", 256) }, "at most 255"},
		"a long label":               {func(c *Config) { c.Label = strings.Repeat("l", 256) }, "at most 255"},
		"a long RPC address":         {func(c *Config) { c.RPCAddress = strings.Repeat("r", 256) }, "at most 255"},
		"no address":                 {func(c *Config) { c.Bind = "" }, "empty"},
		"a name to bind":             {func(c *Config) { c.Bind = "node.example.com:7946" }, "no IP address"},
		"no such port":               {func(c *Config) { c.Bind = "127.0.0.1:70000" }, "no such port"},
		"colons":                     {func(c *Config) { c.Bind = "1:2:3" }, "no address"},
		"plaintext off loopback":     {func(c *Config) { c.Bind = "10.0.0.1:7946" }, "key is required"},
		"plaintext everywhere":       {func(c *Config) { c.Bind = ":7946" }, "key is required"},
		"plaintext as wished":        {func(c *Config) { c.Bind, c.AllowPlaintext = "10.0.0.1:7946", true }, ""},
		"a key off loopback":         {func(c *Config) { c.Bind, c.Keys = ":7946", [][]byte{key(1)} }, ""},
		"AES-128 and 192":            {func(c *Config) { c.Keys = [][]byte{key(1)[:16], key(1)[:24]} }, ""},
		"a short key":                {func(c *Config) { c.Keys = [][]byte{key(1), key(1)[:10]} }, "key 2 has 10 bytes"},
		"all IPv6 addresses":         {func(c *Config) { c.Bind, c.Keys = "[::]:7946", [][]byte{key(1)} }, "must be given"},
		"all of them, one named":     {func(c *Config) { c.Bind, c.Keys, c.Advertise = "[::]:7946", [][]byte{key(1)}, "2001:db8::1" }, ""},
		"a bad address to advertise": {func(c *Config) { c.Advertise = "a:b:c" }, "no address"},
		"members to join":            {func(c *Config) { c.Join = []string{"node", "node:1", "10.0.0.1", "::1", "[::1]:1"} }, ""},
		"no member to join":          {func(c *Config) { c.Join = []string{""} }, "empty"},
		"a bad port to join":         {func(c *Config) { c.Join = []string{"node:http"} }, "no such port"},
		"negative bound":             {func(c *Config) { c.Bound = -1 }, "bound"},
		"negative pause":             {func(c *Config) { c.RejoinEvery = -1 }, "tried again"},
	} {
		c := Config{Name: "node", Bind: "127.0.0.1:7946"}
		test.change(&c)
		err := c.Validate()
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v, want %q", what, err, test.err)
		}
	}
}

// TestAdvertise: others are told the address that was asked for, by name or
// number, with its own port or the one that is listened on.
func TestAdvertise(t *testing.T) {
	names := newNames()
	names.set("node.test", "127.0.0.7")
	for advertise, want := range map[string]string{"node.test:99": "127.0.0.7:99", "127.0.0.8": "127.0.0.8:", "": "127.0.0.1:"} {
		c := configOf(t, "node")
		c.Advertise, c.Resolver = advertise, names
		if got := start(t, c).Address(); !strings.HasPrefix(got, want) {
			t.Errorf("to %q, others use %s, want %s", advertise, got, want)
		}
	}
	c := configOf(t, "node")
	c.Advertise, c.Resolver = "nobody.test", names
	if g, err := New(c); err == nil {
		g.Close()
		t.Error("it advertises a name that nobody has")
	}
}

// TestJoinFromLoopback: other machines cannot reach what listens on loopback, so
// it does not join there, and says why; unless they have another address of it.
func TestJoinFromLoopback(t *testing.T) {
	names := newNames()
	names.set("near.test", "127.0.0.7")
	names.set("far.test", "192.0.2.1")
	for advertise, want := range map[string]string{"": "127.0.0.7:1", "192.0.2.9": "127.0.0.7:1 192.0.2.1:1"} {
		c := configOf(t, "node")
		c.Advertise, c.Resolver, c.Join = advertise, names, []string{"near.test:1", "far.test:1"}
		g, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		found, err := g.resolve(t.Context())
		if got := strings.Trim(fmt.Sprint(found), "[]"); got != want {
			t.Errorf("advertising %q it would join %s, want %s", advertise, got, want)
		}
		if (err != nil) != (advertise == "") || err != nil && !strings.Contains(err.Error(), "192.0.2.1 is another machine") {
			t.Errorf("advertising %q: %v", advertise, err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}
