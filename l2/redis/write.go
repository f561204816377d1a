package redis

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/tags"
)

// Write implements [l2.Store].
func (s *Store) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	calls := make([]*call, len(reqs))
	for i, req := range reqs {
		calls[i] = s.writeCall(req)
	}
	s.run(ctx, calls)
	answers := make([]l2.WriteAnswer, len(reqs))
	for i, c := range calls {
		a, err := s.decode(c)
		if err == nil {
			answers[i], err = writeAnswer(c.script, reqs[i], a)
		}
		if err != nil {
			answers[i] = l2.WriteAnswer{Err: err}
		}
	}
	return answers
}

func (s *Store) writeCall(req l2.WriteRequest) *call {
	var c *call
	switch req.Op {
	case soracache.OpFill:
		c = s.newCallBy(req.Register, req.Partition, req.Since, scriptFill)
		c.argv = append(make([]any, 0, 4+len(req.Entry.Tags)), req.Nonce[:])
		c.addEntry(req)
	case soracache.OpPut:
		c = s.newCallBy(req.Register, req.Partition, req.Since, scriptPut)
		c.argv = make([]any, 0, 3+len(req.Entry.Tags))
		c.addEntry(req)
	case soracache.OpRenew:
		c = s.newCallBy(req.Register, req.Partition, req.Since, scriptRenew)
		c.argv = []any{req.Nonce[:], req.Key, append(binary.BigEndian.AppendUint64(nil, leaseMicros(req.LeaseFor)), make([]byte, 1+8)...)}
	case soracache.OpRelease:
		c = s.newCallBy(req.Register, req.Partition, req.Since, scriptRenew)
		end := make([]byte, 8, 8+1+8)
		end = append(end, byte(req.Outcome))
		c.argv = []any{req.Nonce[:], req.Key, binary.BigEndian.AppendUint64(end, rememberMicros(req))}
	default:
		return &call{err: fmt.Errorf("%w: unknown write %d", soracache.ErrInvalid, req.Op)}
	}
	if err := checkNames("key", req.Key); err != nil {
		c.err = err
	}
	return c
}

// rememberMicros returns for how long it is to be remembered that a load left
// nothing, in microseconds. That a lease was handed back is not.
func rememberMicros(req l2.WriteRequest) uint64 {
	if req.Op == soracache.OpRelease && req.Outcome == soracache.LoadHandedBack {
		return 0
	}
	return uint64(max(min(req.Remember, l2.MaxRemember).Microseconds(), 0))
}

// mostNames is how long an entry's key and tags may be together, so that the
// part of an entry that scripts judge it by always holds them.
const mostNames = largeBytes - 1024

// addEntry adds what fill and put store: times, body, key and tags.
func (c *call) addEntry(req l2.WriteRequest) {
	ttl := req.Lifetime.TTL
	keep := max(req.Lifetime.Keep, ttl)
	e := req.Entry
	switch {
	case ttl < time.Microsecond:
		c.err = fmt.Errorf("%w: TTL must be positive", soracache.ErrInvalid)
	case len(e.Tags) > 1024 || len(e.Encoding) > 255 || len(e.ETag) > 255:
		c.err = fmt.Errorf("%w: too many tags, or too long an encoding or etag", soracache.ErrInvalid)
	}
	if err := checkNames("tag", e.Tags...); err != nil {
		c.err = err
	}
	if l2.BodySize(req.Key, e)-len(e.Value) > mostNames {
		c.err = fmt.Errorf("%w: key and tags are together over %d bytes", soracache.ErrInvalid, mostNames)
	}
	if c.err != nil {
		return
	}
	c.keep = keep
	how := make([]byte, 0, 18+8)
	how = binary.BigEndian.AppendUint64(how, uint64(ttl.Microseconds()))  //nolint:gosec // positive
	how = binary.BigEndian.AppendUint64(how, uint64(keep.Microseconds())) //nolint:gosec // positive
	how = append(how, tags.Exponent(keep))
	if size := l2.BodySize(req.Key, e); size < stagedBytes {
		body := l2.AppendBody(make([]byte, 0, size), req.Key, e, req.Lifetime.L1)
		c.argv = append(c.argv, binary.BigEndian.AppendUint64(append(how, 0), rememberMicros(req)), body, req.Key)
	} else {
		entry := make([]byte, l2.HeadBytes, l2.HeadBytes+size)
		c.argv = append(c.argv, binary.BigEndian.AppendUint64(append(how, 1), rememberMicros(req)), c.setAside(l2.AppendBody(entry, req.Key, e, req.Lifetime.L1)), req.Key)
	}
	for _, t := range e.Tags {
		c.argv = append(c.argv, t)
	}
}

// stagedBytes is from how long on an entry does not pass through Lua, where
// each byte costs several times what it costs Redis.
const stagedBytes = 16 << 10

// setAside has an entry written to a staging key in the same round trip before
// the script, which then renames it, and returns that key's name without what
// the names of all keys begin with. If the script never comes, it expires.
func (c *call) setAside(entry []byte) (name string) {
	name = "v:" + rand.Text()
	c.before = []any{"set", c.base + name, entry, "px", "60000"}
	return name
}

