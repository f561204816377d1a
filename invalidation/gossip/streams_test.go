package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// stranger connects to a member, and ends with the test.
func stranger(t *testing.T, m *member) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", m.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// labelled is how a stream of a cluster begins.
func labelled(label string, rest ...byte) []byte {
	return append(append([]byte{msgLabel, byte(len(label))}, label...), rest...)
}

// encrypted is how a stream begins that says that so many encrypted bytes follow.
func encrypted(label string, size int) []byte {
	return binary.BigEndian.AppendUint32(labelled(label, msgEncrypt), uint32(size))
}

// ended waits until the other side has closed a connection.
func ended(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := io.Copy(io.Discard, conn); errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%v is still open", conn.LocalAddr())
	}
}

// eventually waits for what has no event of its own.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not %s after %v", what, patience)
		}
	}
}

// TestHalfSentStates: 64 connections that say that a large state follows, send
// nearly all of it and stop, take what is set aside for them and no more, though
// nobody can tell yet that they do not know the key; and members meet meanwhile.
func TestHalfSentStates(t *testing.T) {
	keyed := func(c *Config) { c.Keys = [][]byte{bytes.Repeat([]byte{7}, 32)} }
	members := cluster(t, 2, keyed)
	label := t.Name()

	// More than any state has is not read at all.
	over := stranger(t, members[0])
	if _, err := over.Write(encrypted(label, maxStateBytes+1)); err != nil {
		t.Fatal(err)
	}
	ended(t, over)
	if got := members[0].Stats().Streams; got.Refused != 1 {
		t.Errorf("a claim of more than a state has: %+v", got)
	}

	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	idle := memory.HeapInuse
	const attackers = 64
	var sending sync.WaitGroup
	for range attackers {
		conn := stranger(t, members[0])
		sending.Go(func() {
			_, _ = conn.Write(encrypted(label, maxStateBytes))
			chunk := make([]byte, 64<<10)
			for sent := 0; sent+len(chunk) < maxStateBytes; sent += len(chunk) {
				if _, err := conn.Write(chunk); err != nil {
					return // it was ended to make room
				}
			}
		})
	}
	c := configOf(t, "node-late")
	c.Join = []string{members[0].Address()}
	keyed(&c)
	late := start(t, c)
	done := make(chan struct{})
	go func() { sending.Wait(); close(done) }()
	var most int
	var heap uint64
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		runtime.ReadMemStats(&memory)
		heap = max(heap, memory.HeapInuse)
		most = max(most, members[0].Stats().Streams.Bytes)
	}
	meet(members[0], members[1], late)
	if most > streamBudget {
		t.Errorf("connections held %d bytes, more than %d", most, streamBudget)
	}
	// memberlist's buffers double, and what they outgrew is garbage for a while.
	if grown := int64(heap) - int64(idle); grown > 16*streamBudget {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	got := members[0].Stats().Streams
	if got.Crowded < attackers/2 {
		t.Errorf("not many were ended: %+v", got)
	}
	t.Logf("at most %d MiB held, heap grown by %d MiB, %+v", most>>20, (int64(heap)-int64(idle))>>20, got)
	eventually(t, "given back", func() bool { return members[0].Stats().Streams.Bytes == 0 })
}

// TestIdleConnections: connections on which nothing happens do not keep anybody
// out, and there are never more than there may be.
func TestIdleConnections(t *testing.T) {
	members := cluster(t, 2, nil)
	for range 3 * maxStreams {
		stranger(t, members[0])
		if got := members[0].Stats().Streams.Open; got > maxStreams {
			t.Fatalf("%d connections are open", got)
		}
	}
	c := configOf(t, "node-late")
	c.Join = []string{members[0].Address()}
	meet(members[0], members[1], start(t, c))
	eventually(t, "many ended", func() bool { return members[0].Stats().Streams.Crowded >= maxStreams })
}

// state is that of so many members which have told as much as each may.
func state(members int) []byte {
	b := append([]byte{msgPushPull}, header(members, 0)...)
	name := func(text string) { b = append(append(b, 0xa0|byte(len(text))), text...) }
	raw := func(text []byte) {
		b = append(binary.BigEndian.AppendUint16(append(b, 0xda), uint16(len(text))), text...)
	}
	largest := meta{Bound: time.Second, RPC: strings.Repeat("r", 255), Version: strings.Repeat("v", maxVersion)}.encode()
	largest = append(largest, make([]byte, 512-len(largest))...)
	for i := range members {
		b = append(b, 0x87) // a map of 7
		name("Name")
		raw([]byte(strings.Repeat("n", 247) + fmt.Sprintf("%08d", i)))
		name("Addr")
		raw([]byte{127, 1, byte(i >> 8), byte(i)})
		name("Port")
		b = append(b, 1)
		name("Meta")
		raw(largest)
		name("Incarnation")
		b = append(b, 1)
		name("State")
		b = append(b, 0)
		name("Vsn")
		raw([]byte{1, 5, 5, protocolVersion, protocolVersion, protocolVersion})
	}
	return b
}

