package redistest

import (
	"bytes"
	"strconv"
	"strings"
)

// respParser finds where the messages of a RESP 2 or 3 stream begin and end,
// in whatever pieces the stream comes.
type respParser struct {
	line []byte // a line not yet complete
	skip int    // bytes of a bulk string, with its line end, still to come
	take bool   // the bulk string is the message's first element: keep it
	open []int  // elements still missing in each aggregate that is open
	msg  respMessage
}

// respMessage is one request or answer.
type respMessage struct {
	kind  byte   // its type: '*' for a request, '>' for a push
	first string // its first simple element: the command's name
}

// feed takes in a piece of the stream and returns the messages that it ended.
func (p *respParser) feed(b []byte) []respMessage {
	var done []respMessage
	for len(b) > 0 {
		if p.skip > 0 {
			n := min(p.skip, len(b))
			if p.take {
				p.msg.first += string(b[:n])
			}
			p.skip -= n
			b = b[n:]
			if p.skip == 0 {
				if p.take {
					p.msg.first, p.take = strings.TrimSuffix(p.msg.first, "\r\n"), false
				}
				done = p.element(done)
			}
			continue
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.line = append(p.line, b...)
			return done
		}
		line := string(bytes.TrimSuffix(append(p.line, b[:i]...), []byte("\r")))
		p.line, b = p.line[:0], b[i+1:]
		done = p.header(line, done)
	}
	return done
}

// header takes in one line: a whole element, or the length of what follows.
func (p *respParser) header(line string, done []respMessage) []respMessage {
	if line == "" {
		return done
	}
	kind, rest := line[0], line[1:]
	if len(p.open) == 0 {
		p.msg = respMessage{kind: kind}
	}
	switch kind {
	case '*', '~', '>', '%', '|':
		n, _ := strconv.Atoi(rest)
		if kind == '%' || kind == '|' {
			n *= 2
		}
		if kind == '|' {
			n++ // attributes come before the element that they describe
		}
		if n <= 0 {
			return p.element(done)
		}
		p.open = append(p.open, n)
		return done
	case '$', '=', '!':
		n, _ := strconv.Atoi(rest)
		if n < 0 {
			return p.element(done)
		}
		p.skip, p.take = n+len("\r\n"), p.msg.first == "" && len(p.open) <= 1
		return done
	}
	if p.msg.first == "" {
		p.msg.first = rest
	}
	return p.element(done)
}

// element ends one element, and with it the aggregates that it completes.
func (p *respParser) element(done []respMessage) []respMessage {
	for len(p.open) > 0 {
		last := len(p.open) - 1
		p.open[last]--
		if p.open[last] > 0 {
			return done
		}
		p.open = p.open[:last]
	}
	return append(done, p.msg)
}
