package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/cluster/batcher"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
)

const (
	// heavyFill is how many bytes of values travel in one call. A larger value
	// travels alone.
	heavyFill = 1 << 20
	// mostOrphans and orphanTimeout bound the handing back of leases that came
	// too late for their callers. What is not handed back runs out.
	mostOrphans   = 1024
	orphanTimeout = time.Second
	// lingerTime and mostLingering bound the questions to one node that go on when
	// nobody waits for them, because the node may be about to give them a lease.
	lingerTime    = 5 * time.Second
	mostLingering = 512
)

// batchingNode is a backend in front of one node, that has concurrent reads of single
// keys travel together, and concurrent fills: see package batcher. What is a batch
// already is sent as it is, in parts of which each is within what a node takes.
// All else goes straight on.
//
// A read that waits for somebody else's lease travels alone, or all that travel
// with it would wait as well.
type batchingNode struct {
	soracache.Backend // the node

	reads *batcher.Batcher[question, soracache.ReadResult]
	fills *batcher.Batcher[completion, soracache.WriteResult]

	closing context.Context //nolint:containedctx // lasts as long as the backend
	end     context.CancelFunc
	mu      sync.Mutex
	closed  bool
	// orphans are leases to be handed back, by one goroutine at a time.
	orphans   []orphan
	releasing bool
	lingering int
	detached  map[*detachedRequest]struct{} // under way
	running   sync.WaitGroup
}

// question is a read of one key.
type question struct {
	shape questionShape
	key   string
	min   soracache.Stamps
}

// questionShape is what reads that travel together have in common. What each of
// them must reflect is its own affair.
type questionShape struct {
	namespace         string
	acceptUnconfirmed bool
	rpc.Shape
}

// completion is a fill.
type completion struct {
	namespace string
	write     soracache.Write
	// together is the size of all values of the batch up to this one.
	together int
}

type orphan struct {
	namespace, schema, key string
	lease                  soracache.Lease
}

func newBatchingNode(node soracache.Backend) *batchingNode {
	b := &batchingNode{Backend: node}
	b.closing, b.end = context.WithCancel(context.Background())
	b.reads = batcher.New(batcher.Config[question, soracache.ReadResult]{
		One: b.getOne, Many: b.getMany, Join: joinQuestion, Orphaned: b.orphaned,
	})
	b.fills = batcher.New(batcher.Config[completion, soracache.WriteResult]{
		One: b.fillOne, Many: b.fillMany, Join: joinCompletion,
		Orphaned: func(completion, soracache.WriteResult) {}, // stored or not, it has ended its lease
	})
	return b
}

// close ends what is under way. Callers are to have gone.
func (b *batchingNode) close() {
	b.mu.Lock()
	b.closed = true
	for e := range b.detached {
		e.cancel()
	}
	b.mu.Unlock()
	b.end()
	b.reads.Close()
	b.fills.Close()
	b.running.Wait()
}

// get asks the node. Where the answer may bring leases, the question goes on when
// nobody waits for it any more, and the leases are handed back. It is for those as
// well whose requests are given.
func (b *batchingNode) get(ctx context.Context, req soracache.GetRequest, also ...*batcher.Request[question, soracache.ReadResult]) (results []soracache.ReadResult, err error) {
	e := newDetachedRequest(ctx)
	e.tell(ctx)
	for _, r := range also {
		e.follow(r.Context())
	}
	var answers []soracache.ReadResult
	var late func()
	if slices.ContainsFunc(req.Reads, func(r soracache.Read) bool { return r.Lease }) {
		late = func() {
			for i := range min(len(answers), len(req.Reads)) {
				b.orphaned(question{shape: questionShape{namespace: req.Namespace, Shape: rpc.Shape{Schema: req.Reads[i].Schema}}, key: req.Reads[i].Key}, answers[i])
			}
		}
	}
	if err := b.send(ctx, e, func() (err error) {
		answers, err = b.Backend.Get(e, req)
		return err
	}, late); err != nil {
		return nil, err
	}
	return answers, nil
}

// put has the node do writes.
func (b *batchingNode) put(ctx context.Context, req soracache.WriteRequest, also ...*batcher.Request[completion, soracache.WriteResult]) ([]soracache.WriteResult, error) {
	e := newDetachedRequest(ctx)
	for _, r := range also {
		e.follow(r.Context())
	}
	var answers []soracache.WriteResult
	if err := b.send(ctx, e, func() (err error) {
		answers, err = b.Backend.Write(e, req)
		return err
	}, nil); err != nil {
		return nil, err
	}
	return answers, nil
}