// header is that of a state.
func header(nodes, user int) []byte {
	b := append([]byte{0x83, 0xa5}, "Nodes"...)
	b = binary.BigEndian.AppendUint32(append(b, 0xce), uint32(nodes))
	b = append(append(b, 0xac), "UserStateLen"...)
	b = binary.BigEndian.AppendUint32(append(b, 0xce), uint32(user))
	return append(append(append(b, 0xa4), "Join"...), 0xc2)
}

// TestTheLargestClusterIsTold: the state of as many members as there may be, all
// of which have told as much as each may, is taken in, and given to who joins.
func TestTheLargestClusterIsTold(t *testing.T) {
	const others = maxMembers - 2 // besides the two that are real
	c := configOf(t, "node-0")
	c.Timing.Stream = patience         // the machine may be busy
	c.Timing.ProbeInterval = time.Hour // none of them answers
	first := start(t, c)
	conn := stranger(t, first)
	if _, err := conn.Write(labelled(t.Name(), state(others)...)); err != nil {
		t.Fatal(err)
	}
	knows := func(m *member, n int) {
		t.Helper()
		eventually(t, "all known", func() bool {
			m.table.mu.Lock()
			defer m.table.mu.Unlock()
			return len(m.table.rows) == n
		})
	}
	knows(first, others+1)
	c.Name, c.Join = "node-1", []string{first.Address()}
	second := start(t, c)
	knows(second, others+2)
	first.seesAs("node-1", StateAlive)
	if got := first.Stats().Streams; got.Refused+got.Crowded > 0 {
		t.Errorf("refused or ended: %+v", got)
	}
}

// TestWhatStreamsClaim goes through beginnings of streams.
func TestWhatStreamsClaim(t *testing.T) {
	for _, step := range []struct {
		what  string
		keyed bool
		bytes []byte
		fine  bool
	}{
		{"the largest state", true, encrypted("l", maxStateBytes), true},
		{"without a label", true, encrypted("l", 100)[3:], true},
		{"more than a state", true, encrypted("l", maxStateBytes+1), false},
		{"as much as can be said", true, encrypted("l", 1<<32-1), false},
		{"not encrypted", true, labelled("l", state(1)...), false},
		{"a label alone", true, labelled("l"), true}, // memberlist's to refuse
		{"nothing", true, nil, true},
		{"a state", false, labelled("l", state(1)...), true},
		{"a ping", false, labelled("l", msgPing, 0x80), true},
		{"as many members as a state may tell of", false, append([]byte{msgPushPull}, header(maxStateNodes, 0)...), true},
		{"too many members", false, append([]byte{msgPushPull}, header(maxStateNodes+1, 0)...), false},
		{"a million members", false, append([]byte{msgPushPull}, header(1<<20, 0)...), false},
		{"too much of an application's", false, append([]byte{msgPushPull}, header(1, 20<<20)...), false},
		{"a list for a header", false, []byte{msgPushPull, 0x93, 0xce, 0, 16, 0, 0, 0, 0xc2}, false},
		{"a header of many", false, []byte{msgPushPull, 0xde, 0, 3}, false},
		{"a long name", false, []byte{msgPushPull, 0x81, 0xd9, 5, 'N', 'o', 'd', 'e', 's', 0xce, 0, 16, 0, 0}, false},
		{"a negative number", false, []byte{msgPushPull, 0x81, 0xa5, 'N', 'o', 'd', 'e', 's', 0xd3, 255, 255, 255, 255, 255, 255, 255, 255}, false},
		{"a number that is none", false, []byte{msgPushPull, 0x81, 0xa5, 'N', 'o', 'd', 'e', 's', 0xcb, 0, 0, 0, 0, 0, 0, 0, 0}, false},
		{"something compressed", false, labelled("l", msgCompress), false},
		{"a notice", false, labelled("l", 8), false},
		{"a header that is cut off", false, []byte{msgPushPull, 0x83, 0xa5, 'N'}, true}, // memberlist's to refuse
	} {
		err := vetStream(bufferless{bytes.NewReader(step.bytes)}, step.keyed)
		if errors.Is(err, errStreamClaim) == step.fine {
			t.Errorf("%s: %v", step.what, err)
		}
	}
}

