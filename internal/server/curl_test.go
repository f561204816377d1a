package server_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
)

// The lines that the documentation shows, word for word but for the port.
const curlLines = `
H='content-type: application/json'; U=http://127.0.0.1:7070/soracache.v1.CacheService
curl -s -H "$H" -d '{"namespace":"shop","key":"k","value":"aGk=","tags":["t"],"ttl":"300s"}' $U/Set; echo
curl -s -H "$H" -d '{"namespace":"shop","key":"k"}' $U/Get; echo
curl -s -H "$H" -d '{"namespace":"shop","tags":["t"]}' $U/Invalidate; echo
curl -s -H "$H" -d '{"namespace":"shop","key":"k"}' $U/Get; echo
`

func TestCurlLines(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl; TestPlainJSON sends the same")
	}
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	script := strings.ReplaceAll(curlLines, "127.0.0.1:7070", s.addr)
	out, err := exec.CommandContext(t.Context(), "sh", "-ec", script).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d answers: %s", len(lines), out)
	}
	for i, want := range [][]string{
		{`"stamp":"`},
		{`{"status":"STATUS_HIT","value":"aGk=","tags":["t"],`, `"freshFor":"300s"`, `"tier":"TIER_L1"`},
		{`"stamp":"`},
		{`"status":"STATUS_MISS"`},
	} {
		for _, part := range want {
			if !strings.Contains(lines[i], part) {
				t.Errorf("answer %d lacks %s: %s", i+1, part, lines[i])
			}
		}
	}
}

func TestPlainJSON(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})

	got := s.post(t, "Set", `{"namespace":"shop","key":"k","value":"aGk=","tags":["t","a","t"],"ttl":"300s"}`)
	if got.status != 200 || !strings.Contains(got.body, `"stamp"`) {
		t.Fatalf("Set: %d: %s", got.status, got.body)
	}
	w := s.node.lastWrite().Writes[0]
	if w.Op != soracache.OpPut || w.Key != "k" || string(w.Entry.Value) != "hi" || strings.Join(w.Entry.Tags, ",") != "a,t" ||
		w.Lifetime.TTL.Seconds() != 300 || w.Lifetime.Keep != 0 || w.Lifetime.L1 != 0 {
		t.Errorf("the node was asked for %+v", w)
	}
	for _, header := range []string{"application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8"} {
		got = s.post(t, "Get", `{"namespace":"shop","key":"k","of_a_later_version":1}`, "Content-Type", header)
		if got.status != 200 || !strings.Contains(got.body, `"status":"STATUS_HIT","value":"aGk="`) {
			t.Errorf("Get with %s: %d: %s", header, got.status, got.body)
		}
	}
	// Field names may also be written as the contract has them.
	got = s.post(t, "Set", `{"key":"k","value":"aGk=","ttl":"60s","l1_ttl":"5s","kind":"KIND_ERROR"}`)
	if w := s.node.lastWrite().Writes[0]; got.status != 200 || w.Lifetime.L1.Seconds() != 5 || w.Entry.Kind != soracache.KindError {
		t.Errorf("Set: %d, the node was asked for %+v", got.status, w)
	}
	if namespace := s.node.lastWrite().Namespace; namespace != "default" {
		t.Errorf("namespace %q, want default", namespace)
	}
}
