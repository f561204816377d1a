package server

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"
)

// questions are those of people: which keys there are, why one is a miss, what the
// totals are. One of them is as much work as hundreds of reads, for the node and for
// its store, so that few are answered at once: reads go on beside any number of them.
// Who sends its request, or is sent its answer, is not being answered.
type questions struct {
	places  chan struct{}
	refused atomic.Uint64
}

// questionPatience is how long a question waits for those before it. Meanwhile it
// costs nothing but its request, and who is told at once asks again at once.
const questionPatience = time.Second

var errQuestions = errors.New("other listings, explanations and totals are being answered: try again")

// newQuestions has as many places as half of the processors.
func newQuestions() questions {
	return questions{places: make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1))}
}

// enter admits a question, which must then leave: in the order in which they came.
func (all *questions) enter(ctx context.Context) error {
	timer := time.NewTimer(questionPatience)
	defer timer.Stop()
	select {
	case all.places <- struct{}{}:
		return nil
	case <-timer.C:
		all.refused.Add(1)
		return errQuestions
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (all *questions) leave() { <-all.places }
