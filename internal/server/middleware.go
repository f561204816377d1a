package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/internal/server/auth"
	"github.com/soracache/soracache/internal/wire"
)

// serveRPC takes a request from its headers to its handler. Whoever may not
// make it is refused before a byte of the body is read or inflated.
func (s *Server) serveRPC(w http.ResponseWriter, r *http.Request) {
	c := s.begin(w, r)
	defer s.end(c)
	defer s.seeOff(c)

	if len(r.Header) > mostFields {
		s.refuse(c, r, fmt.Errorf("%w: %d header fields: at most %d", soracache.ErrTooLarge, len(r.Header), mostFields))
		return
	}
	caller, err := s.admit(r, c.procedure)
	if err != nil {
		s.refuse(c, r, err)
		return
	}
	c.caller = caller.Name
	if c.procedure.request != nil {
		s.serveUnary(w, c, r.WithContext(auth.NewContext(r.Context(), caller)))
		return
	}
	limit := streamBytes
	if c.procedure.open {
		limit = openBytes
	}
	if r.ContentLength > int64(limit+envelope) {
		s.refuse(c, r, fmt.Errorf("%w: request of %d bytes: at most %d", soracache.ErrTooLarge, r.ContentLength, limit))
		return
	}
	limited := s.limited(w, r.WithContext(auth.NewContext(r.Context(), caller)), limit)
	if c.procedure.stream {
		s.serveStream(c, limited)
		return
	}
	s.serveAside(c, limited)
}

// limited bounds a request's body. The body is replaced in a copy only, and the
// writer is the original one: net/http looks at its own body and writer to tell
// whether the connection can be used again, or has the rest of a message on it,
// which must never be taken for the next request.
func (*Server) limited(w http.ResponseWriter, r *http.Request, limit int) *http.Request {
	limited := r.WithContext(r.Context())
	limited.Body = http.MaxBytesReader(w, r.Body, int64(limit+envelope))
	return limited
}

// serveUnary takes in a request's body, and only then lets the request in.
func (s *Server) serveUnary(w http.ResponseWriter, c *call, r *http.Request) {
	limit := s.cfg.MessageBytes
	if r.ContentLength > int64(limit+envelope) {
		s.refuse(c, r, fmt.Errorf("%w: request of %d bytes: at most %d", soracache.ErrTooLarge, r.ContentLength, limit))
		return
	}
	if err := s.gate.open(); err != nil {
		s.refuse(c, r, err)
		return
	}
	x, err := s.newExchange(w, r, c)
	defer x.close()
	r = s.limited(w, r, limit)
	if err == nil {
		r.Body, err = x.receive(r)
	}
	if err != nil {
		s.refuse(c, r, err)
		return
	}
	if c.procedure.question {
		if err := s.questions.enter(r.Context()); err != nil {
			s.refuse(c, r, err)
			return
		}
		x.asking = true
		defer x.free()
	}
	if err := s.gate.enter(r.Context(), c.procedure.urgent); err != nil {
		s.refuse(c, r, err)
		return
	}
	x.placed = true
	defer x.leave()
	if x.gzip && !x.framed { // it is inflated
		r.Header.Del("Content-Encoding")
	}
	r = r.WithContext(room.NewContext(context.WithValue(r.Context(), exchangeKey{}, x), x))
	x.ctx = r.Context()
	s.rpcs.ServeHTTP(x, r)
	x.finish()
}

// admit says who makes a request, and whether they may make it at all.
func (s *Server) admit(r *http.Request, p procedure) (*auth.Principal, error) {
	tokens := s.tokens.Load()
	if tokens == nil || p.open {
		return s.anyone, s.known(r)
	}
	caller, err := tokens.Authenticate(r.Header.Values("Authorization"))
	if err != nil {
		return nil, err
	}
	if err := caller.Allow(p.scope); err != nil {
		return nil, err
	}
	return caller, s.known(r)
}

// known reports whether there is such a procedure. It is asked last: whoever
// has no token does not learn what there is.
func (s *Server) known(r *http.Request) error {
	if _, ok := s.procedures[r.URL.Path]; !ok {
		return fmt.Errorf("%w: there is no procedure %.200q", soracache.ErrUnimplemented, r.URL.Path)
	}
	return nil
}

// refuse answers in the protocol of the request, without reading its body.
func (s *Server) refuse(c *call, r *http.Request, err error) {
	answer := wireError(err)
	c.code = answer.Code().String()
	c.response.Header().Set(wire.RefusedHeader, "1")
	switch answer.Code() {
	case connect.CodeUnauthenticated:
		c.response.Header().Set("WWW-Authenticate", "Bearer")
	case connect.CodeUnavailable:
		// Whoever holds this connection is to look for another node.
		if r.ProtoMajor == 1 {
			c.response.Header().Set("Connection", "close")
		}
	}
	// An error here means that the caller has gone.
	_ = s.errorWriter.Write(c.response, r, answer)
	c.refused = true
}