// TestCompressedPackets: without keys, a packet that is compressed, or holds one
// that is, goes no further.
func TestCompressedPackets(t *testing.T) {
	compound := func(parts ...string) []byte {
		b := []byte{msgCompound, byte(len(parts))}
		for _, p := range parts {
			b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
		}
		return append(b, strings.Join(parts, "")...)
	}
	crc := func(b []byte) []byte { return append([]byte{msgCRC, 1, 2, 3, 4}, b...) }
	for _, step := range []struct {
		what  string
		bytes []byte
		fine  bool
	}{
		{"a message", labelled("l", 4, 1, 2, 3), true},
		{"with a checksum", labelled("l", crc([]byte{4, 1, 2})...), true},
		{"several", labelled("l", crc(compound("\x04a", "\x08b"))...), true},
		{"nothing", nil, true},
		{"a label alone", []byte{msgLabel, 200, 'l'}, true},
		{"several that are cut off", compound("\x04a", "\x09b")[:5], true},
		{"compressed", []byte{msgCompress, 1, 2}, false},
		{"compressed, with all around", labelled("l", crc([]byte{msgCompress})...), false},
		{"one of several", labelled("l", crc(compound("\x04a", "\x09b"))...), false},
		{"several in one of several", compound(string(compound("\x04a"))), false},
	} {
		if err := vetPacket(step.bytes, false); (err == nil) != step.fine {
			t.Errorf("%s: %v", step.what, err)
		}
	}
	m := start(t, configOf(t, "node"))
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "udp", m.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(labelled(t.Name(), msgCompress, 0x80)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refused", func() bool { return m.Stats().PacketsRefused == 1 })
}

// addressed is a connection of somebody at an address.
type addressed struct {
	net.Conn
	from   string
	closed bool
}

func (a *addressed) RemoteAddr() net.Addr {
	addr, _ := net.ResolveTCPAddr("tcp", a.from) // a number, so that nothing is asked
	return addr
}
func (a *addressed) Close() error { a.closed = true; return nil }

// TestWhoMakesRoom: room is made by the oldest connection of the address that has
// the most, and not by whoever came from elsewhere, nor by who came last.
func TestWhoMakesRoom(t *testing.T) {
	var log bytes.Buffer
	g := newGuard(true, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Unix(1000, 0)
	g.now = func() time.Time { return now }
	open := func(from string) *stream {
		now = now.Add(time.Millisecond)
		return g.own(context.Background(), &addressed{from: from}, true).(*stream)
	}
	closed := func(s *stream) bool { return s.Conn.(*addressed).closed }
	other := open("10.0.0.9:1")
	if err := g.take(other, 1<<20); err != nil {
		t.Fatal(err)
	}
	var many []*stream
	for i := range 8 {
		s := open(fmt.Sprintf("[2001:db8::%x]:5", i)) // one network of IPv6
		many = append(many, s)
		if err := g.take(s, streamBudget/6); err != nil {
			t.Fatal(err)
		}
		if got := g.stats().Bytes; got > streamBudget {
			t.Fatalf("%d bytes are held", got)
		}
	}
	for i, s := range many {
		if closed(s) != (i < 3) {
			t.Errorf("%d was ended: %t", i, closed(s))
		}
	}
	if closed(other) || g.take(other, 1<<20) != nil {
		t.Error("who came from elsewhere was ended")
	}
	if err := g.take(many[0], 1); !errors.Is(err, errStreamCrowded) {
		t.Errorf("who was ended goes on: %v", err)
	}
	// The ends were logged once, and counted.
	if got := strings.Count(log.String(), "\n"); got != 1 {
		t.Errorf("%d lines: %s", got, log.String())
	}
	now = now.Add(streamLogEvery)
	for len(g.streams) <= maxStreams && g.stats().Crowded < 10 {
		open("10.0.0.7:1")
	}
	if got := log.String(); strings.Count(got, "\n") < 2 || !strings.Contains(got, "omitted=") {
		t.Errorf("logged %s", got)
	}
	for s := range g.streams {
		s.Close()
	}
	if got := g.stats(); got.Bytes != 0 || got.Open != 0 {
		t.Errorf("left behind: %+v", got)
	}
}
