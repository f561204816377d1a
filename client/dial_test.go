package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
)

func dial(t *testing.T, url string, opts ...client.DialOption) *client.Client {
	t.Helper()
	c, err := client.Dial(strings.Split(url, ","), append([]client.DialOption{client.Logger(nil)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// What gives the token is asked by goroutines of the client's own. If it panics there is
// no token.
func TestTokenThatPanics(t *testing.T) {
	c := dial(t, clienttest.NewServer(t).URL(), client.BearerTokenFunc(func(context.Context) (string, error) { panic("vault") }))
	for _, door := range doors {
		if v, err := door.ask(t.Context(), c, "k", returns("v")); v != "v" || err != nil {
			t.Errorf("%s: got %q, %v", door.name, v, err)
		}
	}
	err := client.Set(t.Context(), c, "k", "v")
	if p, ok := errors.AsType[*client.PanicError](err); !ok || p.Value != "vault" || !errors.Is(err, soracache.ErrUnauthenticated) {
		t.Errorf("set: %.100v", err)
	}
}
