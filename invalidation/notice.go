package invalidation

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/soracache/soracache"
)

// NoticeKind says what a [Notice] tells.
type NoticeKind uint8

// The kinds of notices. A kind that is not known here is one of a later
// version; its Namespace and Partition are valid.
const (
	// NoticeRecord: a record was appended. Its targets may be left out for want
	// of room; whoever gets it then asks the ledger.
	NoticeRecord NoticeKind = iota + 1
	// NoticeFreed: the lease of a key has ended, by a fill or otherwise.
	NoticeFreed
	// NoticeApplied acknowledges a record: whoever sends it serves nothing any
	// more that the record at Stamp killed.
	NoticeApplied
)

// Notice is what one node tells another of a ledger. It is a hint: nothing
// depends on its arriving, arriving once, or arriving in order.
type Notice struct {
	Kind      NoticeKind
	Namespace string
	Partition uint16

	// Of NoticeRecord. A record without targets was too large to send.
	Record soracache.Record
	// Appended is when it was appended, on the clock of the node that did, in
	// microseconds since 1970. It is for measurement only.
	Appended int64
	// Acknowledge asks every receiver to send a NoticeApplied to From, once
	// that is true.
	Acknowledge bool

	// From names the node that sent a NoticeApplied, or that waits for them.
	From string

	// Of NoticeFreed: [KeyHash] of the key, whether the lease ended because an
	// invalidation superseded it, and whether because the load left nothing.
	Key          uint64
	Lost, Passed bool

	// Of NoticeApplied.
	Stamp soracache.Stamp
}

// KeyHash is what names a key in a notice: FNV-1a of 64 bits. Two keys of one
// hash wake each other's waiters, who read again and wait on.
func KeyHash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}

// ErrNotice is a notice that cannot be read.
var ErrNotice = errors.New("malformed notice")

// A notice is: its length without itself (uvarint), kind (1 byte), namespace
// (1 byte of length, then it), partition (2 bytes), and by kind:
//
//	record   epoch, prev, position, appended (8 bytes each), flags (1 byte),
//	         from (1 byte of length, then it); then to the end: kind (1 byte),
//	         length (uvarint) and name of each target
//	freed    key (8 bytes), flags (1 byte)
//	applied  epoch, position (8 bytes each), from (as above)
//
// What follows in a freed or applied notice is of a later version and is passed
// over. A target of an unknown kind is taken for everything.
const (
	acknowledgeFlag = 1 // of a record
	lostFlag        = 1 // of a freed key
	passedFlag      = 2 // of a freed key
)

// AppendNotice appends the bytes of a notice.
func AppendNotice(b []byte, n *Notice) []byte {
	body := make([]byte, 0, 128)
	body = append(body, byte(n.Kind))
	body = appendShort(body, n.Namespace)
	body = binary.BigEndian.AppendUint16(body, n.Partition)
	switch n.Kind {
	case NoticeRecord:
		body = binary.BigEndian.AppendUint64(body, uint64(n.Record.Epoch))
		body = binary.BigEndian.AppendUint64(body, uint64(n.Record.Prev))
		body = binary.BigEndian.AppendUint64(body, uint64(n.Record.Position))
		body = binary.BigEndian.AppendUint64(body, uint64(n.Appended)) //nolint:gosec // the same bits
		body = appendShort(appendFlag(body, acknowledgeFlag, n.Acknowledge), n.From)
		for _, t := range n.Record.Targets {
			body = append(body, byte(t.Kind))
			body = binary.AppendUvarint(body, uint64(len(t.Name)))
			body = append(body, t.Name...)
		}
	case NoticeFreed:
		body = appendFlag(binary.BigEndian.AppendUint64(body, n.Key), lostFlag, n.Lost)
		if n.Passed {
			body[len(body)-1] |= passedFlag
		}
	case NoticeApplied:
		body = binary.BigEndian.AppendUint64(body, uint64(n.Stamp.Epoch))
		body = binary.BigEndian.AppendUint64(body, uint64(n.Stamp.Position))
		body = appendShort(body, n.From)
	}
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func appendFlag(b []byte, flag byte, set bool) []byte {
	if !set {
		flag = 0
	}
	return append(b, flag)
}

// appendShort appends a name, of which more than 255 bytes are cut off:
// namespaces and the names of nodes are shorter.
func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...) //nolint:gosec // bounded above
}

// DecodeNotice reads a notice and returns what follows it. An error wraps
// [ErrNotice]; nothing after it can be read then.
func DecodeNotice(b []byte) (Notice, []byte, error) {
	size, width := binary.Uvarint(b)
	if width <= 0 || size > uint64(len(b)-width) { //nolint:gosec // not negative
		return Notice{}, nil, fmt.Errorf("%w: cut off", ErrNotice)
	}
	r := noticeReader{b: b[width : width+int(size)]} //nolint:gosec // bounded above
	n := r.notice()
	if r.short {
		return Notice{}, nil, fmt.Errorf("%w: too short", ErrNotice)
	}
	return n, b[width+int(size):], nil //nolint:gosec // bounded above
}

// noticeReader takes bytes from the front. Past the end it gives zeros and
// notes that it did.
type noticeReader struct {
	b     []byte
	short bool
}

func (r *noticeReader) notice() Notice {
	n := Notice{Kind: NoticeKind(r.byte()), Namespace: r.name(), Partition: uint16(r.byte())<<8 | uint16(r.byte())}
	switch n.Kind {
	case NoticeRecord:
		n.Record.Epoch = soracache.Epoch(r.uint64())
		n.Record.Prev, n.Record.Position = soracache.Position(r.uint64()), soracache.Position(r.uint64())
		n.Appended = int64(r.uint64()) //nolint:gosec // the same bits
		n.Acknowledge = r.byte()&acknowledgeFlag != 0
		n.From = r.name()
		for len(r.b) > 0 && !r.short {
			n.Record.Targets = append(n.Record.Targets, r.target())
		}
	case NoticeFreed:
		n.Key = r.uint64()
		flags := r.byte()
		n.Lost, n.Passed = flags&lostFlag != 0, flags&passedFlag != 0
	case NoticeApplied:
		n.Stamp.Epoch, n.Stamp.Position = soracache.Epoch(r.uint64()), soracache.Position(r.uint64())
		n.From = r.name()
	}
	return n
}

func (r *noticeReader) target() soracache.Target {
	kind := soracache.TargetKind(r.byte())
	size, width := binary.Uvarint(r.b)
	if width <= 0 || size > uint64(len(r.b)-width) { //nolint:gosec // not negative
		r.short = true
		return soracache.Target{}
	}
	name := string(r.b[width : width+int(size)]) //nolint:gosec // bounded above
	r.b = r.b[width+int(size):]                  //nolint:gosec // bounded above
	if kind != soracache.TargetKey && kind != soracache.TargetTag {
		return soracache.Everything()
	}
	return soracache.Target{Kind: kind, Name: name}
}

func (r *noticeReader) take(n int) []byte {
	if len(r.b) < n {
		r.short, r.b = true, nil
		return make([]byte, n)
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *noticeReader) byte() byte     { return r.take(1)[0] }
func (r *noticeReader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
func (r *noticeReader) name() string   { return string(r.take(int(r.byte()))) }
