package node

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2/l2model"
)

// A reader who was told that the lease is held, and hears of its end before it has
// begun to wait, does not wait: whoever else waited then, and whatever became of
// them. Without that it would not hang, but find out by a poll.
func TestNoWakeIsLostBetweenAskingAndWaiting(t *testing.T) {
	for name, wake := range map[string]func(p *partition, leave func()){
		"nobody waits":          func(p *partition, leave func()) { leave(); p.wake("k", wokenRead) },
		"one is to read":        func(p *partition, _ func()) { p.wake("k", wokenRead) },
		"all go":                func(p *partition, _ func()) { p.wake("k", wokenPassed) },
		"all go, who lost":      func(p *partition, _ func()) { p.wake("k", wokenLost); p.wake("k", wokenLost) },
		"who is to read leaves": func(p *partition, leave func()) { p.wake("k", wokenRead); leave() },
		"many others have ended since": func(p *partition, leave func()) {
			leave()
			p.wake("k", wokenRead)
			for i := range 2 * mostEnds {
				p.wake(strconv.Itoa(i), wokenRead)
			}
		},
		"all leases end":               func(p *partition, leave func()) { leave(); p.wakeAll(wokenRead) },
		"who is to read finds nothing": func(p *partition, _ func()) { p.wake("k", wokenRead); p.wake("k", wokenPassed) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, err := New(Config{Store: l2model.New(l2model.Config{})})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = n.Close() }()
				ns, err := n.begin(t.Context(), soracache.DefaultNamespace)
				if err != nil {
					t.Fatal(err)
				}
				defer n.leave(ns)
				p := ns.partitions[0]
				told := held{left: time.Minute, ends: p.ends}
				p.mu.Lock() // somebody waits whose turn nobody sees
				lot := &parking{open: make(chan struct{}), turn: make(chan struct{}, 1), waiting: 1, ends: time.Minute}
				lot.timer = time.NewTimer(time.Hour)
				p.parked[invalidation.KeyHash("k")] = lot
				p.mu.Unlock()
				// At the same moment: what came first must not be left to a clock.
				wake(p, func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					lot.waiting = 0
					p.abandon(invalidation.KeyHash("k"), lot)
				})
				began := time.Now()
				const polls = 20 // it has asked for long, so it would be long until the next
				go func() {
					time.Sleep(10 * time.Second)
					p.mu.Lock()
					defer p.mu.Unlock()
					if l := p.parked[invalidation.KeyHash("k")]; l != nil {
						p.letOut(invalidation.KeyHash("k"), l)
					}
				}()
				p.park(t.Context(), "k", told, polls, time.Minute)
				if took := time.Since(began); took != 0 {
					t.Errorf("it waited for %v", took)
				}
				time.Sleep(10 * time.Second)
			})
		})
	}
}
