package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

const (
	// buried is the number of partitions that stands in the place of a ledger that
	// was put an end to. No namespace can have so many.
	buried = 1<<16 - 1
	// lookedUpFor is how long after it was looked up how many partitions a
	// namespace has a ledger may be begun: more than a call takes and the clocks of
	// two masters differ, and less than a ledger stays buried after a change.
	lookedUpFor = time.Minute
)

// numberPlace is where the number of partitions of a namespace stands. It is
// called like a partition whose keys are that one.
func (s *Store) numberPlace(namespace string) *partition {
	base := fmt.Sprintf("%s{%s}", s.config.Prefix, namespace)
	return &partition{
		Partition: l2.Partition{Namespace: namespace}, base: base, keys: [3]any{base + "n", base + "n", base + "n"},
		invalid: soracache.CheckNamespace(namespace),
	}
}

// numberForm is the version of the form of a number.
const numberForm = "1:"

// number is what stands there.
type number struct {
	text string // as it stands; empty: nothing, or damaged
	now  uint64 // Redis' clock, when it was read
	// count is how many partitions there are; zero if nothing stands there.
	count int
	// to is what it is being changed to; zero: it is not.
	to int
}

func (n number) String() string {
	if n.to != 0 {
		return fmt.Sprint(numberForm, n.count, ">", n.to)
	}
	return fmt.Sprint(numberForm, n.count)
}

// parseNumber reads what stands there. What is of a later version's form is an
// error; what is of none is as good as lost.
func parseNumber(namespace, text string) (number, error) {
	n := number{text: text}
	form, rest, _ := strings.Cut(text, ":")
	if form+":" != numberForm {
		if version, err := strconv.Atoi(form); err == nil && version > 1 {
			return n, fmt.Errorf("%w: the number of partitions of namespace %s is written by a later version than this node", soracache.ErrUnavailable, namespace)
		}
		return n, nil
	}
	count, to, changing := strings.Cut(rest, ">")
	n.count, _ = strconv.Atoi(count)
	if changing {
		n.to, _ = strconv.Atoi(to)
	}
	if n.count < 0 || n.count > soracache.MaxPartitions || n.to > soracache.MaxPartitions || changing && n.to < 1 || !changing && n.count < 1 || n.String() != text {
		return number{text: text}, nil
	}
	return n, nil
}

// numberCall asks for a number, or changes it.
func (s *Store) numberCall(namespace string, argv ...any) *call {
	c := &call{partition: s.numberPlace(namespace), script: scriptNumber, argv: argv}
	c.err = c.invalid
	return c
}

// The ways to ask for a number: see number.lua.
const (
	numberAsked   = "a"
	numberUsed    = "u"
	numberChanged = "c"
)

func (c *call) number() (number, error) {
	if c.err != nil {
		return number{}, c.err
	}
	parts, _ := c.cmd.Val().([]any)
	if len(parts) != 2 {
		return number{}, malformed()
	}
	clock, _ := parts[0].(string)
	text, _ := parts[1].(string)
	n, err := parseNumber(c.Namespace, text)
	n.now, _ = strconv.ParseUint(clock, 10, 64)
	return n, err
}

// numbersOf tells how many partitions namespaces have, and gives those that have
// none as many as are wanted.
func (s *Store) numbersOf(ctx context.Context, reqs []l2.PartitionsRequest) ([]number, []error) {
	calls := make([]*call, len(reqs))
	numbers, errs := make([]number, len(reqs)), make([]error, len(reqs))
	for i, req := range reqs {
		mode := numberUsed
		if req.Want == 0 {
			mode = numberAsked
		}
		calls[i] = s.numberCall(req.Namespace, mode)
		if err := l2.CheckPartitions(req.Namespace, max(req.Want, 1)); err != nil {
			calls[i].err = err
		}
	}
	s.run(ctx, calls)
	for i, req := range reqs {
		if numbers[i], errs[i] = calls[i].number(); errs[i] == nil && numbers[i].count == 0 && numbers[i].to == 0 {
			numbers[i], errs[i] = s.foundAgain(ctx, req, numbers[i])
		}
		if errs[i] == nil && numbers[i].to != 0 {
			errs[i] = l2.ChangingError(req.Namespace)
		}
	}
	return numbers, errs
}

// foundAgain makes the number of a namespace that lost it, from its ledgers, or
// as it is wanted if there are none. If others do the same, the first one counts.
func (s *Store) foundAgain(ctx context.Context, req l2.PartitionsRequest, lost number) (number, error) {
	ledgers, err := s.survey(ctx, req.Namespace)
	if err != nil {
		return number{}, err
	}
	count, err := ledgers.say(req.Namespace)
	if err != nil || req.Want == 0 {
		return number{count: count}, err
	}
	if count == 0 {
		count = req.Want
	}
	c := s.numberCall(req.Namespace, numberChanged, lost.text, number{count: count}.String())
	s.run(ctx, []*call{c})
	return c.number()
}

