package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rewrite makes TestPlantedBugs bring plants/caught.txt up to date. A seed in it
// that still catches its bug stays.
var rewrite = flag.Bool("caught", false, "bring plants/caught.txt up to date")

// mostSeeds is how many seeds at most a planted bug is looked for with. What is
// rarer than that wants a theme of its own (Draw), and not more seeds.
const mostSeeds = 400

// quick are the planted bugs that every run of the tests looks for.
var quick = []string{"stamp-after-loader", "gap-ignored", "joined-after-sent"}

// plant is a bug: what to replace in the source by what.
type plant struct {
	name, trap, what string
	// test is the package and the name of the test that catches it, where the
	// simulation cannot.
	test  [2]string
	edits []edit
}

type edit struct{ file, old, new string }

var editPattern = regexp.MustCompile(`(?s)\nfile: (\S+)\n<<<<\n(.*?)\n====\n(.*?)\n>>>>\n`)

func readPlant(t *testing.T, file string) plant {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := plant{name: strings.TrimSuffix(filepath.Base(file), ".txt")}
	for line := range strings.Lines(string(text)) {
		if trap, ok := strings.CutPrefix(line, "trap: "); ok {
			p.trap = strings.TrimSpace(trap)
		}
		if what, ok := strings.CutPrefix(line, "what: "); ok {
			p.what = strings.TrimSpace(what)
		}
		_, _ = fmt.Sscanf(line, "test: %s %s", &p.test[0], &p.test[1])
	}
	for _, m := range editPattern.FindAllStringSubmatch(string(text), -1) {
		p.edits = append(p.edits, edit{m[1], m[2], m[3]})
	}
	if p.trap == "" || p.what == "" || len(p.edits) == 0 {
		t.Fatalf("%s is not complete", file)
	}
	return p
}

// overlay plants the bug in copies of the files, and returns the directory with
// them, the file for go's flag -overlay, and the packages that are changed.
func (p plant) overlay(t *testing.T) (dir, list string, packages []string) {
	t.Helper()
	dir = t.TempDir()
	root := filepath.Join("..", "..")
	changed := map[string]string{}
	for _, e := range p.edits {
		if pkg := "./" + filepath.ToSlash(filepath.Join(root, filepath.Dir(e.file))); !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
		path, err := filepath.Abs(filepath.Join(root, e.file))
		if err != nil {
			t.Fatal(err)
		}
		text, ok := changed[path]
		if !ok {
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text = string(source)
		}
		if n := strings.Count(text, e.old); n != 1 {
			t.Fatalf("%s: what is to be replaced occurs %d times in %s:\n%s", p.name, n, e.file, e.old)
		}
		changed[path] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for path, text := range changed {
		file := filepath.Join(dir, strings.ReplaceAll(filepath.Base(path), ".go", fmt.Sprint(len(replace), ".go")))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = file
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list = filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, list, packages
}

// build compiles this package's tests with the bug planted and returns the
// binary.
func (p plant) build(t *testing.T) string {
	t.Helper()
	dir, list, _ := p.overlay(t)
	binary := filepath.Join(dir, "sim.test")
	out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", list, "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%s does not compile: %v\n%s", p.name, err, out)
	}
	return binary
}

var caughtBy = regexp.MustCompile(`(?m)^ *seeds_test.go:\d+: seed (\d+): (.*)$`)

// hunt runs seeds until one catches the bug.
func (p plant) hunt(t *testing.T, binary string, from, seeds int) (seed, violation string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "-test.run", "^TestSeeds$", "-test.v", "-test.timeout", "10m")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SORACACHE_SIM_") }),
		fmt.Sprint("SORACACHE_SIM_FROM=", from), fmt.Sprint("SORACACHE_SIM_SEEDS=", seeds))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	m := caughtBy.FindStringSubmatch(out.String())
	if m == nil {
		if err != nil && !strings.Contains(out.String(), "injected") {
			t.Logf("%s: %v\n%.2000s", p.name, err, out.String())
		}
		return "", ""
	}
	return m[1], m[2]
}

// passes tells whether a seed finds nothing when no bug is planted, so that it
// was the bug that it caught.
func passes(t *testing.T, seed string) bool {
	t.Helper()
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return len(Run(t, n, Draw(n, operations), false).Violations) == 0
}

