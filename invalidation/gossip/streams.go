package gossip

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// This file bounds what connections make this member hold. memberlist reads
// whatever is sent, up to 20 MiB a connection, before it can tell who sent it,
// and believes in numbers before it has seen what they count.

const (
	// maxStreams is how many connections that others opened there are at once.
	maxStreams = 64
	// maxStateBytes is the most that is read from one connection: the state of
	// maxMembers members that have told as much as each of them may.
	maxStateBytes = 8 << 20
	// streamBudget is the most that all connections hold together.
	streamBudget = 16 << 20
	// maxStateNodes is how many members one state may tell of. Those that are
	// dead are told of for a while.
	maxStateNodes = 2 * maxMembers
	// streamLogEvery is how often what was refused is logged.
	streamLogEvery = 10 * time.Second
)

var (
	errStreamClaim   = errors.New("it claims what no member has to send")
	errStreamBytes   = errors.New("it sends more than a state has")
	errStreamCrowded = errors.New("it was ended to make room for others")
)

// StreamStats counts what became of connections.
type StreamStats struct {
	// Opened are those that others opened.
	Opened uint64
	// Refused were ended because of what they sent, and Crowded because there
	// were too many, or because all of them together held too much.
	Refused, Crowded uint64
	// Open are those of others that are open now, and Bytes is what all
	// connections hold now.
	Open, Bytes int
}

// guard counts the connections and what they hold. When that is too much, it
// ends the oldest one of whichever address has the most: an exchange takes
// milliseconds, and who wants to hold up the others holds on. So neither half of
// a state that does not go on, nor many of them, keep a member from those who
// come from elsewhere, or after them.
type guard struct {
	// keyed: whatever is not encrypted is refused.
	keyed  bool
	logger *slog.Logger
	now    func() time.Time

	mu sync.Mutex
	// Guarded by mu.
	streams map[*stream]struct{}
	counted StreamStats
	logged  time.Time
	omitted int
}

func newGuard(keyed bool, logger *slog.Logger) *guard {
	return &guard{keyed: keyed, logger: logger, now: time.Now, streams: make(map[*stream]struct{})}
}

// stream is a connection that is counted.
type stream struct {
	net.Conn
	guard *guard
	from  netip.Prefix
	born  time.Time
	// inbound: somebody else opened it.
	inbound bool
	stop    func() bool

	// in reads from Conn. What was looked at comes from it again. Only whoever
	// reads uses it.
	in     io.Reader
	vetted bool
	read   int

	// Guarded by guard.mu.
	held int
	over bool
}

// own takes in a connection: it is closed with the network, and counted until
// it is closed.
func (g *guard) own(ctx context.Context, conn net.Conn, inbound bool) net.Conn {
	s := &stream{Conn: conn, guard: g, from: origin(conn.RemoteAddr()), born: g.now(), inbound: inbound}
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	g.mu.Lock()
	g.streams[s] = struct{}{}
	var crowd *stream
	if inbound {
		g.counted.Opened++
		g.counted.Open++
		if g.counted.Open > maxStreams {
			crowd = g.victim(func(s *stream) int {
				if s.inbound {
					return 1
				}
				return 0
			})
		}
	}
	g.mu.Unlock()
	crowd.end(errStreamCrowded)
	return s
}

// origin is what is taken for one machine: an IPv4 address, or a network of IPv6,
// of which one machine may have all addresses.
func origin(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	prefix, _ := ip.Prefix(min(ip.BitLen(), 64)) // none, of no address
	return prefix
}

// victim takes out the oldest stream of the address that weighs most. It holds
// mu.
func (g *guard) victim(weight func(*stream) int) *stream {
	weights := make(map[netip.Prefix]int)
	for s := range g.streams {
		weights[s.from] += weight(s)
	}
	var found *stream
	for s := range g.streams {
		if weight(s) == 0 {
			continue
		}
		if found == nil || weights[s.from] > weights[found.from] ||
			weights[s.from] == weights[found.from] && s.born.Before(found.born) {
			found = s
		}
	}
	if found != nil {
		g.counted.Crowded++
		g.leave(found)
	}
	return found
}

