package redis

import (
	"context"
	"encoding/binary"
	"strconv"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/tags"
)

// The walks that cursors belong to.
const (
	walkList uint8 = iota + 1
	walkReclaim
	walkPartition
)

const (
	// setStep is about how many keys one script looks at: well under 5 ms.
	setStep = 200
	// listSteps is how many steps one page of a listing takes at most, where
	// most of what it meets is dead.
	listSteps = 20
)

// ListKeys implements [l2.Store].
func (s *Store) ListKeys(ctx context.Context, p l2.Partition, tag, cursor string, limit int) ([]string, string, error) {
	at, err := tags.DecodeCursor(walkList, cursor)
	if err != nil {
		return nil, "", err
	}
	var keys []string
	for range listSteps {
		step := min(max(limit-len(keys), 1), setStep)
		c := s.setCall(p, scriptList, tag, at, step)
		s.run(ctx, []*call{c})
		a, err := s.decode(c)
		if err != nil {
			return nil, "", err
		}
		done, err := a.place(9, &at)
		if err != nil {
			return nil, "", err
		}
		for _, key := range a.more[1:] {
			if key, ok := key.(string); ok {
				keys = append(keys, key)
			}
		}
		if done {
			return keys, "", nil
		}
		if len(keys) >= limit {
			break
		}
	}
	return keys, at.Encode(), nil
}

// setCall goes over the sets of a tag from a place on.
func (s *Store) setCall(p l2.Partition, script script, tag string, at tags.Cursor, step int) *call {
	c := s.newCall(p, soracache.Stamp{}, script)
	if err := checkNames("tag", tag); err != nil {
		c.err = err
	}
	bucket := binary.BigEndian.AppendUint64([]byte{at.Bucket.Exponent}, at.Bucket.Number)
	c.argv = []any{tag, bucket, strconv.FormatUint(at.Scan, 10), step}
	return c
}

// place reads where a walk over buckets goes on, and reports whether it is
// over. Size is how long the answer's body must be.
func (a answer) place(size int, at *tags.Cursor) (done bool, err error) {
	if len(a.body) != size || len(a.more) == 0 {
		return false, malformed()
	}
	text, _ := a.more[0].(string)
	if at.Scan, err = strconv.ParseUint(text, 10, 64); err != nil {
		return false, malformed()
	}
	at.Bucket = tags.Bucket{Exponent: a.body[0], Number: binary.BigEndian.Uint64(a.body[1:])}
	return at.Bucket == tags.Bucket{}, nil
}

// Reclaim implements [l2.Store].
func (s *Store) Reclaim(ctx context.Context, p l2.Partition, tag, cursor string) (next string, deleted int, err error) {
	if tag == "" {
		return s.reclaimAll(ctx, p, cursor)
	}
	at, err := tags.DecodeCursor(walkReclaim, cursor)
	if err != nil {
		return "", 0, err
	}
	c := s.setCall(p, scriptReclaim, tag, at, setStep)
	s.run(ctx, []*call{c})
	a, err := s.decode(c)
	if err != nil {
		return "", 0, err
	}
	done, err := a.place(17, &at)
	if err != nil {
		return "", 0, err
	}
	if !done {
		next = at.Encode()
	}
	return next, int(binary.BigEndian.Uint64(a.body[9:])), nil //nolint:gosec // a count
}

// reclaimAll does one step of a walk over everything that the partition's
// server holds.
func (s *Store) reclaimAll(ctx context.Context, p l2.Partition, cursor string) (next string, deleted int, err error) {
	at, err := tags.DecodeCursor(walkPartition, cursor)
	if err != nil {
		return "", 0, err
	}
	c := s.newCall(p, soracache.Stamp{}, scriptWalk)
	c.argv = []any{strconv.FormatUint(at.Scan, 10)}
	s.run(ctx, []*call{c})
	a, err := s.decode(c)
	if err != nil {
		return "", 0, err
	}
	if len(a.body) != 8 || len(a.more) == 0 {
		return "", 0, malformed()
	}
	text, _ := a.more[0].(string)
	if at.Scan, err = strconv.ParseUint(text, 10, 64); err != nil {
		return "", 0, malformed()
	}
	if at.Scan != 0 {
		next = at.Encode()
	}
	return next, int(binary.BigEndian.Uint64(a.body)), nil //nolint:gosec // a count
}

// Sweep implements [l2.Store].
func (s *Store) Sweep(ctx context.Context, p l2.Partition) (more bool, err error) {
	c := s.newCall(p, soracache.Stamp{}, scriptSweep)
	s.run(ctx, []*call{c})
	a, err := s.decode(c)
	if err != nil {
		return false, err
	}
	return len(a.body) == 1 && a.body[0] != 0, nil
}
