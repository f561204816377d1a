package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
)

// Get asks one node after the other for a key. A read that moves on waits for
// what is left of its wait. It is tried once more if it was cut off, and no
// more: whoever has a loader would rather know.
func (r *router) Get(ctx context.Context, req soracache.GetRequest) (results []soracache.ReadResult, err error) {
	if len(req.Reads) == 0 {
		return nil, nil
	}
	var wait time.Duration
	for i := range req.Reads {
		wait = max(wait, req.Reads[i].Wait)
	}
	e := retryPolicy{budgetOf(ctx, wait), always, onceIfCutOff}
	if len(req.Reads) == 1 || len(r.members()) == 1 {
		return r.getTogether(ctx, e, req)
	}
	parts := scatter(ctx, r, e, req.Reads, func(read soracache.Read) string { return read.Key },
		func(ctx context.Context, m soracache.Backend, reads []soracache.Read) ([]soracache.ReadResult, error) {
			part := req
			part.Reads = reads
			return m.Get(ctx, e.budget.clamp(part))
		})
	if parts.err != nil {
		return nil, parts.err
	}
	for i, err := range parts.errs {
		if err != nil {
			parts.results[i] = soracache.ReadResult{Err: err}
		}
	}
	return parts.results, nil
}

func onceIfCutOff(err error) int {
	if cutOff(err) {
		return 1
	}
	return 0
}

// getTogether asks for what one node is to answer, by its first key. Nearly always
// the node that comes first is well, and answers; there is no plan for what else
// to do until it has not.
func (r *router) getTogether(ctx context.Context, e retryPolicy, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	if r.first == nil {
		return r.getByPlan(ctx, e, req, turn{}, nil)
	}
	all := r.members()
	m := r.first(all, req.Reads[0].Key)
	if !m.well() || m.aside.Load() {
		return r.getByPlan(ctx, e, req, turn{}, nil)
	}
	t := m.begin(false)
	attempt, cancel := e.budget.attempt(ctx, len(all) == 1)
	results, err := m.backend.Get(attempt, e.budget.clamp(req))
	t.end(attempt, err)
	cancel()
	if !rpc.Failed(err) {
		_ = r.judge(ctx, t, err)
		return results, err
	}
	return r.getByPlan(ctx, e, req, t, err)
}

// getByPlan does so with all candidates. If one of them has failed already, its
// turn is given.
func (r *router) getByPlan(ctx context.Context, e retryPolicy, req soracache.GetRequest, had turn, err error) (results []soracache.ReadResult, _ error) {
	key := req.Reads[0].Key
	call := func(ctx context.Context, m soracache.Backend) (err error) {
		results, err = m.Get(ctx, e.budget.clamp(req))
		return err
	}
	if had.member == nil {
		err = r.each(ctx, e, r.rank, key, call)
		return results, err
	}
	order, trial := r.candidates(r.rank, key) // as it was: the node still counts as well
	_ = r.judge(ctx, had, err)
	trial = trial && order[0] != had.member
	order = slices.DeleteFunc(slices.Clone(order), func(m *member) bool { return m == had.member })
	if len(order) > 0 && ctx.Err() == nil && e.again(err) {
		err = r.inOrder(ctx, e, order, trial, call)
	}
	err = r.anew(ctx, e, r.rank, key, call, err)
	return results, err
}

