package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // what Redis scripts can compute
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

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

// largeBytes is how much of an entry the script hands out; what is longer is
// fetched beside it. Of that the script tells the head and the length.
const (
	largeBytes = l2.InlineBytes
	largeHead  = l2.HeadBytes + 4
)

// Read implements [l2.Store].
func (s *Store) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	answers := make([]l2.ReadAnswer, len(reqs))
	pending := make([]int, len(reqs))
	for i := range pending {
		pending[i] = i
	}
	for round := 0; len(pending) > 0; round++ {
		pending = s.readRound(ctx, reqs, answers, pending, round == mostRounds)
	}
	return answers
}

// mostRounds is how often a request is repeated because something stood under
// a key that is no entry and was deleted, or because a large entry was replaced
// while it was fetched. Once is enough unless somebody writes as fast as we
// read.
const mostRounds = 3

// readRound answers the requests pending and returns those to ask again. After
// the last round there are none: what could not be read is then not found.
func (s *Store) readRound(ctx context.Context, reqs []l2.ReadRequest, answers []l2.ReadAnswer, pending []int, last bool) (again []int) {
	calls := make([]*call, len(pending))
	for i, at := range pending {
		calls[i] = s.readCall(reqs[at])
	}
	s.run(ctx, calls)

	found := make([]readAnswer, len(pending))
	var large []*largeEntry
	for i, at := range pending {
		found[i] = s.readAnswer(calls[i], reqs[at].Keys, reqs[at].Room)
		answers[at] = found[i].ReadAnswer
		large = append(large, found[i].large...)
	}
	s.fetch(ctx, large)
	var purges []*call
	for i, at := range pending {
		if !found[i].complete() && !last {
			again = append(again, at)
		}
		purges = append(purges, found[i].purges...)
	}
	if len(purges) > 0 {
		s.run(ctx, purges) // whatever fails here is found again
	}
	return again
}

// wishBytes is what a key's wish for a lease takes: duration, refresh within,
// nonce.
const wishBytes = 8 + 8 + len(soracache.Lease{})

func (s *Store) readCall(req l2.ReadRequest) *call {
	c := s.newCallBy(req.Register, req.Partition, req.Since, scriptRead)
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
			duration := uint64(0)
			if k.Nonce != (soracache.Lease{}) {
				duration = leaseMicros(k.LeaseFor)
			}
			wishes = binary.BigEndian.AppendUint64(wishes, duration)
			wishes = binary.BigEndian.AppendUint64(wishes, uint64(max(k.RefreshWithin.Microseconds(), 0)))
			wishes = append(wishes, k.Nonce[:]...)
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
	return uint64(max(min(d, soracache.MaxLease).Microseconds(), 1))
}

// leasePassed is what a script answers for a lease that is granted while it is
// remembered that an earlier load left nothing.
const leasePassed = uint8(soracache.LeaseRefused) + 1

// keyBytes is what a script answers for each key: verdict, lease, the lease's
// stamp and end.
const keyBytes = 1 + 1 + 8 + 8

// readAnswer is an answer with what is still to be done about it.
type readAnswer struct {
	l2.ReadAnswer
	// large are the entries that are still to be fetched.
	large []*largeEntry
	// purges delete what turned out not to be entries of their keys.
	purges []*call
}

// complete reports whether all that the script found live could be read.
func (a readAnswer) complete() bool {
	for _, e := range a.large {
		if !e.out.Found && !e.out.Cut {
			return false
		}
	}
	return len(a.purges) == 0
}

