package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// The index of all ledgers tells Sweep which there are, and when to look after
// each. Whoever first uses a ledger enters it, in the same round trip, and now and
// then again, so that an entry that was lost comes back with use.

const (
	// sweepLedgers is how many ledgers one step looks after.
	sweepLedgers = 64
	// lookLeast is how long at least a ledger is left alone, unless there is more to
	// do.
	lookLeast = time.Second
	// enterEvery is how often a process enters a ledger that it uses, and
	// enterAgain how soon after an attempt that failed.
	enterEvery = 10 * time.Minute
	enterAgain = 10 * time.Second
)

// newIndex returns what stands for the index in calls.
func newIndex(prefix string) *partition {
	name := prefix + "ledgers"
	return &partition{base: name, keys: [3]any{name, name, name}}
}

// member is the name of a ledger in the index.
func (p *partition) member() string { return p.Namespace + "/" + strconv.Itoa(int(p.Index)) }

// enters returns the command that enters a call's ledger in the index, if that is
// due.
func (s *Store) enters(c *call) *command {
	if !opens(c.script) || c.partition == s.index {
		return nil
	}
	// The first look is when something can be due: when the records may be
	// forgotten, or what this call stores has ended. A look names the next itself, so
	// one that comes before is as good. A clock that differs from that of Redis
	// makes it sooner or later; one far ahead, sooner.
	now, look := time.Since(s.began), max(s.config.Retention.Age*9/8, lookLeast)
	due := now >= time.Duration(c.partition.enterAfter.Load())
	if c.keep > 0 {
		look = min(look, max(min(c.keep, look)*9/8, lookLeast))
		known := time.Duration(c.partition.lookBy.Load())
		due = due || known <= now || known > now+look
	}
	if !due {
		return nil
	}
	c.partition.enterAfter.Store(int64(now + enterAgain))
	c.partition.lookBy.Store(int64(now + look))
	at := time.Now().Add(look).UnixMilli()
	return &command{goredis.NewCmd(context.Background(), "zadd", s.index.base, "lt", at, c.partition.member())}
}

// opens tells which scripts may begin a ledger.
func opens(s script) bool {
	switch s {
	case scriptPurge, scriptSweep, scriptDue, scriptNumber, scriptBury:
		return false
	}
	return true
}

// entered notes which ledgers were entered. One that was begun by a call is
// entered again if it was in the index already: whoever ended the former one may be
// about to take it out, and must see that there is another.
func (s *Store) entered(ctx context.Context, calls []*call) {
	var again []*call
	for _, c := range calls {
		added := false
		switch now := time.Since(s.began); {
		case c.enter == nil:
		case c.enter.Err() == nil:
			n, _ := c.enter.Int64()
			added = n == 1
			c.partition.enterAfter.Store(int64(now + enterEvery))
		default:
			c.partition.lookBy.Store(int64(now + enterAgain)) // not before
		}
		if !added && opens(c.script) && c.minted() {
			again = append(again, c)
		}
	}
	if len(again) == 0 {
		return
	}
	s.roundTrips.Add(1)
	pipe := s.client.Pipeline()
	at := float64(time.Now().Add(max(s.config.Retention.Age*9/8, lookLeast)).UnixMilli())
	for _, c := range again {
		pipe.ZAdd(ctx, s.index.base, goredis.Z{Score: at, Member: c.partition.member()})
	}
	_, _ = pipe.Exec(ctx) // it is entered again in time
}

// minted reports whether a call began a new life of its ledger.
func (c *call) minted() bool {
	a, err := decodeAnswer(c.cmd.Val())
	return err == nil && a.minted
}

// Sweep implements [l2.Store]. All who share the store share the work: each step
// takes some ledgers that are due, which nobody else then takes.
func (s *Store) Sweep(ctx context.Context) (more bool, err error) {
	held, due, err := s.due(ctx, "", sweepLedgers, nil)
	if err != nil || len(due) == 0 {
		return false, err
	}
	var calls []*call
	var done []any
	for _, member := range due {
		p, ok := s.memberOf(member)
		if !ok {
			done = append(done, member, "") // nobody's
			continue
		}
		calls = append(calls, &call{partition: p, script: scriptSweep})
	}
	s.run(ctx, calls)
	var failed error
	for _, c := range calls {
		ended, again, err := c.swept()
		switch {
		case err != nil:
			failed = errors.Join(failed, err) // somebody looks again in a minute
		case ended:
			done = append(done, c.partition.member(), "")
		default:
			more = more || again == 0
			done = append(done, c.partition.member(), again)
		}
	}
	if len(done) > 0 {
		if _, _, err := s.due(ctx, held, 0, done); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed == nil && (more || len(due) == sweepLedgers), failed
}

// due hands back ledgers that were looked after, and takes up to most of those
// that are due. It also returns what to hand those back with.
func (s *Store) due(ctx context.Context, held string, most int, done []any) (hold string, due []string, err error) {
	c := &call{partition: s.index, script: scriptDue, argv: append([]any{held, most}, done...)}
	s.run(ctx, []*call{c})
	if c.err != nil {
		return "", nil, c.err
	}
	answer, err := c.cmd.StringSlice()
	if err != nil || len(answer) == 0 {
		return "", nil, malformed()
	}
	return answer[0], answer[1:], nil
}

// swept reads the answer to the sweep of one ledger.
func (c *call) swept() (ended bool, again int64, err error) {
	if c.err != nil {
		return false, 0, fmt.Errorf("%s: %w", c.partition, c.err)
	}
	answer, err := c.cmd.Int64Slice()
	if err != nil || len(answer) != 2 {
		return false, 0, malformed()
	}
	return answer[0] == 1, answer[1], nil
}

// memberOf returns the partition of a name in the index. Its number of siblings is
// not known here.
func (s *Store) memberOf(member string) (*partition, bool) {
	namespace, digits, _ := strings.Cut(member, "/")
	index, err := strconv.ParseUint(digits, 10, 16)
	p := l2.Partition{Namespace: namespace, Index: uint16(index), Count: soracache.MaxPartitions}
	if err != nil || checkPartition(p) != nil {
		return nil, false
	}
	return newPartition(s.config.Prefix, p), true
}
