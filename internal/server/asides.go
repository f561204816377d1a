package server

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// asides are requests that are answered beside the budget and all other limits: health
// checks, reflection, all that is no POST, and refusals on their way over HTTP/2. Only
// so many are answered at once; for one more, the oldest has to go. So nobody who does
// not end its request, or does not take its answer, keeps out a probe.
type asides struct {
	limit int
	ended atomic.Uint64

	mu     sync.Mutex
	open   []*aside // the oldest first; guarded by mu
	inside int      // with those that had to go and are not gone; guarded by mu
}

const (
	mostHealthChecks = 1000
	mostReflections  = 100
)

// aside is one of them.
type aside struct{ control *http.ResponseController }

// enter admits a request, which must then leave. It refuses it while as many as may
// be open had to go and are not gone.
func (all *asides) enter(w http.ResponseWriter) (*aside, error) {
	one := &aside{http.NewResponseController(w)}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.inside >= 2*all.limit {
		all.ended.Add(1)
		return nil, fmt.Errorf("%w: %d others are asking for this", soracache.ErrUnavailable, all.inside)
	}
	all.inside++
	if len(all.open) >= all.limit {
		over := time.Unix(1, 0)
		_ = all.open[0].control.SetReadDeadline(over)
		_ = all.open[0].control.SetWriteDeadline(over)
		all.open = slices.Delete(all.open, 0, 1)
		all.ended.Add(1)
	}
	all.open = append(all.open, one)
	return one, nil
}

// leave is called before the handler returns: afterwards its writer must not be
// touched.
func (all *asides) leave(one *aside) {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.inside--
	if at := slices.Index(all.open, one); at >= 0 {
		all.open = slices.Delete(all.open, at, at+1)
	}
}

// flush returns once an answer over HTTP/2 was taken. What is short waits in a buffer
// until the handler has returned, and then for as long as its caller likes.
func (one *aside) flush(r *http.Request) {
	if r.ProtoMajor == 2 {
		_ = one.control.Flush()
	}
}

// serveAside hands such a request to its handler.
func (s *Server) serveAside(c *call, r *http.Request) {
	all := &s.reflections
	if c.procedure.open {
		all = &s.healthChecks
	}
	one, err := all.enter(c.response)
	if err != nil {
		s.refuse(c, r, err)
		return
	}
	defer all.leave(one)
	s.rpcs.ServeHTTP(c.response, r)
	one.flush(r)
}

// beside serves what is no RPC, as an aside: probes, metrics, and whatever else
// somebody asks for.
func (s *Server) beside(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		one, err := s.healthChecks.enter(w)
		if err != nil {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(refusalTime))
			w.Header().Set("Retry-After", retryAfter)
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer s.healthChecks.leave(one)
		next.ServeHTTP(w, r)
		one.flush(r)
	}
}
