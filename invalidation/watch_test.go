package invalidation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
)

// secondhand is a ledger, a node that follows it, and a near cache that follows
// the node, all of whose messages are delayed and lost at random.
type secondhand struct {
	t   *testing.T
	rng *rand.Rand
	now time.Duration

	epoch   soracache.Epoch
	records []soracache.Record // of this epoch
	times   []time.Duration    // when each was appended
	mints   int

	// The node: what it applied, what came early, and when it was confirmed.
	applied   soracache.Position
	early     map[soracache.Position]bool
	confirmed time.Duration
	nodeEpoch soracache.Epoch

	near   *Follower
	stream []Step // on its way; nil: cut
	cut    bool
	// answers are on their way.
	answers []answerUnderWay
	kept    []keptEntry
	// served counts what was read from the near cache, refused what was not.
	served, refused, admitted int
}

type answerUnderWay struct {
	q    Question
	at   soracache.Stamp
	age  time.Duration
	key  string
	tags []string
}

type keptEntry struct {
	proof Proof
	key   string
	tags  []string
	epoch soracache.Epoch
	// reflects is up to where it surely reflects every record.
	reflects soracache.Position
}

const nearBound = 100 * time.Millisecond

func newSecondhand(t *testing.T, seed uint64) *secondhand {
	s := &secondhand{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Hour, early: map[soracache.Position]bool{}}
	s.near = NewFollower(Config{
		Marks: NewMarks(1<<16, seed), Space: 1, Bound: nearBound, Now: func() time.Duration { return s.now },
	})
	s.mint()
	s.nodeEpoch, s.applied = s.epoch, s.head()
	s.reconnect()
	return s
}

func (s *secondhand) mint() {
	s.mints++
	s.epoch = soracache.Epoch(1000*s.mints + s.rng.IntN(1000))
	start := s.head() + 1
	s.records = []soracache.Record{{Epoch: s.epoch, Position: start}}
	s.times = []time.Duration{s.now}
}

func (s *secondhand) head() soracache.Position {
	if len(s.records) == 0 {
		return 100
	}
	return s.records[len(s.records)-1].Position
}

func (s *secondhand) target() soracache.Target {
	switch s.rng.IntN(12) {
	case 0:
		return soracache.Everything()
	case 1, 2, 3, 4:
		return soracache.Tag(fmt.Sprint("t", s.rng.IntN(3)))
	}
	return soracache.Key(fmt.Sprint("k", s.rng.IntN(4)))
}

func (s *secondhand) append() soracache.Record {
	r := soracache.Record{
		Epoch: s.epoch, Prev: s.head(), Position: s.head() + 1 + soracache.Position(s.rng.IntN(3)),
		Targets: []soracache.Target{s.target()},
	}
	s.records, s.times = append(s.records, r), append(s.times, s.now)
	return r
}

// between returns the records after one position and up to another.
func (s *secondhand) between(after, upTo soracache.Position) (rs []soracache.Record) {
	for _, r := range s.records {
		if r.Position > after && r.Position <= upTo && len(r.Targets) > 0 {
			rs = append(rs, r)
		}
	}
	return rs
}

func (s *secondhand) emit(step Step) {
	if !s.cut {
		s.stream = append(s.stream, step)
	}
}

// nodeConfirms lets the node ask the ledger.
func (s *secondhand) nodeConfirms() {
	s.confirmed = s.now
	if s.nodeEpoch != s.epoch {
		s.nodeEpoch, s.applied = s.epoch, s.head()
		clear(s.early)
		s.emit(Step{Epoch: s.epoch, Applied: s.applied, Reset: true})
		return
	}
	news := s.between(s.applied, s.head())
	s.applied = s.head()
	clear(s.early)
	s.emit(Step{Epoch: s.epoch, Applied: s.applied, New: news})
}

// nodeHears lets a record reach the node by gossip, which need not be the next.
func (s *secondhand) nodeHears() {
	if s.nodeEpoch != s.epoch {
		return
	}
	missing := s.between(s.applied, s.head())
	if len(missing) == 0 {
		return
	}
	r := missing[s.rng.IntN(len(missing))]
	if s.early[r.Position] {
		return
	}
	s.early[r.Position] = true
	for _, next := range missing {
		if !s.early[next.Position] {
			break
		}
		s.applied = next.Position
	}
	s.emit(Step{Epoch: s.epoch, Applied: s.applied, New: []soracache.Record{r}})
}

// reconnect begins a watch anew: where the near cache was, or with a reset.
func (s *secondhand) reconnect() {
	s.nodeConfirms() // a watch begins with a fresh question
	s.cut, s.stream = false, nil
	state := s.near.State()
	if state.Epoch == s.nodeEpoch && s.rng.IntN(3) > 0 {
		s.emit(Step{Epoch: state.Epoch, Applied: s.applied, New: s.between(state.Applied, s.applied)})
		return
	}
	s.emit(Step{Epoch: s.nodeEpoch, Applied: s.applied, Reset: true})
}