// send makes a call as a detached request, and waits for it as long as the context lasts.
// If something is to be done about an answer that comes too late, the request goes
// on without its caller.
func (b *batchingNode) send(ctx context.Context, e *detachedRequest, call func() error, late func()) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		e.cancel()
		return batcher.Closed()
	}
	b.running.Add(1)
	if b.detached == nil {
		b.detached = make(map[*detachedRequest]struct{})
	}
	b.detached[e] = struct{}{}
	b.mu.Unlock()
	var err error
	go func() {
		defer b.running.Done()
		defer b.ended(e)
		if err = call(); e.state.CompareAndSwap(open, answered) {
			close(e.done)
			return
		}
		if err == nil && late != nil {
			late()
		}
	}()
	if gone := e.wait(ctx); gone != nil {
		if b.left(e, late != nil) {
			return fmt.Errorf("%w: %w", soracache.ErrUnavailable, gone)
		}
		<-e.done // it was answered at the same time
	}
	return err
}

// left notes that the caller of a detached request has gone, unless that is done. It ends at
// once, or after some time.
func (b *batchingNode) left(e *detachedRequest, lingers bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !e.state.CompareAndSwap(open, abandoned) {
		return false
	}
	if !lingers || b.lingering >= mostLingering {
		e.cancel()
		return true
	}
	b.lingering++
	e.lingers = time.AfterFunc(lingerTime, e.cancel)
	return true
}

// ended notes the end of a detached request, which may have lost its caller.
func (b *batchingNode) ended(e *detachedRequest) {
	e.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.detached, e)
	if e.lingers != nil {
		e.lingers.Stop()
		b.lingering--
	}
}

// Get lets a read of one key travel with others.
func (b *batchingNode) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	switch {
	case len(req.Reads) != 1:
		return inParts(req.Reads, batches.Most, func(reads []soracache.Read) ([]soracache.ReadResult, error) {
			part := req
			part.Reads = reads
			return b.get(ctx, part)
		}, func(err error) soracache.ReadResult { return soracache.ReadResult{Err: err} })
	case req.Reads[0].Wait > 0:
		return b.get(ctx, req)
	}
	q := question{
		shape: questionShape{req.Namespace, req.AcceptUnconfirmed, rpc.ShapeOf(&req.Reads[0])},
		key:   req.Reads[0].Key, min: req.MinStamp,
	}
	if own := req.Reads[0].MinStamp; len(own) > 0 {
		q.min = own
	}
	result, err := b.reads.Do(ctx, q)
	if err != nil {
		return nil, err
	}
	return []soracache.ReadResult{result}, nil
}

// joinQuestion lets reads travel together that ask alike.
func joinQuestion(last, q *question) bool { return last.shape == q.shape }

func (b *batchingNode) getOne(ctx context.Context, q question) (soracache.ReadResult, error) {
	req := q.request(1)
	req.MinStamp, req.Reads[0] = q.min, q.read()
	results, err := b.get(ctx, req)
	if err != nil || len(results) != 1 {
		return soracache.ReadResult{}, err
	}
	return results[0], nil
}

func (b *batchingNode) getMany(ctx context.Context, batch []*batcher.Request[question, soracache.ReadResult]) ([]soracache.ReadResult, error) {
	req := batch[0].Q.request(len(batch))
	req.MinStamp = batch[0].Q.min // as a rule, all have seen the same
	for i, r := range batch {
		req.Reads[i] = r.Q.read()
		if !slices.Equal(r.Q.min, req.MinStamp) {
			return b.getApart(ctx, req, batch)
		}
	}
	return b.get(ctx, req, batch...)
}

// getApart has each read ask for what its own caller has seen. One caller's
// demand must not become another's.
func (b *batchingNode) getApart(ctx context.Context, req soracache.GetRequest, batch []*batcher.Request[question, soracache.ReadResult]) ([]soracache.ReadResult, error) {
	req.MinStamp = nil
	for i, r := range batch {
		req.Reads[i] = r.Q.read()
		req.Reads[i].MinStamp = r.Q.min
	}
	return b.get(ctx, req, batch...)
}

// request is for so many reads of the question's shape, which are still to be
// filled in.
func (q *question) request(reads int) soracache.GetRequest {
	return soracache.GetRequest{
		Namespace:         q.shape.namespace,
		Reads:             make([]soracache.Read, reads),
		AcceptUnconfirmed: q.shape.acceptUnconfirmed,
	}
}

func (q *question) read() soracache.Read {
	s := &q.shape
	return soracache.Read{
		Key: q.key, Schema: s.Schema, Lease: s.Lease, LeaseFor: s.LeaseFor, Wait: s.Wait, RefreshWithin: s.RefreshWithin, Holder: s.Holder,
	}
}

// Write lets a fill travel with others.
func (b *batchingNode) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	switch {
	case len(req.Writes) != 1:
		return b.writeMany(ctx, req)
	case req.Writes[0].Op != soracache.OpFill, weight(req.Writes[0]) > heavyFill:
		return b.put(ctx, req)
	}
	w := req.Writes[0]
	result, err := b.fills.Do(ctx, completion{namespace: req.Namespace, write: w, together: weight(w)})
	if err != nil {
		return nil, err
	}
	return []soracache.WriteResult{result}, nil
}