func writeAnswer(script script, req l2.WriteRequest, a answer) (l2.WriteAnswer, error) {
	out := l2.WriteAnswer{Delta: a.delta}
	if script == scriptPut {
		if len(a.body) != 8 {
			return out, malformed()
		}
		out.Record = recordOf(a, soracache.Key(soracache.KeyOf(req.Key)))
		out.Stamp = soracache.Stamp{Epoch: a.delta.Epoch, Position: a.delta.Head}
		return out, nil
	}
	size := map[bool]int{true: 1 + 8 + 8 + 2, false: 1 + 8}[script == scriptFill]
	if len(a.body) != size || a.body[0] > byte(soracache.ReasonLeaseLost) {
		return out, malformed()
	}
	out.Reason = soracache.Reason(a.body[0])
	switch {
	case out.Reason == soracache.ReasonNone && req.Op != soracache.OpRelease:
		out.Stamp = soracache.Stamp{Epoch: a.delta.Epoch, Position: soracache.Position(binary.BigEndian.Uint64(a.body[1:]))}
	case out.Reason == soracache.ReasonSuperseded && script == scriptFill:
		out.SupersededBy = winner(a, req)
	}
	return out, nil
}

// winner returns the record that a fill lost to, if it is known.
func winner(a answer, req l2.WriteRequest) soracache.Record {
	var target soracache.Target
	switch named := int(binary.BigEndian.Uint16(a.body[17:])); {
	case named == 1:
		target = soracache.Key(soracache.KeyOf(req.Key))
	case named == 2:
		target = soracache.Everything()
	case named > 2 && named-3 < len(req.Entry.Tags):
		target = soracache.Tag(req.Entry.Tags[named-3])
	default:
		return soracache.Record{}
	}
	return soracache.Record{
		Epoch:    a.delta.Epoch,
		Position: soracache.Position(binary.BigEndian.Uint64(a.body[9:])),
		Targets:  []soracache.Target{target},
	}
}

// recordOf returns the record that a script appended: its position is the head
// answered, and what came before it is in the body.
func recordOf(a answer, targets ...soracache.Target) soracache.Record {
	return soracache.Record{
		Epoch:    a.delta.Epoch,
		Prev:     soracache.Position(binary.BigEndian.Uint64(a.body)),
		Position: a.delta.Head,
		Targets:  targets,
	}
}

// Invalidate implements [l2.Store].
func (s *Store) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	calls := make([]*call, len(reqs))
	var names map[soracache.Target]any
	if len(reqs) > 1 {
		names = make(map[soracache.Target]any, len(reqs[0].Targets))
	}
	for i, req := range reqs {
		calls[i] = s.invalidateCall(req, names)
	}
	s.run(ctx, calls)
	answers := make([]l2.InvalidateAnswer, len(reqs))
	for i, c := range calls {
		a, err := s.decode(c)
		if err == nil && len(a.body) != 8 {
			err = malformed()
		}
		if err != nil {
			answers[i].Err = err
			continue
		}
		answers[i] = l2.InvalidateAnswer{Delta: a.delta, Record: recordOf(a, reqs[i].Targets...)}
		if reqs[i].Followers {
			if err := decodeFollowers(&answers[i], a.more); err != nil {
				answers[i] = l2.InvalidateAnswer{Err: err}
			}
		}
	}
	return answers
}

// decodeFollowers reads who is registered: for how long the list has been
// whole, then of each follower its bound, the length of its name, and its name.
func decodeFollowers(out *l2.InvalidateAnswer, more []any) error {
	var packed string
	if len(more) > 0 {
		packed, _ = more[0].(string)
	}
	b := bytesOf(packed)
	if len(b) < 8 {
		return malformed()
	}
	out.RegisteredFor = microseconds(b)
	for b = b[8:]; len(b) > 0; {
		if len(b) < 9 || len(b) < 9+int(b[8]) {
			return malformed()
		}
		out.Registered = append(out.Registered, l2.Registration{Name: string(b[9 : 9+int(b[8])]), Bound: microseconds(b)})
		b = b[9+int(b[8]):]
	}
	return nil
}

func microseconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint64(b)) * time.Microsecond //nolint:gosec // as scripts wrote it
}

// invalidateCall takes the names of targets from those that others of a request for
// many partitions have, and adds its own.
func (s *Store) invalidateCall(req l2.InvalidateRequest, names map[soracache.Target]any) *call {
	c := s.newCallBy(req.Register, req.Partition, req.Since, scriptInvalidate)
	c.followers = req.Followers
	if len(req.Targets) == 0 {
		c.err = fmt.Errorf("%w: nothing to invalidate", soracache.ErrInvalid)
	}
	c.argv = make([]any, 0, len(req.Targets)+1)
	if err := l2.CheckSettle(req.Settle); err != nil {
		c.err = err
	} else if req.Settle > 0 {
		c.argv = append(c.argv, binary.BigEndian.AppendUint64([]byte("s"), boundMicros(req.Settle)))
	}
	for _, t := range req.Targets {
		name, known := names[t]
		if !known {
			text, err := targetText(t)
			if name = text; err != nil {
				c.err = err
			} else if names != nil {
				names[t] = name
			}
		}
		c.argv = append(c.argv, name)
	}
	return c
}

// targetText is how scripts are told of a target.
func targetText(t soracache.Target) (string, error) {
	if err := errors.Join(checkNames("target", t.Name), l2.CheckTarget(t)); err != nil {
		return "", err
	}
	switch t.Kind {
	case soracache.TargetTag:
		return "t" + t.Name, nil
	case soracache.TargetKey:
		return "k" + t.Name, nil
	case soracache.TargetAll:
		return "a", nil
	default:
		return "", fmt.Errorf("%w: %s", soracache.ErrInvalid, t)
	}
}
