package redis

import (
	"context"
	"encoding/binary"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Explain implements [l2.Store].
func (s *Store) Explain(ctx context.Context, p l2.Partition, key string) (l2.Explanation, error) {
	c := s.newCall(p, scriptExplain)
	if err := checkNames("key", key); err != nil {
		return l2.Explanation{}, err
	}
	c.argv = []any{key}
	s.run(ctx, []*call{c})
	a, err := s.decode(c)
	if err != nil {
		return l2.Explanation{}, err
	}
	return explanation(a, key)
}

// explanation reads the answer of the script.
func explanation(a answer, key string) (l2.Explanation, error) {
	const size = 1 + 8 + 2 + 1 + 8 + 8 + 4
	if len(a.body) != size {
		return l2.Explanation{}, malformed()
	}
	x := l2.Explanation{
		Ledger: soracache.Stamp{Epoch: a.delta.Epoch, Position: a.delta.Head},
		Stored: a.body[0] != verdictAbsent,
	}
	if a.body[11] != 0 {
		x.Leased = true
		x.LeaseStamp = soracache.Stamp{Epoch: a.delta.Epoch, Position: soracache.Position(binary.BigEndian.Uint64(a.body[12:]))}
		x.LeaseFor = a.left(int64(binary.BigEndian.Uint64(a.body[20:]))) //nolint:gosec // a difference is taken
	}
	explainEntry(&x, a, key)
	return x, nil
}

// explainEntry adds what is known of the entry itself.
func explainEntry(x *l2.Explanation, a answer, key string) {
	if !x.Stored {
		explainAbsence(x, a, key)
		return
	}
	if len(a.more) > 0 {
		stored, _ := a.more[0].(string)
		if head := x.Read(bytesOf(stored), int(binary.BigEndian.Uint32(a.body[28:])), key); x.Readable {
			x.FreshFor, x.KeepFor = head.Left(a.now)
		}
	}
	if !x.Readable {
		x.Reason = "not an entry of this key"
		return
	}
	verdict := a.body[0]
	x.Live = verdict == verdictLive
	killer := func(t soracache.Target) { killedBy(x, a, t) }
	switch verdict {
	case verdictForeignEpoch:
		x.Reason = "of another epoch"
	case verdictExpired, verdictCorrupt: // what is readable and corrupt is of version 1
		x.Reason = "expired"
	case verdictAhead:
		x.Reason = "ahead of the ledger's head"
	case verdictBelowFloor:
		x.Reason = "has tags and is older than the tag records"
	case verdictCleared:
		killer(soracache.Everything())
	case verdictKeyRecord:
		killer(soracache.Key(soracache.KeyOf(key)))
	case verdictTagRecord:
		if tag := int(binary.BigEndian.Uint16(a.body[9:])); tag >= 1 && tag <= len(x.Entry.Tags) {
			killer(soracache.Tag(x.Entry.Tags[tag-1]))
		}
	}
}

// explainAbsence names the record that was the last to remove what stood under
// a key, if there is one.
func explainAbsence(x *l2.Explanation, a answer, key string) {
	key = soracache.KeyOf(key)
	named := [2]soracache.Target{soracache.Everything(), soracache.Key(key)}
	nth := binary.BigEndian.Uint16(a.body[9:])
	if at := binary.BigEndian.Uint64(a.body[1:]); at != 0 {
		killedBy(x, a, named[nth%2])
	}
	switch {
	case nth > 4:
		x.Reason = l2.Settling(soracache.Everything())
	case nth > 2:
		x.Reason = l2.Settling(soracache.Key(key))
	}
}

// killedBy says which record it was.
func killedBy(x *l2.Explanation, a answer, t soracache.Target) {
	x.Reason = t.String() + " was invalidated"
	x.KilledBy = soracache.Record{
		Epoch:    a.delta.Epoch,
		Position: soracache.Position(binary.BigEndian.Uint64(a.body[1:])),
		Targets:  []soracache.Target{t},
	}
}