// weight is about what a write takes on the wire.
func weight(w soracache.Write) int {
	n := 64 + len(w.Key) + len(w.Entry.Value)
	for _, t := range w.Entry.Tags {
		n += 2 + len(t)
	}
	return n
}

func joinCompletion(last, q *completion) bool {
	together := last.together + weight(q.write)
	if last.namespace != q.namespace || together > heavyFill {
		return false
	}
	q.together = together
	return true
}

func (b *batchingNode) fillOne(ctx context.Context, q completion) (soracache.WriteResult, error) {
	results, err := b.put(ctx, soracache.WriteRequest{Namespace: q.namespace, Writes: []soracache.Write{q.write}})
	if err != nil || len(results) != 1 {
		return soracache.WriteResult{}, err
	}
	return results[0], nil
}

func (b *batchingNode) fillMany(ctx context.Context, batch []*batcher.Request[completion, soracache.WriteResult]) ([]soracache.WriteResult, error) {
	writes := make([]soracache.Write, len(batch))
	for i, r := range batch {
		writes[i] = r.Q.write
	}
	return b.put(ctx, soracache.WriteRequest{Namespace: batch[0].Q.namespace, Writes: writes}, batch...)
}

// writeMany sends a batch of writes in parts that are neither too many nor too
// heavy, one after the other, for a batch may write a key twice.
func (b *batchingNode) writeMany(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	var parts [][]soracache.Write
	for rest := req.Writes; len(rest) > 0; {
		n, bytes := 1, weight(rest[0])
		for n < len(rest) && n < batches.Most && bytes+weight(rest[n]) <= heavyFill {
			bytes += weight(rest[n])
			n++
		}
		parts = append(parts, rest[:n:n])
		rest = rest[n:]
	}
	return gather(parts, func(writes []soracache.Write) ([]soracache.WriteResult, error) {
		return b.put(ctx, soracache.WriteRequest{Namespace: req.Namespace, Writes: writes})
	}, func(err error) soracache.WriteResult { return soracache.WriteResult{Err: err} })
}

// inParts sends a batch in parts of so many items.
func inParts[Q, R any](batch []Q, most int, send func([]Q) ([]R, error), failed func(error) R) ([]R, error) {
	return gather(slices.Collect(slices.Chunk(batch, most)), send, failed)
}

// gather sends parts and puts their answers together. A part that fails fails each of
// its items, but if nothing else was to be sent, all of it.
func gather[Q, R any](parts [][]Q, send func([]Q) ([]R, error), failed func(error) R) ([]R, error) {
	var results []R
	for _, part := range parts {
		answers, err := answersTo(part, send, failed)
		switch {
		case len(parts) == 1:
			return answers, err
		case err != nil:
			answers = slices.Repeat([]R{failed(err)}, len(part))
		}
		results = append(results, answers...)
	}
	return results, nil
}

// answersTo sends a part, and what of it is refused in halves.
func answersTo[Q, R any](part []Q, send func([]Q) ([]R, error), failed func(error) R) (answers []R, err error) {
	put := func(at int, some []R) {
		if answers == nil {
			answers = make([]R, len(part))
		}
		copy(answers[at:], some)
	}
	err = batches.Send(part, func(at int, items []Q) error {
		some, err := send(items)
		switch {
		case err != nil:
			return err
		case len(some) != len(items):
			return batches.Miscounted(len(some), len(items))
		case len(some) == len(part):
			answers = some
		default:
			put(at, some)
		}
		return nil
	}, func(at, count int, err error) { put(at, slices.Repeat([]R{failed(err)}, count)) })
	return answers, err
}

// orphaned hands back the lease of an answer whose caller has gone.
func (b *batchingNode) orphaned(q question, r soracache.ReadResult) {
	if r.Err != nil || r.Lease == (soracache.Lease{}) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.orphans) >= mostOrphans {
		return
	}
	b.orphans = append(b.orphans, orphan{q.shape.namespace, q.shape.Schema, q.key, r.Lease})
	if !b.releasing {
		b.releasing = true
		b.running.Go(b.releaseOrphans)
	}
}

func (b *batchingNode) releaseOrphans() {
	for {
		b.mu.Lock()
		if len(b.orphans) == 0 || b.closed {
			b.releasing, b.orphans = false, nil
			b.mu.Unlock()
			return
		}
		o := b.orphans[0]
		b.orphans = b.orphans[1:]
		b.mu.Unlock()
		ctx, cancel := context.WithTimeout(b.closing, orphanTimeout)
		_, _ = b.Backend.Write(ctx, soracache.WriteRequest{
			Namespace: o.namespace,
			Writes:    []soracache.Write{{Op: soracache.OpRelease, Key: o.key, Schema: o.schema, Lease: o.lease}},
		})
		cancel()
	}
}
