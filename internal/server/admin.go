package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// This file is the port of their own that health and metrics have if
// Config.AdminListen says so. It speaks TLS as the other one does and demands the
// same certificates, and is there until the server has drained, so that probes see
// it out.

const (
	// adminTimeout is how long a request there may take to arrive and to be
	// answered, of which its headers may take adminHeaderTimeout.
	adminTimeout       = 30 * time.Second
	adminHeaderTimeout = 5 * time.Second
	// mostAdminConnections is how many connections it has at most. They are not in
	// the way of those of the other port.
	mostAdminConnections = 128
)

// handleAdmin adds what operators and their machines ask for.
func (s *Server) handleAdmin(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", s.serveHealthz)
	mux.HandleFunc("GET /readyz", s.serveReadyz)
	mux.HandleFunc("GET /metrics", s.serveMetrics)
}

// AdminAddr is where health and metrics are served apart: nil if they are not, or
// not yet.
func (s *Server) AdminAddr() net.Addr {
	if addr := s.adminAddr.Load(); addr != nil {
		return *addr
	}
	return nil
}

// serveAdmin begins to serve the port of its own, if there is to be one, and
// returns what ends that and waits for it.
func (s *Server) serveAdmin(ctx context.Context) (end func() error, err error) {
	if s.cfg.AdminListen == "" {
		return func() error { return nil }, nil
	}
	listener, err := Listen(ctx, s.cfg.AdminListen)
	if err != nil {
		return nil, err
	}
	if err := s.checkAddress(listener.Addr()); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	mux := http.NewServeMux()
	s.handleAdmin(mux)
	admin := &http.Server{
		Handler: s.beside(mux), ReadHeaderTimeout: adminHeaderTimeout, ReadTimeout: adminTimeout, WriteTimeout: adminTimeout,
		IdleTimeout: s.cfg.IdleTimeout, MaxHeaderBytes: maxHeaderBytes, ErrorLog: s.http.ErrorLog,
		ConnState: s.watched(&s.adminConnections),
	}
	addr := listener.Addr()
	listener = headsListener{listener, &s.heads, s.cfg.TLS.Cert != ""}
	s.adminAddr.Store(&addr)
	served := make(chan error, 1)
	go func() {
		if s.cfg.TLS.Cert == "" {
			served <- admin.Serve(listener)
			return
		}
		admin.TLSConfig = s.certs.config()
		served <- admin.ServeTLS(listener, "", "")
	}()
	return func() error {
		err := admin.Close()
		if failed := <-served; !errors.Is(failed, http.ErrServerClosed) {
			err = errors.Join(err, failed)
		}
		return err
	}, nil
}