// leave takes out a stream, and gives back what it holds. It holds mu.
func (g *guard) leave(s *stream) {
	if s.over {
		return
	}
	s.over = true
	delete(g.streams, s)
	g.counted.Bytes -= s.held
	if s.inbound {
		g.counted.Open--
	}
}

// take accounts for bytes that a stream is about to hold, and makes room for
// them.
func (g *guard) take(s *stream, n int) error {
	for {
		g.mu.Lock()
		if s.over {
			g.mu.Unlock()
			return errStreamCrowded
		}
		if g.counted.Bytes+n <= streamBudget || g.counted.Bytes == s.held {
			s.held += n
			g.counted.Bytes += n
			g.mu.Unlock()
			return nil
		}
		crowd := g.victim(func(s *stream) int { return s.held })
		g.mu.Unlock()
		crowd.end(errStreamCrowded)
	}
}

func (g *guard) give(s *stream, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !s.over {
		s.held -= n
		g.counted.Bytes -= n
	}
}

func (g *guard) stats() StreamStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counted
}

// end ends a stream for a reason. There may be none.
func (s *stream) end(why error) {
	if s == nil {
		return
	}
	s.Conn.Close()
	g := s.guard
	g.mu.Lock()
	now := g.now()
	if now.Sub(g.logged) < streamLogEvery {
		g.omitted++
		g.mu.Unlock()
		return
	}
	omitted, held := g.omitted, s.held
	g.logged, g.omitted = now, 0
	g.mu.Unlock()
	g.logger.Warn("gossip: a connection was ended", "reason", why, "peer", s.RemoteAddr(), "held", held, "omitted", omitted)
}

// refuse ends a stream because of what it sent.
func (s *stream) refuse(why error) error {
	s.guard.mu.Lock()
	s.guard.counted.Refused++
	s.guard.leave(s)
	s.guard.mu.Unlock()
	s.end(why)
	return fmt.Errorf("gossip: %w", why)
}

// Read accounts for what is read before it is handed on.
func (s *stream) Read(b []byte) (int, error) {
	if !s.vetted {
		s.vetted = true
		if err := s.vet(); err != nil {
			return 0, err
		}
	}
	n, err := s.in.Read(b)
	if n == 0 {
		return 0, err
	}
	if s.read += n; s.read > maxStateBytes {
		return 0, s.refuse(errStreamBytes)
	}
	if err := s.guard.take(s, n); err != nil {
		return 0, fmt.Errorf("gossip: %w", err)
	}
	return n, err
}

// Write accounts for what waits to be taken.
func (s *stream) Write(b []byte) (int, error) {
	if err := s.guard.take(s, len(b)); err != nil {
		return 0, fmt.Errorf("gossip: %w", err)
	}
	defer s.guard.give(s, len(b))
	return s.Conn.Write(b)
}

// Close closes the connection.
func (s *stream) Close() error {
	s.stop()
	s.guard.mu.Lock()
	s.guard.leave(s)
	s.guard.mu.Unlock()
	return s.Conn.Close()
}

// vet looks at how a stream begins, and refuses what claims too much. What
// cannot be read is left to memberlist.
func (s *stream) vet() error {
	var seen bytes.Buffer
	from := bufio.NewReaderSize(s.Conn, 4<<10)
	err := vetStream(bufferless{io.TeeReader(from, &seen)}, s.guard.keyed)
	s.in = io.MultiReader(&seen, from)
	if errors.Is(err, errStreamClaim) {
		return s.refuse(err)
	}
	return nil
}

// bufferless reads single bytes, and none ahead.
type bufferless struct{ io.Reader }

// ReadByte implements [io.ByteReader].
func (r bufferless) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}

// The types of memberlist's messages. They are part of its protocol.
const (
	msgPing     = 0
	msgAck      = 2
	msgPushPull = 6
	msgCompound = 7
	msgCompress = 9
	msgEncrypt  = 10
	msgCRC      = 12
	msgError    = 13
	msgLabel    = 244
)

