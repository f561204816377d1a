package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
)

// herd is readers of one key who come to one node at one moment and want the
// same. Which of their goroutines is first is up to the scheduler of the machine.
// As nothing tells them apart, that decides nothing: an outcome is that of the
// first of them who has none.
type herd struct {
	all    []*op
	left   []*op
	cancel context.CancelFunc
}

// herds lets readers come to some nodes at once, for one key.
func (l *workload) herds() {
	rng := l.w.rng
	key, wait := l.key(), l.upTo(l.w.cfg.HerdWait)
	for _, h := range l.w.hosts {
		at, lot := l.places(h, key)
		if rng.IntN(2) == 0 || l.asking[at] > 0 || l.parked[lot] > 0 {
			continue
		}
		r := soracache.Read{Key: key, Lease: true, LeaseFor: l.upTo(l.w.cfg.LeaseFor), Wait: wait}
		var ops []*op
		for range 2 + rng.IntN(6) {
			o := &op{kind: opGet, host: h, then: l.read, timeout: wait + l.w.cfg.OpTimeout, reads: []soracache.Read{r}}
			l.takes(o, 1)
			ops = append(ops, o)
		}
		l.w.issueHerd(ops)
	}
}

// issueHerd lets clients call their node, all with the same.
func (w *world) issueHerd(ops []*op) {
	for _, o := range ops {
		w.enter(o)
		o.herd = ops[0].id
	}
	w.launchHerd(&herd{all: ops, left: slices.Clone(ops)})
}

func (w *world) launchHerd(h *herd) {
	first := h.all[0]
	if first.host.hold(func() { w.launchHerd(h) }) {
		w.count.changed(Pause)
		return
	}
	w.note("herd", first.host.slot, uint64(first.id), uint64(len(h.all)))
	if first.host.boot == nil {
		w.after(time.Duration(w.rng.IntN(100_000)), func() {
			for _, o := range h.all {
				o.err = errGone
				w.finish(o)
			}
		})
		return
	}
	w.count.herds++
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), opKey{}, first), first.timeout+time.Duration(first.id))
	h.cancel = cancel
	for _, o := range h.all {
		o.boot, o.cancel = first.host.boot, cancel
	}
	for range h.all {
		go func() {
			results, _, _, _, err := first.call(ctx)
			if ctx.Err() != nil {
				results, err = nil, ctx.Err()
			}
			w.arrive(fmt.Sprintf("result %08d %s", first.id, h.outcome(results, err)), func() { w.ends(h, results, err) })
		}()
	}
}

// outcome tells outcomes apart that came at one moment.
func (h *herd) outcome(results []soracache.ReadResult, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(resultText(&results[0]), results[0].Stamp)
}

// ends takes in one outcome.
func (w *world) ends(h *herd, results []soracache.ReadResult, err error) {
	o := h.left[0]
	if h.left = h.left[1:]; len(h.left) == 0 {
		h.cancel()
	}
	o.results, o.err = results, err
	w.finish(o)
}
