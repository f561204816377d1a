package command

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// prefixer writes the lines of several processes to one place, each after the
// name of whose it is.
type prefixer struct {
	colour bool
	width  int

	mu  sync.Mutex
	out io.Writer // guarded by mu
	// next is the number of names that were given out. Guarded by mu.
	next int
}

func newPrefixer(out io.Writer, colour bool, nodes int) *prefixer {
	return &prefixer{out: out, colour: colour, width: len(fmt.Sprintf("node%d", nodes))}
}

// longestLine is where a line that does not end is broken.
const longestLine = 64 << 10

// prefixed returns the writer of one process, and of those that replace it.
func (p *prefixer) prefixed(name string) *prefixed {
	p.mu.Lock()
	defer p.mu.Unlock()
	head := fmt.Sprintf("%-*s | ", p.width, name)
	if p.colour {
		// Cyan, yellow, green, magenta, blue, red: as bright ones on the second
		// round.
		codes := [...]int{36, 33, 32, 35, 34, 31, 96, 93, 92, 95, 94, 91}
		head = fmt.Sprintf("\x1b[%dm%s\x1b[0m", codes[p.next%len(codes)], head)
	}
	p.next++
	return &prefixed{p: p, head: head}
}

// report writes a line of our own about a process.
func (p *prefixer) report(name, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "%-*s | * %s %s\n", p.width, name, name, text)
}

// say writes text of our own.
func (p *prefixer) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintln(p.out, text)
}

// prefixed is the output of one process.
type prefixed struct {
	p    *prefixer
	head string

	mu sync.Mutex
	// All below is guarded by mu.
	rest    []byte // of a line that has not ended
	holding bool
	held    [][]byte // lines
}

// hold keeps lines back until release.
func (w *prefixed) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holding = true
}

// release writes or drops what was held, and holds no more.
func (w *prefixed) release(write bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if write {
		for _, line := range w.held {
			w.p.line(w.head, line)
		}
	}
	w.holding, w.held = false, nil
}

// Write implements [io.Writer]. Whole lines are written at once, so that those
// of several processes do not mix. It never fails: a process must not die
// because nobody reads what it says.
func (w *prefixed) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, b...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 && len(w.rest) < longestLine {
			return len(b), nil
		}
		line, rest := w.rest, []byte(nil)
		if end >= 0 {
			line, rest = w.rest[:end], w.rest[end+1:]
		}
		if w.holding {
			w.held = append(w.held, bytes.Clone(line))
		} else {
			w.p.line(w.head, line)
		}
		w.rest = rest
	}
}

func (p *prefixer) line(head string, text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "%s%s\n", head, text)
}
