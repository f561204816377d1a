// Package budget accounts for the memory of what is in flight: nothing large is
// allocated before its bytes were taken here.
//
// What was given back counts as garbage until the collector has run, because
// until then it is memory like any other; the budget has the collector run when
// garbage stands in the way. So the peak of a process stays below what it holds
// otherwise, and the budget.
package budget

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// Errors of [Hold.Take].
var (
	// ErrFull: there is no room now. It helps to ask again later.
	ErrFull = errors.New("the memory for requests in flight is in use")
	// ErrShare: it is more than one connection may ever hold.
	ErrShare = fmt.Errorf("%w: it takes more memory than one connection may hold", soracache.ErrTooLarge)
)

const (
	// share is the part of the budget that one connection may hold.
	share = 8
	// reserve is the part that only small holds may use, so that those who hold
	// much do not shut out those who want little.
	reserve = 4
	// lookEvery is the part of the budget that is given back between two looks at the
	// collector.
	lookEvery = 8
	// patience is how long a small hold waits for room. Of those that hold nothing
	// yet, and are in no account, at most mostWaiting wait.
	patience    = 500 * time.Millisecond
	mostWaiting = 1000

	// A transfer that moves less than stallBytes in stallTime is stalled: who
	// needs its memory may have it cut off. That is 1 MiB/s, less than 10 Mbit/s.
	stallTime  = 250 * time.Millisecond
	stallBytes = 1 << 20 / 4
)

// Budget is a number of bytes, shared by all who are in flight. It is safe for
// concurrent use.
type Budget struct {
	limit, small int64

	mu      sync.Mutex
	used    int64 // guarded by mu
	highest int64 // the most that was ever used; guarded by mu
	// fresh was given back since the collector's cycle was last seen to change,
	// and older before that. Guarded by mu.
	fresh, older int64
	looked       int64               // what was fresh when the collector was last looked at; guarded by mu
	cycle        uint64              // the collector's, when last looked at; guarded by mu
	collecting   chan struct{}       // closed when the collector that was called has run; guarded by mu
	waiting      int                 // holds of nothing that wait for room; guarded by mu
	changed      chan struct{}       // closed when bytes come back; nil if nobody waits; guarded by mu
	moving       map[*Hold]time.Time // holds in a transfer; guarded by mu
	sample       []metrics.Sample    // guarded by mu

	refusals, cuts, collections atomic.Uint64
}

// New returns a budget of so many bytes.
func New(limit int64) *Budget {
	return &Budget{
		limit: limit, small: max(limit/1024, 64<<10),
		moving: map[*Hold]time.Time{},
		sample: []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}},
	}
}

// Stats are the numbers of a budget: bytes, and totals since its start.
type Stats struct {
	Limit, Used, Highest int64
	// Refusals are takings that were refused, Cuts stalled transfers that were
	// ended because others needed their room, and Collections runs of the
	// collector that the budget called for.
	Refusals, Cuts, Collections uint64
}

// Stats returns the numbers of now.
func (b *Budget) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{
		Limit: b.limit, Used: b.used, Highest: b.highest,
		Refusals: b.refusals.Load(), Cuts: b.cuts.Load(), Collections: b.collections.Load(),
	}
}

// Share is the most that one connection may hold.
func (b *Budget) Share() int { return int(b.limit / share) }

// Connection is what the requests of one connection hold together. A nil
// Connection has no limit of its own.
type Connection struct {
	held    int64 // guarded by the budget's mu
	sending atomic.Int64
}

// Sending counts who is sending on the connection: it adds n and returns what
// was there before.
func (c *Connection) Sending(n int64) int64 {
	if c == nil {
		return 0
	}
	return c.sending.Add(n) - n
}

// Hold is what one request holds. Only one goroutine takes and gives.
type Hold struct {
	budget *Budget
	conn   *Connection
	held   int64

	mu sync.Mutex
	// cut ends the transfer that is under way. Guarded by mu, like all below.
	cut   func()
	since time.Time // when the present window began,
	moved int64     // and what was moved in it
	slow  bool      // the window before was a stalled one
}

