package command

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
	"unicode/utf8"

	"connectrpc.com/connect"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

const (
	// removeAtOnce is how many keys of a list travel in one request.
	removeAtOnce = 500
	// namesAtOnce is how many names that were given as arguments are invalidated in one
	// step. A node takes as many unless it is told otherwise.
	namesAtOnce = 1000
)

// removeListed invalidates the keys of a list, one request after the other.
func (c *rmCmd) removeListed(ctx context.Context, con *console) error {
	keys, err := con.readList(c.File)
	if err != nil {
		return usage(err)
	}
	names := make([]target, len(keys))
	for i, key := range keys {
		names[i] = target{text: key}
	}
	return c.invalidateNames(ctx, con, names, removeAtOnce, c.request(c.Namespace), fmt.Sprintf("removed %d keys", len(keys)), "removed", "keys")
}

// target is what is to be invalidated: a key, or a tag.
type target struct {
	text string
	tag  bool
}

// request is an invalidation of nothing yet.
func (i invalidating) request(namespace string) *soracachev1.InvalidateRequest {
	return &soracachev1.InvalidateRequest{Namespace: namespace, Acknowledge: i.Ack, Settle: duration(i.Settle)}
}

// invalidateNames invalidates names, so many in one request, and half as many once the
// node says that these are too many. With --json each answer is a line. Of requests
// that break off it tells how far they came: so many names, called what, are done.
func (r remote) invalidateNames(ctx context.Context, con *console, names []target, atOnce int, req *soracachev1.InvalidateRequest, all, verb, what string) error {
	node, err := r.dial()
	if err != nil {
		return err
	}
	defer node.close()
	bar := newProgress(con, verb, len(names))
	defer bar.clear()
	var late []string
	for done := 0; done < len(names); {
		batch := names[done:min(done+atOnce, len(names))]
		req.Keys, req.Tags = nil, nil
		for _, n := range batch {
			if n.tag {
				req.Tags = append(req.Tags, n.text)
			} else {
				req.Keys = append(req.Keys, n.text)
			}
		}
		answer, err := node.cache.Invalidate(ctx, req)
		if connect.CodeOf(err) == connect.CodeResourceExhausted && len(batch) > 1 {
			atOnce = len(batch) / 2
			continue
		}
		if err != nil {
			bar.clear()
			if done > 0 {
				_, _ = fmt.Fprintf(con.err, "%d of %d %s are %s\n", done, len(names), what, verb)
			}
			return err
		}
		done += len(batch)
		late = append(late, answer.GetStragglers()...)
		bar.show(done)
		if r.JSON {
			if err := con.printJSON(answer); err != nil {
				return err
			}
		}
	}
	bar.clear()
	if r.JSON {
		return nil
	}
	slices.Sort(late)
	return con.say("%s", invalidated(all, req.GetAcknowledge(), slices.Compact(late)))
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
		if name := strings.TrimRight(line, "\r\n"); !utf8.ValidString(name) {
			return nil, fmt.Errorf("%s: %q is not UTF-8", file, name)
		} else if name != "" {
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
