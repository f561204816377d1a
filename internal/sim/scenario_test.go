package sim

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// TestScenarios plays the scripts of testdata, each a story about a cluster,
// told by commands and by what came of them. docs/stories.md lists them; the
// table in [commands] says what the commands are.
//
// A script runs on the same world as the random seeds do, and the same checker
// judges each answer by the guarantees. Here nothing is left to chance: a way
// to the store and a packet take a millisecond each, and only what the script
// says goes wrong.
//
// Run it with -rewrite to write down what happens now. Then read the changes.
func TestScenarios(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, path) })
		})
	}
}

func play(t *testing.T, path string) {
	s := &script{t: t, names: newNames()}
	defer s.end()
	datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string {
		return s.block(d)
	})
	if s.w == nil {
		return
	}
	for _, v := range s.w.check.violations {
		t.Errorf("%s: %s: a guarantee is broken: %s", path, v.at, v.text)
	}
}

// script plays one story.
type script struct {
	t     *testing.T
	w     *world
	stage *stage
	names *names

	at    string        // where in the file
	began time.Duration // when the present line did
	out   strings.Builder
	trace bool
	quiet *op // whose success is not worth a line
	told  int // violations that were printed

	leases    map[string]soracache.Lease // by what the script calls them
	sessions  map[string]*session
	pending   map[string]*op // those with a name
	snapshots map[string]memory
}

// memory is the store at some moment.
type memory struct {
	store snapshot
	head  string // what was the latest there
}

// begin makes the cluster.
func (s *script) begin(nodes int, cfg *Config) {
	cfg.Nodes = nodes
	s.w = newWorld(s.t, 1, *cfg, false)
	s.stage = newStage(s)
	s.w.plan = s.stage
	s.leases = map[string]soracache.Lease{}
	s.sessions = map[string]*session{}
	s.pending = map[string]*op{}
	s.snapshots = map[string]memory{}
	for _, h := range s.w.hosts {
		h.start()
		s.w.runFor(5 * ms) // so that no two of them ever act at the same moment
	}
}

func (s *script) end() {
	if s.w != nil {
		s.w.close()
	}
}

// scriptConfig is what the clusters of scripts are made of.
func scriptConfig() *Config {
	return &Config{
		Partitions: 1, Tags: 1,
		Bounds:       []time.Duration{300 * ms},
		StoreTimeout: 100 * ms,
		OpTimeout:    5 * time.Second,
		IdleAfter:    time.Minute,
		ReclaimAfter: time.Hour, // housekeeping would only be in the way
		SweepEvery:   time.Hour,
		Retention:    l2.NewRetention(),
		Latency:      ms,
	}
}

// block plays the lines of one block: the first one, and those below it.
func (s *script) block(d *datadriven.TestData) string {
	s.out.Reset()
	s.at = d.Pos
	s.line(d.Cmd, d.CmdArgs)
	for line := range strings.Lines(d.Input) {
		cmd, args, err := datadriven.ParseLine(strings.TrimSpace(line))
		if err != nil {
			s.fail("%v", err)
		}
		if cmd != "" && !strings.HasPrefix(cmd, "#") {
			s.line(cmd, args)
		}
	}
	return s.out.String()
}

func (s *script) line(cmd string, args []datadriven.CmdArg) {
	run, known := commands()[cmd]
	if !known {
		s.fail("unknown command %s", cmd)
	}
	if s.w == nil && cmd != "nodes" {
		s.fail("a script begins with nodes")
	}
	if s.w != nil {
		s.began = s.w.now()
	}
	a := &arguments{s: s, opts: map[string]string{}}
	for _, arg := range args {
		if len(arg.Vals) == 0 {
			a.words = append(a.words, arg.Key)
		} else {
			a.opts[arg.Key] = strings.Join(arg.Vals, ",")
			a.order = append(a.order, arg)
		}
	}
	run(s, a)
	a.used()
	for _, v := range s.w.check.violations[s.told:] {
		fmt.Fprintf(&s.out, "A GUARANTEE IS BROKEN: %s\n", v.text)
		s.told++
	}
}

// say adds a line to the output: when it happened since the command began,
// where, and what.
func (s *script) say(where, format string, args ...any) {
	passed := s.w.now() - s.began
	fmt.Fprintf(&s.out, "%7s  %-10s  %s\n", fmt.Sprintf("+%dms", passed/ms), where, fmt.Sprintf(format, args...))
}

func (s *script) fail(format string, args ...any) {
	s.t.Fatalf("%s: %s", s.at, fmt.Sprintf(format, args...))
}

// quiesce lets everything arrive that is on its way.
func (s *script) quiesce() {
	for range 50 {
		busy := s.stage.busy - s.w.now()
		if busy < 0 {
			return
		}
		s.w.runFor(busy)
	}
}

// arguments are those of one line.
type arguments struct {
	s     *script
	words []string
	opts  map[string]string
	order []datadriven.CmdArg // the options as they came
}

// word takes the next word.
func (a *arguments) word() string {
	if len(a.words) == 0 {
		a.s.fail("something is missing")
	}
	w := a.words[0]
	a.words = a.words[1:]
	return w
}

// flag takes a word that may be anywhere.
func (a *arguments) flag(name string) bool {
	for i, w := range a.words {
		if w == name {
			a.words = append(a.words[:i:i], a.words[i+1:]...)
			return true
		}
	}
	return false
}

// opt takes an option.
func (a *arguments) opt(name string) string {
	v := a.opts[name]
	delete(a.opts, name)
	return v
}

func (a *arguments) duration(name string, otherwise time.Duration) time.Duration {
	text := a.opt(name)
	if text == "" {
		return otherwise
	}
	return a.s.duration(text)
}

func (s *script) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.fail("%v", err)
	}
	return d
}

// used complains of what nobody took.
func (a *arguments) used() {
	if len(a.words) > 0 || len(a.opts) > 0 {
		a.s.fail("not understood: %v %v", a.words, a.opts)
	}
}

// host takes the name of a node.
func (a *arguments) host() *host { return a.s.host(a.word()) }

func (s *script) host(name string) *host {
	for _, h := range s.w.hosts {
		if h.String() == name {
			return h
		}
	}
	s.fail("no node %q", name)
	return nil
}
