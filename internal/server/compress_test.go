package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// noise is what no compression makes shorter; with bits, each byte has so few.
func noise(n int, bits uint) []byte {
	source := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(source.Uint32()) >> (8 - bits)
	}
	return b
}

// holding is a node that has one value under every key.
func holding(value []byte) *fakeNode {
	n := newFakeNode()
	n.onGet = func(_ context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
		results := make([]soracache.ReadResult, len(req.Reads))
		for i := range results {
			results[i] = soracache.ReadResult{Status: soracache.StatusHit, Entry: soracache.Entry{Value: value}}
		}
		return results, nil
	}
	return n
}

// TestWhatIsCompressed, over the wire: what is large enough, shrinks, and goes to
// who takes it. All else is sent as it is, and everybody gets the same value.
func TestWhatIsCompressed(t *testing.T) {
	t.Parallel()
	text := bytes.Repeat([]byte("all work and no play "), 5000)
	for name, value := range map[string][]byte{
		"small": text[:2000], "text": text, "noise": noise(100<<10, 8), "nearly noise": noise(100<<10, 7),
		"noise and then text": append(noise(100<<10, 8), text[:10000]...),
	} {
		s := serve(t, server.Config{}, holding(value), server.Hooks{})
		for accept, takes := range map[string]bool{
			"gzip": true, "br, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000": false, "identity": false, "br": false, "x-gzip": false,
		} {
			for wire, get := range map[string]func() (value []byte, packed bool){
				"proto":    func() ([]byte, bool) { return s.unary(t, "application/proto", accept) },
				"JSON":     func() ([]byte, bool) { return s.unary(t, "application/json", accept) },
				"gRPC-Web": func() ([]byte, bool) { return s.framed(t, accept) },
			} {
				if wire == "gRPC-Web" && accept != "gzip" && accept != "identity" {
					continue // there are no weights
				}
				// JSON has its bytes in letters, of which each is worth six bits.
				shrinks := name == "text" || wire == "JSON" && name != "small"
				got, packed := get()
				if packed != (takes && shrinks) || !bytes.Equal(got, value) {
					t.Errorf("%s to who takes %q, in %s: compressed %v, want %v; the value is the same: %v",
						name, accept, wire, packed, takes && shrinks, bytes.Equal(got, value))
				}
			}
		}
	}
}

// unary gets a value, and tells whether it was compressed.
func (s *service) unary(t *testing.T, kind, accept string) (value []byte, packed bool) {
	t.Helper()
	body := `{"key":"k"}`
	if kind == "application/proto" {
		b, err := proto.Marshal(&soracachev1.GetRequest{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		body = string(b)
	}
	got := s.do(t, http.MethodPost, "/soracache.v1.CacheService/Get", body, "Content-Type", kind, "Accept-Encoding", accept)
	if got.status != http.StatusOK {
		t.Fatal(got)
	}
	packed = got.header.Get("Content-Encoding") == "gzip"
	if length := got.header.Get("Content-Length"); !packed && length != strconv.Itoa(len(got.body)) {
		t.Errorf("%d bytes, and the header says %q", len(got.body), length)
	}
	text := []byte(got.body)
	if packed {
		text = inflate(t, text)
	}
	var m soracachev1.GetResponse
	decode := proto.Unmarshal
	if kind == "application/json" {
		decode = protojson.Unmarshal
	}
	if err := decode(text, &m); err != nil {
		t.Fatal(err)
	}
	return m.GetValue(), packed
}

// framed is unary for gRPC-Web, where the frame says whether it is compressed.
func (s *service) framed(t *testing.T, accept string) (value []byte, packed bool) {
	t.Helper()
	b, err := proto.Marshal(&soracachev1.GetRequest{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	got := s.do(t, http.MethodPost, "/soracache.v1.CacheService/Get", string(grpcFrame(0, b)),
		"Content-Type", "application/grpc-web+proto", "Grpc-Accept-Encoding", accept)
	if got.status != http.StatusOK || len(got.body) < 5 {
		t.Fatal(got)
	}
	message := []byte(got.body)[5:]
	message = message[:binary.BigEndian.Uint32([]byte(got.body)[1:])]
	if packed = got.body[0]&1 != 0; packed {
		message = inflate(t, message)
	}
	var m soracachev1.GetResponse
	if err := proto.Unmarshal(message, &m); err != nil {
		t.Fatal(err)
	}
	return m.GetValue(), packed
}

func inflate(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// counted counts what the server has written to a connection.
type counted struct {
	net.Conn
	written *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// TestReaderOfACompressedAnswerGoes, in virtual time: an answer that is compressed
// is written no faster than it is read, and is over once its reader has gone.
func TestReaderOfACompressedAnswerGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, read = 8 << 20, 100 << 10
		ended := make(chan string, 1)
		s := newServer(t, server.Config{}, holding(noise(size, 4)), server.Hooks{
			Ended: func(_, _, code string, _ time.Duration) { ended <- code },
		})
		listener := newPipes()
		var written atomic.Int64
		ctx, stop := context.WithCancel(context.Background())
		var all sync.WaitGroup
		all.Go(func() {
			if err := s.Serve(ctx, counting{listener, &written}); err != nil {
				t.Error(err)
			}
		})
		conn, err := listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, "POST /soracache.v1.CacheService/Get HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n"+
			"Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"key\":\"k\"}")
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, read)
		if _, err := io.ReadFull(conn, head); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(head), "Content-Encoding: gzip") {
			t.Errorf("it is not compressed: %.300q", head)
		}
		synctest.Wait()
		select {
		case code := <-ended:
			t.Errorf("it is over, with %s, before it was read", code)
		default:
		}
		_ = conn.Close()
		if code := <-ended; code != "canceled" {
			t.Errorf("who has gone is counted as %q", code)
		}
		if n := written.Load(); n > read+64<<10 {
			t.Errorf("%d bytes were written to who read %d", n, read)
		}
		stop()
		all.Wait()
	})
}

// counting is a listener whose connections count.
type counting struct {
	*pipes
	written *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	conn, err := l.pipes.Accept()
	if err != nil {
		return nil, err
	}
	return counted{conn, l.written}, nil
}