// Write repeats what may be repeated.
func (r *router) Write(ctx context.Context, req soracache.WriteRequest) (results []soracache.WriteResult, err error) {
	if len(req.Writes) == 0 {
		return nil, nil
	}
	e := retryPolicy{budgetOf(ctx, 0), always, persistent}
	if slices.ContainsFunc(req.Writes, func(w soracache.Write) bool { return w.Op == soracache.OpPut }) {
		e.again = rpc.NotBegun
	}
	if len(req.Writes) == 1 || len(r.members()) == 1 {
		var doubt error
		err = r.each(ctx, e, r.rank, req.Writes[0].Key, func(ctx context.Context, m soracache.Backend) error {
			results, err = m.Write(ctx, req)
			if err != nil && !rpc.NotBegun(err) {
				doubt = err
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for i := range results {
			unsure(req.Writes[i].Op, &results[i], doubt)
		}
		return results, nil
	}
	parts := scatter(ctx, r, e, req.Writes, func(w soracache.Write) string { return w.Key },
		func(ctx context.Context, m soracache.Backend, writes []soracache.Write) ([]soracache.WriteResult, error) {
			return m.Write(ctx, soracache.WriteRequest{Namespace: req.Namespace, Writes: writes})
		})
	if parts.err != nil {
		return nil, parts.err
	}
	for i, err := range parts.errs {
		if err != nil {
			parts.results[i] = soracache.WriteResult{Err: err}
		}
		unsure(req.Writes[i].Op, &parts.results[i], parts.doubts[i])
	}
	return parts.results, nil
}

// unsure takes back what a repeated fill was told, that its lease is lost, for
// it may well have been the first attempt that ended it.
func unsure(op soracache.WriteOp, result *soracache.WriteResult, doubt error) {
	if doubt != nil && op == soracache.OpFill && result.Reason == soracache.ReasonLeaseLost {
		result.Err = doubt
	}
}

// persistent is for what ought to reach the cluster, and to outlast the blink of
// an eye without a node: what was not answered is tried again, for most of a
// second.
func persistent(err error) int {
	if cutOff(err) || rpc.NotBegun(err) {
		return 3
	}
	return 0
}

// Invalidate repeats an invalidation. One that is to be acknowledged may take a
// node as long as the caller allows.
func (r *router) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (result soracache.InvalidateResult, err error) {
	e := retryPolicy{budgetOf(ctx, 0), always, persistent}
	if req.Acknowledge {
		e.budget = budget{}
	}
	err = r.each(ctx, e, r.spread, "", func(ctx context.Context, m soracache.Backend) error {
		result, err = m.Invalidate(ctx, req)
		return err
	})
	return result, err
}

// Head asks one node after the other.
func (r *router) Head(ctx context.Context, namespace string) (result soracache.HeadResult, err error) {
	e := retryPolicy{budgetOf(ctx, 0), always, func(error) int { return 0 }}
	err = r.each(ctx, e, r.spread, "", func(ctx context.Context, m soracache.Backend) error {
		result, err = m.Head(ctx, namespace)
		return err
	})
	return result, err
}

// Watch watches one node, which each client chooses by itself, and another only
// if that one does not begin: once a stream has delivered anything, its end is
// its caller's to take in. A node that ends it with a word is not blamed: that it
// drains it will tell those who ask it for anything. Nor is one that has as many
// streams as it may have.
func (r *router) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	order, _ := r.candidates(byKey, r.self)
	for i, m := range order {
		known, began, told := m.failures.Load(), false, error(nil)
		m.streams.Add(1)
		err := m.backend.Watch(ctx, req, func(items []soracache.WatchItem) error {
			began = true
			m.recovered()
			known = 0
			told = deliver(items)
			return told
		})
		m.streams.Add(-1)
		if ctx.Err() != nil || told != nil || !rpc.Failed(err) && !errors.Is(err, soracache.ErrTooLarge) {
			return err
		}
		if rpc.Failed(err) {
			if !began || !rpc.Said(err) {
				m.fell(known, false, err)
			}
			r.troubled()
		}
		if began || i == len(order)-1 {
			return err
		}
	}
	return nil // there is always a candidate
}

// scattered is what became of a batch that was split.
type scattered[R any] struct {
	results []R
	errs    []error // of each item
	doubts  []error // of each item: what may have been done by a node that failed
	err     error   // of all of it, if all of it failed
}

// itemRoute is where one item of a batch is on its way through its candidates.
type itemRoute struct {
	order []*member
	at    int
	trial bool // of the first candidate
}

// nodeBatch is the items that go to one node at the same time.
type nodeBatch struct {
	member      *member
	trial, last bool
	items       []int
	err         error
}

// scatter splits a batch by the nodes of its items' keys, sends the parts at the
// same time, and has the items of a part that failed move on to their next
// nodes.
func scatter[Q, R any](ctx context.Context, r *router, e retryPolicy, items []Q, key func(Q) string,
	call func(context.Context, soracache.Backend, []Q) ([]R, error),
) scattered[R] {
	s := scattered[R]{results: make([]R, len(items)), errs: make([]error, len(items)), doubts: make([]error, len(items))}
	routes := make([]itemRoute, len(items))
	under := make([]int, len(items)) // items that are under way
	for i := range items {
		routes[i].order, routes[i].trial = r.candidates(r.rank, key(items[i]))
		under[i] = i
	}
	for round := 0; len(under) > 0; {
		parts := nodeBatchesOf(routes, under)
		send := func(p *nodeBatch) {
			own := make([]Q, len(p.items))
			for n, i := range p.items {
				own[n] = items[i]
			}
			p.err = r.attempt(ctx, e.budget, p.member, p.last, p.trial, func(ctx context.Context, m soracache.Backend) error {
				results, err := call(ctx, m, own)
				if err == nil && len(results) != len(own) {
					err = batches.Miscounted(len(results), len(own))
				}
				if err == nil {
					for n, i := range p.items {
						s.results[i] = results[n]
					}
				}
				return err
			})
		}
		var others sync.WaitGroup
		for _, p := range parts[1:] {
			others.Go(func() { send(p) })
		}
		send(parts[0])
		others.Wait()
		if under = s.moveOn(ctx, e, routes, parts); len(under) > 0 {
			continue
		}
		under = s.mayBeOver(e, round)
		if len(under) == 0 || !pause(ctx, firstPause<<(2*round)) {
			break
		}
		for _, i := range under {
			routes[i] = itemRoute{}
			routes[i].order, routes[i].trial = r.candidates(r.rank, key(items[i]))
		}
		round++
	}
	s.judge()
	return s
}

// mayBeOver returns the items that failed at all nodes, and may be tried anew
// after so many rounds.
func (s *scattered[R]) mayBeOver(e retryPolicy, round int) (items []int) {
	for i, err := range s.errs {
		if rpc.Failed(err) && e.again(err) && round < e.rounds(err) {
			items = append(items, i)
		}
	}
	return items
}

// nodeBatchesOf groups the items that are under way by the nodes that come next.
func nodeBatchesOf(routes []itemRoute, under []int) []*nodeBatch {
	var parts []*nodeBatch
	for _, i := range under {
		l := &routes[i]
		m, trial := l.order[l.at], l.trial && l.at == 0
		n := slices.IndexFunc(parts, func(p *nodeBatch) bool { return p.member == m && p.trial == trial })
		if n < 0 {
			n = len(parts)
			parts = append(parts, &nodeBatch{member: m, trial: trial, last: true})
		}
		parts[n].items = append(parts[n].items, i)
		parts[n].last = parts[n].last && l.at == len(l.order)-1
	}
	return parts
}

// moveOn notes how the items fared at their nodes, and returns those that go on.
func (s *scattered[R]) moveOn(ctx context.Context, e retryPolicy, routes []itemRoute, parts []*nodeBatch) (under []int) {
	for _, p := range parts {
		for _, i := range p.items {
			l := &routes[i]
			switch {
			case p.err == errResting: //nolint:errorlint // never wrapped
				l.order, l.trial = slices.Concat(l.order[1:], l.order[:1]), false
				under = append(under, i)
				continue
			case rpc.Failed(p.err) && l.at < len(l.order)-1 && ctx.Err() == nil && e.again(p.err):
				l.at++
				under = append(under, i)
			}
			s.errs[i] = p.err
			if p.err != nil && !rpc.NotBegun(p.err) {
				s.doubts[i] = p.err
			}
		}
	}
	return under
}

// judge tells whether all of it failed.
func (s *scattered[R]) judge() {
	if !slices.Contains(s.errs, nil) {
		s.err = s.errs[0]
	}
}