// ledgerSeen is what stands in the place of one ledger.
type ledgerSeen struct {
	later bool
	count int // of a ledger
	// buried: it was put an end to; done is the number of partitions that the
	// namespace has instead, zero while it is being changed.
	buried bool
	done   int
	since  uint64 // on Redis' clock
}

// seen reads the first member of t.
func seen(state string) (l ledgerSeen) {
	if len(state) < 2 || state[0] != '!' {
		return l
	}
	if state[1] != 0 {
		return ledgerSeen{later: true}
	}
	if len(state) < stateBytes {
		return l
	}
	l.count = int(binary.BigEndian.Uint16([]byte(state[stateBytes-2:])))
	if l.count == buried {
		return ledgerSeen{
			buried: true,
			since:  binary.BigEndian.Uint64([]byte(state[17:])),
			done:   int(binary.BigEndian.Uint64([]byte(state[25:]))), //nolint:gosec // as bury.lua wrote it
		}
	}
	return l
}

// ledgersSeen are all places where a namespace may have ledgers.
type ledgersSeen []ledgerSeen

// say returns how many partitions the ledgers make their namespace have, zero if
// there are none. If they differ, the first one counts.
func (all ledgersSeen) say(namespace string) (count int, err error) {
	after := 0
	for i, l := range all {
		switch {
		case l.later:
			return 0, l2.LaterError(l2.Partition{Namespace: namespace, Index: uint16(i)})
		case l.buried && l.done == 0:
			return 0, l2.ChangingError(namespace)
		case l.buried:
			after = l.done
		case count == 0:
			count = l.count
		}
	}
	if count == 0 {
		count = after
	}
	return count, nil
}

// agree reports whether all ledgers are of one number, and none is buried that
// would have to go.
func (all ledgersSeen) agree(count int) bool {
	for i, l := range all {
		if l.later || l.count != 0 && l.count != count || l.buried && (l.done != count || i < count) {
			return false
		}
	}
	return true
}

