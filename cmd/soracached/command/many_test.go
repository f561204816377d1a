package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
)

func TestRemoveListed(t *testing.T) {
	var list strings.Builder
	for i := range 1200 {
		_, _ = fmt.Fprintf(&list, "product:%d\r\n\n", i)
	}
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(strings.TrimRight(list.String(), "\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args     []string
		terminal bool
		node     *fakeNode
		code     int
		out, err string // err: how it ends
	}{
		"from standard input": {[]string{"rm", "--file", "-"}, false, &fakeNode{}, 0, "removed 1200 keys\n", ""},
		"from a file":         {[]string{"rm", "-f", file}, false, &fakeNode{}, 0, "removed 1200 keys\n", ""},
		"a person looks on":   {[]string{"rm", "-f", file}, true, &fakeNode{}, 0, "removed 1200 keys\n", "\r"},
		"a node is late, twice": {
			[]string{"rm", "-f", file, "--ack"}, false, &fakeNode{late: []string{"b:1"}}, 0,
			"removed 1200 keys; waited out, because they did not acknowledge it: b:1\n", "",
		},
		"as JSON": {[]string{"rm", "-f", file, "--json"}, false, &fakeNode{}, 0, strings.Repeat("{\"stamp\":\"cw==\"}\n", 3), ""},
		"it breaks off": {
			[]string{"rm", "-f", file}, false, &fakeNode{breaksAt: 3}, exitUnavailable, "",
			"1000 of 1200 keys are removed\nsoracached: unavailable: because\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			serveFake(t, c.node)
			got := invokeOn(t, c.terminal, list.String(), c.args...)
			if got.code != c.code || got.out != c.out || !strings.HasSuffix(got.err, c.err) || c.err == "" && got.err != "" {
				t.Errorf("got %+v", got)
			}
			if c.terminal && !strings.HasPrefix(got.err, "\rremoved 500 of 1200 [############..................]") {
				t.Errorf("the bar is %q", got.err)
			}
			var sizes []int
			for _, r := range c.node.invalidated {
				sizes = append(sizes, len(r.GetKeys()))
			}
			if want := "[500 500 200]"; c.code == 0 && (fmt.Sprint(sizes) != want || c.node.invalidated[2].GetKeys()[199] != "product:1199") {
				t.Errorf("requests of %v keys, want %s", sizes, want)
			}
		})
	}
	for name, args := range map[string][]string{
		"neither": {"rm"}, "both": {"rm", "k", "-f", file}, "no such file": {"rm", "-f", file + "x"}, "an empty list": {"rm", "-f", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := invokeOn(t, false, "\n", args...); got.code != exitUsage || got.out != "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// However many names are given as arguments, and however few the node takes at once,
// they are invalidated. As many as the node takes go in one step.
func TestManyNamesAsArguments(t *testing.T) {
	for name, c := range map[string]struct {
		args       []string // before the names
		each       []string // before each name
		count      int
		most       int
		sizes      string
		starts     string
		code       int
		err        string
		tags, keys int
	}{
		"keys":                         {[]string{"rm"}, nil, 1001, 1000, "[1000 1]", "removed n0", 0, "", 0, 1001},
		"as many keys as go in a step": {[]string{"rm"}, nil, 1000, 1000, "[1000]", "removed n0", 0, "", 0, 1000},
		"keys, and the node takes few": {[]string{"rm"}, nil, 1001, 300, "[250 250 250 250 1]", "removed n0", 0, "", 0, 1001},
		"tags":                         {[]string{"invalidate"}, []string{"-t"}, 1001, 1000, "[1000 1]", "invalidated n0", 0, "", 1001, 0},
		"tags, and a key":              {[]string{"invalidate", "-k", "k"}, []string{"-t"}, 1000, 1000, "[1000 1]", "invalidated n0", 0, "", 1000, 1},
		"a key and a tag in one step":  {[]string{"invalidate", "-k", "k"}, []string{"-t"}, 1, 1000, "[2]", "invalidated n0", 0, "", 1, 1},
		"the node takes none":          {[]string{"rm"}, nil, 2, -1, "[]", "", exitOther, "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			node := &fakeNode{most: c.most}
			if c.most < 0 {
				node.fail = connect.NewError(connect.CodeResourceExhausted, errors.New("no room"))
			}
			serveFake(t, node)
			args := c.args
			for i := range c.count {
				args = append(append(args, c.each...), fmt.Sprint("n", i))
			}
			got := invokeOn(t, false, "", args...)
			if got.code != c.code || !strings.HasPrefix(got.out, c.starts) {
				t.Errorf("got %d, %.100q, %.100q", got.code, got.out, got.err)
			}
			if c.code != 0 {
				return
			}
			var sizes []int
			tags, keys := 0, 0
			for _, r := range node.invalidated {
				sizes = append(sizes, len(r.GetKeys())+len(r.GetTags()))
				tags, keys = tags+len(r.GetTags()), keys+len(r.GetKeys())
			}
			if fmt.Sprint(sizes) != c.sizes || tags != c.tags || keys != c.keys {
				t.Errorf("requests of %v names, %d tags and %d keys", sizes, tags, keys)
			}
		})
	}
}

// What is not UTF-8 names nothing, and nothing is sent.
func TestNamesThatAreNotText(t *testing.T) {
	const bad = "a\xff"
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("k\n"+bad+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"rm":                      {"rm", "k", bad},
		"rm, from a file":         {"rm", "-f", file},
		"rm, from standard input": {"rm", "-f", "-"},
		"get":                     {"get", bad},
		"set":                     {"set", bad, "v"},
		"a tag of set":            {"set", "k", "v", "-t", bad},
		"a value":                 {"set", "k", bad},
		"invalidate, a tag":       {"invalidate", "-t", bad},
		"invalidate, joined":      {"invalidate", "--tag=" + bad},
		"invalidate, a key":       {"invalidate", "-t", "t", "-k", bad},
		"keys":                    {"keys", "-t", bad},
		"explain":                 {"explain", bad},
		"a schema":                {"get", "k", "--schema", bad},
	} {
		t.Run(name, func(t *testing.T) {
			node := &fakeNode{}
			serveFake(t, node)
			got := invokeOn(t, false, "k\n"+bad+"\n", args...)
			if got.code != exitUsage || got.out != "" || !strings.Contains(got.err, "is not UTF-8") || node.last != nil {
				t.Errorf("got %+v; sent %v", got, node.last)
			}
		})
	}
}
