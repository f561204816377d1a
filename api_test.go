package soracache_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var updateAPI = flag.Bool("update-api", false, "write docs/api anew")

// What public packages export is what docs/api says, so that a change of it is seen in
// review. If this fails on purpose: go test . -run TestAPI -update-api
func TestAPI(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{if ne .Name \"main\"}}{{.ImportPath}}{{end}}", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/soracache/soracache"
	left, err := filepath.Glob("docs/api/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for pkg := range strings.FieldsSeq(string(out)) {
		if strings.Contains(pkg+"/", "/internal/") {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(pkg, module), "/")
		if name == "" {
			name = "soracache"
		}
		file := filepath.Join("docs", "api", strings.ReplaceAll(name, "/", "-")+".txt")
		there[file] = true
		now, err := exec.Command("go", "doc", "-all", pkg).Output()
		if err != nil {
			t.Fatalf("%s: %v", pkg, err)
		}
		if *updateAPI {
			if err := os.WriteFile(file, now, 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if before, err := os.ReadFile(file); err != nil || !bytes.Equal(before, now) {
			t.Errorf("%s exports something else than %s says (%v); if it is to: go test . -run TestAPI -update-api", pkg, file, err)
		}
	}
	for _, file := range left {
		if !there[file] {
			t.Errorf("%s is of no package", file)
		}
	}
}

// THIRD_PARTY.md names every module that is linked into what others run, and no other.
func TestThirdPartyNotices(t *testing.T) {
	const linked = "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}"
	out, err := exec.Command("go", "list", "-deps", "-f", linked, "./cmd/soracached", "./client/...", "./embedded").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("THIRD_PARTY.md")
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string]bool{}
	for module := range strings.FieldsSeq(string(out)) {
		if !modules[module] && !bytes.Contains(text, []byte("| `"+module+"` |")) {
			t.Errorf("THIRD_PARTY.md does not name %s", module)
		}
		modules[module] = true
	}
	if named := bytes.Count(text, []byte("\n| `")); named != len(modules) {
		t.Errorf("THIRD_PARTY.md names %d modules, and there are %d", named, len(modules))
	}
}
