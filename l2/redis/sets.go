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
	// walkStep is what one script of a listing or a reclaim spends: it looks at so many
	// keys of which nothing is stored, or at a fifth as many whose entries have 20 tags,
	// which are judged one by one. That takes some 0.6 ms.
	walkStep = 80
	// pageKeys is about how many keys such a script looks at before it counts.
	pageKeys = 16
	// listSteps is how many steps one page of a listing takes at most, where
	// most of what it meets is dead.
	listSteps = 50
)

// ListKeys implements [l2.Store].
func (s *Store) ListKeys(ctx context.Context, p l2.Partition, tag, cursor string, limit int) ([]string, string, error) {
	at, err := tags.DecodeCursor(walkList, cursor)
	if err != nil {
		return nil, "", err
	}
	var keys []string
	for range listSteps {
		step := min(max(limit-len(keys), 1), walkStep)
		a, err := s.walk(ctx, s.setCall(p, scriptList, tag, at, step))
		if err != nil {
			return nil, "", err
		}
		page, next, err := a.listed()
		if err != nil {
			return nil, "", err
		}
		for _, name := range page {
			keys = append(keys, soracache.KeyOf(name))
		}
		if next == nil {
			return keys, "", nil
		}
		at = *next
		if len(keys) >= limit {
			break
		}
	}
	return keys, at.Encode(), nil
}

// Reclaim implements [l2.Store].
func (s *Store) Reclaim(ctx context.Context, p l2.Partition, tag, cursor string) (next string, deleted int, err error) {
	walk := walkReclaim
	if tag == "" {
		walk = walkPartition
	}
	at, err := tags.DecodeCursor(walk, cursor)
	if err != nil {
		return "", 0, err
	}
	a, err := s.walk(ctx, s.setCall(p, scriptReclaim, tag, at, walkStep))
	if err != nil {
		return "", 0, err
	}
	then, deleted, err := a.reclaimed(walk)
	if err != nil || then == nil {
		return "", deleted, err
	}
	return then.Encode(), deleted, nil
}

// setCall goes over the sets of a tag from a place on.
func (s *Store) setCall(p l2.Partition, script script, tag string, at tags.Cursor, step int) *call {
	c := s.newCall(p, script)
	if err := checkNames("tag", tag); err != nil {
		c.err = err
	}
	var bucket []byte
	if at.Bucket != (tags.Bucket{}) {
		bucket = binary.BigEndian.AppendUint64([]byte{at.Bucket.Exponent}, at.Bucket.Number)
		if tag == "" {
			bucket = append(append(bucket, ':'), at.After...)
		}
	}
	c.argv = []any{tag, bucket, strconv.FormatUint(at.Scan, 10), step}
	return c
}

// walk makes one step of a walk.
func (s *Store) walk(ctx context.Context, c *call) (answer, error) {
	s.run(ctx, []*call{c})
	return s.decode(c)
}

// listed reads the answer to one step of a listing: the names, and where to go
// on (nil: nowhere).
func (a answer) listed() (names []string, next *tags.Cursor, err error) {
	if next, err = a.place(walkList, a.body); err != nil {
		return nil, nil, err
	}
	for _, element := range a.more[1:] {
		name, ok := element.(string)
		if !ok {
			return nil, nil, malformed()
		}
		names = append(names, name)
	}
	return names, next, nil
}

// reclaimed reads the answer to one step of reclaiming: where to go on, and
// how many entries were deleted.
func (a answer) reclaimed(walk uint8) (next *tags.Cursor, deleted int, err error) {
	if len(a.body) < 8 {
		return nil, 0, malformed()
	}
	if next, err = a.place(walk, a.body[8:]); err != nil {
		return nil, 0, err
	}
	return next, int(binary.BigEndian.Uint64(a.body)), nil //nolint:gosec // a count
}

const placeBytes = 1 + 8

// place reads where a walk goes on: the bucket, and if it is one of a whole
// partition a colon and its tag; then, in an element of its own, where in its
// set. Nothing means that the walk is over.
func (a answer) place(walk uint8, bucket []byte) (*tags.Cursor, error) {
	if len(a.more) == 0 {
		return nil, malformed()
	}
	if len(bucket) == 0 {
		return nil, nil
	}
	text, _ := a.more[0].(string)
	scan, err := strconv.ParseUint(text, 10, 64)
	if err != nil || len(bucket) < placeBytes || (len(bucket) > placeBytes) != (walk == walkPartition) {
		return nil, malformed()
	}
	at := tags.Cursor{
		Walk:   walk,
		Bucket: tags.Bucket{Exponent: bucket[0], Number: binary.BigEndian.Uint64(bucket[1:])},
		Scan:   scan,
	}
	if walk == walkPartition {
		at.After = string(bucket[placeBytes+1:])
	}
	return &at, nil
}
