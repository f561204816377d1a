package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/internal/server"
)

// frames is a client of HTTP/2 that does what it is told, frame by frame: neither
// what a server may expect nor what is good for it.
type frames struct {
	t     *testing.T
	conn  net.Conn
	began time.Time
	over  chan struct{} // the server has closed the connection
	deaf  bool          // pings are not answered

	writing sync.Mutex
	framer  *http2.Framer

	mu      sync.Mutex
	streams map[uint32]*received // guarded by mu
	allows  uint32               // how many streams the server allows; guarded by mu
	pings   int                  // guarded by mu
}

// received is what came back on a stream, and how it ended.
type received struct {
	bytes        int
	whole, reset bool
	at           time.Duration // since the connection began
}

func dialFrames(t *testing.T, listener *pipes, deaf bool) *frames {
	t.Helper()
	conn, err := listener.Dial()
	if err != nil {
		t.Fatal(err)
	}
	f := &frames{
		t: t, conn: conn, began: time.Now(), over: make(chan struct{}), deaf: deaf,
		framer: http2.NewFramer(conn, conn), streams: map[uint32]*received{},
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	go f.read()
	f.write(func(w *http2.Framer) error { return w.WriteSettings() })
	synctest.Wait()
	return f
}

// write writes frames. That the server has gone is seen by who reads.
func (f *frames) write(frame func(w *http2.Framer) error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	_ = frame(f.framer)
}

func (f *frames) read() {
	defer close(f.over)
	for {
		frame, err := f.framer.ReadFrame()
		if err != nil {
			return
		}
		f.mu.Lock()
		s := f.streams[frame.Header().StreamID]
		ended := s != nil && frame.Header().Flags.Has(http2.FlagDataEndStream)
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if n, ok := frame.Value(http2.SettingMaxConcurrentStreams); ok {
				f.allows = n
			}
			if !frame.IsAck() {
				go f.write(func(w *http2.Framer) error { return w.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if f.pings++; !frame.IsAck() && !f.deaf {
				data := frame.Data
				go f.write(func(w *http2.Framer) error { return w.WritePing(true, data) })
			}
		case *http2.DataFrame:
			s.bytes += len(frame.Data())
			s.whole = ended
		case *http2.HeadersFrame:
			s.whole = ended
		case *http2.RSTStreamFrame:
			s.reset = true
			ended = true
		}
		if ended {
			s.at = time.Since(f.began)
		}
		f.mu.Unlock()
	}
}

// get sends a whole request for a key.
func (f *frames) get(stream uint32) {
	f.send(stream, "POST", "/soracache.v1.CacheService/Get", "application/json", `{"key":"k"}`)
}

// send sends a whole request.
func (f *frames) send(stream uint32, method, path, contentType, body string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", method}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"content-type", contentType},
	} {
		if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			f.t.Error(err)
		}
	}
	f.mu.Lock()
	f.streams[stream] = &received{}
	f.mu.Unlock()
	f.write(func(w *http2.Framer) error {
		if err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
			return err
		}
		return w.WriteData(stream, true, []byte(body))
	})
}

// open is how many requests have not been answered to their end.
func (f *frames) open() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		if !s.whole && !s.reset {
			n++
		}
	}
	return n
}

// takes lets the server send so much more of a stream.
func (f *frames) takes(stream uint32, n int) {
	f.write(func(w *http2.Framer) error {
		if err := w.WriteWindowUpdate(0, uint32(n)); err != nil {
			return err
		}
		return w.WriteWindowUpdate(stream, uint32(n))
	})
}

func (f *frames) got(stream uint32) received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.streams[stream]
}

