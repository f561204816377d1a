package l2test

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// partitions asks how many partitions a namespace has.
func (f *fixture) partitions(namespace string, want int) int {
	f.Helper()
	answers := f.Store.Partitions(f.Context(), []l2.PartitionsRequest{{Namespace: namespace, Want: want}})
	if len(answers) != 1 || answers[0].Err != nil {
		f.Fatalf("the number of partitions of %s: %+v", namespace, answers)
	}
	return answers[0].Count
}

// has expects a number of partitions, whatever is wanted.
func (f *fixture) has(namespace string, count int) {
	f.Helper()
	for _, want := range []int{0, 1, 4, 1024} {
		if got := f.partitions(namespace, want); got != count {
			f.Fatalf("%s has %d partitions for one who wants %d, want %d", namespace, got, want, count)
		}
	}
}

// of returns the fixture on one partition of several.
func (f *fixture) of(namespace string, index, count int) *fixture {
	return f.in(l2.Partition{Namespace: namespace, Index: uint16(index), Count: uint16(count)})
}

// shutOut expects that no step on a partition is let through.
func (f *fixture) shutOut() {
	f.Helper()
	for what, err := range f.everything(soracache.Stamp{}, f.nonce()) {
		if !errors.Is(err, l2.ErrPartitions) && (what != "guest" || !errors.Is(err, soracache.ErrUnavailable)) {
			f.Fatalf("%s of %d, %s: %v, want one that wraps ErrPartitions", f.at, f.at.Count, what, err)
		}
	}
}

// letStand lets time pass in which a change stands.
func (f *fixture) letStand(namespace string, d time.Duration) {
	if f.AgeChange != nil {
		f.AgeChange(namespace, d)
	} else {
		f.wait(d)
	}
}

// followed registers one who trusts its memory of the partition for long.
func (f *fixture) followed() {
	f.Helper()
	by := l2.Registration{Name: "node", Bound: l2.MaxBound}
	if a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Register: by}})[0]; a.Err != nil {
		f.Fatal(a.Err)
	}
}

// step does what can be done of a change.
func (f *fixture) step(namespace string, count int) time.Duration {
	f.Helper()
	left, err := f.Store.Repartition(f.Context(), namespace, count)
	if err != nil || left < 0 || left > l2.ChangeTakes {
		f.Fatalf("changing %s to %d: %v left, %v", namespace, count, left, err)
	}
	return left
}