// readAnswer reads the answer to one request.
func (s *Store) readAnswer(c *call, keys []l2.ReadKey, room func(int) bool) readAnswer {
	a, err := s.decode(c)
	if err == nil && len(a.body) != keyBytes*len(keys) {
		err = malformed()
	}
	if err != nil {
		return readAnswer{ReadAnswer: l2.ReadAnswer{Err: err}}
	}
	out := readAnswer{ReadAnswer: l2.ReadAnswer{Delta: a.delta, Clock: time.UnixMicro(a.now), Keys: make([]l2.KeyAnswer, len(keys))}}
	for i := range keys {
		k, verdict := &out.Keys[i], a.body[keyBytes*i]
		decodeLease(k, a, a.body[keyBytes*i+1:])
		if verdict == verdictCorrupt {
			s.corrupt.Add(1)
		}
		if verdict != verdictLive {
			continue
		}
		if len(a.more) == 0 {
			return readAnswer{ReadAnswer: l2.ReadAnswer{Err: malformed()}}
		}
		stored, _ := a.more[0].(string)
		a.more = a.more[1:]
		switch {
		case decodeLive(k, stored, keys[i].Key, a):
		case len(stored) == largeHead:
			out.large = append(out.large, &largeEntry{
				c.partition, keys[i].Key, stored[:l2.HeadBytes], int(binary.BigEndian.Uint32(bytesOf(stored)[l2.HeadBytes:])), room, a, k,
			})
		default:
			s.corrupt.Add(1)
			out.purges = append(out.purges, s.purgeCall(c.partition, keys[i].Key, stored))
		}
	}
	return out
}

// largeEntry is an entry of which the script handed out the head alone.
type largeEntry struct {
	*partition
	key, head string
	bytes     int
	room      func(int) bool
	answer    answer
	out       *l2.KeyAnswer
}

// fetch gets the whole of large entries for which there is room, in one round
// trip. The head tells whether it is still the entry that the script judged; if
// it is not, or is damaged, it stays not found.
func (s *Store) fetch(ctx context.Context, large []*largeEntry) {
	large = slices.DeleteFunc(large, func(e *largeEntry) bool {
		e.out.Cut = e.room != nil && !e.room(e.bytes)
		return e.out.Cut
	})
	if len(large) == 0 {
		return
	}
	s.roundTrips.Add(1)
	pipe := s.client.Pipeline()
	gets := make([]*goredis.StringCmd, len(large))
	for i, e := range large {
		// No more than there is room for, should it be replaced by a larger one.
		gets[i] = pipe.GetRange(ctx, e.base+"e:"+e.key, 0, int64(e.bytes-1))
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, e := range large {
		stored := gets[i].Val()
		if !strings.HasPrefix(stored, e.head) {
			continue
		}
		if !decodeLive(e.out, stored, e.key, e.answer) {
			s.corrupt.Add(1)
			s.run(ctx, []*call{s.purgeCall(e.partition, e.key, stored)})
		}
	}
}

// decodeLease reads what a script answers about a lease.
func decodeLease(k *l2.KeyAnswer, a answer, b []byte) {
	k.Lease = soracache.LeaseState(b[0])
	if b[0] == leasePassed {
		k.Lease, k.Refusal = soracache.LeaseGranted, soracache.RefusalPassed
	}
	switch k.Lease {
	case soracache.LeaseGranted:
		k.LeaseStamp = soracache.Stamp{
			Epoch:    a.delta.Epoch,
			Position: soracache.Position(binary.BigEndian.Uint64(b[1:])),
		}
		k.LeaseFor = a.left(int64(binary.BigEndian.Uint64(b[9:]))) //nolint:gosec // a difference is taken
	case soracache.LeaseHeld:
		k.LeaseFor = a.left(int64(binary.BigEndian.Uint64(b[9:]))) //nolint:gosec // a difference is taken
	case soracache.LeaseRefused:
		k.Refusal = soracache.Refusal(b[8]) // of its eight bytes, the last
	default:
		k.Lease = soracache.LeaseNone
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
	k.FreshFor, k.KeepFor = head.Left(a.now)
	return true
}

// purgeCall deletes exactly these bytes from under a key.
func (s *Store) purgeCall(p *partition, key, stored string) *call {
	sum := sha1.Sum(bytesOf(stored)) //nolint:gosec // see import
	return &call{partition: p, script: scriptPurge, argv: []any{key, hex.EncodeToString(sum[:])}}
}
