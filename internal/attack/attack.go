// Package attack sends one node what it must bear: requests that ask for far
// more memory, time or places than they take to send. Each attack is bounded in
// number and time, and goes to loopback only.
//
// It is for tests: [Run] measures what an attack made the node's process take,
// and what a well-behaved client felt meanwhile.
package attack

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Target is the node under attack.
type Target struct {
	// Addr is where it serves, in cleartext: host:port on loopback.
	Addr string
	// Large are keys of large values (see [Prepare]).
	Large []string
	// Times is how many times the size that each attack is known by.
	Times int
	// For is how long each attack goes on.
	For time.Duration
}

// Attack is one of them.
type Attack struct {
	Name string
	// Do attacks until it has sent everything and the time is over, or the
	// context ends. The error says that it could not attack at all.
	Do func(ctx context.Context, t Target, sent *Sent) error
}

// Sent counts what an attack did.
type Sent struct {
	Requests, Bytes, Refused atomic.Int64
}

// Memory are the attacks on memory.
func Memory() []Attack {
	return []Attack{
		{"gzip of empty items, protobuf", emptyItems},
		{"gzip of empty items, JSON", emptyItemsJSON},
		{"batch reads of large values", largeBatches},
		{"unread answers of HTTP/2 streams", unreadStreams},
		{"uploads that stop one byte short", uploadsOneShort},
		{"compressed answers that nobody takes", compressedUnread},
		{"headers that do not end", headersOneShort},
	}
}

// Places are the attacks on the places of --max-concurrent.
func Places() []Attack {
	return []Attack{
		{"senders that do not end", slowSenders},
		{"readers that wait for a lease", waiters},
	}
}

// Names are the attacks on what a node and its store keep for each name.
func Names() []Attack {
	return []Attack{
		{"reads of new namespaces", newNamespaces},
		{"leases of new keys", newLeases},
		{"waiters in many namespaces", waitersApart},
	}
}

const service = "/soracache.v1.CacheService/"

// loopback refuses to attack anybody else.
func (t Target) loopback() error {
	host, _, err := net.SplitHostPort(t.Addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("attacks go to loopback only, not to %q", t.Addr)
	}
	return nil
}

// together runs n at once until each has returned, or the time is over.
func (t Target) together(ctx context.Context, n int, do func(ctx context.Context, i int)) error {
	if err := t.loopback(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.For)
	defer cancel()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(ctx, i) })
	}
	all.Wait()
	return nil
}

// The size of what one request inflates to: the largest message that a node
// takes by default.
const inflated = 32 << 20

// emptyItems sends, as often as there are Times, 16.7 million empty items in 32
// KB.
func emptyItems(ctx context.Context, t Target, sent *Sent) error {
	item := append(protowire.AppendTag(nil, 2, protowire.BytesType), 0) // BatchFillRequest.fills
	body := packed(nil, item, inflated/len(item), nil)
	return t.repeat(ctx, sent, "BatchFill", "application/proto", body)
}

func emptyItemsJSON(ctx context.Context, t Target, sent *Sent) error {
	body := packed([]byte(`{"fills":[{}`), []byte(`,{}`), inflated/3-10, []byte(`]}`))
	return t.repeat(ctx, sent, "BatchFill", "application/json", body)
}

// packed compresses many times the same.
func packed(before, item []byte, n int, after []byte) []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = z.Write(before)
	many := bytes.Repeat(item, 1<<10)
	for ; n >= 1<<10; n -= 1 << 10 {
		_, _ = z.Write(many)
	}
	_, _ = z.Write(bytes.Repeat(item, n))
	_, _ = z.Write(after)
	_ = z.Close()
	return b.Bytes()
}

