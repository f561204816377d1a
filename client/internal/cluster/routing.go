package cluster

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
	"github.com/soracache/soracache/client/internal/deadline"
)

// fairTrial is the least time after which silence is held against a node.
const fairTrial = 25 * time.Millisecond

// router is a backend that stands for the nodes of one cluster, any of which
// can answer anything: they share their second tier. It asks the node that the
// key ranks first, and goes on to the next where that one fails and the request
// may be sent twice:
//
//   - reads and Head change nothing, but for a lease whose answer was lost, and
//     that runs out;
//   - a renewal and a release say the same twice, and so does an invalidation,
//     which then only makes more things dead;
//   - of two equal fills the second finds that the lease has ended;
//   - a put that runs twice could bury a newer one, so it is repeated only where
//     the first node has certainly not begun it.
//
// A batch is split by the nodes of its keys, and each part fares for itself.
type router struct {
	// members returns the nodes, of which there is at least one. What it returns
	// is not changed.
	members func() []*member
	// rank puts nodes into the order in which a key wants them.
	rank func(members []*member, key string)
	// first returns the node that rank puts first, for less. It is nil where rank
	// does not always say the same.
	first func(members []*member, key string) *member
	// spread ranks them for requests that concern no key.
	spread func(members []*member, _ string)
	// troubled is told that a node failed: the cluster may have changed.
	troubled func()
	self     string // a random key: where the client's stream goes
}

var _ soracache.Backend = (*router)(nil)

func newRouter(members func() []*member, rank ranking, troubled func()) *router {
	return &router{
		members: members, rank: rank.order, first: rank.first, spread: roundRobin(), troubled: troubled,
		self: strconv.FormatUint(rand.Uint64(), 36), //nolint:gosec // spread, not secrecy
	}
}

// ranking is how the nodes for a key are chosen: see the router's fields.
type ranking struct {
	order func(members []*member, key string)
	first func(members []*member, key string) *member
}

// byKey ranks nodes by rendezvous hashing: each node's claim on a key rests on
// nothing but the two, so that when a node goes, its keys move, and no others.
func byKey(members []*member, key string) {
	h := hashOf(key)
	slices.SortFunc(members, func(a, b *member) int {
		if c := cmp.Compare(b.claim(h), a.claim(h)); c != 0 {
			return c
		}
		return cmp.Compare(a.url, b.url)
	})
}

// firstByKey returns the node that byKey puts first.
func firstByKey(members []*member, key string) *member {
	if len(members) == 1 {
		return members[0]
	}
	h := hashOf(key)
	first, most := members[0], members[0].claim(h)
	for _, m := range members[1:] {
		if claim := m.claim(h); claim > most || claim == most && m.url < first.url {
			first, most = m, claim
		}
	}
	return first
}

// hashOf is the FNV-1a hash of a key or URL. All clients of a cluster are to agree.
func hashOf(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}