// ask lets the near cache read through: from the node's memory or the ledger.
func (s *secondhand) ask() {
	q := s.near.Ask()
	a := answerUnderWay{q: q, key: fmt.Sprint("k", s.rng.IntN(4))}
	if s.rng.IntN(2) == 0 {
		a.tags = []string{fmt.Sprint("t", s.rng.IntN(3))}
	}
	switch s.rng.IntN(3) {
	case 0:
		a.at = soracache.Stamp{Epoch: s.epoch, Position: s.head()}
	default:
		a.at = soracache.Stamp{Epoch: s.nodeEpoch, Position: s.applied}
		if a.age = s.now - s.confirmed; a.age >= nearBound {
			return // the node does not serve then
		}
	}
	s.answers = append(s.answers, a)
}

func (s *secondhand) arrive() {
	if len(s.answers) == 0 {
		return
	}
	i := s.rng.IntN(len(s.answers))
	a := s.answers[i]
	s.answers = slices.Delete(s.answers, i, i+1)
	if s.rng.IntN(4) > 0 {
		s.near.Confirm(a.q, a.at, a.age)
	}
	if proof, ok := s.near.Admit(a.q, a.at, a.key, a.tags); ok {
		s.admitted++
		s.kept = append(s.kept, keptEntry{proof: proof, key: a.key, tags: a.tags, epoch: a.at.Epoch, reflects: a.at.Position})
	}
}

// names tells whether a record kills an entry.
func names(r soracache.Record, e *keptEntry) bool {
	return slices.ContainsFunc(r.Targets, func(t soracache.Target) bool {
		return t.Kind == soracache.TargetAll || t.Kind == soracache.TargetKey && t.Name == e.key ||
			t.Kind == soracache.TargetTag && slices.Contains(e.tags, t.Name)
	})
}

// read checks what is served from the near cache: nothing that a record killed
// which was appended more than the bound ago, nor one that is known here.
func (s *secondhand) read(step int, own []soracache.Record) {
	for i := range s.kept {
		e := &s.kept[i]
		if s.near.Check(&e.proof, soracache.Stamp{}).Verdict != Live {
			s.refused++
			continue
		}
		s.served++
		if e.epoch != s.epoch {
			if s.now-s.times[0] > nearBound {
				s.t.Fatalf("step %d: an entry of a dead epoch is served", step)
			}
			continue
		}
		for j, r := range s.records {
			if r.Position > e.reflects && names(r, e) && s.now-s.times[j] > nearBound {
				s.t.Fatalf("step %d: %s %v, proven at %d, is served %v after record %d named it", step, e.key, e.tags, e.reflects, s.now-s.times[j], r.Position)
			}
		}
		for _, r := range own {
			if r.Epoch == s.epoch && r.Position > e.reflects && names(r, e) {
				s.t.Fatalf("step %d: %s %v, proven at %d, is served after its own record %d (%+v; %+v)", step, e.key, e.tags, e.reflects, r.Position, e.proof, s.near.State())
			}
		}
	}
	if len(s.kept) > 40 {
		s.kept = s.kept[20:]
	}
}

func (s *secondhand) run(steps int) {
	var own []soracache.Record
	for i := range steps {
		s.now += time.Duration(s.rng.IntN(8)) * time.Millisecond
		switch s.rng.IntN(40) {
		case 0, 1, 2, 3, 4:
			s.append()
		case 5, 6:
			r := s.append()
			s.near.Mark(r)
			own = append(own, r)
		case 7, 8, 9, 10, 11:
			s.nodeHears()
		case 12, 13, 14, 15, 16:
			s.nodeConfirms()
		case 17, 18, 19, 20, 21, 22, 23:
			s.ask()
		case 24, 25, 26, 27, 28:
			s.arrive()
		case 29:
			s.cut, s.stream = true, nil
		case 30:
			s.reconnect()
		case 31:
			if s.rng.IntN(10) == 0 {
				s.mint()
			}
		case 32:
			if s.rng.IntN(10) == 0 {
				s.near.Void()
			}
		default:
			if len(s.stream) > 0 {
				step := s.stream[0]
				s.stream = s.stream[1:]
				if s.near.Push(step).Missed {
					s.cut, s.stream = true, nil
				}
			}
		}
		s.read(i, own)
	}
}

// What a follower at second hand lets be served is never older than the bound,
// whatever is delayed, lost, reordered or begun anew.
func TestSecondHand(t *testing.T) {
	racetest.Without(t)
	served, refused, admitted := 0, 0, 0
	for seed := range uint64(1000) {
		s := newSecondhand(t, seed)
		s.run(1500)
		served, refused, admitted = served+s.served, refused+s.refused, admitted+s.admitted
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("served %d, refused %d, admitted %d", served, refused, admitted)
	if served < 100_000 || admitted < 40_000 {
		t.Errorf("served %d, admitted %d: too little to mean anything", served, admitted)
	}
}
