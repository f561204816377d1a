package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/soracache/soracache/internal/racetest"
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

// planted is the source with bugs in it: the files that differ, by path.
type planted map[string]string

// add plants a bug beside those that are there. If it cannot, nothing changes.
func (s planted) add(p plant) error {
	changed := planted{}
	for _, e := range p.edits {
		path, err := filepath.Abs(filepath.Join("..", "..", e.file))
		if err != nil {
			return err
		}
		text, ok := changed[path]
		if !ok {
			text, ok = s[path]
		}
		if !ok {
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(source)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return fmt.Errorf("%s: what is to be replaced occurs %d times in %s:\n%s", p.name, n, e.file, e.old)
		}
		changed[path] = strings.Replace(text, e.old, e.new, 1)
	}
	maps.Copy(s, changed)
	return nil
}

// overlay writes the files into a directory, and returns the file for go's flag
// -overlay.
func (s planted) overlay(t *testing.T, dir string) (list string) {
	t.Helper()
	replace := map[string]string{}
	for path, text := range s {
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
	return list
}

// compile builds the packages that differ.
func (s planted) compile(t *testing.T) (string, error) {
	t.Helper()
	args := []string{"build", "-overlay", s.overlay(t, t.TempDir())}
	for path := range s {
		if dir := filepath.Dir(path); !slices.Contains(args, dir) {
			args = append(args, dir)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	return string(out), err
}

// overlay plants the bug alone, in a directory of its own.
func (p plant) overlay(t *testing.T) (dir, list string) {
	t.Helper()
	s := planted{}
	if err := s.add(p); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	return dir, s.overlay(t, dir)
}

// build compiles this package's tests with the bug planted and returns the
// binary.
func (p plant) build(t *testing.T) string {
	t.Helper()
	dir, list := p.overlay(t)
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

// plants reads all planted bugs.
func plants(t *testing.T) (all []plant) {
	t.Helper()
	files, err := filepath.Glob("plants/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) != "caught.txt" {
			all = append(all, readPlant(t, file))
		}
	}
	return all
}

// TestPlantsCompile wants the packages to compile with each of the bugs, so that
// who changes them learns at once which plant has to follow. As many are compiled
// together as there is room for beside each other, and one by one only if those
// do not compile.
func TestPlantsCompile(t *testing.T) {
	racetest.Without(t)
	all := plants(t)
	alone := map[string]planted{}
	for _, p := range all {
		alone[p.name] = planted{}
		if err := alone[p.name].add(p); err != nil {
			t.Fatal(err)
		}
	}
	for len(all) > 0 {
		together := planted{}
		var in, out []plant
		for _, p := range all {
			if together.add(p) == nil {
				in = append(in, p)
			} else {
				out = append(out, p)
			}
		}
		all = out
		if _, err := together.compile(t); err == nil {
			continue
		}
		for _, p := range in {
			if said, err := alone[p.name].compile(t); err != nil {
				t.Errorf("%s does not compile: %v\n%s", p.name, err, said)
			}
		}
	}
}

// TestPlantedBugs plants bugs, one at a time, and wants each of them caught: by
// the seed that is known for it, or else by one of the first few hundred.
// SORACACHE_VERIFY=1 plants all; with -caught it also writes plants/caught.txt.
func TestPlantedBugs(t *testing.T) {
	racetest.Without(t)
	all := os.Getenv("SORACACHE_VERIFY") != "" || *rewrite
	known := readCaught(t)
	var names []string
	for _, p := range plants(t) {
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
	if err := os.WriteFile("plants/caught.txt", []byte(strings.ReplaceAll(lines.String(), "\x00", `\0`)), 0o600); err != nil {
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
// all tests do. One that tries at random, for a second, tries up to twenty times.
func (p plant) named(t *testing.T) caught {
	t.Helper()
	_, list := p.overlay(t)
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", list, "-count=20", "-failfast", "-timeout=5m", "-run", "^"+p.test[1]+"$", "./"+p.test[0])
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