// TestPlantsCompile wants the packages to compile with each of the bugs, so that
// who changes them learns at once which plant has to follow.
func TestPlantsCompile(t *testing.T) {
	files, err := filepath.Glob("plants/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == "caught.txt" {
			continue
		}
		p := readPlant(t, file)
		t.Run(p.name, func(t *testing.T) {
			_, list, packages := p.overlay(t)
			out, err := exec.CommandContext(t.Context(), "go", append([]string{"build", "-overlay", list}, packages...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s does not compile: %v\n%s", p.name, err, out)
			}
		})
	}
}

// TestPlantedBugs plants bugs, one at a time, and wants each of them caught: by
// the seed that is known for it, or else by one of the first few hundred.
// SORACACHE_VERIFY=1 plants all; with -caught it also writes plants/caught.txt.
func TestPlantedBugs(t *testing.T) {
	files, err := filepath.Glob("plants/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := os.Getenv("SORACACHE_VERIFY") != "" || *rewrite
	known := readCaught(t)
	var names []string
	for _, file := range files {
		if filepath.Base(file) == "caught.txt" {
			continue
		}
		p := readPlant(t, file)
		names = append(names, p.name)
		t.Run(p.name, func(t *testing.T) {
			if !all && !slices.Contains(quick, p.name) {
				t.Skip("only with SORACACHE_VERIFY=1")
			}
			known[p.name] = p.catch(t, known[p.name].seed)
		})
	}
	if !*rewrite {
		return
	}
	var lines strings.Builder
	for _, name := range names { // those that -run left out stay as they were
		lines.WriteString(known[name].text)
	}
	if err := os.WriteFile("plants/caught.txt", []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// caught is what plants/caught.txt says of a planted bug: the seed, and all of
// its text.
type caught struct {
	seed int
	text string
}

// catch wants a bug caught, preferably by the seed that is known for it (0: none
// is).
func (p plant) catch(t *testing.T, known int) caught {
	t.Helper()
	if p.test[1] != "" {
		return p.named(t)
	}
	binary := p.build(t)
	seed, violation := "", ""
	if known > 0 {
		seed, violation = p.hunt(t, binary, known, 1)
	}
	if seed == "" {
		seed, violation = p.hunt(t, binary, 1, mostSeeds)
	}
	if seed == "" {
		t.Errorf("trap %s is not caught: %s", p.trap, p.what)
		return caught{}
	}
	if !passes(t, seed) {
		t.Errorf("seed %s fails without the bug, too", seed)
		return caught{}
	}
	t.Logf("trap %s is caught by seed %s: %s", p.trap, seed, violation)
	return caught{text: fmt.Sprintf("%-22s seed %-6s trap %s: %s\n%33s%s\n", p.name, seed, p.trap, p.what, "", violation)}
}

// named wants a bug caught by the test that it names, which passes without it as
// all tests do.
func (p plant) named(t *testing.T) caught {
	t.Helper()
	_, list, _ := p.overlay(t)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", list, "-count=1", "-timeout=5m", "-run", "^"+p.test[1]+"$", "./"+p.test[0])
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	said := failure.FindString(string(out))
	if err == nil || !strings.Contains(string(out), "--- FAIL: "+p.test[1]) {
		t.Errorf("trap %s is not caught by %s of %s: %s\n%.2000s", p.trap, p.test[1], p.test[0], p.what, out)
		return caught{}
	}
	t.Logf("trap %s is caught by %s: %s", p.trap, p.test[1], said)
	return caught{text: fmt.Sprintf("%-22s test %s trap %s: %s\n%33s%s\n", p.name, p.test[1], p.trap, p.what, "", said)}
}

// failure is the first thing that a failing test says.
var failure = regexp.MustCompile(`\w+_test\.go:\d+: .*`)

// readCaught returns what is known to catch the planted bugs.
func readCaught(t *testing.T) map[string]caught {
	t.Helper()
	known := map[string]caught{}
	text, err := os.ReadFile("plants/caught.txt")
	if err != nil {
		return known
	}
	name := ""
	for line := range strings.Lines(string(text)) {
		var first string
		var seed int
		var test string
		if n, _ := fmt.Sscanf(line, "%s seed %d", &first, &seed); n == 2 {
			name, known[first] = first, caught{seed: seed}
		} else if n, _ := fmt.Sscanf(line, "%s test %s", &first, &test); n == 2 {
			name, known[first] = first, caught{}
		}
		c := known[name]
		c.text += line
		known[name] = c
	}
	return known
}