// claim mixes the hashes of node and key, by the finalizer of MurmurHash3: FNV
// alone leaves keys that differ at their ends with nearly one order of nodes.
func (m *member) claim(key uint64) uint64 {
	h := m.seed ^ (key^key>>33)*0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// roundRobin returns what ranks nodes in turn.
func roundRobin() func([]*member, string) {
	var turn atomic.Uint64
	turn.Store(rand.Uint64()) //nolint:gosec // spread, not secrecy
	return func(members []*member, _ string) { rotate(members, turn.Add(1)) }
}

func rotate(members []*member, by uint64) {
	n := uint64(len(members))
	first := int(by % n) //nolint:gosec // below n
	slices.Reverse(members[:first])
	slices.Reverse(members[first:])
	slices.Reverse(members)
}

// leastLoaded ranks nodes by how many of this client's calls are under way to
// them, and at random where that is the same.
func leastLoaded(members []*member, _ string) {
	rotate(members, rand.Uint64()) //nolint:gosec // spread, not secrecy
	slices.SortStableFunc(members, func(a, b *member) int { return cmp.Compare(a.calls.Load(), b.calls.Load()) })
}

// candidates returns all members in the order in which one call is to try them:
// those that are well, then those of them that are set aside, and then those
// that rest. If none before it is well, one whose rest is over comes first, on trial.
func (r *router) candidates(rank func([]*member, string), key string) (order []*member, trial bool) {
	all := r.members()
	if len(all) == 1 && all[0].well() {
		return all, false
	}
	all = slices.Clone(all)
	rank(all, key)
	if !slices.ContainsFunc(all, func(m *member) bool { return !m.well() || m.aside.Load() }) {
		return all, false
	}
	var tried, well, aside, resting, last []*member
	for _, m := range all {
		switch isWell, isAside := m.well(), m.aside.Load(); {
		case isWell && !isAside:
			well = append(well, m)
		case isWell:
			aside = append(aside, m)
		case isAside:
			last = append(last, m)
		case len(tried) == 0 && len(well) == 0 && m.restOver():
			tried = append(tried, m)
		default:
			resting = append(resting, m)
		}
	}
	return slices.Concat(tried, well, aside, resting, last), len(tried) > 0
}

// retryPolicy is what may be done to have a request answered.
type retryPolicy struct {
	budget budget
	// again tells whether the request may be sent to another node after an error.
	again func(error) bool
	// rounds tells how often all nodes may be tried anew, after a pause, because
	// an error may be over by then.
	rounds func(error) int
}

// The pauses between rounds, before jitter, each four times the one before.
const firstPause = 20 * time.Millisecond

// each calls one member after the other until one has answered, well or badly,
// or the error is one after which the call must not be made again.
func (r *router) each(ctx context.Context, e retryPolicy, rank func([]*member, string), key string, call nodeCall) error {
	order, trial := r.candidates(rank, key)
	return r.anew(ctx, e, rank, key, call, r.inOrder(ctx, e, order, trial, call))
}

// anew has all nodes tried again, if that may help, after they failed with an
// error.
func (r *router) anew(ctx context.Context, e retryPolicy, rank func([]*member, string), key string, call nodeCall, err error) error {
	for round := 0; rpc.Failed(err) && e.again(err) && round < e.rounds(err) && pause(ctx, firstPause<<(2*round)); round++ {
		order, trial := r.candidates(rank, key)
		err = r.inOrder(ctx, e, order, trial, call)
	}
	return err
}

// nodeCall is one request, to whichever node.
type nodeCall func(context.Context, soracache.Backend) error

func (r *router) inOrder(ctx context.Context, e retryPolicy, order []*member, trial bool, call nodeCall) error {
	for i := 0; ; i++ {
		m, last := order[i], i == len(order)-1
		err := r.attempt(ctx, e.budget, m, last, trial && i == 0, call)
		if errors.Is(err, errResting) { // somebody else tries it: it comes last
			order, trial, i = slices.Concat(order[1:], order[:1]), false, -1
			continue
		}
		if !rpc.Failed(err) || last || ctx.Err() != nil || !e.again(err) {
			return err
		}
	}
}

// attempt makes a call to one node. On trial it returns errResting if it is not
// to be made.
func (r *router) attempt(ctx context.Context, b budget, m *member, last, trial bool, call nodeCall) (err error) {
	if !trial {
		_, err = r.ask(ctx, b, m, last, false, call)
		return err
	}
	if !m.trial(func() (answered bool) {
		answered, err = r.ask(ctx, b, m, last, true, call)
		return answered
	}) {
		return errResting
	}
	return err
}

// ask makes a call to one node, judges the node by how it went, and tells whether the
// node has answered.
func (r *router) ask(ctx context.Context, b budget, m *member, last, trial bool, call nodeCall) (answered bool, err error) {
	t := m.begin(trial)
	attempt, cancel := b.attempt(ctx, last)
	err = call(attempt, m.backend)
	t.end(attempt, err)
	cancel()
	return r.judge(ctx, t, err), err
}

// turn is one call of one node.
type turn struct {
	member   *member
	known    int32 // its failures when the call began
	began    time.Time
	trial    bool
	timedOut bool // the call's time is what ended it
	large    bool // so much has moved that its end by time says nothing of the node
}

func (m *member) begin(trial bool) turn {
	m.calls.Add(1)
	return turn{member: m, known: m.failures.Load(), began: time.Now(), trial: trial}
}

// end is called before the attempt's context is cancelled.
func (t *turn) end(attempt context.Context, err error) {
	t.member.calls.Add(-1)
	t.timedOut = err != nil && (attempt.Err() != nil || rpc.TimedOut(err))
	t.large = deadline.Large(attempt)
}

// judge judges a node by how a call went, and tells whether the node has answered.
func (r *router) judge(ctx context.Context, t turn, err error) (answered bool) {
	switch {
	case !rpc.Failed(err):
		t.member.recovered()
		return true
	case errors.Is(ctx.Err(), context.Canceled): // which says nothing about the node
	case t.timedOut && (t.large || time.Since(t.began) < fairTrial):
	default:
		t.member.fell(t.known, t.trial, err)
		r.troubled()
		return t.member.well() // others may have found it so meanwhile
	}
	return false
}

// pause waits about so long, if the time of the call has room for it.
func pause(ctx context.Context, d time.Duration) bool {
	d = time.Duration(float64(d) * (0.5 + rand.Float64())) //nolint:gosec // spread, not secrecy
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 2*d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