// Hold returns a hold of nothing, which must be closed.
func (b *Budget) Hold(conn *Connection) *Hold { return &Hold{budget: b, conn: conn} }

// Held is how much it holds.
func (h *Hold) Held() int { return int(h.held) }

// Take takes so many bytes more, before they are allocated. Who holds little
// waits a moment for room; who holds more does not wait for others who wait for
// it. It fails with [ErrFull], [ErrShare] or the context's error.
func (h *Hold) Take(ctx context.Context, n int) error {
	b := h.budget
	b.mu.Lock()
	if b.fits(h, int64(n)) && b.used+b.fresh+b.older+int64(n) <= b.limit/4*3 {
		h.add(int64(n))
		b.mu.Unlock()
		return nil
	}
	b.mu.Unlock()
	err := h.insist(ctx, int64(n))
	if err != nil {
		b.refusals.Add(1)
	}
	return err
}

// Try is Take without waiting for anything. It reports whether there was room.
func (h *Hold) Try(n int) bool {
	b := h.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.fits(h, int64(n)) {
		return false
	}
	if b.used+b.fresh+b.older+int64(n) > b.limit {
		if b.look(); b.used+b.fresh+b.older+int64(n) > b.limit {
			b.collect()
			return false
		}
	}
	h.add(int64(n))
	return true
}

// add holds the budget's mu.
func (h *Hold) add(n int64) {
	h.budget.used += n
	h.budget.highest = max(h.budget.highest, h.budget.used)
	h.held += n
	if h.conn != nil {
		h.conn.held += n
	}
}

// fits tells whether there is room for n more, garbage aside. It holds mu.
func (b *Budget) fits(h *Hold, n int64) bool {
	if h.conn != nil && h.conn.held+n > b.limit/share {
		return false
	}
	limit := b.limit
	if h.held+n > b.small {
		limit -= b.limit / reserve
	}
	return b.used+n <= limit
}

