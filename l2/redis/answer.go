package redis

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// errAnswer says that an answer is not one that the scripts give.
var errAnswer = errors.New("malformed answer of a script")

func malformed() error {
	return l2.Unavailable(fmt.Errorf("redis: %w", errAnswer), "the store gave an answer that cannot be read")
}

// answer is what every script answers.
type answer struct {
	delta  soracache.Delta
	minted bool
	now    int64 // Redis' clock, microseconds since 1970
	body   []byte
	// more holds the elements that the operation itself added.
	more []any
}

// The flags of an answer.
const (
	flagReset = 1 << iota
	flagMinted
	flagDelta
)

const answerFixed = 1 + 8 + 8 + 8

// decodeAnswer reads an answer: flags, epoch, head and clock, then the
// operation's own bytes; then the operation's own elements; and last the delta,
// if there is one.
func decodeAnswer(reply any) (answer, error) {
	elements, ok := reply.([]any)
	if !ok || len(elements) == 0 {
		return answer{}, errAnswer
	}
	first, ok := elements[0].(string)
	if !ok || len(first) < answerFixed {
		return answer{}, errAnswer
	}
	b := bytesOf(first)
	flags := b[0]
	a := answer{
		delta: soracache.Delta{
			Epoch: soracache.Epoch(binary.BigEndian.Uint64(b[1:])),
			Head:  soracache.Position(binary.BigEndian.Uint64(b[9:])),
			Reset: flags&flagReset != 0,
		},
		minted: flags&flagMinted != 0,
		now:    int64(binary.BigEndian.Uint64(b[17:])), //nolint:gosec // a difference is taken
		body:   b[answerFixed:],
		more:   elements[1:],
	}
	if flags&flagDelta == 0 {
		return a, nil
	}
	last := len(a.more) - 1
	if last < 0 {
		return answer{}, errAnswer
	}
	packed, ok := a.more[last].(string)
	if !ok {
		return answer{}, errAnswer
	}
	a.more = a.more[:last]
	return a, decodeDelta(bytesOf(packed), &a.delta)
}

// mark is one target's latest position.
type mark struct {
	at     soracache.Position
	target soracache.Target
}

const deltaFixed = 8 + 8 + 8

// decodeDelta reads up to where the tag and the key records that follow are
// complete (0: all of them are there), the position of a clear (0: none), and
// the records: position, length of member, member. A record of a kind that is
// not known here, by a later version, may kill anything.
func decodeDelta(b []byte, d *soracache.Delta) error {
	if len(b) < deltaFixed {
		return errAnswer
	}
	complete := soracache.Position(math.MaxInt64)
	for _, limit := range []uint64{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])} {
		if limit != 0 {
			d.More = true
			complete = min(complete, soracache.Position(limit))
		}
	}
	var marks []mark
	var everything soracache.Position // the last that kills everything, as far as is complete
	if cleared := soracache.Position(binary.BigEndian.Uint64(b[16:])); cleared <= complete {
		everything = cleared
	}
	for b = b[deltaFixed:]; len(b) > 0; {
		if len(b) < 10 {
			return errAnswer
		}
		at, size := soracache.Position(binary.BigEndian.Uint64(b)), int(binary.BigEndian.Uint16(b[8:]))
		b = b[10:]
		if len(b) < size {
			return errAnswer
		}
		if target, ok := targetOf(string(b[:size])); ok {
			marks = append(marks, mark{at, target})
		} else if at <= complete {
			everything = max(everything, at)
		}
		b = b[size:]
	}
	if everything != 0 {
		marks = append(marks, mark{everything, soracache.Everything()})
	}
	slices.SortStableFunc(marks, func(x, y mark) int { return cmp.Compare(x.at, y.at) })
	group(marks, complete, d)
	return nil
}

// targetOf reads the member of a record, if it is of a kind that is known here.
func targetOf(member string) (soracache.Target, bool) {
	if member == "" {
		return soracache.Target{}, false
	}
	switch member[0] {
	case 't':
		return soracache.Tag(member[1:]), true
	case 'k':
		return soracache.Key(member[1:]), true
	}
	return soracache.Target{}, false
}

// group makes records of marks in ascending order, up to where they are
// complete and as many as a delta holds. The first record is always whole.
func group(marks []mark, complete soracache.Position, d *soracache.Delta) {
	for held := 0; len(marks) > 0; {
		n := 1
		for n < len(marks) && marks[n].at == marks[0].at {
			n++
		}
		if marks[0].at > complete || held > 0 && held+n > l2.MaxDelta {
			d.More = true
			return
		}
		r := soracache.Record{Epoch: d.Epoch, Position: marks[0].at, Targets: make([]soracache.Target, n)}
		for i := range n {
			r.Targets[i] = marks[i].target
		}
		d.Records = append(d.Records, r)
		held += n
		marks = marks[n:]
	}
}

// bytesOf returns the bytes of a string without copying them. Nobody may write
// to them: they end up in entries, which are immutable.
func bytesOf(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // read only: see above
}

// decode reads a call's answer and counts what is to be counted.
func (s *Store) decode(c *call) (answer, error) {
	if c.err != nil {
		return answer{}, c.err
	}
	a, err := decodeAnswer(c.cmd.Val())
	if err != nil {
		return answer{}, malformed()
	}
	if a.minted {
		s.epochs.Add(1)
	}
	return a, nil
}