// repeat posts the same body on Times connections, again and again.
func (t Target) repeat(ctx context.Context, sent *Sent, procedure, contentType string, body []byte) error {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	defer transport.CloseIdleConnections()
	return t.together(ctx, t.Times, func(ctx context.Context, _ int) {
		for ctx.Err() == nil {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.Addr+service+procedure, bytes.NewReader(body))
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", contentType)
			r.Header.Set("Content-Encoding", "gzip")
			answer, err := transport.RoundTrip(r)
			if err != nil {
				continue
			}
			sent.answered(answer.StatusCode, len(body))
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
	})
}

func (s *Sent) answered(status, bytes int) {
	s.Requests.Add(1)
	s.Bytes.Add(int64(bytes))
	if status != http.StatusOK {
		s.Refused.Add(1)
	}
}

// batchOf asks for all large values at once, beginning with the one at from.
func (t Target) batchOf(from int) []byte {
	var b []byte
	for i := range t.Large {
		b = protowire.AppendTag(b, 2, protowire.BytesType) // BatchGetRequest.keys
		b = protowire.AppendString(b, t.Large[(from+i)%len(t.Large)])
	}
	return b
}

// largeBatches asks for all large values at once, on Times connections, and
// takes the answers.
func largeBatches(ctx context.Context, t Target, sent *Sent) error {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}
	defer transport.CloseIdleConnections()
	return t.together(ctx, t.Times, func(ctx context.Context, i int) {
		for from := i * len(t.Large) / t.Times; ctx.Err() == nil; from += 7 {
			body := t.batchOf(from)
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.Addr+service+"BatchGet", bytes.NewReader(body))
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", "application/proto")
			answer, err := transport.RoundTrip(r)
			if err != nil {
				continue
			}
			sent.answered(answer.StatusCode, len(body))
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
	})
}

// unreadStreams opens 60 streams for each of Times, on as many connections, asks
// on each for all large values, and takes nothing.
func unreadStreams(ctx context.Context, t Target, sent *Sent) error {
	return t.together(ctx, t.Times, func(ctx context.Context, i int) {
		t.streams(ctx, sent, 60, i, "")
	})
}

// compressedUnread does the same and asks for compressed answers.
func compressedUnread(ctx context.Context, t Target, sent *Sent) error {
	return t.together(ctx, t.Times, func(ctx context.Context, i int) {
		t.streams(ctx, sent, 60, i, "gzip")
	})
}

func (t Target) streams(ctx context.Context, sent *Sent, n, from int, accept string) {
	conn, err := t.dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	h, err := newH2(conn)
	if err != nil {
		return
	}
	for i := range n {
		if err := h.post(service+"BatchGet", "application/proto", accept, t.batchOf(from+13*i)); err != nil {
			return
		}
		sent.Requests.Add(1)
	}
	<-ctx.Done()
	sent.Refused.Add(h.ended.Load())
}

// uploadsOneShort sends, on 40 connections for each of Times, a message of
// nearly 32 MiB but for its last byte.
func uploadsOneShort(ctx context.Context, t Target, sent *Sent) error {
	const length = inflated - 1<<10
	piece := make([]byte, 64<<10)
	return t.together(ctx, 40*t.Times, func(ctx context.Context, _ int) {
		conn, err := t.dial(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		// A field that nobody knows, of all that follows: well-formed to the end.
		field := protowire.AppendTag(nil, 1000, protowire.BytesType)
		field = protowire.AppendVarint(field, uint64(length-len(field)-4)) //nolint:gosec // positive
		head := fmt.Sprintf("POST %sSet HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n", service, length)
		if _, err := conn.Write(append([]byte(head), field...)); err != nil {
			return
		}
		sent.Requests.Add(1)
		for left := length - len(field) - 1; left > 0; {
			n, err := conn.Write(piece[:min(left, len(piece))])
			sent.Bytes.Add(int64(n))
			if err != nil {
				sent.Refused.Add(1)
				return
			}
			left -= n
		}
		// The last byte never comes.
		var one [1]byte
		if _, err := conn.Read(one[:]); err == nil || !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			sent.Refused.Add(1)
		}
		<-ctx.Done()
	})
}

