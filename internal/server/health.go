package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server/auth"
	"github.com/soracache/soracache/l2"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// readyTimeout is how long the node may take to say whether it is ready.
const readyTimeout = 2 * time.Second

// The reasons that the outside is told. They are general, because anybody may
// ask; the log has the particulars.
var (
	errDraining    = errors.New("draining")
	errUnreachable = errors.New("the store cannot be reached")
	errSilent      = errors.New("the store does not answer")
	errLate        = errors.New("the store did not answer in time")
	errPartitions  = errors.New("the number of partitions of a namespace is not what this node was told, or is being changed")
)

// reason is what the outside is told of why the node is not ready.
func (s *Server) reason(err error) error {
	var said interface{ Public() string }
	switch {
	case err == nil:
		return nil
	case errors.Is(err, l2.ErrPartitions):
		return errPartitions
	case errors.As(err, &said):
		return errors.New(said.Public())
	case len(s.node.Silent()) > 0:
		return errSilent
	case errors.Is(err, context.DeadlineExceeded):
		return errLate
	}
	return errUnreachable
}

// readyFor is how long an answer of the node's is told to others who ask: no
// longer than the node itself takes before it holds its store to be silent.
const readyFor = 500 * time.Millisecond

// readiness is the last that the node said of itself, which all who ask within
// readyFor are told, and the one question that is under way: anybody may ask, and
// each question is a round trip to the store.
type readiness struct {
	mu sync.Mutex
	// Guarded by mu. asking is closed when the question that is under way has been
	// answered; nil if there is none. asked is when the last one was sent.
	asking chan struct{}
	asked  time.Time
	err    error
}

// ready reports why the server is not to be sent requests: nil if it is.
func (s *Server) ready(ctx context.Context) error {
	if s.draining.Load() {
		return errDraining
	}
	r := &s.readiness
	r.mu.Lock()
	asking := r.asking
	if asking == nil && (r.asked.IsZero() || time.Since(r.asked) >= readyFor) {
		asking = make(chan struct{})
		r.asking, r.asked = asking, time.Now()
		// Whoever asked first may go away; the others still want to know.
		go s.askNode(context.WithoutCancel(ctx), asking)
	}
	err := r.err
	r.mu.Unlock()
	if asking == nil {
		return err
	}
	select {
	case <-asking:
	case <-ctx.Done(): // nobody waits for the reason any more
		return errLate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// askNode asks the node whether it is ready, for all who wait on asking.
func (s *Server) askNode(ctx context.Context, asking chan struct{}) {
	defer close(asking)
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	err := s.node.Ready(ctx)
	why := s.reason(err)
	r := &s.readiness
	r.mu.Lock()
	was := r.err
	r.asking, r.err = nil, why
	r.mu.Unlock()
	if fmt.Sprint(was) != fmt.Sprint(why) {
		s.logReadiness(err)
	}
}

func (s *Server) logReadiness(err error) {
	if err != nil {
		s.log.Warn("not ready", "error", err)
		return
	}
	s.log.Info("ready again")
}

// serveHealthz answers that the process is alive.
func (*Server) serveHealthz(w http.ResponseWriter, _ *http.Request) {
	_, _ = fmt.Fprintln(w, "ok")
}

// serveReadyz answers whether requests are welcome. Who has the scope admin is told of
// the store as well.
func (s *Server) serveReadyz(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if err := s.ready(r.Context()); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
	} else {
		s.writeReady(w)
	}
	if s.isAdmin(r) {
		_, _ = io.WriteString(w, storeDetail(s.cfg.StoreScheme, s.node.Store()))
	}
}

func (s *Server) writeReady(w io.Writer) {
	if s.node.StoreFull() {
		_, _ = fmt.Fprintln(w, "ready, but the store is full: nothing new is cached")
	} else {
		_, _ = fmt.Fprintln(w, "ready")
	}
	switch silent := len(s.node.Silent()); silent {
	case 0:
	case 1:
		_, _ = fmt.Fprintln(w, "but a part of the store does not answer")
	default:
		_, _ = fmt.Fprintf(w, "but %d parts of the store do not answer\n", silent)
	}
}

// storeDetail describes a store, one line a part.
func storeDetail(scheme string, parts []node.StorePart) string {
	var b strings.Builder
	for _, part := range parts {
		state := "unreachable"
		if part.Reachable {
			state = "reachable"
		}
		name := cmp.Or(part.Name, "all of it")
		fmt.Fprintf(&b, "store %s, %s: %s for %v\n", scheme, name, state, part.For.Round(time.Millisecond))
	}
	if len(parts) == 0 {
		fmt.Fprintf(&b, "store %s: nothing was asked of it\n", scheme)
	}
	return b.String()
}

// isAdmin tells whether a request shows a token with the scope admin. Without
// tokens nobody does: then anybody may ask.
func (s *Server) isAdmin(r *http.Request) bool {
	tokens := s.tokens.Load()
	if tokens == nil {
		return false
	}
	caller, err := tokens.Authenticate(r.Header.Values("Authorization"))
	return err == nil && caller.Allow(auth.Admin) == nil
}

// Check implements [grpchealth.Checker]: every service is as ready as the
// server is.
func (s *Server) Check(ctx context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch r.Service {
	case "", rpc.CacheServiceName, rpc.ClusterServiceName:
	default:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("unknown service %.200q", r.Service))
	}
	status := grpchealth.StatusServing
	if s.ready(ctx) != nil {
		status = grpchealth.StatusNotServing
	}
	return &grpchealth.CheckResponse{Status: status}, nil
}
