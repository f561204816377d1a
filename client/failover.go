package client

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
)

const (
	// firstRest and longestRest bound how long a node that failed is passed
	// over, before jitter: the time doubles with each failure in a row.
	firstRest   = 250 * time.Millisecond
	longestRest = 5 * time.Second
	// fairTrial is the least time after which silence is held against a node.
	fairTrial = 25 * time.Millisecond
)

// nodes is a backend that stands for the nodes of one cluster, any of which
// can answer anything: they share their second tier. It asks the first of
// them that is well, and goes on to the next where that one fails and the
// request may be sent twice:
//
//   - reads and Head change nothing, but for a lease whose answer was lost, and
//     that runs out;
//   - a renewal and a release say the same twice, and so does an invalidation,
//     which then only makes more things dead;
//   - of two equal fills the second finds that the lease has ended;
//   - a put that runs twice could bury a newer one, so it is repeated only where
//     the first node has certainly not begun it.
type nodes struct {
	members []*member // in the order in which this client prefers them
	log     *slog.Logger
}

var _ soracache.Backend = (*nodes)(nil)

// Get asks one node after the other. A read that moves on waits for what is
// left of its wait.
func (n *nodes) Get(ctx context.Context, req soracache.GetRequest) (results []soracache.ReadResult, err error) {
	var wait time.Duration
	for _, r := range req.Reads {
		wait = max(wait, r.Wait)
	}
	b := budgetOf(ctx, wait)
	err = n.each(ctx, b, always, func(ctx context.Context, m soracache.Backend) error {
		results, err = m.Get(ctx, b.clamp(req))
		return err
	})
	return results, err
}

// Write repeats what may be repeated.
func (n *nodes) Write(ctx context.Context, req soracache.WriteRequest) (results []soracache.WriteResult, err error) {
	again := always
	if slices.ContainsFunc(req.Writes, func(w soracache.Write) bool { return w.Op == soracache.OpPut }) {
		again = notBegun
	}
	var doubt error
	err = n.each(ctx, budgetOf(ctx, 0), again, func(ctx context.Context, m soracache.Backend) error {
		results, err = m.Write(ctx, req)
		if err != nil && !notBegun(err) {
			doubt = err
		}
		return err
	})
	if err == nil && doubt != nil {
		unsure(req.Writes, results, doubt)
	}
	return results, err
}

// unsure takes back what a repeated fill was told, that its lease is lost, for
// it may well have been the first attempt that ended it.
func unsure(writes []soracache.Write, results []soracache.WriteResult, doubt error) {
	for i := range min(len(writes), len(results)) {
		if writes[i].Op == soracache.OpFill && results[i].Reason == soracache.ReasonLeaseLost {
			results[i].Err = doubt
		}
	}
}

// Invalidate repeats an invalidation. One that is to be acknowledged may take a
// node as long as the caller allows.
func (n *nodes) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (result soracache.InvalidateResult, err error) {
	b := budgetOf(ctx, 0)
	if req.Acknowledge {
		b = budget{}
	}
	err = n.each(ctx, b, always, func(ctx context.Context, m soracache.Backend) error {
		result, err = m.Invalidate(ctx, req)
		return err
	})
	return result, err
}

// Head asks one node after the other.
func (n *nodes) Head(ctx context.Context, namespace string) (result soracache.HeadResult, err error) {
	err = n.each(ctx, budgetOf(ctx, 0), always, func(ctx context.Context, m soracache.Backend) error {
		result, err = m.Head(ctx, namespace)
		return err
	})
	return result, err
}

// each calls one member after the other until one has answered, well or badly,
// or the error is one after which the call must not be made again.
func (n *nodes) each(ctx context.Context, b budget, again func(error) bool, call func(context.Context, soracache.Backend) error) error {
	candidates := n.candidates(time.Now())
	for i, m := range candidates {
		last := i == len(candidates)-1
		failures, began := m.known(), time.Now()
		attempt, cancel := b.attempt(ctx, last)
		err := call(attempt, m.backend)
		timedOut := attempt.Err() != nil || connect.CodeOf(err) == connect.CodeDeadlineExceeded
		cancel()
		switch {
		case !failed(err):
			if m.recovered() {
				n.log.Info("soracache: a node answers again", "url", m.url)
			}
			return err
		case errors.Is(ctx.Err(), context.Canceled):
			return err // which says nothing about the node
		case timedOut && time.Since(began) < fairTrial:
		case m.fell(failures, time.Now()):
			n.log.Warn("soracache: a node fails", "url", m.url, "error", err)
		}
		if last || ctx.Err() != nil || !again(err) {
			return err
		}
	}
	return nil // there is always a candidate
}