// refusalTime is how long a caller may take to read that it was refused, and
// mostRefusals how many may take that long.
const (
	refusalTime  = 5 * time.Second
	mostRefusals = 1000
)

// seeOff waits for who was refused over HTTP/2 to take that in: until then net/http
// keeps the request. It holds nothing else any more. If more wait than may, the oldest
// is not told.
func (s *Server) seeOff(c *call) {
	if !c.refused || c.request.ProtoMajor != 2 {
		return
	}
	c.request.Header = nil
	one, err := s.refusals.enter(c.response)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer s.refusals.leave(one)
	_ = one.control.SetWriteDeadline(time.Now().Add(refusalTime))
	one.flush(c.request)
}

// call is one request, as logs and metrics see it.
type call struct {
	response  *recorder
	request   *http.Request
	procedure procedure
	// name is the procedure's path, or "other": metrics must not grow with
	// what callers make up.
	name     string
	protocol string
	caller   string
	began    time.Time
	// code is what the call failed with, where its answer's status does not tell.
	code string
	// refused: it was answered before it was begun.
	refused bool
	// measured: the hooks were told that it has ended.
	measured bool
}

func (s *Server) begin(w http.ResponseWriter, r *http.Request) *call {
	c := &call{response: &recorder{ResponseWriter: w}, request: r, name: "other", protocol: protocolOf(r), began: time.Now()}
	if p, known := s.procedures[r.URL.Path]; known {
		c.procedure, c.name = p, r.URL.Path
	}
	if s.hooks.Began != nil {
		s.hooks.Began()
	}
	return c
}

func (s *Server) end(c *call) {
	if c.code == "" {
		c.code = c.response.code()
	}
	took, code := time.Since(c.began), c.code
	s.measured(c)
	if !s.log.Enabled(c.request.Context(), slog.LevelDebug) {
		return
	}
	s.log.LogAttrs(c.request.Context(), slog.LevelDebug, "request",
		slog.String("procedure", c.name), slog.String("protocol", c.protocol), slog.String("code", code),
		slog.Duration("took", took), slog.String("caller", c.caller), slog.String("peer", c.request.RemoteAddr))
}

// measured tells the hooks, once, that a call has ended. Only the goroutine that
// answers the call does.
func (s *Server) measured(c *call) {
	if c.measured || s.hooks.Ended == nil {
		return
	}
	c.measured = true
	code := c.code
	if code == "" {
		code = codeOK
	}
	s.hooks.Ended(c.name, c.protocol, code, time.Since(c.began))
}

func protocolOf(r *http.Request) string {
	contentType := r.Header.Get("Content-Type")
	switch {
	case strings.HasPrefix(contentType, "application/grpc-web"):
		return connect.ProtocolGRPCWeb
	case strings.HasPrefix(contentType, "application/grpc"):
		return connect.ProtocolGRPC
	}
	return connect.ProtocolConnect
}

// recorder remembers how a request was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Flush lets Connect stream through the recorder.
func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap lets [http.ResponseController] through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// code returns the name of the code that the caller was given: "ok" for none.
// It is read off the answer, because what fails before or after a handler (a
// body that cannot be read, an answer that is too large) is seen nowhere else.
func (r *recorder) code() string {
	header := r.Header()
	for _, key := range []string{"Grpc-Status", http.TrailerPrefix + "Grpc-Status"} {
		if status := header[key]; len(status) > 0 {
			return grpcCode(status[0])
		}
	}
	return httpCode(r.status)
}

func grpcCode(status string) string {
	n, err := strconv.ParseUint(status, 10, 32)
	switch {
	case err != nil:
		return connect.CodeUnknown.String()
	case n == 0:
		return codeOK
	}
	return connect.Code(n).String()
}

// codeOK is the code of success, for which Connect has no name.
const codeOK = "ok"

// httpCode is the way back from the status of a unary Connect answer.
func httpCode(status int) string {
	switch status {
	case 0, http.StatusOK:
		return codeOK
	case http.StatusBadRequest:
		return connect.CodeInvalidArgument.String()
	case http.StatusUnauthorized:
		return connect.CodeUnauthenticated.String()
	case http.StatusForbidden:
		return connect.CodePermissionDenied.String()
	case http.StatusNotFound:
		return connect.CodeNotFound.String()
	case http.StatusTooManyRequests:
		return connect.CodeResourceExhausted.String()
	case statusClientClosed:
		return connect.CodeCanceled.String()
	case http.StatusInternalServerError:
		return connect.CodeInternal.String()
	case http.StatusNotImplemented:
		return connect.CodeUnimplemented.String()
	case http.StatusServiceUnavailable:
		return connect.CodeUnavailable.String()
	case http.StatusGatewayTimeout:
		return connect.CodeDeadlineExceeded.String()
	}
	return connect.CodeUnknown.String()
}

// statusClientClosed is what Connect answers to a caller that has given up.
const statusClientClosed = 499