// change makes a number another one.
func (f *fixture) change(namespace string, count int) {
	f.Helper()
	if f.AgeChange == nil && f.Wait == nil {
		f.Skip("this engine's test cannot let a change take its time")
	}
	err := l2.Repartition(f.Context(), f.Store, namespace, count, func(d time.Duration) error {
		f.letStand(namespace, d)
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	f.has(namespace, count)
}

func (f *fixture) needLoseNumber() {
	f.Helper()
	if f.LoseNumber == nil {
		f.Skip("this engine's test cannot lose a number of partitions")
	}
}

func numberChecks() []check {
	return []check{
		{name: "a new namespace is given the number that is wanted first", run: func(f *fixture) {
			if n := f.partitions("new", 0); n != 0 {
				f.Fatalf("a namespace that nobody has used has %d partitions", n)
			}
			if n := f.partitions("new", 4); n != 4 {
				f.Fatalf("it was given %d", n)
			}
			f.has("new", 4)
			f.of("new", 3, 4).load("k", "v")
			f.of("new", 0, 1).shutOut()
		}},
		{name: "a number that can never be is invalid", run: func(f *fixture) {
			for _, r := range []l2.PartitionsRequest{{Namespace: "Shop", Want: 1}, {Namespace: "shop", Want: -1}, {Namespace: "shop", Want: 1025}} {
				if a := f.Store.Partitions(f.Context(), []l2.PartitionsRequest{r}); r.Want != -1 && !errors.Is(a[0].Err, soracache.ErrInvalid) {
					f.Errorf("%+v: %v", r, a[0].Err)
				}
				if _, err := f.Store.Repartition(f.Context(), r.Namespace, r.Want); !errors.Is(err, soracache.ErrInvalid) {
					f.Errorf("changing %+v: %v", r, err)
				}
			}
		}},
		{name: "many namespaces are asked for at once", run: func(f *fixture) {
			var reqs []l2.PartitionsRequest
			for i := range 20 {
				reqs = append(reqs, l2.PartitionsRequest{Namespace: fmt.Sprint("many", i), Want: i + 1})
			}
			for range 2 {
				for i, a := range f.Store.Partitions(f.Context(), reqs) {
					if a.Err != nil || a.Count != i+1 {
						f.Fatalf("answer %d: %+v", i, a)
					}
				}
			}
		}},
		{name: "the first step on a ledger gives its namespace the number", run: func(f *fixture) {
			f.of("used", 2, 4).load("k", "v")
			f.has("used", 4)
			for i := range 2 { // neither of them was used before
				f.of("used", i, 2).shutOut()
			}
			f.of("used", 3, 8).shutOut()
			f.of("used", 2, 4).hit("k", "v")
		}},
		{name: "of two who begin at once, one is refused as a whole", run: beginAtOnce},
		{name: "a new epoch keeps the number", run: func(f *fixture) {
			g := f.of("epochs", 0, 4)
			g.load("k", "v")
			before := g.head()
			g.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			if g.head().Epoch == before.Epoch {
				f.Fatal("no new epoch")
			}
			f.has("epochs", 4)
			f.of("epochs", 0, 1).shutOut()
		}},
		{name: "a lost number is as many as there are ledgers of", run: func(f *fixture) {
			f.needLoseNumber()
			f.of("lost", 0, 4).load("k", "v")
			f.of("lost", 3, 4).load("k", "v")
			f.LoseNumber("lost")
			f.has("lost", 4)
			f.LoseNumber("lost")
			f.of("lost", 1, 2).shutOut()
			f.of("lost", 0, 4).hit("k", "v")
			f.LoseNumber("lost")
			f.of("lost", 2, 4).load("k", "v")
			f.of("lost", 0, 4).hit("k", "v")
		}},
		{name: "a lost number is found while one ledger is left", run: func(f *fixture) {
			f.needLoseNumber()
			for part, lose := range f.Lose {
				namespace := fmt.Sprint("left-", len(part))
				f.of(namespace, 0, 4).load("k", "v")
				f.of(namespace, 3, 4).load("k", "v")
				lose(f.of(namespace, 0, 4).at)
				f.LoseNumber(namespace)
				f.of(namespace, 0, 1).shutOut()
				f.has(namespace, 4)
				f.of(namespace, 0, 4).load("new", "v")
				f.of(namespace, 3, 4).hit("k", "v")
			}
		}},
		{name: "a number that nobody asks for is forgotten with the last ledger", run: func(f *fixture) {
			if f.Wait == nil {
				f.Skip("this engine's clock cannot be moved")
			}
			f.partitions("idle", 4)
			f.wait(l2.PartitionsExpiry - time.Second)
			f.has("idle", 4) // and is kept for as long again
			f.wait(l2.PartitionsExpiry - time.Second)
			f.has("idle", 4)
			f.wait(l2.PartitionsExpiry)
			if n := f.partitions("idle", 0); n != 0 {
				f.Fatalf("it is not forgotten: %d", n)
			}
			f.of("ledgers", 2, 4).load("k", "v")
			f.wait(l2.PartitionsExpiry)
			f.has("ledgers", 4)
		}},
		{name: "a snapshot brings the number of its time back", run: func(f *fixture) {
			if f.Snapshot == nil {
				f.Skip("this engine's test cannot restore a snapshot")
			}
			f.of("restored", 0, 1).load("k", "v")
			restore := f.Snapshot()
			f.change("restored", 4)
			f.of("restored", 2, 4).load("k", "v")
			restore()
			f.of("restored", 1, 4).shutOut()
			f.of("restored", 0, 4).shutOut()
			f.of("restored", 0, 1).read("k")
		}},
		{name: "a change lets nobody in, and then the new number alone", run: changeNumber},
		{name: "a change to what is so already changes nothing", run: func(f *fixture) {
			g := f.of("same", 1, 4)
			g.load("k", "v")
			head := g.head()
			if left := f.step("same", 4); left != 0 || g.head() != head {
				f.Fatalf("%v left, and %v became %v", left, head, g.head())
			}
			g.hit("k", "v")
		}},
		{name: "a change of a namespace that nobody has used takes no time", run: func(f *fixture) {
			if left := f.step("unused", 8); left != 0 {
				f.Fatalf("%v left", left)
			}
			f.has("unused", 8)
		}},
		{name: "a change can be interrupted, repeated and changed", run: interruptedChange},
		{name: "a change outlives the loss of the number", run: func(f *fixture) {
			f.needLoseNumber()
			if f.AgeChange == nil {
				f.Skip("who remembers the change is who remembers the number")
			}
			f.of("shop", 0, 2).load("k", "v")
			f.step("shop", 4)
			f.LoseNumber("shop")
			for _, count := range []int{1, 2, 4} {
				f.of("shop", 0, count).shutOut()
			}
			if a := f.Store.Partitions(f.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 4}}); !errors.Is(a[0].Err, l2.ErrPartitions) {
				f.Fatalf("asked in the middle: %+v", a[0])
			}
			f.change("shop", 4)
			f.LoseNumber("shop")
			f.of("shop", 3, 4).load("k", "v")
			f.has("shop", 4)
		}},
		{name: "a change back leaves nothing of what was in between", run: func(f *fixture) {
			f.of("back", 0, 1).load("k", "first")
			f.change("back", 4)
			f.of("back", 0, 4).load("k", "second")
			f.of("back", 3, 4).load("k", "second")
			f.change("back", 1)
			f.of("back", 0, 1).miss("k")
			f.of("back", 3, 4).shutOut()
			f.change("back", 4)
			f.of("back", 0, 4).miss("k")
			f.of("back", 3, 4).miss("k")
		}},
	}
}