// candidates returns all members in the order in which one call is to try
// them: those that are well, and then those that rest. If none before it is
// well, one whose rest is over comes first, for one call at a time.
func (n *nodes) candidates(now time.Time) []*member {
	well := make([]*member, 0, len(n.members))
	var resting []*member
	for _, m := range n.members {
		if m.well() || len(well) == 0 && m.onTrial(now) {
			well = append(well, m)
		} else {
			resting = append(resting, m)
		}
	}
	return append(well, resting...)
}

// member is one node and how it fared of late.
type member struct {
	url     string
	backend soracache.Backend

	mu       sync.Mutex
	failures int       // in a row; zero: the node is well
	rest     time.Time // until when it is passed over
}

func (m *member) well() bool { return m.known() == 0 }

// known returns how many failures in a row are known of.
func (m *member) known() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failures
}

// onTrial tells whether the rest is over, and if so begins the next one, which
// ends early if the caller finds the node well.
func (m *member) onTrial(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.rest) {
		return false
	}
	m.rest = now.Add(restAfter(m.failures))
	return true
}

// fell notes a failure of a call that began when so many were known of: of
// many calls that fail together, one counts. It tells whether the node was
// well before.
func (m *member) fell(known int, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failures != known {
		return false
	}
	m.failures++
	m.rest = now.Add(restAfter(m.failures))
	return known == 0
}

// recovered notes an answer, and tells whether the node had failed before.
func (m *member) recovered() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	had := m.failures > 0
	m.failures = 0
	return had
}

// restAfter is how long a node is passed over, give or take a quarter, so that
// clients do not come back to it all at once.
func restAfter(failures int) time.Duration {
	rest := longestRest
	if failures < 6 {
		rest = min(firstRest<<max(failures-1, 0), longestRest)
	}
	return time.Duration(float64(rest) * (0.75 + rand.Float64()/2)) //nolint:gosec // spread, not secrecy
}

// budget is how a call's time is spent on several nodes: beyond the time that
// it is meant to wait, each node but the last gets half of what is left. The
// zero budget gives each node all of it.
type budget struct {
	deadline time.Time
	wait     time.Duration // what the caller asked for
	slack    time.Duration // what it gave beyond that
}

func budgetOf(ctx context.Context, wait time.Duration) budget {
	deadline, ok := ctx.Deadline()
	if !ok {
		return budget{}
	}
	return budget{deadline, wait, time.Until(deadline) - wait}
}

// waitLeft is the wait that an attempt which begins now has time for: all of
// it, as long as no time to speak of has passed.
func (b budget) waitLeft() time.Duration {
	left := time.Until(b.deadline) - b.slack
	if left > b.wait-time.Millisecond {
		return b.wait
	}
	return max(0, left)
}

func (b budget) attempt(ctx context.Context, last bool) (context.Context, context.CancelFunc) {
	if last || b.deadline.IsZero() {
		return context.WithCancel(ctx)
	}
	wait := b.waitLeft()
	return context.WithTimeout(ctx, wait+(time.Until(b.deadline)-wait)/2)
}

// clamp shortens the waits of reads to what is left.
func (b budget) clamp(req soracache.GetRequest) soracache.GetRequest {
	left := b.waitLeft()
	if b.wait == 0 || left == b.wait {
		return req
	}
	req.Reads = slices.Clone(req.Reads)
	for i := range req.Reads {
		req.Reads[i].Wait = min(req.Reads[i].Wait, left)
	}
	return req
}

// failed tells whether an error is the node's failure to answer, after which
// another node may do better: it cannot be reached, was cut off or silent, says
// that it is unavailable or that time is over (it counts down the attempt's time
// as well, and is often the first to see its end), or answers what is none of
// ours.
func failed(err error) bool {
	if !errors.Is(err, soracache.ErrUnavailable) {
		return false
	}
	code := connect.CodeOf(err)
	return code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded || !connect.IsWireError(err)
}

// always is for what may be done twice.
func always(error) bool { return true }

// refusedHeader is in answers to requests that the node has not begun.
const refusedHeader = "Soracache-Refused"

// notBegun tells whether an error came about before the node began what it was
// asked: there was no connection, or it refused the request at its gate, as a
// node does that is draining.
func notBegun(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var answer *connect.Error
	return errors.As(err, &answer) && connect.IsWireError(err) && answer.Meta().Get(refusedHeader) != ""
}

// Watch watches one node.
func (n *nodes) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	return n.members[0].backend.Watch(ctx, req, deliver)
}
