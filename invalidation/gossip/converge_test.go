package gossip

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/racetest"
)

const convergenceDoc = "../../docs/convergence.md"

const convergenceIntro = `# How fast a record spreads, and at what price

One record, published by one of the nodes, in virtual time and with the very code that nodes run
(` + "`Spread` in `invalidation/gossip`" + `). A packet arrives 0.2 to 0.8 ms after it was sent, evenly
distributed, or is lost with the probability given; sending one keeps its sender busy for 10 µs. Every
row is the same each time, from fixed seeds.

Up to 64 members the publisher sends the record to each of the others. Beyond that it tells ln(n) + 3
members chosen at random, and so does everybody who hears of it for the first time.

| nodes | loss | reached by it | rounds that reached all | median node | last node, median | last node, 99 % | packets a node | most packets of one |
|---|---|---|---|---|---|---|---|---|
`

const convergenceOutro = `
*Reached by it* counts the other nodes of all rounds; whoever was not reached learns of the record when it
next asks the ledger, three times in each bound B, or at once from the gap that the next record shows. Times of
the last node are of those that were reached. *Packets a node* counts those sent, by all nodes alike, for
this one record; with several records under way at once a packet carries all that there are.

Written by ` + "`go test ./invalidation/gossip -run Convergence -update`" + `, and compared with what the code does at
every test.
`

// TestConvergence measures how a record spreads, and holds the table in the
// documentation to it.
func TestConvergence(t *testing.T) {
	racetest.Without(t)
	var table strings.Builder
	for _, nodes := range []int{5, 50, 500} {
		for _, loss := range []float64{0, 0.01, 0.1} {
			c := converge(nodes, loss, 10_000/nodes)
			table.WriteString(c.row(nodes, loss))
			if reached := c.share(); reached < 1-1.5*loss {
				t.Errorf("%d nodes, %.0f %% lost: only %.2f %% were reached", nodes, 100*loss, 100*reached)
			}
		}
	}
	doc := convergenceIntro + table.String() + convergenceOutro
	if *update {
		if err := os.WriteFile(convergenceDoc, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(convergenceDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(committed) != doc {
		t.Errorf("%s is not what the code does; run with -update and look at the difference:\n%s", convergenceDoc, doc)
	}
	t.Log("\n" + table.String())
}

// convergence is what several rounds of one record came to.
type convergence struct {
	rounds, others int
	reached        []time.Duration // of every node that was
	last           []time.Duration // of each round
	all            int             // rounds that reached everybody
	packets        int
	most           int
}

func converge(nodes int, loss float64, rounds int) *convergence {
	c := &convergence{rounds: rounds, others: nodes - 1}
	for seed := range rounds {
		a := newAir(nodes, loss, uint64(seed))
		times := a.publish()
		c.reached = append(c.reached, times...)
		if len(times) > 0 {
			c.last = append(c.last, slices.Max(times))
		}
		if len(times) == nodes-1 {
			c.all++
		}
		for _, n := range a.nodes {
			c.packets += n.packets
			c.most = max(c.most, n.packets)
		}
	}
	slices.Sort(c.reached)
	slices.Sort(c.last)
	return c
}

func (c *convergence) share() float64 { return float64(len(c.reached)) / float64(c.rounds*c.others) }

func (c *convergence) row(nodes int, loss float64) string {
	return fmt.Sprintf("| %d | %.0f %% | %.3f %% | %.1f %% | %s | %s | %s | %.1f | %d |\n", nodes, 100*loss, 100*c.share(),
		100*float64(c.all)/float64(c.rounds), millis(c.reached, 0.5), millis(c.last, 0.5), millis(c.last, 0.99),
		float64(c.packets)/float64(c.rounds*nodes), c.most)
}

func millis(sorted []time.Duration, quantile float64) string {
	return fmt.Sprintf("%.2f ms", sorted[int(quantile*float64(len(sorted)-1))].Seconds()*1000)
}

// air is the network between nodes, and the order of what happens.
type air struct {
	rng    *rand.Rand
	loss   float64
	now    time.Duration
	nodes  []*airNode
	byName map[string]*airNode
	events events
}

// airNode is one node, and the transport that it sends by.
type airNode struct {
	*air
	name    string
	peers   []string
	spread  *Spread
	busy    time.Duration // until then it sends
	packets int
	heard   time.Duration // when it heard of the record, or -1
}

func newAir(nodes int, loss float64, seed uint64) *air {
	a := &air{rng: rand.New(rand.NewPCG(seed, 1)), loss: loss, byName: make(map[string]*airNode)}
	for i := range nodes {
		n := &airNode{air: a, name: fmt.Sprintf("node-%d", i), heard: -1}
		n.spread = NewSpread(SpreadConfig{Transport: n, Random: rand.New(rand.NewPCG(seed, uint64(2+i)))})
		a.nodes = append(a.nodes, n)
		a.byName[n.name] = n
	}
	for _, n := range a.nodes {
		for _, other := range a.nodes {
			if other != n {
				n.peers = append(n.peers, other.name)
			}
		}
	}
	return a
}

func (n *airNode) Peers() []string { return n.peers }

func (n *airNode) Send(to string, packet []byte) error {
	n.packets++
	n.busy = max(n.busy, n.now) + 10*time.Microsecond
	travel := 200*time.Microsecond + time.Duration(n.rng.Int64N(int64(600*time.Microsecond)))
	if n.rng.Float64() >= n.loss {
		heap.Push(&n.events, event{at: n.busy + travel, order: n.packets, to: n.byName[to], packet: packet})
	}
	return nil
}

// publish publishes one record at the first node, and returns when the others
// that it reached heard of it.
func (a *air) publish() []time.Duration {
	a.nodes[0].spread.Publish(record(1))
	a.nodes[0].spread.Flush()
	var times []time.Duration
	for len(a.events) > 0 {
		e := heap.Pop(&a.events).(event)
		a.now = e.at
		if len(e.to.spread.Receive(e.packet)) > 0 && e.to.heard < 0 {
			e.to.heard = a.now
			times = append(times, a.now)
		}
		e.to.spread.Flush()
	}
	return times
}

// event is a packet that arrives.
type event struct {
	at     time.Duration
	order  int
	to     *airNode
	packet []byte
}

type events []event

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }

func (e events) Less(i, j int) bool {
	if e[i].at != e[j].at {
		return e[i].at < e[j].at
	}
	if e[i].order != e[j].order {
		return e[i].order < e[j].order
	}
	return e[i].to.name < e[j].to.name
}

func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}
