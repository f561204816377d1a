package redis

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]endpoint{
		"redis://localhost":                        {addrs: []string{"localhost:6379"}},
		"redis://localhost:7000":                   {addrs: []string{"localhost:7000"}},
		"redis://10.0.0.1/3":                       {addrs: []string{"10.0.0.1:6379"}, db: 3},
		"redis://[::1]:7000/":                      {addrs: []string{"[::1]:7000"}},
		"redis://[::1]":                            {addrs: []string{"[::1]:6379"}},
		"redis://:secret@h":                        {addrs: []string{"h:6379"}, password: "secret"},
		"rediss://cache:p%40ss%2Fw:x@h:1":          {tls: true, addrs: []string{"h:1"}, username: "cache", password: "p@ss/w:x"},
		"redis+cluster://a:1,b,[::1]:3":            {mode: cluster, addrs: []string{"a:1", "b:6379", "[::1]:3"}},
		"rediss+cluster://u:p@a:1":                 {mode: cluster, tls: true, addrs: []string{"a:1"}, username: "u", password: "p"},
		"redis+sentinel://a,b:2/main":              {mode: sentinel, addrs: []string{"a:26379", "b:2"}, master: "main"},
		"rediss+sentinel://u:p@a/main%20one/7":     {mode: sentinel, tls: true, addrs: []string{"a:26379"}, username: "u", password: "p", master: "main one", db: 7},
		"redis+cluster://c.example.com:6379/0":     {mode: cluster, addrs: []string{"c.example.com:6379"}},
		"redis://user:with%40at@host.example:6379": {addrs: []string{"host.example:6379"}, username: "user", password: "with@at"},
	} {
		got, err := parseURL(raw)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"", "localhost", "http://localhost", "redis:/h", "redis://", "redis://h:", "redis://h:0", "redis://h:70000",
		"redis://h:x", "redis://::1", "redis://[::1", "redis://a,b", "redis://h/x", "redis://h/-1", "redis://h/01",
		"redis://h/1/2", "redis://h?db=1", "redis://h#1", "redis://u:%zz@h", "redis+cluster://a,,b", "redis+cluster://a/1",
		"redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a/m/x", "embedded:/tmp",
	} {
		_, err := parseURL(raw)
		if !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestURLErrorsKeepThePassword(t *testing.T) {
	for _, raw := range []string{
		"redis://u:hunter2@h:x", "redis://u:hunter2@a,b", "redis://u:hunter2%zz@h", "gopher://u:hunter2@h", "redis://u:hunter2@h/x?y",
		"redis://:hunter2", "redis://u:hunter2", "redis://h/hunter2", "redis://:hunter2/x@h", "redis://:x/hunter2@h", "redis+sentinel://a/m/hunter2",
	} {
		if _, err := parseURL(raw); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

// TestPasswordApart: a password may be kept apart from the URL, but not be in both.
func TestPasswordApart(t *testing.T) {
	c := Config{URL: "redis://app@localhost", Password: "hunter2"}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	e, err := parseURL(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := e.client(c.withDefaults()).(*goredis.Client)
	defer client.Close()
	if o := client.Options(); o.Username != "app" || o.Password != "hunter2" {
		t.Errorf("it presents itself as %s with %q", o.Username, o.Password)
	}
	c.URL = "redis://app:other@localhost"
	if err := c.Validate(); !errors.Is(err, soracache.ErrInvalid) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "other@") {
		t.Errorf("two passwords: %v", err)
	}
}

func TestConfigValidate(t *testing.T) {
	good := Config{URL: "redis://localhost"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"no URL":           func(c *Config) { c.URL = "" },
		"brace in prefix":  func(c *Config) { c.Prefix = "a{b}" },
		"glob in prefix":   func(c *Config) { c.Prefix = "a*" },
		"long prefix":      func(c *Config) { c.Prefix = strings.Repeat("x", 65) },
		"no tag records":   func(c *Config) { c.Retention = l2.Retention{KeyRecords: 1, Age: time.Second} },
		"no key records":   func(c *Config) { c.Retention = l2.Retention{TagRecords: 1, Age: time.Second} },
		"no retention":     func(c *Config) { c.Retention = l2.Retention{TagRecords: 1, KeyRecords: 1} },
		"TLS in clear":     func(c *Config) { c.TLS = &tls.Config{MinVersion: tls.VersionTLS12} },
		"negative pool":    func(c *Config) { c.PoolSize = -1 },
		"negative timeout": func(c *Config) { c.Timeout = -1 },
		"negative dial":    func(c *Config) { c.DialTimeout = -1 },
	} {
		c := good
		change(&c)
		if err := c.Validate(); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
		if s, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", what)
			_ = s.Close()
		}
	}
	ring := goredis.NewRing(&goredis.RingOptions{})
	defer ring.Close()
	if _, err := New(ring, Config{}); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("a ring: %v", err)
	}
}

func TestRequestsThatCanNeverBe(t *testing.T) {
	s := openAt(t, Config{URL: "redis://127.0.0.1:1"}) // never reached
	ctx := context.Background()
	good := l2.Partition{Namespace: "shop", Count: 1}
	long := strings.Repeat("x", maxName+1)
	partitions := []l2.Partition{{}, {Namespace: "shop"}, {Namespace: "Shop", Count: 1}, {Namespace: "a}b", Count: 1},
		{Namespace: "shop", Index: 2, Count: 2}, {Namespace: "shop", Count: 1025}}
	for _, p := range partitions {
		if a := s.Since(ctx, []l2.SinceRequest{{Partition: p}})[0]; !errors.Is(a.Err, soracache.ErrInvalid) {
			t.Errorf("%+v: %v", p, a.Err)
		}
	}
	for _, stamp := range []soracache.Stamp{{Epoch: 1 << 52}, {Epoch: 1, Position: 1 << 53}} {
		if a := s.Since(ctx, []l2.SinceRequest{{Partition: good, Since: stamp}})[0]; !errors.Is(a.Err, soracache.ErrInvalid) {
			t.Errorf("%+v: %v", stamp, a.Err)
		}
	}
	if a := s.Read(ctx, []l2.ReadRequest{{Partition: good, Keys: []l2.ReadKey{{Key: long}}}})[0]; !errors.Is(a.Err, soracache.ErrInvalid) {
		t.Errorf("read: %v", a.Err)
	}
	for what, targets := range map[string][]soracache.Target{
		"nothing": nil, "long": {soracache.Tag(long)}, "unknown": {{Kind: 9, Name: "x"}},
	} {
		if a := s.Invalidate(ctx, []l2.InvalidateRequest{{Partition: good, Targets: targets}})[0]; !errors.Is(a.Err, soracache.ErrInvalid) {
			t.Errorf("invalidate %s: %v", what, a.Err)
		}
	}
	put := func(e soracache.Entry) l2.WriteRequest {
		return l2.WriteRequest{Partition: good, Op: soracache.OpPut, Key: "k", Entry: e, Lifetime: hour}
	}
	forever := put(soracache.Entry{})
	forever.Lifetime = soracache.Lifetime{}
	for what, w := range map[string]l2.WriteRequest{
		"no op":         {Partition: good, Key: "k"},
		"long key":      {Partition: good, Op: soracache.OpRelease, Key: long},
		"no TTL":        forever,
		"long tag":      put(soracache.Entry{Tags: []string{long}}),
		"many tags":     put(soracache.Entry{Tags: make([]string, 1025)}),
		"much in tags":  put(soracache.Entry{Tags: []string{long[1:], long[2:], long[3:], long[4:]}}),
		"long etag":     put(soracache.Entry{ETag: long[:256]}),
		"long encoding": put(soracache.Entry{Encoding: long[:256]}),
	} {
		if a := s.Write(ctx, []l2.WriteRequest{w})[0]; !errors.Is(a.Err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", what, a.Err)
		}
	}
	for _, cursor := range []string{"x", "AAAA", "####"} {
		if _, _, err := s.ListKeys(ctx, good, "t", cursor, 1); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("list from %q: %v", cursor, err)
		}
		if _, _, err := s.Reclaim(ctx, good, "t", cursor); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("reclaim from %q: %v", cursor, err)
		}
		if _, _, err := s.Reclaim(ctx, good, "", cursor); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("reclaim all from %q: %v", cursor, err)
		}
	}
}

