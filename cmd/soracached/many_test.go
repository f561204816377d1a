package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