// insist is Take where room is short: it has the collector run, and cuts off
// those who do not move.
func (h *Hold) insist(ctx context.Context, n int64) error {
	b := h.budget
	if h.held+n > b.limit/share {
		return fmt.Errorf("%w: %d bytes, of %d (an eighth of --max-inflight-bytes)", ErrShare, h.held+n, b.limit/share)
	}
	defer h.pause()()
	var timer <-chan time.Time
	for {
		b.mu.Lock()
		b.look()
		fits, garbage := b.fits(h, n), b.fresh+b.older
		switch {
		case fits && b.used+garbage+n <= b.limit:
			h.add(n)
			if garbage > b.limit/4 { // before somebody has to wait for it
				b.collect()
			}
			b.mu.Unlock()
			return nil
		case fits: // garbage is in the way, which depends on nobody
			done := b.collect()
			b.mu.Unlock()
			select {
			case <-done:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		stalled, may := b.stalled(h), h.held <= b.small
		if timer == nil && h.held == 0 {
			if may = b.waiting < mostWaiting; may {
				b.waiting++
				defer b.waited()
			}
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		for _, s := range stalled {
			s.cutOff()
		}
		if !may {
			return ErrFull
		}
		if timer == nil {
			t := time.NewTimer(patience)
			defer t.Stop()
			timer = t.C
		}
		if err := forRoom(ctx, changed, timer); err != nil {
			return err
		}
	}
}

// forRoom waits until bytes come back, or others may have stalled.
func forRoom(ctx context.Context, changed <-chan struct{}, timeout <-chan time.Time) error {
	again := time.NewTimer(stallTime / 5)
	defer again.Stop()
	select {
	case <-changed:
	case <-again.C:
	case <-timeout:
		return ErrFull
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// waited says that one who holds nothing waits no more.
func (b *Budget) waited() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
}

// look asks whether the collector has run by itself. It holds mu.
func (b *Budget) look() {
	if b.collecting != nil { // it has been called, and says itself what it has collected
		return
	}
	now := b.cycles()
	defer func() { b.looked = b.fresh }()
	switch now - b.cycle {
	case 0:
	case 1:
		// It may have begun before what is fresh was given back.
		b.older, b.fresh, b.cycle = b.fresh, 0, now
	default:
		b.older, b.fresh, b.cycle = 0, 0, now
	}
}

// cycles is how often the collector has run. It holds mu.
func (b *Budget) cycles() uint64 {
	metrics.Read(b.sample)
	return b.sample[0].Value.Uint64()
}

// collect has the collector run, unless it does already, and returns what is
// closed when it has. It holds mu.
func (b *Budget) collect() <-chan struct{} {
	if b.collecting != nil {
		return b.collecting
	}
	done := make(chan struct{})
	b.collecting = done
	b.fresh, b.older = 0, b.fresh+b.older
	b.collections.Add(1)
	go func() {
		runtime.GC()
		b.mu.Lock()
		// What was given back meanwhile, which is what is fresh, may have been too
		// late for it.
		b.older, b.looked, b.cycle = 0, b.fresh, b.cycles()
		b.collecting = nil
		b.mu.Unlock()
		close(done)
	}()
	return done
}

// Give gives back bytes that nothing refers to any more.
func (h *Hold) Give(n int) { h.give(n, n) }

// Return gives back bytes that were taken and never allocated.
func (h *Hold) Return(n int) { h.give(n, 0) }

func (h *Hold) give(n, garbage int) {
	if n <= 0 {
		return
	}
	b := h.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= int64(n)
	// It is looked at in time: otherwise a collector that ran long ago would seem to
	// have run since.
	if b.fresh += int64(garbage); b.fresh >= b.looked+b.limit/lookEvery {
		b.look()
	}
	h.held -= int64(n)
	if h.conn != nil {
		h.conn.held -= int64(n)
	}
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// Close gives back everything.
func (h *Hold) Close() { h.Give(int(h.held)) }

// Begin says that a transfer begins, in which the hold waits for its caller's
// network, and how to cut it off: cut is called at most once, and not after End.
// It may come from any goroutine.
func (h *Hold) Begin(cut func()) {
	now := time.Now()
	h.mu.Lock()
	h.cut, h.since, h.moved, h.slow = cut, now, 0, false
	h.mu.Unlock()
	h.budget.mu.Lock()
	h.budget.moving[h] = now
	h.budget.mu.Unlock()
}

// Moved says that bytes have moved.
func (h *Hold) Moved(n int) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if passed := now.Sub(h.since); passed >= stallTime {
		h.slow = h.moved < stallBytes*int64(passed)/int64(stallTime)
		h.since, h.moved = now, 0
	}
	h.moved += int64(n)
}

// End says that the transfer has ended.
func (h *Hold) End() {
	h.budget.mu.Lock()
	delete(h.budget.moving, h)
	h.budget.mu.Unlock()
	h.mu.Lock()
	h.cut = nil
	h.mu.Unlock()
}

// stalled returns those who hold something and do not move. It holds mu.
func (b *Budget) stalled(but *Hold) []*Hold {
	var found []*Hold
	now := time.Now()
	for h := range b.moving {
		if h != but && h.held > 0 && h.isStalled(now) {
			found = append(found, h)
		}
	}
	return found
}

// pause takes the hold's transfer out of those that may be cut off, while it waits
// for room and not for its caller, and returns what ends that.
func (h *Hold) pause() (resume func()) {
	b := h.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, moving := b.moving[h]; !moving {
		return func() {}
	}
	delete(b.moving, h)
	return func() {
		now := time.Now()
		h.mu.Lock()
		h.since, h.moved, h.slow = now, 0, false
		h.mu.Unlock()
		b.mu.Lock()
		b.moving[h] = now
		b.mu.Unlock()
	}
}

func (h *Hold) isStalled(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	passed := now.Sub(h.since)
	if passed < stallTime {
		return h.slow
	}
	return h.moved < stallBytes*int64(passed)/int64(stallTime)
}

func (h *Hold) cutOff() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut != nil {
		h.cut()
		h.cut = nil
		h.budget.cuts.Add(1)
	}
}