func TestScriptTexts(t *testing.T) {
	values := constants(1, l2.NewRetention())
	unused := make(map[string]bool)
	for name := range values {
		unused[name] = true
	}
	for s, pieces := range templates() {
		for _, piece := range pieces {
			delete(unused, piece)
		}
		text := scriptText(script(s), values)
		if strings.Contains(text, "@include") || strings.Contains(text, "\n--") || len(text) < 100 {
			t.Errorf("%s:\n%s", scriptNames[s], text)
		}
	}
	if len(unused) > 0 {
		t.Errorf("no script uses %v", unused)
	}
}

// packDelta composes what answer.lua does.
func packDelta(tags, keys, cleared uint64, marks ...mark) []byte {
	b := binary.BigEndian.AppendUint64(nil, tags)
	b = binary.BigEndian.AppendUint64(b, keys)
	b = binary.BigEndian.AppendUint64(b, cleared)
	for _, m := range marks {
		name := map[soracache.TargetKind]string{soracache.TargetKey: "k", soracache.TargetTag: "t"}[m.target.Kind] + m.target.Name
		b = binary.BigEndian.AppendUint64(b, uint64(m.at))
		b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
		b = append(b, name...)
	}
	return b
}

func TestDecodeDelta(t *testing.T) {
	tag := func(at soracache.Position, name string) mark { return mark{at, soracache.Tag(name)} }
	key := func(at soracache.Position, name string) mark { return mark{at, soracache.Key(name)} }
	odd := func(at soracache.Position, member string) mark { return mark{at, soracache.Target{Name: member}} }
	var many, big []mark
	for i := range 65 {
		many = append(many, tag(soracache.Position(100+i), strconv.Itoa(i)))
	}
	for i := range 200 {
		big = append(big, tag(100, strconv.Itoa(i)))
	}
	for what, c := range map[string]struct {
		packed []byte
		want   string // position:targets
		more   bool
	}{
		"nothing":                     {packDelta(0, 0, 0), "", false},
		"merged ascending":            {packDelta(0, 0, 0, tag(1, "a"), tag(3, "c"), key(2, "b")), "1:1 2:1 3:1", false},
		"one record, three kinds":     {packDelta(0, 0, 7, tag(7, "a"), key(7, "b")), "7:3", false},
		"of a kind not known":         {packDelta(0, 0, 0, tag(1, "a"), odd(3, "?"), odd(5, ""), tag(5, "b"), key(9, "k")), "1:1 5:2 9:1", false},
		"not known, and cut":          {packDelta(4, 0, 0, tag(1, "a"), odd(4, "?"), odd(6, "?")), "1:1 4:1", true},
		"not known, cut, and a clear": {packDelta(4, 0, 6, odd(4, "?"), odd(5, "?")), "4:1", true},
		"a clear in between":          {packDelta(0, 0, 2, tag(1, "a"), tag(3, "c")), "1:1 2:1 3:1", false},
		"tags cut, keys after":        {packDelta(5, 0, 0, tag(5, "a"), tag(6, "b"), key(9, "k")), "5:1", true},
		"keys cut before tags":        {packDelta(0, 4, 9, tag(8, "a"), key(4, "k"), key(5, "l")), "4:1", true},
		"most, and one more":          {packDelta(163, 0, 0, many...), "100:1…163:1 (64)", true},
		"most":                        {packDelta(0, 0, 0, many[:64]...), "100:1…163:1 (64)", false},
		"big first":                   {packDelta(100, 0, 0, big...), "100:200", true},
		"big alone":                   {packDelta(0, 0, 0, big...), "100:200", false},
		"big second":                  {packDelta(0, 0, 0, append(big, key(99, "k"))...), "99:1", true},
		"big first, something after":  {packDelta(0, 0, 101, big...), "100:200", true},
	} {
		d := soracache.Delta{Epoch: 5}
		if err := decodeDelta(c.packed, &d); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var got []string
		for _, r := range d.Records {
			got = append(got, fmt.Sprintf("%d:%d", r.Position, len(r.Targets)))
			if r.Epoch != 5 || r.Prev != 0 {
				t.Errorf("%s: %+v", what, r)
			}
		}
		text := strings.Join(got, " ")
		if n := len(got); n > 10 {
			text = fmt.Sprintf("%s…%s (%d)", got[0], got[n-1], n)
		}
		if text != c.want || d.More != c.more {
			t.Errorf("%s: %s more %v, want %s more %v", what, text, d.More, c.want, c.more)
		}
	}
	whole := packDelta(0, 0, 0, tag(1, "abc"))
	for n := range whole {
		if n == deltaFixed {
			continue // a delta without records
		}
		if err := decodeDelta(whole[:n], &soracache.Delta{}); err == nil {
			t.Errorf("cut off after %d bytes, and read", n)
		}
	}
	for _, member := range []string{"", "x", "!abc"} {
		if _, ok := targetOf(member); ok {
			t.Errorf("%q names a target", member)
		}
	}
}

