package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/soracache/soracache/l2"
)

// status is what a member says of itself. It only ever grows, because a name is
// that of one boot.
type status uint8

const (
	_ status = iota // serving: nothing special
	// draining: it answers what it has begun and takes nothing new.
	draining
	// leaving: it is about to be gone.
	leaving
)

// protocolVersion is that of the packets and of this encoding. One that only
// adds to their ends keeps it.
const protocolVersion = 1

// meta is what memberlist tells of each member besides its name and address.
type meta struct {
	Status       status
	Protocol     uint8
	Capabilities uint64
	Bound        time.Duration
	RPC          string
	Version      string
}

var errMeta = errors.New("malformed metadata of a member")

// maxVersion is how much of a version is told: with the RPC address and the
// rest it must stay below the 512 bytes that memberlist has room for.
const maxVersion = 64

// encode gives: version of the encoding (1 byte), status (1 byte), protocol
// version (1 byte), capabilities and bound in microseconds (uvarints), RPC
// address and version (1 byte of length, then it). What follows in a later
// version is passed over.
func (m meta) encode() []byte {
	b := []byte{protocolVersion, byte(m.Status), m.Protocol}
	b = binary.AppendUvarint(b, m.Capabilities)
	b = binary.AppendUvarint(b, uint64(max(0, m.Bound.Microseconds())))
	b = appendShort(b, m.RPC)
	return appendShort(b, strings.ToValidUTF8(m.Version[:min(len(m.Version), maxVersion)], ""))
}

func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...) //nolint:gosec // bounded above
}

func decodeMeta(b []byte) (meta, error) {
	if len(b) < 3 {
		return meta{}, fmt.Errorf("%w: too short", errMeta)
	}
	if b[0] != protocolVersion {
		return meta{}, fmt.Errorf("%w: version %d", errMeta, b[0])
	}
	m := meta{Status: status(b[1]), Protocol: b[2]}
	r := reader{b: b[3:]}
	m.Capabilities = r.uvarint()
	if claimed := r.uvarint(); claimed <= uint64(maxBound/time.Microsecond) {
		m.Bound = time.Duration(claimed) * time.Microsecond
	}
	m.RPC, m.Version = r.short(), r.short()
	switch {
	case r.failed:
		return meta{}, fmt.Errorf("%w: cut off", errMeta)
	case !printable(m.RPC) || !printable(m.Version):
		return meta{}, fmt.Errorf("%w: it cannot be shown", errMeta)
	}
	return m, nil
}

// maxBound is the longest bound that is believed of a member. Who says that its
// own is longer has said nothing: no store takes a registration of more, so that
// no answer ever confirms such a member, and it serves nothing from memory. What
// it says must not hold up the acknowledgements of all others.
const maxBound = l2.MaxBound

// printable says whether a text that a member told may go into logs, answers and
// terminals as it is.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// reader takes values from the front of bytes. Past the end it gives zeros and
// notes that it did.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) uvarint() uint64 {
	v, width := binary.Uvarint(r.b)
	if width <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[width:]
	return v
}

func (r *reader) short() string {
	if len(r.b) == 0 || len(r.b) < 1+int(r.b[0]) {
		r.failed, r.b = true, nil
		return ""
	}
	s := string(r.b[1 : 1+int(r.b[0])])
	r.b = r.b[1+len(s):]
	return s
}
