package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// call is one script call, and then its answer.
type call struct {
	*partition
	script script
	since  soracache.Stamp
	// follower is who registers, if anybody does, and followers whether it wants
	// to know who else did.
	follower  l2.Registration
	followers bool
	argv      []any // after the one that all scripts share
	before    []any // a command to send just before it; may be nil
	// keep is how long what it stores is kept; 0: it stores nothing.
	keep time.Duration
	// enter goes with it, and enters its ledger in the index; nil if that is not due.
	enter *command
	// lookedUp is when the namespace was found to have so many partitions, on
	// Redis' clock; 0: it was not looked up for this call.
	lookedUp uint64
	// process is where it was sent last; cmd holds the outcome.
	process *process
	cmd     command
	// err is why the call failed; it wraps a sentinel.
	err error
}

// command is a go-redis command that go-redis must not send twice.
type command struct{ *goredis.Cmd }

// NoRetry keeps go-redis from sending the command, or a pipeline that it is in,
// a second time when it cannot know whether it ran.
func (command) NoRetry() bool { return true }

// run makes all calls in one round trip. What a process refuses because it
// does not know the scripts is sent again once to whoever is there now; what
// may run twice is sent again once if its connection failed.
func (s *Store) run(ctx context.Context, calls []*call) {
	defer s.logFailures(calls)
	pending := s.prepare(ctx, calls)
	s.send(ctx, pending)
	var again, unknown []*call
	for _, c := range pending {
		if c.lost(ctx) {
			again = append(again, c)
		}
	}
	if len(again) > 0 {
		s.reloadTopology(ctx)
		s.send(ctx, again)
	}
	for _, c := range pending {
		if c.cmd.Err() != nil && goredis.HasErrorPrefix(c.cmd.Err(), "NOSCRIPT") {
			unknown = append(unknown, c)
		}
	}
	if len(unknown) > 0 {
		s.send(ctx, s.prepare(ctx, unknown))
	}
	s.begin(ctx, pending)
	for _, c := range pending {
		if c.err == nil && c.cmd.Err() != nil {
			c.err = c.failure()
		}
	}
	s.entered(ctx, pending)
}

// failure maps the error of a call that was sent to a sentinel.
func (c *call) failure() error {
	err := c.cmd.Err()
	switch {
	case goredis.HasErrorPrefix(err, "SORALATER"):
		return l2.LaterError(c.Partition)
	case goredis.HasErrorPrefix(err, "SORABURIED"):
		return l2.ChangingError(c.Namespace)
	case goredis.HasErrorPrefix(err, "SORACOUNT"):
		count := 0
		_, _ = fmt.Sscanf(err.Error(), "SORACOUNT %d", &count)
		return l2.CountError(c.Namespace, count, int(c.Count))
	}
	return failure(err)
}

// prepare attaches calls to the processes that serve their partitions, and
// returns those that can be sent.
func (s *Store) prepare(ctx context.Context, calls []*call) []*call {
	ready := make([]*call, 0, len(calls))
	for _, c := range calls {
		if c.err != nil {
			continue
		}
		found, err := s.attach(ctx, c.partition, c.process)
		if err != nil {
			c.err = failure(err)
			continue
		}
		c.process = found
		ready = append(ready, c)
	}
	return ready
}

