package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/soracache/soracache/invalidation"
)

// A packet is: version (1 byte), kind (1 byte), CRC-32C of all but itself
// (4 bytes), and by kind:
//
//	notices  to the end, of each: hops (1 byte), id (8 bytes, unless hops is
//	         0), and the notice as package invalidation writes it
//	status   status (1 byte), name of the member (1 byte of length, then it)
//
// The checksum is there because without keys nothing else tells a packet that
// was damaged on its way from a true one, and a record with wrong targets would
// be applied.
const (
	packetHeader  = 6
	entryOverhead = 1 + 8

	packetNotices = 1
	packetStatus  = 2

	// A packet is at most as large, and has at most as many notices: several
	// times what members of this version send. Whoever decodes it makes room for
	// all of them.
	maxPacketBytes   = 8 << 10
	maxPacketNotices = 512
)

var (
	// errPacketVersion is a packet of a version or kind that is not known here:
	// somebody else's business, and no mistake.
	errPacketVersion = errors.New("packet of another version")
	errPacket        = errors.New("malformed packet")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// entry is a notice in a packet.
type entry struct {
	// hops is 0 for what its publisher sends to everybody by itself, or tells
	// one. Otherwise it is one more than how often it may still be passed on.
	hops byte
	// id tells one publication from all others, where hops is not 0.
	id uint64
	// raw is the notice as it came, so that it can be passed on with whatever
	// a later version added.
	raw    []byte
	notice invalidation.Notice
}

// packet is a packet as it was read. Its entries refer to the bytes that it was
// read from.
type packet struct {
	kind    byte
	entries []entry

	status status
	name   string
}

// beginPacket gives the header of a packet that sealPacket completes.
func beginPacket(b []byte, kind byte) []byte {
	return append(b, protocolVersion, kind, 0, 0, 0, 0)
}

func appendEntry(b []byte, e *entry) []byte {
	b = append(b, e.hops)
	if e.hops > 0 {
		b = binary.BigEndian.AppendUint64(b, e.id)
	}
	return append(b, e.raw...)
}

func sealPacket(b []byte) []byte {
	binary.BigEndian.PutUint32(b[2:], checksum(b))
	return b
}

func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:2], castagnoli), castagnoli, b[packetHeader:])
}

// statusPacket tells what a member says of itself.
func statusPacket(name string, s status) []byte {
	return sealPacket(appendShort(append(beginPacket(nil, packetStatus), byte(s)), name))
}

func decodePacket(b []byte) (packet, error) {
	if len(b) < packetHeader {
		return packet{}, fmt.Errorf("%w: too short", errPacket)
	}
	if len(b) > maxPacketBytes {
		return packet{}, fmt.Errorf("%w: %d bytes", errPacket, len(b))
	}
	if b[0] != protocolVersion {
		return packet{}, fmt.Errorf("%w: %d", errPacketVersion, b[0])
	}
	if binary.BigEndian.Uint32(b[2:]) != checksum(b) {
		return packet{}, fmt.Errorf("%w: checksum", errPacket)
	}
	p := packet{kind: b[1]}
	var err error
	switch p.kind {
	case packetNotices:
		p.entries, err = decodeEntries(b[packetHeader:])
	case packetStatus:
		p.status, p.name, err = decodeStatus(b[packetHeader:])
	default:
		err = fmt.Errorf("%w: kind %d", errPacketVersion, p.kind)
	}
	if err != nil {
		return packet{}, err
	}
	return p, nil
}

func decodeEntries(b []byte) ([]entry, error) {
	var entries []entry
	for len(b) > 0 {
		if len(entries) == maxPacketNotices {
			return nil, fmt.Errorf("%w: too many notices", errPacket)
		}
		e := entry{hops: b[0]}
		b = b[1:]
		if e.hops > 0 {
			if len(b) < 8 {
				return nil, fmt.Errorf("%w: cut off", errPacket)
			}
			e.id, b = binary.BigEndian.Uint64(b), b[8:]
		}
		notice, rest, err := invalidation.DecodeNotice(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPacket, err)
		}
		e.notice, e.raw, b = notice, b[:len(b)-len(rest)], rest
		entries = append(entries, e)
	}
	return entries, nil
}

func decodeStatus(b []byte) (status, string, error) {
	if len(b) < 1 {
		return 0, "", fmt.Errorf("%w: cut off", errPacket)
	}
	r := reader{b: b[1:]}
	name := r.short()
	if r.failed {
		return 0, "", fmt.Errorf("%w: cut off", errPacket)
	}
	return status(b[0]), name, nil
}