// beginAtOnce has callers of different beliefs use new namespaces at the same
// moment.
func beginAtOnce(f *fixture) {
	for round := range counts(20, 500) {
		namespace := fmt.Sprint("race", round)
		var wg sync.WaitGroup
		var mu sync.Mutex
		used := map[int]int{}
		for caller := range 8 {
			count := 1 + caller%4
			wg.Go(func() {
				for i := range count {
					a := f.Store.Since(f.Context(), []l2.SinceRequest{{
						Partition: l2.Partition{Namespace: namespace, Index: uint16(i), Count: uint16(count)},
					}})[0]
					mu.Lock()
					switch {
					case a.Err == nil:
						used[count]++
					case !errors.Is(a.Err, l2.ErrPartitions):
						f.Error(a.Err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(used) != 1 {
			f.Fatalf("round %d: ledgers of %d numbers of partitions: %v", round, len(used), used)
		}
	}
}

func changeNumber(f *fixture) {
	for _, to := range []int{1, 2, 8} {
		const from = 4
		namespace := fmt.Sprint("change-to-", to)
		for i := range from - 1 { // and one that nobody has used
			f.of(namespace, i, from).load("k", "old", "t")
		}
		f.of(namespace, from-2, from).followed()
		left := f.step(namespace, to)
		if left <= 0 {
			f.Fatalf("to %d: nothing left to do", to)
		}
		for i := range max(from, to) {
			if i < from {
				f.of(namespace, i, from).shutOut()
			}
			if i < to {
				f.of(namespace, i, to).shutOut()
			}
		}
		f.letStand(namespace, left/2)
		if half := f.step(namespace, to); half <= 0 || half > left/2+time.Second {
			f.Fatalf("to %d: after %v of %v, %v is left", to, left/2, left, half)
		}
		f.of(namespace, 0, to).shutOut()
		f.change(namespace, to)
		for i := range from {
			f.of(namespace, i, from).shutOut()
		}
		for i := range to {
			g := f.of(namespace, i, to)
			g.miss("k")
			g.load("k", "new", "t")
			g.hit("k", "new")
			g.invalidate(soracache.Tag("t"))
			g.miss("k")
		}
	}
}

func interruptedChange(f *fixture) {
	f.of("shop", 0, 2).load("k", "v")
	f.of("shop", 1, 2).load("k", "v")
	f.of("shop", 1, 2).followed()
	f.step("shop", 8)
	f.letStand("shop", l2.ChangeTakes/2)
	if left := f.step("shop", 3); left <= 0 { // somebody wants another
		f.Fatal("the change to another number takes no time")
	}
	for _, count := range []int{2, 3, 8} {
		f.of("shop", 0, count).shutOut()
	}
	f.change("shop", 3)
	f.of("shop", 0, 8).shutOut()
	f.of("shop", 2, 3).load("k", "v")
	if left := f.step("shop", 3); left != 0 {
		f.Fatalf("repeated when it was done: %v left", left)
	}
	f.of("shop", 2, 3).hit("k", "v")
}
