package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// removeAtOnce is how many keys of a list travel in one request. A node takes
// 1,000 unless it is told otherwise.
const removeAtOnce = 500

// removeListed invalidates the keys of a list, one request after the other. With
// --json each answer is a line.
func (c *rmCmd) removeListed(ctx context.Context, con *console) error {
	keys, err := con.readList(c.File)
	if err != nil {
		return usage(err)
	}
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	bar := newProgress(con, "removed", len(keys))
	defer bar.clear()
	var late []string
	done := 0
	for batch := range slices.Chunk(keys, removeAtOnce) {
		answer, err := node.cache.Invalidate(ctx, &soracachev1.InvalidateRequest{
			Namespace: c.Namespace, Keys: batch, Acknowledge: c.Ack, Settle: duration(c.Settle),
		})
		if err != nil {
			bar.clear()
			if done > 0 {
				_, _ = fmt.Fprintf(con.err, "%d of %d keys are removed\n", done, len(keys))
			}
			return err
		}
		done += len(batch)
		late = append(late, answer.GetStragglers()...)
		bar.show(done)
		if c.JSON {
			if err := con.printJSON(answer); err != nil {
				return err
			}
		}
	}
	bar.clear()
	if c.JSON {
		return nil
	}
	slices.Sort(late)
	return con.say("%s", invalidated(fmt.Sprintf("removed %d keys", len(keys)), c.Ack, slices.Compact(late)))
}

// readList reads names, one a line, from a file or, if it is called -, from
// standard input. Empty lines are left out.
func (c *console) readList(file string) ([]string, error) {
	in := c.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	var names []string
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if name := strings.TrimRight(line, "\r\n"); name != "" {
			names = append(names, name)
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF):
			return nil, err
		case len(names) == 0:
			return nil, fmt.Errorf("%s: no keys", file)
		default:
			return names, nil
		}
	}
}

// progress is a bar for people, on one line of standard error that is taken away
// at the end.
type progress struct {
	to    io.Writer // nil: nobody looks
	what  string
	total int
	shown time.Time
	width int // of what is there
}

func newProgress(con *console, what string, total int) *progress {
	p := &progress{what: what, total: total}
	if con.terminal && total > removeAtOnce {
		p.to = con.err
	}
	return p
}

// show draws the bar, ten times a second at most.
func (p *progress) show(done int) {
	const cells = 30
	if p.to == nil || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	full := cells * done / p.total
	line := fmt.Sprintf("%s %d of %d [%s%s]", p.what, done, p.total, strings.Repeat("#", full), strings.Repeat(".", cells-full))
	_, _ = fmt.Fprintf(p.to, "\r%-*s", p.width, line)
	p.width = len(line)
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.to != nil && p.width > 0 {
		_, _ = fmt.Fprintf(p.to, "\r%*s\r", p.width, "")
		p.width = 0
	}
}
