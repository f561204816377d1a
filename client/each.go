package client

import (
	"context"
	"fmt"
	"iter"
)

// Progress is how far a run over many keys has come.
type Progress struct {
	// Total is how many keys there are, as [Total] said; zero if it is not known.
	Total int
	// Done counts the keys that are done with. Each of them is one of the
	// following.
	Done int
	// Hits were found, Loaded came from the loader, NotFound do not exist, and
	// Failed have an error.
	Hits, Loaded, NotFound, Failed int
	// Elsewhere are being loaded by somebody else. Only Warm leaves it at that.
	Elsewhere int
	// Stored counts those of Loaded and NotFound that are stored now.
	Stored int
}

func (p *Progress) add(other Progress) {
	p.Done += other.Done
	p.Hits += other.Hits
	p.Loaded += other.Loaded
	p.NotFound += other.NotFound
	p.Failed += other.Failed
	p.Elsewhere += other.Elsewhere
	p.Stored += other.Stored
}

// OnProgress has [Cache.Each] and [Cache.Warm] tell how far they are: after each
// batch, and in the goroutine of their caller.
func OnProgress(tell func(Progress)) CallOption {
	return func(s *settings) { s.many.progress = tell }
}

// Total says how many keys there will be, for [Progress].
func Total(n int) CallOption { return func(s *settings) { s.many.total = n } }

// Result is what became of one key.
type Result[T any] struct {
	Value T
	// Found is false if there is no such thing, or it is not known because of Err.
	Found bool
	Err   error
}

// Each is [Cache.GetOrSetMany] for more keys than should be in memory: it takes
// them as it goes, and yields the results in their order, one for each key. It
// reads and loads them in batches of [LoadBatch] keys, of which [LoadConcurrency]
// are under way at a time and ahead of what was yielded. Equal keys within a
// batch are asked for once.
//
// It takes keys, and yields results, in the goroutine of the caller. When the
// loop over it ends early, so do the loads that are under way.
func (c *Cache[T]) Each(ctx context.Context, keys iter.Seq[string], load func(ctx context.Context, missing []string) (map[string]T, error), opts ...CallOption) iter.Seq2[string, Result[T]] {
	return each(ctx, c.settings.with(opts), func(ctx context.Context) *bulk[T] { return c.bulk(ctx, loader[T]{many: load}, opts) }, keys)
}

// each is Each, by calls that begin makes.
func each[T any](ctx context.Context, s settings, begin func(context.Context) *bulk[T], keys iter.Seq[string]) iter.Seq2[string, Result[T]] {
	return func(yield func(string, Result[T]) bool) {
		p := newPipe(ctx, s, begin)
		defer p.stop()
		p.run(keys, func(w *window[T]) bool {
			yielded := make(map[string]struct{}, len(w.keys))
			for _, key := range w.keys {
				r := w.resultOf(key)
				if _, again := yielded[key]; again && r.Found {
					r.Value, r.Err = own(&p.settings, w.bulk.found[key].value)
					r.Found = r.Err == nil
				}
				yielded[key] = struct{}{}
				if !yield(key, r) {
					return false
				}
			}
			return true
		})
	}
}

// Warm fills in advance what is missing, or due to be loaded anew: it loads and
// stores it, and returns no values. What somebody else is loading it leaves to
// them, and without the service, where nothing can be stored, it loads nothing.
// It takes the keys as [Cache.Each] does.
//
// The report says what became of how many keys. The error is the context's, if it
// ended before all keys were done, or else a [*ManyError] that names up to
// [MostWarmErrors] of those that failed, and counts the others.
func (c *Cache[T]) Warm(ctx context.Context, keys iter.Seq[string], load func(ctx context.Context, missing []string) (map[string]T, error), opts ...CallOption) (Progress, error) {
	return warm(ctx, c.settings.with(opts), func(ctx context.Context) *bulk[T] { return c.bulk(ctx, loader[T]{many: load}, opts) }, keys)
}

