package attack

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// h2 is as little of an HTTP/2 client as it takes to open streams and not to read
// them: whatever the server may send without being let, it may send.
type h2 struct {
	conn net.Conn
	next uint32

	mu    sync.Mutex   // held while a frame is written
	ended atomic.Int64 // streams that the server has ended
}

// Types of frames, and what else is used of the protocol.
const (
	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	framePing     = 6

	flagEnd     = 1 // END_STREAM, or ACK
	flagHeaders = 4 // END_HEADERS
)

func newH2(conn net.Conn) (*h2, error) {
	h := &h2{conn: conn, next: 1}
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
		return nil, err
	}
	if err := h.frame(frameSettings, 0, 0, nil); err != nil {
		return nil, err
	}
	go h.read()
	return h, nil
}

func (h *h2) frame(kind, flags byte, stream uint32, body []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body))<<8|uint32(kind)) //nolint:gosec // far below
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	_, err := h.conn.Write(append(b, body...))
	return err
}

// post sends a request on a stream of its own.
func (h *h2) post(path, contentType, accept string, body []byte) error {
	var block []byte
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"content-type", contentType},
		{"accept-encoding", accept},
	} {
		if field[1] != "" { // literal, without indexing, both as they are
			block = append(append(block, 0, byte(len(field[0]))), field[0]...) //nolint:gosec // short
			block = append(append(block, byte(len(field[1]))), field[1]...)    //nolint:gosec // short
		}
	}
	stream := h.next
	h.next += 2
	if err := h.frame(frameHeaders, flagHeaders, stream, block); err != nil {
		return err
	}
	return h.frame(frameData, flagEnd, stream, body)
}

// read takes in what needs no window, and acknowledges what must be.
func (h *h2) read() {
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(h.conn, head); err != nil {
			return
		}
		size := int64(binary.BigEndian.Uint32(head) >> 8)
		body, err := io.ReadAll(io.LimitReader(h.conn, size))
		if err != nil {
			return
		}
		switch kind, flags := head[3], head[4]; {
		case kind == frameSettings && flags&flagEnd == 0:
			err = h.frame(frameSettings, flagEnd, 0, nil)
		case kind == framePing && flags&flagEnd == 0:
			err = h.frame(framePing, flagEnd, 0, body)
		case kind == frameReset, (kind == frameData || kind == frameHeaders) && flags&flagEnd != 0:
			h.ended.Add(1)
		}
		if err != nil {
			return
		}
	}
}