// survey looks at all places where a namespace may have ledgers. That is done
// where its number is not known: for a new one, or one that was not used for a
// while.
func (s *Store) survey(ctx context.Context, namespace string) (ledgersSeen, error) {
	names := make([]string, soracache.MaxPartitions)
	for i := range names {
		names[i] = fmt.Sprintf("%s{%s/%d}t", s.config.Prefix, namespace, i)
	}
	all := make(ledgersSeen, len(names))
	if s.single != nil { // in one command, as a rule: there is none
		s.roundTrips.Add(1)
		if n, err := s.single.Exists(ctx, names...).Result(); err == nil && n == 0 {
			return all, nil
		}
	}
	s.roundTrips.Add(1)
	pipe := s.client.Pipeline()
	first := make([]*goredis.StringSliceCmd, len(names))
	for i, name := range names {
		first[i] = pipe.ZRange(ctx, name, 0, 0)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, c := range first {
		members, err := c.Result()
		switch {
		case goredis.HasErrorPrefix(err, "WRONGTYPE"): // as good as lost
		case err != nil:
			return nil, failure(err)
		case len(members) > 0:
			all[i] = seen(members[0])
		}
	}
	return all, nil
}

// begin repeats calls that were refused because they would have begun a ledger,
// once it has been looked up that their namespaces have so many partitions.
func (s *Store) begin(ctx context.Context, calls []*call) {
	var again []*call
	var reqs []l2.PartitionsRequest
	asked := make(map[l2.PartitionsRequest]int)
	for _, c := range calls {
		if c.err != nil || c.cmd.Err() == nil || !goredis.HasErrorPrefix(c.cmd.Err(), "SORANUMBER") {
			continue
		}
		again = append(again, c)
		req := l2.PartitionsRequest{Namespace: c.Namespace, Want: int(c.Count)}
		if _, known := asked[req]; !known {
			asked[req] = len(reqs)
			reqs = append(reqs, req)
		}
	}
	if len(again) == 0 {
		return
	}
	numbers, errs := s.numbersOf(ctx, reqs)
	var agreed []*call
	for _, c := range again {
		i := asked[l2.PartitionsRequest{Namespace: c.Namespace, Want: int(c.Count)}]
		switch {
		case errs[i] != nil:
			c.err = errs[i]
		case numbers[i].count != int(c.Count):
			c.err = l2.CountError(c.Namespace, numbers[i].count, int(c.Count))
		default:
			c.lookedUp = numbers[i].now
			agreed = append(agreed, c)
		}
	}
	s.send(ctx, agreed)
}

// Partitions implements [l2.Store].
func (s *Store) Partitions(ctx context.Context, reqs []l2.PartitionsRequest) []l2.PartitionsAnswer {
	answers := make([]l2.PartitionsAnswer, len(reqs))
	numbers, errs := s.numbersOf(ctx, reqs)
	for i := range answers {
		answers[i].Err = errs[i]
		if errs[i] == nil {
			answers[i].Count = numbers[i].count
		}
	}
	return answers
}

// Repartition implements [l2.Store]. The order makes it safe to break off
// anywhere, and to begin again:
//
//  1. the number says that it is being changed: nobody begins a ledger any more;
//  2. every ledger that is there is buried, and says since when it is;
//  3. once all of them have been for long enough, the number is another;
//  4. what is buried makes room for the ledgers to come, or expires.
//
// Nothing of it expires before 3, so an evicting Redis does not take it either. If
// the number is lost, what is buried says that it is being changed; if what is
// buried is lost, the number says so to whoever would begin a ledger there.
func (s *Store) Repartition(ctx context.Context, namespace string, count int) (time.Duration, error) {
	if err := l2.CheckPartitions(namespace, count); err != nil {
		return 0, err
	}
	is, ledgers, err := s.look(ctx, namespace)
	if err != nil {
		return 0, err
	}
	if is.to == 0 && is.count == count && ledgers.agree(count) {
		return 0, nil
	}
	changing := number{count: is.count, to: count}
	if is.count != count || is.to != 0 || !ledgers.half(count, is.now) {
		if is, err = s.changeNumber(ctx, namespace, is.text, changing); err != nil {
			return 0, err
		}
		left, err := s.bury(ctx, namespace, ledgers, "b", count)
		if err != nil || left > 0 {
			return left, err
		}
		if _, err = s.changeNumber(ctx, namespace, is.text, number{count: count}); err != nil {
			return 0, err
		}
	}
	_, err = s.bury(ctx, namespace, ledgers, "d", count)
	return 0, err
}

// half reports whether a change to a number was broken off when only its last
// step was missing.
func (all ledgersSeen) half(count int, now uint64) bool {
	for _, l := range all {
		early := l.done == 0 && now < l.since+uint64(l2.ChangeTakes/time.Microsecond)
		if l.count != 0 && l.count != count || l.buried && (early || l.done != 0 && l.done != count) {
			return false
		}
	}
	return true
}

// look reads the number and looks at the ledgers.
func (s *Store) look(ctx context.Context, namespace string) (number, ledgersSeen, error) {
	ask := s.numberCall(namespace, numberAsked)
	s.run(ctx, []*call{ask})
	is, err := ask.number()
	if err != nil {
		return number{}, nil, err
	}
	ledgers, err := s.survey(ctx, namespace)
	if err != nil {
		return number{}, nil, err
	}
	for i, l := range ledgers {
		if l.later {
			return number{}, nil, l2.LaterError(l2.Partition{Namespace: namespace, Index: uint16(i)})
		}
	}
	return is, ledgers, nil
}

// changeNumber writes a number if nobody else has since it was read.
func (s *Store) changeNumber(ctx context.Context, namespace, from string, to number) (number, error) {
	c := s.numberCall(namespace, numberChanged, from, to.String())
	s.run(ctx, []*call{c})
	is, err := c.number()
	if err == nil && is.text != to.String() {
		err = fmt.Errorf("%w: somebody else changes it: it is %s now", l2.ErrPartitions, is.text)
	}
	return is, err
}

// bury buries all ledgers of a namespace, or does what is to be done with them
// when the number is another. It returns for how long the last of them has to
// stay buried yet.
func (s *Store) bury(ctx context.Context, namespace string, ledgers ledgersSeen, what string, count int) (left time.Duration, err error) {
	calls := make([]*call, len(ledgers))
	for i := range ledgers {
		do := what
		if what == "d" && i < count {
			do = "r"
		}
		calls[i] = s.newCall(l2.Partition{Namespace: namespace, Index: uint16(i), Count: soracache.MaxPartitions}, scriptBury)
		calls[i].argv = []any{do, count}
	}
	s.run(ctx, calls)
	for _, c := range calls {
		if c.err != nil {
			return 0, c.err
		}
		stood, ok := c.cmd.Val().(int64)
		if !ok {
			return 0, malformed()
		}
		if stood >= 0 {
			left = max(left, l2.ChangeTakes-time.Duration(stood)*time.Microsecond)
		}
	}
	return left, nil
}