// onPipes serves a node, in virtual time and without a network.
func onPipes(t *testing.T, cfg server.Config, n *fakeNode, test func(t *testing.T, listener *pipes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, cfg, n, server.Hooks{})
		listener := newPipes()
		ctx, stop := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, listener) }()
		test(t, listener)
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestStreamsOfAConnection: a connection has 512 requests under way at most. One
// more is refused by itself, before it reaches the node, and takes nothing from
// the others; when one has ended there is room again.
func TestStreamsOfAConnection(t *testing.T) {
	t.Parallel()
	const most = 512
	n := newFakeNode()
	var answer chan struct{}
	n.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
		<-answer
		return []soracache.ReadResult{{Status: soracache.StatusMiss}}, nil
	}
	onPipes(t, server.Config{MaxConcurrent: 2 * most}, n, func(t *testing.T, listener *pipes) {
		answer = make(chan struct{})
		f := dialFrames(t, listener, false)
		if f.allows != most {
			t.Errorf("%d streams are allowed, want %d", f.allows, most)
		}
		var stream uint32 = 1
		for ; stream < 2*most; stream += 2 {
			f.get(stream)
		}
		synctest.Wait()
		if got := n.touched(); got != most {
			t.Errorf("the node was asked %d times, want %d", got, most)
		}
		f.get(stream)
		synctest.Wait()
		if got := f.got(stream); !got.reset || n.touched() != most {
			t.Errorf("one more: %+v, and the node was asked %d times", got, n.touched())
		}
		answer <- struct{}{}
		synctest.Wait()
		f.get(stream + 2)
		synctest.Wait()
		if got := f.got(stream + 2); got.reset || n.touched() != most+1 {
			t.Errorf("after one has ended: %+v, and the node was asked %d times", got, n.touched())
		}
		close(answer)
		synctest.Wait()
		whole := 0
		for _, s := range f.streams {
			if s.whole {
				whole++
			}
		}
		if whole != most+1 {
			t.Errorf("%d requests were answered, want %d", whole, most+1)
		}
		_ = f.conn.Close()
	})
}

// TestIdleConnections: who has nothing under way is disconnected after a while, and
// so is who has, and does not answer pings.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	const idle = 40 * time.Second
	for name, c := range map[string]struct {
		deaf, busy  bool
		least, most time.Duration
	}{
		"nothing under way":                {false, false, idle, idle + 5*time.Second},
		"under way, and answers":           {false, true, 5 * idle, 0},
		"under way, and does not answer":   {true, true, idle / 2, idle/2 + 20*time.Second},
		"nothing under way, not answering": {true, false, idle / 2, idle + 5*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFakeNode()
			n.onGet = func(ctx context.Context, _ soracache.GetRequest) ([]soracache.ReadResult, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			onPipes(t, server.Config{IdleTimeout: idle, RequestTimeout: time.Hour}, n, func(t *testing.T, listener *pipes) {
				f := dialFrames(t, listener, c.deaf)
				if c.busy {
					f.get(1)
				}
				select {
				case <-f.over:
				case <-time.After(5 * idle):
				}
				if took := time.Since(f.began); took < c.least || c.most > 0 && took > c.most {
					t.Errorf("disconnected after %v, want %v to %v", took, c.least, c.most)
				}
				_ = f.conn.Close()
				<-f.over
			})
		})
	}
	t.Run("HTTP/1.1", func(t *testing.T) {
		onPipes(t, server.Config{IdleTimeout: idle}, newFakeNode(), func(t *testing.T, listener *pipes) {
			conn, err := listener.Dial()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if _, err := io.WriteString(conn, getByHand); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); err != nil || !strings.Contains(string(got), "200 OK") {
				t.Errorf("%.100q, %v", got, err)
			}
			if took := time.Since(began); took < idle || took > idle+5*time.Second {
				t.Errorf("disconnected after %v, want %v", took, idle)
			}
		})
	})
}

const getByHand = "POST /soracache.v1.CacheService/Get HTTP/1.1\r\nHost: x\r\n" +
	"Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"key\":\"k\"}"

// TestSlowReaders: a large answer goes on for as long as its reader takes 128 KiB a
// second, looked at every 5 seconds. Who takes less is cut off then, and what was
// held for it is given back; what else is on the connection goes on.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	for _, c := range []struct {
		rate int // bytes a second
		cut  bool
	}{{0, true}, {1, true}, {100_000, true}, {200_000, false}, {2_000_000, false}} {
		for _, wire := range []string{"HTTP/1.1", "HTTP/2"} {
			t.Run(fmt.Sprint(c.rate, " bytes/s over ", wire), func(t *testing.T) {
				b := budget.New(256 << 20)
				onPipes(t, server.Config{Budget: b}, holding(make([]byte, size)), func(t *testing.T, listener *pipes) {
					read := readHTTP1
					if wire == "HTTP/2" {
						read = readHTTP2
					}
					bytes, took := read(t, listener, c.rate)
					if cut := bytes < size; cut != c.cut {
						t.Errorf("%d bytes were sent in %v, want all of them: %v", bytes, took, !c.cut)
					}
					if c.cut && (took < 5*time.Second || took > 6*time.Second) {
						t.Errorf("cut off after %v, want 5s", took)
					}
					synctest.Wait()
					if used := b.Stats().Used; used != 0 {
						t.Errorf("%d bytes are still held", used)
					}
				})
			})
		}
	}
}

