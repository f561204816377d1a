package clienttest

import (
	"context"
	"io"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/l2/l2model"
)

// T is what is needed of a *testing.T, a *testing.B or a *testing.F.
type T interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	// Output is where the client's log goes.
	Output() io.Writer
}

// New returns a client of a cache of its own, in memory, that ends with the
// test. Options are those of [client.New]; the client logs to the test.
func New(t T, opts ...client.Option) *client.Client {
	t.Helper()
	return NewServer(t).Client(opts...)
}

// Server is a cache in memory, and what a test can do to it. Its methods may be
// called from any goroutine.
type Server struct {
	// Clock is the time of the server and of the clients that it gave.
	Clock *Clock
	// Faults are what goes wrong between the clients and the server.
	Faults *Faults
	// Recorder has recorded what the clients did that [Server.Client] gave.
	Recorder *Recorder

	t    T
	node *node.Node
	// url begins to listen.
	url func() string
}

// NewServer returns a cache in memory that ends with the test.
func NewServer(t T) *Server {
	t.Helper()
	s := &Server{Clock: &Clock{}, Faults: newFaults(), Recorder: NewRecorder(), t: t}
	var err error
	s.node, err = node.New(node.Config{
		Store:      l2model.New(l2model.Config{Now: s.Clock.Now}),
		Name:       "clienttest",
		L1MaxBytes: 16 << 20,
		Ahead:      s.Clock.ahead,
		MeterEvery: -1,
	})
	if err != nil {
		t.Fatalf("clienttest: %v", err)
	}
	s.url = sync.OnceValue(s.listen)
	t.Cleanup(func() {
		s.Faults.end()
		if err := s.node.Close(); err != nil {
			t.Errorf("clienttest: %v", err)
		}
	})
	return s
}

// Client returns a client of the server that ends with the test. Several
// clients are as several processes: each has a near cache of its own.
func (s *Server) Client(opts ...client.Option) *client.Client {
	s.t.Helper()
	c, err := client.New(&faulty{Checked: node.Checked{Node: s.node}, faults: s.Faults}, s.with(opts)...)
	if err != nil {
		s.t.Fatalf("clienttest: %v", err)
	}
	s.t.Cleanup(func() { s.closed(c) })
	return c
}

// Dial returns a client that reaches the server over HTTP, as one in production
// does, and ends with the test. It does not work in a bubble of testing/synctest.
func (s *Server) Dial(opts ...client.DialOption) *client.Client {
	s.t.Helper()
	all := make([]client.DialOption, 0, len(opts)+3)
	for _, o := range s.with(nil) {
		all = append(all, o)
	}
	c, err := client.Dial([]string{s.URL()}, append(all, opts...)...)
	if err != nil {
		s.t.Fatalf("clienttest: %v", err)
	}
	s.t.Cleanup(func() { s.closed(c) })
	return c
}

func (s *Server) with(opts []client.Option) []client.Option {
	return append([]client.Option{
		client.Logger(logger(s.t)),
		s.Clock.Option(),
		client.WithHooks(s.Recorder.Hooks()),
	}, opts...)
}

func (s *Server) closed(c *client.Client) {
	if err := c.Close(); err != nil {
		s.t.Errorf("clienttest: %v", err)
	}
}

// URL returns where the server is reached over HTTP, on the loopback interface,
// for an application that dials by itself. With the first call it begins to
// listen. It does not work in a bubble of testing/synctest.
//
// A client that the application makes keeps its own time, unless it is given
// [Clock.Option], and is recorded if it is given [Recorder.Hooks].
func (s *Server) URL() string { return s.url() }

func (s *Server) listen() string {
	srv, err := server.New(server.Config{}, &faulty{Checked: node.Checked{Node: s.node}, faults: s.Faults}, server.Hooks{})
	if err != nil {
		s.t.Fatalf("clienttest: %v", err)
	}
	h := httptest.NewServer(srv.Handler())
	s.t.Cleanup(func() {
		s.Faults.end() // what a watch waits for
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.node.Drain(ctx); err != nil {
			s.t.Errorf("clienttest: %v", err)
		}
		h.CloseClientConnections()
		h.Close()
	})
	return h.URL
}