// warm is Warm, by calls that begin makes.
func warm[T any](ctx context.Context, s settings, begin func(context.Context) *bulk[T], keys iter.Seq[string]) (Progress, error) {
	p := newPipe(ctx, s, begin)
	defer p.stop()
	p.warming = true
	failed := &ManyError{Errors: map[string]error{}}
	p.run(keys, func(w *window[T]) bool {
		for key, err := range w.bulk.failed {
			if _, named := failed.Errors[key]; named || len(failed.Errors) < MostWarmErrors {
				failed.Errors[key] = err
			} else {
				failed.Unnamed++
			}
		}
		return ctx.Err() == nil
	})
	if err := ctx.Err(); err != nil {
		return p.progress, fmt.Errorf("client: warm: %w", err)
	}
	return p.progress, failed.orNil()
}

// MostWarmErrors is how many keys the error of Warm names.
const MostWarmErrors = 100

// pipe is a run over many keys, in windows of which a few are under way at a
// time. It belongs to the goroutine of its caller.
type pipe[T any] struct {
	ctx      context.Context //nolint:containedctx // lasts as long as the run
	stop     context.CancelFunc
	call     func(context.Context) *bulk[T]
	settings settings
	warming  bool

	underWay []*window[T]
	progress Progress
}

// window is some keys of a run, and what becomes of them. Its results may be read
// once done is closed.
type window[T any] struct {
	keys   []string
	bulk   *bulk[T]
	values map[string]T
	// panicked is what a hook did in it, which is the caller's to know.
	panicked any
	done     chan struct{}
}

func newPipe[T any](ctx context.Context, s settings, begin func(context.Context) *bulk[T]) *pipe[T] {
	p := &pipe[T]{call: begin, settings: s}
	p.progress.Total = p.settings.many.total
	p.ctx, p.stop = context.WithCancel(ctx) //nolint:gosec // its caller stops it
	return p
}

// run takes all keys, and hands out the windows in their order until the taker
// has enough.
func (p *pipe[T]) run(keys iter.Seq[string], take func(*window[T]) bool) {
	size, most := p.settings.many.batch, p.settings.many.concurrency
	if size == 0 {
		size = DefaultLoadBatch
	}
	if most == 0 {
		most = DefaultLoadConcurrency
	}
	next := make([]string, 0, min(size, DefaultLoadBatch))
	for key := range keys {
		if next = append(next, key); len(next) < size {
			continue
		}
		p.begin(next)
		next = make([]string, 0, min(size, DefaultLoadBatch))
		if len(p.underWay) >= most && !p.end(take) {
			return
		}
	}
	if len(next) > 0 {
		p.begin(next)
	}
	for len(p.underWay) > 0 {
		if !p.end(take) {
			return
		}
	}
}

// begin asks for one window.
func (p *pipe[T]) begin(keys []string) {
	w := &window[T]{keys: keys, bulk: p.call(p.ctx), done: make(chan struct{})}
	w.bulk.warming = p.warming
	p.underWay = append(p.underWay, w)
	go func() {
		defer close(w.done)
		defer func() { w.panicked = recover() }()
		w.values, _ = w.bulk.all(keys)
	}()
}

// end waits for the oldest window, and hands it out.
func (p *pipe[T]) end(take func(*window[T]) bool) bool {
	w := p.underWay[0]
	p.underWay = p.underWay[1:]
	<-w.done
	if w.panicked != nil {
		panic(w.panicked)
	}
	p.progress.add(w.bulk.count)
	if p.settings.many.progress != nil {
		p.settings.many.progress(p.progress)
	}
	return take(w)
}

// resultOf is what became of a key.
func (w *window[T]) resultOf(key string) Result[T] {
	if err := w.bulk.failed[key]; err != nil {
		return Result[T]{Err: err}
	}
	value, ok := w.values[key]
	return Result[T]{Value: value, Found: ok}
}