// vetStream reads the beginning of a stream: a label (1 byte of length, then
// it), the type of a message, and of one that is encrypted, its length (4 bytes).
func vetStream(r bufferless, keyed bool) error {
	kind, err := r.ReadByte()
	if err != nil {
		return err
	}
	if kind == msgLabel {
		size, err := r.ReadByte()
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, int64(size)); err != nil {
			return err
		}
		if kind, err = r.ReadByte(); err != nil {
			return err
		}
	}
	switch {
	case keyed && kind == msgEncrypt:
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return err
		}
		if n := binary.BigEndian.Uint32(size[:]); n > maxStateBytes {
			return fmt.Errorf("%w: %d bytes, at most %d", errStreamClaim, n, maxStateBytes)
		}
		return nil
	case keyed:
		return fmt.Errorf("%w: nothing encrypted", errStreamClaim)
	case kind == msgPushPull:
		return vetState(r)
	case kind == msgPing, kind == msgAck, kind == msgError, kind == msgEncrypt: // the last one is refused as it comes
		return nil
	}
	// Members of ours compress nothing, and send notices by packets only.
	return fmt.Errorf("%w: a message of kind %d", errStreamClaim, kind)
}

// vetState reads the header of a state, which is a map of MessagePack with short
// names and plain numbers, and refuses one that counts more than there can be:
// memberlist makes room by these numbers.
func vetState(r bufferless) error {
	head, err := r.ReadByte()
	if err != nil {
		return err
	}
	if head&0xf0 != 0x80 { // a map of up to 15
		return fmt.Errorf("%w: a header of another form", errStreamClaim)
	}
	for range head & 0x0f {
		form, err := r.ReadByte()
		if err != nil {
			return err
		}
		if form&0xe0 != 0xa0 { // a string of up to 31 bytes
			return fmt.Errorf("%w: a header of another form", errStreamClaim)
		}
		name := make([]byte, form&0x1f)
		if _, err := io.ReadFull(r, name); err != nil {
			return err
		}
		value, err := readNumber(r)
		if err != nil {
			return err
		}
		if string(name) == "Nodes" && value > maxStateNodes || string(name) == "UserStateLen" && value > maxStateBytes {
			return fmt.Errorf("%w: %s of %d", errStreamClaim, name, value)
		}
	}
	return nil
}

// readNumber reads a number that is not negative, or a truth value.
func readNumber(r bufferless) (uint64, error) {
	form, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	var width int
	switch {
	case form < 0x80:
		return uint64(form), nil
	case form == 0xc2 || form == 0xc3: // false, true
		return uint64(form & 1), nil
	case form >= 0xcc && form <= 0xcf: // unsigned
		width = 1 << (form - 0xcc)
	case form >= 0xd0 && form <= 0xd3: // signed: a negative one is larger than any limit
		width = 1 << (form - 0xd0)
	default:
		return 0, fmt.Errorf("%w: a header of another form", errStreamClaim)
	}
	var b [8]byte
	if _, err := io.ReadFull(r, b[8-width:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// vetPacket refuses a packet without encryption that is or holds what was
// compressed: members of ours compress nothing, and a packet can inflate to
// 40 MiB, of which memberlist would keep a thousand.
func vetPacket(b []byte, nested bool) error {
	if len(b) > 1 && b[0] == msgLabel {
		b = b[min(len(b), 2+int(b[1])):]
	}
	if len(b) > 5 && b[0] == msgCRC {
		b = b[5:]
	}
	switch {
	case len(b) == 0:
		return nil // memberlist's to refuse
	case b[0] == msgCompress:
		return fmt.Errorf("%w: something compressed", errStreamClaim)
	case b[0] != msgCompound || len(b) < 2:
		return nil
	case nested:
		return fmt.Errorf("%w: packets in packets", errStreamClaim)
	}
	parts := int(b[1])
	lengths, rest := b[2:min(len(b), 2+2*parts)], b[min(len(b), 2+2*parts):]
	for ; len(lengths) >= 2; lengths = lengths[2:] {
		size := min(len(rest), int(binary.BigEndian.Uint16(lengths)))
		if err := vetPacket(rest[:size], true); err != nil {
			return err
		}
		rest = rest[size:]
	}
	return nil
}
