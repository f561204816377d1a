// Package server puts a cache node on the wire: Connect, gRPC, gRPC-Web and
// plain JSON on one port, with limits, tokens, TLS, health checks and a
// graceful end. It maps requests to the node and the node's answers back,
// checks what comes in, and turns errors into codes; it caches nothing, and it
// knows neither stores nor the rule.
//
// A request goes through serveRPC (who is it, is there room), its handler in
// cache.go (what is asked), parse.go and answer.go (RPC to node and back), and
// errors.go if it fails.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/ratelog"
	"github.com/soracache/soracache/internal/server/auth"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// Hooks connect a server to logs and metrics. Every field may be nil.
type Hooks struct {
	// Log takes a debug record of each request (neither keys nor values nor
	// tokens), and what operators should know. Nil: nothing is logged.
	Log *slog.Logger
	// Began and Ended are told of each RPC. The code is "ok" or the name of a
	// Connect code; procedures that do not exist are all called "other". They
	// are called inline and must return at once. A stream counts as ended once
	// it has sent its first message: how long it goes on after that says nothing
	// of the server.
	Began func()
	Ended func(procedure, protocol, code string, took time.Duration)
	// Metrics serves /metrics. Nil: there is none.
	Metrics http.Handler
	// Totals are the running totals that ClusterService.Stats returns.
	Totals func() map[string]float64
	// Members are the nodes of the cluster, this one among them, which
	// ClusterService.Members returns. Nil: the node is alone.
	Members func() []Member
	// Draining is told when the server begins to drain, as soon as readiness
	// is off. It must return at once.
	Draining func()
}

// Server serves one node. It is made by [New] and serves once.
type Server struct {
	cfg   Config
	node  Node
	hooks Hooks
	log   *slog.Logger

	procedures  map[string]procedure
	rpcs        http.Handler
	errorWriter *connect.ErrorWriter
	http        *http.Server
	gate        gate
	streams     streams
	budget      *budget.Budget
	compressors compressors
	connections connections
	heads       heads
	scrapes     scrapes
	questions   questions
	// healthChecks and reflections are what is asked beside the service itself.
	healthChecks, reflections asides
	// refusals are on their way to callers over HTTP/2.
	refusals asides
	started  time.Time
	// listed is how many members there were when they were last listed.
	listed atomic.Int64

	// reloading is held while the files are read, so that the last to read them
	// is the last to store what it read.
	reloading sync.Mutex
	// tokens is nil when there is no tokens file; then everybody is anyone.
	tokens atomic.Pointer[auth.Tokens]
	anyone *auth.Principal
	certs  certs

	// draining is set once load balancers are to look elsewhere. The gate
	// closes later.
	draining  atomic.Bool
	readiness readiness
	adminAddr atomic.Pointer[net.Addr]
	// adminConnections are those of the port for health and metrics, if it has one.
	adminConnections connections
	// files is what the files looked like before they were first read. Only
	// watchFiles changes it.
	files []fileState
}

// New returns a server for the node. It reads the tokens and the certificates,
// and fails if they or the configuration are not usable.
func New(cfg Config, node Node, hooks Hooks) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg:        cfg.withDefaults(node.Limits()),
		node:       node,
		hooks:      hooks,
		log:        hooks.Log,
		procedures: procedures(),
		started:    time.Now(),
		anyone:     auth.Anyone(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.gate.limit, s.gate.reserve = s.cfg.MaxConcurrent, (s.cfg.MaxConcurrent+3)/4
	s.gate.mostParked = int64(s.cfg.MaxParked)
	if s.budget, s.compressors = s.cfg.Budget, newCompressors(); s.budget == nil {
		s.budget = budget.New(budget.Default())
	}
	s.heads.limit = mostHeads
	s.connections.limit = s.cfg.MaxConnections
	s.adminConnections.limit = min(s.cfg.MaxConnections, mostAdminConnections)
	s.healthChecks.limit, s.reflections.limit = mostHealthChecks, mostReflections
	s.refusals.limit = mostRefusals
	s.scrapes.places = make(chan struct{}, mostScrapes)
	s.questions = newQuestions()
	s.streams.limit = s.cfg.MaxWatches
	s.files = fileStates(s.fileNames())
	if err := s.Reload(); err != nil {
		return nil, err
	}
	s.rpcs = s.newRPCs()
	s.http = s.newHTTP()
	return s, nil
}

