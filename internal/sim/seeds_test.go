package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/racetest"
)

const operations = 1000

// env returns a number from the environment.
func env(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSeeds runs many seeds: 1,000, or with the race detector, which makes each
// five times as long, 50. (scripts/test runs both.) SORACACHE_SIM_SEEDS says how many,
// SORACACHE_SIM_FROM which is the first, and SORACACHE_SIM_FOR for how long to
// go on (a duration) if there are to be more.
func TestSeeds(t *testing.T) {
	first := env(t, "SORACACHE_SIM_FROM", 1)
	usual := uint64(1000)
	if racetest.Enabled {
		usual = 25
	}
	seeds := env(t, "SORACACHE_SIM_SEEDS", usual)
	var until time.Time
	if text := os.Getenv("SORACACHE_SIM_FOR"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		until = time.Now().Add(d)
	}
	var next, failures atomic.Uint64
	next.Store(first)
	var mu sync.Mutex
	var total counters
	var virtual time.Duration
	began := time.Now()
	t.Run("run", func(t *testing.T) {
		for i := range 2 {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for failures.Load() < 3 {
					seed := next.Add(1) - 1
					if seed >= first+seeds && !time.Now().Before(until) {
						return
					}
					res := Run(t, seed, Draw(seed, operations), false)
					mu.Lock()
					total.add(&res.count)
					virtual += res.Virtual
					mu.Unlock()
					if len(res.Violations) > 0 {
						failures.Add(1)
						t.Error(explain(t, res))
					}
				}
			})
		}
	})
	ran := next.Load() - first - 2
	t.Logf("%d seeds from %d, %s of virtual time in %s\n%s", ran, first, virtual.Round(time.Second), time.Since(began).Round(time.Second), &total)
	if seeds < 1000 {
		return
	}
	for f := range faultKinds {
		if total.injected[f] < 500 {
			t.Errorf("%s: injected %d times only", f, total.injected[f])
		}
	}
}

// explain runs a seed again, now with a trace, and says what went wrong.
func explain(t *testing.T, res Result) string {
	t.Helper()
	again := Run(t, res.Seed, Draw(res.Seed, operations), true)
	var out strings.Builder
	fmt.Fprintf(&out, "seed %d: %s\n", res.Seed, strings.Join(res.Violations, "\n"))
	fmt.Fprintf(&out, "to run it alone: SORACACHE_SIM_FROM=%d SORACACHE_SIM_SEEDS=1 go test ./internal/sim -run TestSeeds -v\n", res.Seed)
	if len(again.Violations) == 0 || again.Violations[0] != res.Violations[0] {
		out.WriteString("(a second run went another way: the history is of that one)\n")
	}
	lines := strings.Split(again.History, "\n")
	for i, line := range lines {
		if strings.Contains(line, "VIOLATION") {
			lines = lines[max(0, i-historyLines):min(len(lines), i+3)]
			break
		}
	}
	if file := os.Getenv("SORACACHE_SIM_TRACE"); file != "" {
		_ = os.WriteFile(file, []byte(again.History), 0o600)
	}
	if len(lines) > historyLines+3 {
		lines = lines[len(lines)-historyLines:]
	}
	out.WriteString(strings.Join(lines, "\n"))
	return out.String()
}

// historyLines is how much of a history is printed.
const historyLines = 80

// TestSameSeedSameHistory: a seed decides everything. With the race detector it
// decides almost everything: Go's scheduler then shuffles the goroutines that
// become ready at one moment. So what that finds is run again without. (Without it,
// GOGC=10 shuffles a little: what still depends on the order is found sooner.)
// SORACACHE_SIM_SAME says how many seeds.
func TestSameSeedSameHistory(t *testing.T) {
	racetest.Without(t)
	for seed := range env(t, "SORACACHE_SIM_SAME", 20) {
		a := Run(t, seed, Draw(seed, operations), true)
		b := Run(t, seed, Draw(seed, operations), true)
		if a.Hash == b.Hash {
			continue
		}
		for i := range min(len(a.hashes), len(b.hashes)) {
			if a.hashes[i] != b.hashes[i] {
				t.Errorf("seed %d: its histories part at %d:\n%s\n%s\n%s", seed, i, strings.Join(a.hashes[max(0, i-5):i], "\n"), a.hashes[i], b.hashes[i])
				break
			}
		}
	}
}

// TestRegressions runs the seeds again that found something once. What a seed
// does changes with the simulation, so each bug also has a test of its own where
// it was; this list says which, and keeps the configurations that found them.
func TestRegressions(t *testing.T) {
	racetest.Without(t)
	text, err := os.ReadFile("regressions.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var seed uint64
		if n, _ := fmt.Sscan(line, &seed); n == 0 {
			continue // a comment
		}
		if res := Run(t, seed, Draw(seed, operations), false); len(res.Violations) > 0 {
			t.Error(explain(t, res))
		}
	}
}
