package rpc

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"

	"github.com/soracache/soracache/internal/flight"
)

// Token returns the bearer token that is sent with every request, and at the beginning
// of every stream.
type Token func(context.Context) (string, error)

// ask asks for the token. If that panics, there is none.
func (t Token) ask(ctx context.Context) (token string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &flight.PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return t(ctx)
}

func (t Token) authorize(ctx context.Context, h http.Header) error {
	token, err := t.ask(ctx)
	if err != nil {
		return connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("get the bearer token: %w", err))
	}
	h.Set("Authorization", "Bearer "+token)
	return nil
}

// WrapUnary implements [connect.Interceptor].
func (t Token) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := t.authorize(ctx, req.Header()); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient implements [connect.Interceptor].
func (t Token) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if err := t.authorize(ctx, conn.RequestHeader()); err != nil {
			return unauthorized{conn, err}
		}
		return conn
	}
}

// WrapStreamingHandler implements [connect.Interceptor].
func (Token) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// unauthorized is a stream that there is no token for. It sends nothing, not
// even that it ends.
type unauthorized struct {
	connect.StreamingClientConn

	err error
}

func (u unauthorized) Send(any) error       { return u.err }
func (u unauthorized) Receive(any) error    { return u.err }
func (u unauthorized) CloseRequest() error  { return nil }
func (u unauthorized) CloseResponse() error { return nil }