// Reload reads the tokens and the certificates again, for all requests and
// connections from now on. With tokens it ends all streams, which may then begin
// anew. What cannot be used (the tokens, the certificate with its key, the client
// CA) stays as it was, and the error names it; the rest takes effect.
func (s *Server) Reload() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	return errors.Join(s.reloadTokens(), s.reloadCertificates())
}

func (s *Server) reloadTokens() error {
	if s.cfg.AuthTokens == "" {
		return nil
	}
	tokens, err := auth.Load(s.cfg.AuthTokens)
	if err != nil {
		return err
	}
	s.tokens.Store(tokens)
	s.streams.endOpen(errTokensRead)
	return nil
}

func (s *Server) reloadCertificates() error {
	if s.cfg.TLS.Cert == "" {
		return nil
	}
	config, err := s.cfg.TLS.load(s.certs.current.Load())
	s.certs.current.Store(config)
	return err
}

// Handler returns everything that the server answers, for servers of another
// make (tests, a port shared with others). Draining is then up to them.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// newRPCs returns the handlers of all procedures.
func (s *Server) newRPCs() http.Handler {
	options := connect.WithHandlerOptions(
		connect.WithReadMaxBytes(streamBytes),
		connect.WithSendMaxBytes(s.cfg.sendBytes(s.node.Limits())),
		connect.WithCompressMinBytes(compressMinBytes),
		boundedCompression(streamBytes),
		codecs(),
		connect.WithInterceptors(streamErrors{s}), // around the recovery, to learn its code
		connect.WithRecover(s.recovered),
		connect.WithInterceptors(connect.UnaryInterceptorFunc(s.mapErrors)),
	)
	s.errorWriter = connect.NewErrorWriter(options)
	reflector := grpcreflect.NewStaticReflector(rpc.CacheServiceName, rpc.ClusterServiceName, grpchealth.HealthV1ServiceName)

	mux := http.NewServeMux()
	mux.Handle(rpc.NewCacheServiceHandler(&cacheService{
		node:    s.node,
		parser:  parser{limits: s.node.Limits(), maxWait: s.cfg.MaxWait},
		timeout: s.cfg.RequestTimeout,
		answer:  s.cfg.AnswerBytes,
		list:    max(s.budget.Share()/2/listedBytes(s.node.Limits().KeyBytes), 1),
		began:   s.measured,
	}, options))
	mux.Handle(rpc.NewClusterServiceHandler(clusterService{s}, options))
	mux.Handle(grpchealth.NewHandler(s, options, connect.WithReadMaxBytes(openBytes), boundedCompression(openBytes)))
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options))
	return mux
}

// mapErrors gives a handler its message, keeps its answer (see exchange), and
// turns its errors into what goes on the wire.
func (s *Server) mapErrors(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		answer, err := s.answer(ctx, r, next)
		if err == nil {
			return answer, nil
		}
		failed := wireError(err)
		if failed.Code() == connect.CodeInternal {
			s.log.Error("request failed", "procedure", r.Spec().Procedure, "error", err)
		}
		return nil, failed
	}
}

func (*Server) answer(ctx context.Context, r connect.AnyRequest, next connect.UnaryFunc) (connect.AnyResponse, error) {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return next(ctx, r)
	}
	if err := x.decode(r.Any()); err != nil {
		return nil, err
	}
	answer, err := next(ctx, r)
	if err != nil {
		return nil, err
	}
	message, ok := answer.Any().(proto.Message)
	if !ok {
		return answer, nil
	}
	return connect.NewResponse(&stub{}), x.answer(ctx, message)
}

