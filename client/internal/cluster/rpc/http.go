package rpc

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache/client/internal/deadline"
)

// HTTPClient returns an HTTP client for all nodes of a cluster, and what ends it. The
// configuration of TLS may be nil.
func HTTPClient(secure *tls.Config) (_ *http.Client, end func()) {
	transport := newTransport(secure)
	return &http.Client{Transport: transport}, transport.CloseIdleConnections
}

// newTransport returns a transport that keeps a connection for each of many
// concurrent callers, rather than opening one for most calls.
func newTransport(secure *tls.Config) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       secure.Clone(), // of nil, nil
		TLSHandshakeTimeout:   5 * time.Second,
		Protocols:             &protocols,
		MaxIdleConnsPerHost:   1024,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
		ReadBufferSize:        32 << 10,
		WriteBufferSize:       32 << 10,
		ExpectContinueTimeout: time.Second,
	}
}

// unmetered is how long a body is at most that is not watched.
const unmetered = 32 << 10

// metered notes in the progress that a request's context has what moves of its
// bodies.
type metered struct{ connect.HTTPClient }

// Do implements [connect.HTTPClient].
func (m metered) Do(req *http.Request) (*http.Response, error) {
	p := deadline.ProgressOf(req.Context())
	if p == nil {
		return m.HTTPClient.Do(req)
	}
	if req.ContentLength > deadline.Bytes {
		watched := *req
		watched.Body = &meteredBody{req.Body, p.Sent}
		watched.GetBody = nil // it is not sent twice
		req = &watched
	}
	res, err := m.HTTPClient.Do(req)
	if err == nil && (res.ContentLength < 0 || res.ContentLength > unmetered) {
		res.Body = &meteredBody{res.Body, p.Received}
	}
	return res, err
}

type meteredBody struct {
	io.ReadCloser

	note func(n int)
}

func (b *meteredBody) Read(to []byte) (n int, err error) {
	n, err = b.ReadCloser.Read(to)
	b.note(n)
	return n, err
}
