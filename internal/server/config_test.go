package server_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/server"
)

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func TestValidate(t *testing.T) {
	t.Parallel()
	files := server.TLSFiles{Cert: "c", Key: "k"}
	for name, c := range map[string]struct {
		cfg  server.Config
		want string // "" for valid
	}{
		"nothing set":             {server.Config{}, ""},
		"loopback of IPv6":        {server.Config{Listen: "[::1]:7070"}, ""},
		"all of 127/8":            {server.Config{Listen: "127.8.8.8:0"}, ""},
		"localhost":               {server.Config{Listen: "localhost:http"}, ""},
		"all addresses":           {server.Config{Listen: "0.0.0.0:7070"}, "refusing to listen on 0.0.0.0:7070, which is not loopback, without TLS (--tls-cert and --tls-key) and tokens (--auth-tokens); --insecure overrides this"},
		"no host":                 {server.Config{Listen: ":7070"}, "refusing"},
		"all addresses of IPv6":   {server.Config{Listen: "[::]:7070"}, "refusing"},
		"a private address":       {server.Config{Listen: "10.0.0.1:7070"}, "refusing"},
		"a name":                  {server.Config{Listen: "cache.example:7070"}, "refusing"},
		"a name like loopback":    {server.Config{Listen: "127.0.0.1.example:7070"}, "refusing"},
		"only TLS":                {server.Config{Listen: ":7070", TLS: files}, "without tokens (--auth-tokens);"},
		"only tokens":             {server.Config{Listen: ":7070", AuthTokens: "t"}, "without TLS (--tls-cert and --tls-key);"},
		"client CA for tokens":    {server.Config{Listen: ":7070", TLS: server.TLSFiles{Cert: "c", Key: "k", ClientCA: "a"}}, "without tokens"},
		"TLS and tokens":          {server.Config{Listen: ":7070", TLS: files, AuthTokens: "t"}, ""},
		"insecure":                {server.Config{Listen: ":7070", Insecure: true}, ""},
		"no port":                 {server.Config{Listen: "127.0.0.1"}, "host:port"},
		"empty port":              {server.Config{Listen: "127.0.0.1:"}, "host:port"},
		"certificate without key": {server.Config{TLS: server.TLSFiles{Cert: "c"}}, "both"},
		"key without certificate": {server.Config{TLS: server.TLSFiles{Key: "k"}}, "both"},
		"client CA alone":         {server.Config{TLS: server.TLSFiles{ClientCA: "a"}}, "client CA"},
		"metrics without tokens":  {server.Config{MetricsAuth: true}, "no tokens file"},
		"negative wait":           {server.Config{MaxWait: -1}, "longest wait"},
		"negative read timeout":   {server.Config{ReadTimeout: -1}, "read timeout"},
		"negative timeout":        {server.Config{RequestTimeout: -1}, "request timeout"},
		"negative idle timeout":   {server.Config{IdleTimeout: -1}, "idle timeout"},
		"negative drain timeout":  {server.Config{DrainTimeout: -time.Second}, "drain timeout"},
		"negative drain delay":    {server.Config{DrainDelay: -1}, "drain delay"},
		"tiny messages":           {server.Config{MessageBytes: 1}, "largest request"},
		"tiny answers":            {server.Config{AnswerBytes: -1}, "largest answer"},
		"negative concurrency":    {server.Config{MaxConcurrent: -1}, "concurrent"},
		"no reloads by itself":    {server.Config{ReloadEvery: -1}, ""},
	} {
		err := c.cfg.Validate()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// Whatever the configuration said, an address that turns out to be off loopback
// is not served on without TLS and tokens.
func TestExposedListenerIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t, server.Config{}, newFakeNode(), server.Hooks{})
	listener := &exposed{newPipes()}
	if err := s.Serve(t.Context(), listener); err == nil || !strings.Contains(err.Error(), "refusing to listen on 192.0.2.1:7070") {
		t.Errorf("error %v", err)
	}
	if _, err := listener.Dial(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was left open: %v", err)
	}
}

type exposed struct{ *pipes }

func (*exposed) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7070} }

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	second := newServer(t, server.Config{Listen: s.addr}, newFakeNode(), server.Hooks{})
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
}