// headersOneShort sends, on 150 connections for each of Times, 60 KiB of the
// smallest fields, and not the end of them.
func headersOneShort(ctx context.Context, t Target, sent *Sent) error {
	var fields bytes.Buffer
	for i := 0; fields.Len() < 60<<10; i++ {
		fmt.Fprintf(&fields, "%c%c%c:\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/676%26)
	}
	return t.together(ctx, 150*t.Times, func(ctx context.Context, _ int) {
		conn, err := t.dial(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		sent.Requests.Add(1)
		n, err := fmt.Fprintf(conn, "POST %sGet HTTP/1.1\r\nHost: x\r\n%s", service, fields.Bytes())
		sent.Bytes.Add(int64(n))
		if err != nil {
			sent.Refused.Add(1)
			return
		}
		<-ctx.Done()
	})
}

// slowSenders begins, on 40 connections for each of Times, a small request, and
// does not end it.
func slowSenders(ctx context.Context, t Target, sent *Sent) error {
	return t.together(ctx, 40*t.Times, func(ctx context.Context, _ int) {
		conn, err := t.dial(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST %sGet HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", service); err != nil {
			return
		}
		sent.Requests.Add(1)
		<-ctx.Done()
	})
}

// waiters waits, on 40 connections for each of Times, for the lease of a key that
// the first of them holds.
func waiters(ctx context.Context, t Target, sent *Sent) error {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	defer transport.CloseIdleConnections()
	held := `{"key":"nobody fills it","lease":true,"leaseFor":"60s","wait":"%s"}`
	t.get(ctx, sent, transport, fmt.Sprintf(held, "0s"))
	return t.together(ctx, 40*t.Times, func(ctx context.Context, _ int) {
		t.get(ctx, sent, transport, fmt.Sprintf(held, "50s"))
	})
}

// waitersApart does so in as many namespaces.
func waitersApart(ctx context.Context, t Target, sent *Sent) error {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	defer transport.CloseIdleConnections()
	held := `{"namespace":"wait%d","key":"nobody fills it","lease":true,"leaseFor":"60s","wait":"%s"}`
	return t.together(ctx, 40*t.Times, func(ctx context.Context, i int) {
		t.get(ctx, sent, transport, fmt.Sprintf(held, i, "0s"))
		t.get(ctx, sent, transport, fmt.Sprintf(held, i, "50s"))
	})
}

// newNamespaces reads, on 4 connections for each of Times, one key in each of
// namespaces that nobody has named before.
func newNamespaces(ctx context.Context, t Target, sent *Sent) error {
	return t.anew(ctx, sent, `{"namespace":"new%d","key":"k"}`)
}

// newLeases takes the leases of keys that nobody has named before.
func newLeases(ctx context.Context, t Target, sent *Sent) error {
	return t.anew(ctx, sent, `{"key":"new%d","lease":true,"leaseFor":"60s"}`)
}

// anew reads on 4 connections for each of Times: each time what the next number
// makes of the format.
func (t Target) anew(ctx context.Context, sent *Sent, format string) error {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	defer transport.CloseIdleConnections()
	var last atomic.Int64
	return t.together(ctx, 4*t.Times, func(ctx context.Context, _ int) {
		for ctx.Err() == nil {
			t.get(ctx, sent, transport, fmt.Sprintf(format, last.Add(1)))
		}
	})
}

// get sends one read, as JSON, and takes the answer.
func (t Target) get(ctx context.Context, sent *Sent, transport *http.Transport, body string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.Addr+service+"Get", strings.NewReader(body))
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", "application/json")
	sent.Requests.Add(1)
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return
	}
	if answer.StatusCode != http.StatusOK {
		sent.Refused.Add(1)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
}

func (t Target) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return conn, conn.SetDeadline(deadline)
}
