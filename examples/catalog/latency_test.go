package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/client"
)

// TestLatency measures how long the application's reads take: from the database,
// from the cache service, and from the near cache. With SORACACHE_PLOT it makes
// so many reads that they can be drawn, and writes the drawing to that file; the
// figures are in docs/near-cache.md.
func TestLatency(t *testing.T) {
	plot := os.Getenv("SORACACHE_PLOT")
	reads := 200
	if plot != "" {
		reads = 20_000
	}
	n := startNode(t)
	db := copyOfDatabase(t)
	service := openShop(t, db, "http://"+n.address, unhurried(), client.NoNear())
	near := openShop(t, db, "http://"+n.address, unhurried())
	read := func(s *shop) func(id int64) error {
		return func(id int64) error { _, err := s.Product(t.Context(), id); return err }
	}
	curves := []*curve{
		{name: "database", read: func(id int64) error { _, err := service.db.product(t.Context(), id); return err }},
		{name: "cache service", read: read(service)},
		{name: "near cache", read: read(near)},
	}
	for _, c := range curves {
		c.measure(t, reads)
		t.Logf("%-14s median %v, p99 %v", c.name, c.at(0.5), c.at(0.99))
	}
	if hits := near.counts.hitsNear.Load(); hits < int64(reads)/2 {
		t.Errorf("%d of %d reads were served near", hits, reads)
	}
	if plot != "" {
		if err := os.WriteFile(plot, []byte(draw(curves)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// curve is what the reads of one kind took.
type curve struct {
	name string
	read func(id int64) error
	took []time.Duration // ascending
}

// measure reads from a hundred products, after each was read a few times.
func (c *curve) measure(t *testing.T, reads int) {
	t.Helper()
	const products = 100
	for round := range 3 {
		for id := range int64(products) {
			if err := c.read(id + 1); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			// The near cache begins to watch with the first read.
			eventually(t, c.name+" is warm", func() error { return c.read(1) })
		}
	}
	runtime.GC()
	for range reads {
		id := rand.Int64N(products) + 1
		began := time.Now()
		err := c.read(id)
		c.took = append(c.took, time.Since(began))
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(c.took)
}

func (c *curve) at(q float64) time.Duration {
	return c.took[min(int(q*float64(len(c.took))), len(c.took)-1)]
}

// draw returns the distributions as SVG: which share of the reads took no
// longer, over the time on a logarithmic axis.
func draw(curves []*curve) string {
	const width, height, left, top = 640.0, 260.0, 60.0, 20.0
	const first, last = -7.0, -1.0 // powers of ten of a second
	x := func(d time.Duration) float64 {
		return left + width*(max(first, math.Log10(d.Seconds()))-first)/(last-first)
	}
	y := func(q float64) float64 { return top + height*(1-q) }
	var b strings.Builder
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" width="740" height="350" font-family="sans-serif" font-size="12">` + "\n")
	b.WriteString(`<rect width="740" height="350" fill="white"/>` + "\n")
	for i, unit := range []string{"100 ns", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms"} {
		at := left + width*float64(i)/(last-first)
		fmt.Fprintf(&b, `<path d="M%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n",
			at, top, top+height, at, top+height+18, unit)
	}
	for _, q := range []float64{0, 0.25, 0.5, 0.75, 1} {
		fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n",
			left, y(q), left+width, left-8, y(q)+4, 100*q)
	}
	for i, c := range curves {
		color := [...]string{"#999999", "#1f77b4", "#d62728"}[i]
		fmt.Fprintf(&b, `<path fill="none" stroke="%s" stroke-width="2" d="M%.1f %.1f`, color, x(c.took[0]), y(0))
		for step := 1; step <= 200; step++ {
			q := float64(step) / 200
			fmt.Fprintf(&b, "L%.1f %.1f", x(c.at(min(q, 0.9999))), y(q))
		}
		fmt.Fprintf(&b, `"/><text x="%.1f" y="%.1f" fill="%s">%s: median %s</text>`+"\n",
			left+20+200*float64(i), top+height+48, color, c.name, c.at(0.5).Round(10*time.Nanosecond))
	}
	b.WriteString(`<text x="380" y="345" text-anchor="middle" fill="#666">share of 20,000 reads of one product that took no longer</text>` + "\n</svg>\n")
	return b.String()
}