// recovered turns a panic into an error of the one request that caused it.
func (s *Server) recovered(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
	s.log.Error("panic in a handler", "procedure", spec.Procedure, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
	return connect.NewError(connect.CodeInternal, errInternal)
}

// newHTTP returns the HTTP server around the handlers.
func (s *Server) newHTTP() *http.Server {
	mux := http.NewServeMux()
	if s.cfg.AdminListen == "" {
		s.handleAdmin(mux)
	}
	mux.HandleFunc("POST /", s.serveRPC)
	beside := s.beside(mux)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				mux.ServeHTTP(w, r)
			} else {
				beside(w, r)
			}
		}),
		Protocols:         protocols,
		ReadHeaderTimeout: min(headerTimeout, s.cfg.ReadTimeout),
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.ReadTimeout + s.cfg.MaxWait + s.cfg.RequestTimeout + writeGrace,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			SendPingTimeout:               s.cfg.IdleTimeout / 2,
			WriteByteTimeout:              s.cfg.ReadTimeout,
			MaxReadFrameSize:              minFrame,
			MaxReceiveBufferPerConnection: receiveBytes,
			MaxReceiveBufferPerStream:     receiveBytes,
		},
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, &budget.Connection{})
		},
		ConnState: s.watched(&s.connections),
		// Anybody can fail a handshake as often as they like.
		ErrorLog: ratelog.Logger(s.log, slog.LevelWarn, "a connection failed"),
	}
}

// watched tells what a connection does to all who count them.
func (s *Server) watched(all *connections) func(net.Conn, http.ConnState) {
	return func(conn net.Conn, state http.ConnState) {
		s.heads.changed(conn, state)
		all.changed(conn, state)
	}
}

const (
	// maxHeaderBytes and mostFields bound the headers of a request. Over HTTP/2 a
	// field counts 32 bytes more than its text.
	maxHeaderBytes = 16 << 10
	mostFields     = 128
	// maxStreams lets many callers wait on one connection for a lease that
	// somebody else holds.
	maxStreams = 512
	// What net/http keeps of HTTP/2 before a handler has it is not in the budget.
	minFrame     = 16 << 10
	receiveBytes = 256 << 10
)

// serveMetrics demands a token with the scope admin, if it was told to.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if s.hooks.Metrics == nil {
		http.NotFound(w, r)
		return
	}
	if tokens := s.tokens.Load(); tokens != nil && s.cfg.MetricsAuth {
		caller, err := tokens.Authenticate(r.Header.Values("Authorization"))
		switch {
		case err != nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		case caller.Allow(auth.Admin) != nil:
			http.Error(w, caller.Allow(auth.Admin).Error(), http.StatusForbidden)
			return
		}
	}
	s.scrapes.serve(w, r, s.hooks.Metrics)
}

// Run listens and serves until the context ends, and then drains.
func (s *Server) Run(ctx context.Context) error {
	listener, err := s.Listen(ctx)
	if err != nil {
		return err
	}
	return s.Serve(ctx, listener)
}

// Listen opens the configured address.
func (s *Server) Listen(ctx context.Context) (net.Listener, error) {
	return Listen(ctx, s.cfg.Listen)
}

// Listen opens an address, for whoever has to know it before there is a server.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	return listener, nil
}

// Serve serves on the listener until the context ends, then drains, and
// closes the listener in any case. It returns nil if everything in flight was
// answered.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if err := s.checkAddress(listener.Addr()); err != nil {
		return errors.Join(err, listener.Close())
	}
	endAdmin, err := s.serveAdmin(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	watchCtx, stopWatching := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watchFiles(watchCtx)
	}()
	served := make(chan error, 1)
	go func() { served <- s.accept(listener) }()

	select {
	case err = <-served:
		// The listener broke: nobody new can come, but those who are here are
		// still answered.
		err = errors.Join(err, s.drain(0))
	case <-ctx.Done():
		err = s.drain(s.cfg.DrainDelay)
		if acceptErr := <-served; !errors.Is(acceptErr, http.ErrServerClosed) {
			err = errors.Join(err, acceptErr)
		}
	}
	stopWatching()
	<-watched
	return errors.Join(err, endAdmin())
}

func (s *Server) accept(listener net.Listener) error {
	listener = headsListener{listener, &s.heads, s.cfg.TLS.Cert != ""}
	if s.cfg.TLS.Cert == "" {
		return s.http.Serve(listener)
	}
	s.http.TLSConfig = s.certs.config()
	return s.http.ServeTLS(listener, "", "")
}

// checkAddress asks again, of the address that was really opened, what
// Validate asked of the one in the configuration.
func (s *Server) checkAddress(addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	return s.cfg.checkExposure(addr.String(), !ok || tcp.IP.IsLoopback())
}