// send sends calls in one pipeline.
func (s *Store) send(ctx context.Context, calls []*call) {
	if len(calls) == 0 {
		return
	}
	s.roundTrips.Add(1)
	for _, c := range calls {
		c.cmd = command{goredis.NewCmd(ctx, s.arguments(c)...)}
		c.enter = s.enters(c)
	}
	if len(calls) == 1 && calls[0].before == nil && calls[0].enter == nil {
		_ = s.client.Process(ctx, calls[0].cmd) // its error is the command's
		return
	}
	pipe := s.client.Pipeline()
	for _, c := range calls {
		if c.before != nil {
			_ = pipe.Process(ctx, command{goredis.NewCmd(ctx, c.before...)}) // only queues
		}
		_ = pipe.Process(ctx, c.cmd) // only queues
		if c.enter != nil {
			_ = pipe.Process(ctx, c.enter) // only queues
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
}

// commonBytes is how long the argument that all scripts share is, if nobody
// registers or wants to know who did.
const commonBytes = 8 + 8 + 8 + 2 + 8

func (s *Store) arguments(c *call) []any {
	common := make([]byte, 0, commonBytes+1+8+len(c.follower.Name))
	common = binary.BigEndian.AppendUint64(common, s.candidate())
	common = binary.BigEndian.AppendUint64(common, uint64(c.since.Epoch))
	common = binary.BigEndian.AppendUint64(common, uint64(c.since.Position))
	common = binary.BigEndian.AppendUint16(common, c.Count)
	common = binary.BigEndian.AppendUint64(common, c.lookedUp)
	if c.followers || c.follower.Name != "" {
		wants := byte(0)
		if c.followers {
			wants = 1
		}
		common = append(common, wants)
		common = binary.BigEndian.AppendUint64(common, boundMicros(c.follower.Bound))
		common = append(common, c.follower.Name...)
	}
	args := make([]any, 0, 7+len(c.argv))
	args = append(args, "evalsha", c.process.sha[c.script], "3", c.keys[0], c.keys[1], c.keys[2], common)
	return append(args, c.argv...)
}

// boundMicros returns a duration in microseconds, rounded up.
func boundMicros(bound time.Duration) uint64 {
	return uint64((bound + time.Microsecond - 1) / time.Microsecond) //nolint:gosec // not negative
}

// candidate returns a random epoch.
func (s *Store) candidate() uint64 {
	return max(s.config.Random()&(1<<52-1), 1)
}

// lost reports whether a call's connection failed, and it may be sent again.
// After a timeout it is not: who did not answer in time will not the next time.
func (c *call) lost(ctx context.Context) bool {
	err := c.cmd.Err()
	if err == nil || !mayRepeat[c.script] || ctx.Err() != nil {
		return false
	}
	var answered goredis.Error
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &answered), errors.Is(err, goredis.ErrPoolTimeout):
		return false
	case errors.As(err, &timeout):
		return !timeout.Timeout()
	}
	return true
}

// reloadTopology has a cluster client look for moved slots, which a connection
// that failed may be a sign of.
func (s *Store) reloadTopology(ctx context.Context) {
	if s.cluster != nil {
		s.cluster.ReloadState(ctx)
	}
}

// failure maps an error of Redis or of the way there to a sentinel.
func failure(err error) error {
	if goredis.HasErrorPrefix(err, "OOM") {
		return fmt.Errorf("%w: redis is at its maxmemory", soracache.ErrStoreFull)
	}
	return l2.Unavailable(fmt.Errorf("redis: %w", err), reasonOf(err))
}

// reasonOf is what callers are told of an error that Redis answered, or that is
// go-redis' own.
func reasonOf(err error) string {
	if errors.Is(err, goredis.ErrPoolTimeout) {
		return "all connections to the store are in use"
	}
	for prefix, reason := range map[string]string{
		"MISCONF": "the store cannot write to its disk",
		"LOADING": "the store is starting", "BUSY": "the store is busy", "READONLY": "the store is a replica",
		"NOREPLICAS": "the store has too few replicas", "CLUSTERDOWN": "the store's cluster is down",
		"MASTERDOWN": "the store's cluster is down", "NOAUTH": "the store refuses the node's credentials",
		"WRONGPASS": "the store refuses the node's credentials", "NOPERM": "the store refuses the node's credentials",
	} {
		if goredis.HasErrorPrefix(err, prefix) {
			return reason
		}
	}
	return "the store failed"
}

// logFailures has the log tell why calls failed, of which callers are told the
// reason alone.
func (s *Store) logFailures(calls []*call) {
	for _, c := range calls {
		var f *l2.Failure
		if !errors.As(c.err, &f) || errors.Is(f, context.Canceled) {
			continue
		}
		if omitted, ok := s.failures.Allow(); ok {
			s.config.Logger.Warn("redis: a call failed", "partition", c.Partition.String(), "error", f, "omitted", omitted)
		}
	}
}