// readHTTP2 takes an answer at a rate, and tells how much came until when. Another
// one on the connection must be answered meanwhile.
func readHTTP2(t *testing.T, listener *pipes, rate int) (bytes int, took time.Duration) {
	t.Helper()
	f := dialFrames(t, listener, false)
	f.get(1)
	for tick := 1; ; tick++ {
		time.Sleep(100 * time.Millisecond)
		got := f.got(1)
		if got.whole || got.reset {
			bytes, took = got.bytes, got.at
			break
		}
		if n := rate*tick/10 - rate*(tick-1)/10; n > 0 {
			f.takes(1, n)
		}
	}
	f.get(3)
	for range 60 {
		f.takes(3, 64<<10)
		f.takes(3, 64<<10)
		synctest.Wait()
	}
	synctest.Wait()
	if got := f.got(3); !got.whole {
		t.Errorf("another one on the connection: %+v", got)
	}
	_ = f.conn.Close()
	<-f.over
	return bytes, took
}

func readHTTP1(t *testing.T, listener *pipes, rate int) (bytes int, took time.Duration) {
	t.Helper()
	conn, err := listener.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	if _, err := io.WriteString(conn, getByHand); err != nil {
		t.Fatal(err)
	}
	if rate == 0 {
		time.Sleep(5100 * time.Millisecond)
	}
	some := make([]byte, max(rate/10, 1))
	for bytes < 3<<20 {
		n, err := io.ReadFull(conn, some)
		if bytes += n; err != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return bytes, time.Since(began)
}

// TestShortAnswersAreInTheBudget, in virtual time: over HTTP/2 nobody has to take an
// answer, however short it is. Until it is taken, what its request takes is held, and
// who takes none is cut off when others need the room.
func TestShortAnswersAreInTheBudget(t *testing.T) {
	racetest.Without(t)
	t.Parallel()
	for name, c := range map[string]struct{ contentType, body string }{
		"by Connect":            {"application/json", `{"key":"k"}`},
		"by gRPC":               {"application/grpc", "\x00\x00\x00\x00\x03\x12\x01k"},
		"an error by Connect":   {"application/json", `{"key":""}`},
		"no request of Connect": {"application/json", `{`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := budget.New(16 << 20)
			onPipes(t, server.Config{Budget: b}, holding(make([]byte, 100)), func(t *testing.T, listener *pipes) {
				var all []*frames
				open := func() (n int) {
					for _, f := range all {
						n += f.open()
					}
					return n
				}
				const streams, held = 200, 8 << 10
				for range 12 {
					f := dialFrames(t, listener, false)
					f.write(func(w *http2.Framer) error {
						return w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
					})
					for stream := range uint32(streams) {
						f.send(2*stream+1, "POST", "/soracache.v1.CacheService/Get", c.contentType, c.body)
					}
					all = append(all, f)
					synctest.Wait()
					if n, used := open(), b.Stats().Used; len(all) == 4 && (n != 4*streams || int(used) < n*held) {
						t.Errorf("%d answers are not taken, and %d bytes are held", n, used)
					}
				}
				time.Sleep(10 * time.Second)
				if n, used := open(), b.Stats().Used; int(used) < n*held || n == 0 {
					t.Errorf("%d answers are not taken, and %d bytes are held", n, used)
				}
				one := (&service{client: listener.client(), url: "http://x"})
				defer one.client.CloseIdleConnections()
				if got := one.post(t, "Set", set("value", make([]byte, 10<<10))); got.status != 200 || b.Stats().Cuts == 0 {
					t.Errorf("another's call: %s (%+v)", got.body, b.Stats())
				}
				for _, f := range all {
					_ = f.conn.Close()
					<-f.over
				}
				synctest.Wait()
				if used := b.Stats().Used; used != 0 {
					t.Errorf("%d bytes are still held", used)
				}
			})
		})
	}
}
