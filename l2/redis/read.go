package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // what Redis scripts can compute
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// The verdicts of scripts on a stored entry.
const (
	verdictLive = iota
	verdictAbsent
	verdictCorrupt
	verdictForeignEpoch
	verdictExpired
	verdictAhead
	verdictCleared
	verdictBelowFloor
	verdictTagRecord
	verdictKeyRecord
)

// mostPurges is how often a read is repeated because damaged entries were found
// and deleted. One is enough unless somebody writes garbage as fast as we read.
const mostPurges = 3

// Read implements [l2.Store].
func (s *Store) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	answers := make([]l2.ReadAnswer, len(reqs))
	pending := make([]int, len(reqs))
	for i := range pending {
		pending[i] = i
	}
	for round := 0; len(pending) > 0; round++ {
		calls := make([]*call, len(pending))
		for i, at := range pending {
			calls[i] = s.readCall(reqs[at])
		}
		s.run(ctx, calls)
		var purges []*call
		var again []int
		for i, at := range pending {
			damaged := s.readAnswer(calls[i], reqs[at].Keys, &answers[at])
			if len(damaged) > 0 && round < mostPurges {
				again = append(again, at)
				purges = append(purges, damaged...)
			}
		}
		if len(purges) > 0 {
			s.run(ctx, purges) // whatever fails here is found again
		}
		pending = again
	}
	return answers
}

// wishBytes is what a key's wish for a lease takes: nonce, duration, refresh
// within.
const wishBytes = len(soracache.Lease{}) + 8 + 8

func (s *Store) readCall(req l2.ReadRequest) *call {
	c := s.newCall(req.Partition, req.Since, scriptRead)
	wanted := false
	for _, k := range req.Keys {
		wanted = wanted || k.Nonce != soracache.Lease{}
		if err := checkNames("key", k.Key); err != nil {
			c.err = err
		}
	}
	c.argv = make([]any, 1, 1+len(req.Keys))
	c.argv[0] = ""
	if wanted {
		wishes := make([]byte, 0, wishBytes*len(req.Keys))
		for _, k := range req.Keys {
			wishes = append(wishes, k.Nonce[:]...)
			duration := uint64(0)
			if k.Nonce != (soracache.Lease{}) {
				duration = leaseMicros(k.LeaseFor)
			}
			wishes = binary.BigEndian.AppendUint64(wishes, duration)
			wishes = binary.BigEndian.AppendUint64(wishes, uint64(max(k.RefreshWithin.Microseconds(), 0))) //nolint:gosec // not negative
		}
		c.argv[0] = wishes
	}
	for _, k := range req.Keys {
		c.argv = append(c.argv, k.Key)
	}
	return c
}

// leaseMicros returns how long a lease is to last, in microseconds.
func leaseMicros(d time.Duration) uint64 {
	if d <= 0 {
		d = soracache.DefaultLease
	}
	return uint64(max(d.Microseconds(), 1)) //nolint:gosec // positive
}

// keyBytes is what a script answers for each key: verdict, lease, the lease's
// stamp and end.
const keyBytes = 1 + 1 + 8 + 8

// readAnswer fills in the answer to one request. It returns calls that delete
// what turned out not to be entries of their keys; the answer is to be asked
// for again after them, and until then counts such a key as not found.
func (s *Store) readAnswer(c *call, keys []l2.ReadKey, out *l2.ReadAnswer) (damaged []*call) {
	a, err := s.decode(c)
	if err == nil && len(a.body) != keyBytes*len(keys) {
		err = fmt.Errorf("%w: redis: %w", soracache.ErrUnavailable, errAnswer)
	}
	if err != nil {
		*out = l2.ReadAnswer{Err: err}
		return nil
	}
	*out = l2.ReadAnswer{Delta: a.delta, Keys: make([]l2.KeyAnswer, len(keys))}
	for i := range keys {
		k, verdict := &out.Keys[i], a.body[keyBytes*i]
		decodeLease(k, a, a.body[keyBytes*i+1:])
		switch verdict {
		case verdictCorrupt:
			s.corrupt.Add(1)
		case verdictLive:
			if len(a.more) == 0 {
				*out = l2.ReadAnswer{Err: fmt.Errorf("%w: redis: %w", soracache.ErrUnavailable, errAnswer)}
				return nil
			}
			stored, _ := a.more[0].(string)
			a.more = a.more[1:]
			if !decodeLive(k, stored, keys[i].Key, a) {
				s.corrupt.Add(1)
				damaged = append(damaged, s.purgeCall(c, keys[i].Key, stored))
			}
		}
	}
	return damaged
}

// decodeLease reads what a script answers about a lease.
func decodeLease(k *l2.KeyAnswer, a answer, b []byte) {
	k.Lease = l2.LeaseState(b[0])
	switch k.Lease {
	case l2.LeaseGranted:
		k.LeaseStamp = soracache.Stamp{
			Epoch:    a.delta.Epoch,
			Position: soracache.Position(binary.BigEndian.Uint64(b[1:])),
		}
		k.LeaseFor = a.left(int64(binary.BigEndian.Uint64(b[9:]))) //nolint:gosec // a difference is taken
	case l2.LeaseHeld:
		k.LeaseFor = a.left(int64(binary.BigEndian.Uint64(b[9:]))) //nolint:gosec // a difference is taken
	default:
		k.Lease = l2.LeaseNone
	}
}

// left returns how far a time on Redis' clock is from when the answer was made.
func (a answer) left(until int64) time.Duration {
	return time.Duration(until-a.now) * time.Microsecond
}

// decodeLive reads an entry that the script found live, and reports whether it
// is an entry of that key at all.
func decodeLive(k *l2.KeyAnswer, stored, key string, a answer) bool {
	head, e, l1, err := l2.DecodeEntry(bytesOf(stored), key)
	if err != nil {
		return false
	}
	k.Found, k.Entry, k.Stamp, k.L1 = true, e, head.Stamp, l1
	k.FreshFor, k.KeepFor = a.left(head.FreshUntil), a.left(head.KeepUntil)
	return true
}

// purgeCall deletes exactly these bytes from under a key.
func (s *Store) purgeCall(read *call, key, stored string) *call {
	sum := sha1.Sum(bytesOf(stored)) //nolint:gosec // see import
	c := s.newCall(read.Partition, soracache.Stamp{}, scriptPurge)
	c.argv = []any{key, hex.EncodeToString(sum[:])}
	return c
}
