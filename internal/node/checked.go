package node

import (
	"context"
	"fmt"

	"github.com/soracache/soracache"
)

// Checked is a node that looks at requests before it takes them, as soracached
// does when it reads them off the wire: a node itself trusts its callers.
type Checked struct{ *Node }

var _ soracache.Backend = Checked{}

// Get implements [soracache.Backend]. A read that is not valid fails alone.
func (c Checked) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	if err := c.batch(len(req.Reads)); err != nil {
		return nil, err
	}
	return sift(req.Reads, c.read, func(err error) soracache.ReadResult {
		return soracache.ReadResult{Err: err}
	}, func(reads []soracache.Read) ([]soracache.ReadResult, error) {
		req.Reads = reads
		return c.Node.Get(ctx, req)
	})
}

// Write implements [soracache.Backend]. A write that is not valid fails alone.
func (c Checked) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	if err := c.batch(len(req.Writes)); err != nil {
		return nil, err
	}
	return sift(req.Writes, c.write, func(err error) soracache.WriteResult {
		return soracache.WriteResult{Err: err}
	}, func(writes []soracache.Write) ([]soracache.WriteResult, error) {
		req.Writes = writes
		return c.Node.Write(ctx, req)
	})
}

// Invalidate implements [soracache.Backend].
func (c Checked) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	if err := c.invalidation(req); err != nil {
		return soracache.InvalidateResult{}, err
	}
	return c.Node.Invalidate(ctx, req)
}

// sift answers the items that are not valid itself, and has the others answered
// together. When all are valid, which is the rule, nothing is copied.
func sift[Q, A any](items []Q, check func(*Q) error, refuse func(error) A, do func([]Q) ([]A, error)) ([]A, error) {
	var refused map[int]error
	for i := range items {
		if err := check(&items[i]); err != nil {
			if refused == nil {
				refused = map[int]error{}
			}
			refused[i] = err
		}
	}
	if refused == nil {
		return do(items)
	}
	valid := make([]Q, 0, len(items))
	for i := range items {
		if refused[i] == nil {
			valid = append(valid, items[i])
		}
	}
	var found []A
	if len(valid) > 0 {
		var err error
		if found, err = do(valid); err != nil {
			return nil, err
		}
	}
	answers := make([]A, 0, len(items))
	for i := range items {
		if err := refused[i]; err != nil {
			answers = append(answers, refuse(err))
			continue
		}
		answers, found = append(answers, found[0]), found[1:]
	}
	return answers, nil
}

func (c Checked) batch(n int) error {
	if n > c.cfg.Limits.Batch {
		return fmt.Errorf("%w: batch of %d: at most %d", soracache.ErrTooLarge, n, c.cfg.Limits.Batch)
	}
	return nil
}

func (c Checked) read(r *soracache.Read) error {
	if r.Wait < 0 || r.RefreshWithin < 0 || r.LeaseFor < 0 {
		return invalidRequest("a read with a negative time")
	}
	return c.cfg.Limits.CheckKey(r.Key)
}

func (c Checked) write(w *soracache.Write) error {
	if err := c.cfg.Limits.CheckKey(w.Key); err != nil {
		return err
	}
	switch w.Op {
	case soracache.OpFill, soracache.OpRenew, soracache.OpRelease:
		if w.Lease == (soracache.Lease{}) {
			return invalidRequest("no lease")
		}
	case soracache.OpPut:
	default:
		return invalidRequest("unknown write %d", w.Op)
	}
	if w.Op == soracache.OpRenew || w.Op == soracache.OpRelease {
		return nil
	}
	if err := c.cfg.Limits.CheckLifetime(w.Lifetime); err != nil {
		return err
	}
	if w.Entry.Kind == soracache.KindNotFound && len(w.Entry.Value) > 0 {
		return invalidRequest("an entry that stands for nothing has no value")
	}
	return c.cfg.Limits.CheckEntry(w.Entry)
}

func (c Checked) invalidation(req soracache.InvalidateRequest) error {
	if err := c.batch(len(req.Targets)); err != nil {
		return err
	}
	if len(req.Targets) == 0 {
		return invalidRequest("nothing to invalidate")
	}
	if req.Settle < 0 || req.Settle > soracache.MaxSettle {
		return invalidRequest("settle of %s: 0 to %s", req.Settle, soracache.MaxSettle)
	}
	for _, t := range req.Targets {
		if err := c.cfg.Limits.CheckTarget(t); err != nil {
			return err
		}
	}
	return nil
}

func invalidRequest(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{soracache.ErrInvalid}, args...)...)
}
