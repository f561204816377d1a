package service

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// session is how much of its namespace a client has seen: the highest stamp of
// each partition that any answer carried. Every read sends it along, so a
// client reads its own invalidations, and never goes back across one that it
// has seen, whichever node answers.
type session struct {
	mu     sync.Mutex      // held by who replaces seen
	doubts soracache.Epoch // how often it was not known which of two epochs is over; guarded by mu
	// seen is replaced and never changed, so it can be handed out.
	seen atomic.Pointer[soracache.Stamps]
	// cold is since when nothing is cached, as far as the client has noticed; nil: it
	// never has.
	cold atomic.Pointer[time.Time]
}

// cool notes that nothing is cached any more.
func (s *session) cool() {
	now := time.Now()
	s.cold.Store(&now)
}

// stamps returns what the next request is to carry.
func (s *session) stamps() soracache.Stamps {
	if seen := s.seen.Load(); seen != nil {
		return *seen
	}
	return nil
}

// observe takes in the stamp of an answer, and the stamps that its request carried.
// Epochs have no order. So an answer of another epoch is newer only if its request
// carried the present epoch. If the answer is of the epoch that its request carried, it
// is late: the ledger has left that epoch. If it is of neither, nobody can tell which of
// the two epochs came first. Then reads demand an epoch that no ledger has. No node can
// answer them from memory, so the node asks the store, and that answer tells.
func (s *session) observe(carried, answer soracache.Stamps) {
	if len(newsTo(s.stamps(), carried, answer)) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.stamps()
	news := newsTo(seen, carried, answer)
	if len(news) == 0 {
		return
	}
	for i := range news {
		if at, known := seen.At(news[i].Partition); known && at.Epoch != news[i].Stamp.Epoch {
			s.cool()
		}
		if news[i].Stamp.Epoch == noEpoch {
			s.doubts++
			news[i].Stamp.Epoch = noEpoch | s.doubts // what was asked in an earlier doubt does not settle this one
		}
	}
	merged := seen.Merge(news)
	s.seen.Store(&merged)
}

// noEpoch is a bit that no ledger's epoch has.
const noEpoch soracache.Epoch = 1 << 62

// newsTo returns the parts of an answer that are newer than what was seen. Where nobody
// can tell, the epoch is noEpoch.
func newsTo(seen, carried, answer soracache.Stamps) (news soracache.Stamps) {
	for _, a := range answer {
		present, known := seen.At(a.Partition)
		shown, _ := carried.At(a.Partition)
		switch {
		case !known,
			a.Stamp.Epoch == present.Epoch && a.Stamp.Position > present.Position,
			a.Stamp.Epoch != present.Epoch && shown.Epoch == present.Epoch:
			news = append(news, a)
		case a.Stamp.Epoch != present.Epoch && a.Stamp.Epoch != shown.Epoch:
			a.Stamp = soracache.Stamp{Epoch: noEpoch, Position: 1}
			news = append(news, a)
		}
	}
	return news
}

// heardMore tells whether anything has been heard of that a value does not
// reflect which is proven at the given stamps.
func (s *session) heardMore(proven soracache.Stamps) bool {
	seen := s.stamps()
	for _, p := range proven {
		if at, ok := seen.At(p.Partition); ok && (at.Epoch != p.Stamp.Epoch || at.Position > p.Stamp.Position) {
			return true
		}
	}
	return len(proven) == 0
}

// both returns stamps that reflect what was seen and something else. Where these are of
// two epochs, it is not known which of them is over: then that is an epoch that no
// ledger has, so that the store answers, and no memory that may still be in either.
func both(seen, other soracache.Stamps) soracache.Stamps {
	merged := seen.Merge(other)
	for i := range merged {
		at, ok := seen.At(merged[i].Partition)
		switch {
		case !ok || at.Epoch == merged[i].Stamp.Epoch:
		case at.Epoch&noEpoch != 0:
			merged[i].Stamp = at
		default:
			merged[i].Stamp = soracache.Stamp{Epoch: noEpoch, Position: 1}
		}
	}
	return merged
}