// FuzzAnswer feeds bytes to everything that reads what a script answered.
func FuzzAnswer(f *testing.F) {
	head := make([]byte, answerFixed)
	f.Add(head, []byte{}, []byte{})
	f.Add(append([]byte{flagDelta}, head[1:]...), packDelta(1, 0, 2, mark{1, soracache.Tag("a")}), []byte("x"))
	f.Add(make([]byte, answerFixed+keyBytes), []byte("an entry that is none, but longer than a head alone"), []byte{})
	f.Add(make([]byte, answerFixed+28), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, first, second, third []byte) {
		s := &Store{config: Config{}.withDefaults()}
		for _, reply := range []any{
			nil, int64(5), string(first), []any{}, []any{int64(1)}, []any{string(first)}, []any{string(first), int64(1)},
			[]any{string(first), nil}, []any{string(first), string(second)}, []any{string(first), string(second), string(third)},
		} {
			a, err := decodeAnswer(reply)
			if err != nil {
				continue
			}
			held := 0
			for i, r := range a.delta.Records {
				if i > 0 && (held >= l2.MaxDelta || a.delta.Records[i-1].Position >= r.Position) || len(r.Targets) == 0 {
					t.Fatalf("delta %+v", a.delta)
				}
				held += len(r.Targets)
			}
			decodeOperations(s, reply, a)
		}
	})
}

// decodeOperations reads an answer as that of every operation.
func decodeOperations(s *Store, reply any, a answer) {
	c := &call{partition: &partition{}, cmd: command{goredis.NewCmd(context.Background())}}
	c.cmd.SetVal(reply)
	s.readAnswer(c, []l2.ReadKey{{Key: "k"}}, nil)
	s.readAnswer(c, []l2.ReadKey{{Key: "k"}, {Key: "l"}}, nil)
	for _, op := range []soracache.WriteOp{soracache.OpFill, soracache.OpPut, soracache.OpRenew, soracache.OpRelease} {
		req := l2.WriteRequest{Op: op, Key: "k", Entry: soracache.Entry{Tags: []string{"t"}}}
		for _, script := range []script{scriptFill, scriptPut, scriptRenew} {
			_, _ = writeAnswer(script, req, a)
		}
	}
	_, _ = explanation(a, "k")
	_ = decodeFollowers(&l2.InvalidateAnswer{}, a.more)
	_, _, _ = a.listed()
	_, _, _ = a.reclaimed(walkReclaim)
}
