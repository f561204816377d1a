package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.pem = a.sign(template, &a.key.PublicKey, template)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PublicKey, parent *x509.Certificate) (*x509.Certificate, []byte) {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// issue returns a certificate and its key, for servers and clients alike.
func (a *authority) issue(serial int64) (certPEM, keyPEM []byte) {
	a.t.Helper()
	key := newKey(a.t)
	_, certPEM = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey, a.cert)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// files writes a certificate and its key.
func (a *authority) files(dir string, serial int64) server.TLSFiles {
	a.t.Helper()
	cert, key := a.issue(serial)
	files := server.TLSFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	write(a.t, files.Cert, cert)
	write(a.t, files.Key, key)
	return files
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// over makes a service speak TLS as a client of the authority.
func (s *service) over(t *testing.T, config *tls.Config) *service {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	secure := *s
	secure.url = "https://" + s.addr
	secure.client = &http.Client{Transport: transport}
	return &secure
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	plain := serve(t, server.Config{TLS: ca.files(t.TempDir(), 2)}, newFakeNode(), server.Hooks{})
	trusting := &tls.Config{RootCAs: ca.pool()}

	s := plain.over(t, trusting)
	if got := s.post(t, "Get", get()); got.status != 200 {
		t.Errorf("JSON over TLS: %d %s", got.status, got.body)
	}
	exercise(t, dialGRPC(t, s.addr, trusting))

	// HTTP/2 and HTTP/1.1 are both agreed on, and nothing below TLS 1.2.
	for _, protocol := range []string{"h2", "http/1.1"} {
		config := trusting.Clone()
		config.NextProtos = []string{protocol}
		state, err := handshake(s.addr, config)
		if err != nil || state.NegotiatedProtocol != protocol || state.Version < tls.VersionTLS12 {
			t.Errorf("%s: %v, version %x, error %v", protocol, state.NegotiatedProtocol, state.Version, err)
		}
	}
	old := trusting.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := handshake(s.addr, old); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	// Cleartext is refused, and does not break the server.
	if got := plain.post(t, "Get", get()); got.status != 400 {
		t.Errorf("cleartext: %d %s", got.status, got.body)
	}
	if got := s.do(t, http.MethodGet, "/healthz", ""); got.status != 200 {
		t.Errorf("healthz: %d", got.status)
	}
}

// handshake connects, and asks something: in TLS 1.3 the server's refusal of a
// client comes after the client's handshake is done.
func handshake(addr string, config *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if conn.ConnectionState().NegotiatedProtocol != "h2" { // there, the server speaks first
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
			return tls.ConnectionState{}, err
		}
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState(), err
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	files := ca.files(dir, 2)
	files.ClientCA = filepath.Join(dir, "clients.pem")
	write(t, files.ClientCA, clients.pem)
	plain := serve(t, server.Config{TLS: files, ReloadEvery: -1}, newFakeNode(), server.Hooks{})

	with := func(a *authority) *tls.Config {
		config := &tls.Config{RootCAs: ca.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(0)}
		if a != nil {
			pair, err := tls.X509KeyPair(a.issue(7))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		return config
	}
	known := with(clients)
	exercise(t, dialGRPC(t, plain.addr, known))
	for name, config := range map[string]*tls.Config{"no certificate": with(nil), "a stranger's certificate": with(strangers)} {
		if _, err := handshake(plain.addr, config); err == nil {
			t.Errorf("%s was accepted", name)
		}
		err := dialGRPC(t, plain.addr, config).Invoke(t.Context(), "/soracache.v1.CacheService/Get", &soracachev1.GetRequest{Key: "k"}, &soracachev1.GetResponse{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want Unavailable", name, err)
		}
	}

	// An authority that is taken out of the file is out, also for those who
	// have been here.
	if _, err := handshake(plain.addr, known); err != nil {
		t.Fatal(err)
	}
	write(t, files.ClientCA, strangers.pem)
	if err := plain.server.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := handshake(plain.addr, known); err == nil {
		t.Error("a client of the authority that was taken out was accepted")
	}
	if _, err := handshake(plain.addr, with(strangers)); err != nil {
		t.Errorf("a client of the authority that was put in: %v", err)
	}
}

// Tokens and authorities that are taken out are out, though a certificate still
// waits for its key; and the other way round.
func TestReloadTakesWhatCanBeUsed(t *testing.T) {
	t.Parallel()
	ca, clients, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	files := ca.files(dir, 2)
	files.ClientCA = filepath.Join(dir, "clients.pem")
	write(t, files.ClientCA, clients.pem)
	tokens := filepath.Join(dir, "tokens")
	writeTokens(t, tokens, "TOKEN(a) a read *", "TOKEN(b) b read *")
	plain := serve(t, server.Config{TLS: files, AuthTokens: tokens, ReloadEvery: -1}, newFakeNode(), server.Hooks{})
	with := func(a *authority) *tls.Config {
		pair, err := tls.X509KeyPair(a.issue(7))
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{pair}}
	}
	serial := func(a *authority) int64 {
		t.Helper()
		state, err := handshake(plain.addr, with(a))
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}

	cert, key := ca.issue(3)
	write(t, files.Cert, cert)
	write(t, files.ClientCA, strangers.pem)
	writeTokens(t, tokens, "TOKEN(a) a read *")
	if err := plain.server.Reload(); err == nil || !strings.Contains(err.Error(), files.Cert) || strings.Contains(err.Error(), tokens) {
		t.Errorf("error %v, want one that names the certificate", err)
	}
	if got := plain.over(t, with(strangers)).post(t, "Get", get(), "Authorization", "Bearer b"); got.status != 401 {
		t.Errorf("a token that was taken out: %d %s", got.status, got.body)
	}
	if _, err := handshake(plain.addr, with(clients)); err == nil {
		t.Error("a client of an authority that was taken out was accepted")
	}
	if got := serial(strangers); got != 2 {
		t.Errorf("serial %d, want 2 still", got)
	}

	write(t, files.Key, key)
	write(t, files.ClientCA, []byte("none"))
	writeTokens(t, tokens, "garbage")
	err := plain.server.Reload()
	if err == nil || !strings.Contains(err.Error(), files.ClientCA) || !strings.Contains(err.Error(), tokens) {
		t.Errorf("error %v, want one that names the client CA and the tokens", err)
	}
	if got := serial(strangers); got != 3 {
		t.Errorf("serial %d, want 3", got)
	}
	if got := plain.over(t, with(strangers)).post(t, "Get", get(), "Authorization", "Bearer a"); got.status != 200 {
		t.Errorf("a token that was there: %d %s", got.status, got.body)
	}
}

func TestReloadOfCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	dir := t.TempDir()
	files := ca.files(dir, 2)
	s := serve(t, server.Config{TLS: files, ReloadEvery: -1}, newFakeNode(), server.Hooks{})
	serial := func() int64 {
		t.Helper()
		state, err := handshake(s.addr, &tls.Config{RootCAs: ca.pool()})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 2 {
		t.Fatalf("serial %d", got)
	}
	ca.files(dir, 3)
	if err := s.server.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 3 {
		t.Errorf("serial %d, want 3", got)
	}
	// A certificate without its key changes nothing.
	cert, _ := ca.issue(4)
	write(t, files.Cert, cert)
	if err := s.server.Reload(); err == nil || !strings.Contains(err.Error(), files.Cert) {
		t.Errorf("error %v, want one that names the file", err)
	}
	if got := serial(); got != 3 {
		t.Errorf("serial %d, want 3 still", got)
	}
	// Nor does a chain that is half written: its leaf alone would be served.
	cert, key := ca.issue(5)
	write(t, files.Key, key)
	write(t, files.Cert, append(slices.Clone(cert), ca.pem[:len(ca.pem)/2]...))
	if err := s.server.Reload(); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("half a chain: %v", err)
	}
	if got := serial(); got != 3 {
		t.Errorf("serial %d, want 3 still", got)
	}
}

func TestUnusableFiles(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	dir := t.TempDir()
	good := ca.files(dir, 2)
	empty := filepath.Join(dir, "empty")
	write(t, empty, nil)
	half := filepath.Join(dir, "half")
	write(t, half, append(slices.Clone(ca.pem), newAuthority(t).pem[:100]...))
	for name, c := range map[string]struct {
		cfg  server.Config
		want string
	}{
		"no such tokens file":   {server.Config{AuthTokens: filepath.Join(dir, "nope")}, "nope"},
		"an empty tokens file":  {server.Config{AuthTokens: empty}, "no token"},
		"no such certificate":   {server.Config{TLS: server.TLSFiles{Cert: filepath.Join(dir, "nope"), Key: good.Key}}, "nope"},
		"key as certificate":    {server.Config{TLS: server.TLSFiles{Cert: good.Key, Key: good.Cert}}, "key.pem"},
		"no such client CA":     {server.Config{TLS: server.TLSFiles{Cert: good.Cert, Key: good.Key, ClientCA: filepath.Join(dir, "nope")}}, "nope"},
		"an empty client CA":    {server.Config{TLS: server.TLSFiles{Cert: good.Cert, Key: good.Key, ClientCA: empty}}, "no certificate"},
		"half of a client CA":   {server.Config{TLS: server.TLSFiles{Cert: good.Cert, Key: good.Key, ClientCA: half}}, "cut off"},
		"a key as client CA":    {server.Config{TLS: server.TLSFiles{Cert: good.Cert, Key: good.Key, ClientCA: good.Key}}, "no certificate"},
		"a bad configuration":   {server.Config{Listen: "nowhere"}, "host:port"},
		"exposed without files": {server.Config{Listen: "0.0.0.0:7070"}, "refusing"},
	} {
		_, err := server.New(c.cfg, newFakeNode(), server.Hooks{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

// TestFailedHandshakes: strangers who fail to speak TLS do not fill the log.
func TestFailedHandshakes(t *testing.T) {
	t.Parallel()
	var out logs
	s := serve(t, server.Config{TLS: newAuthority(t).files(t.TempDir(), 2)}, newFakeNode(), server.Hooks{Log: textLog(&out)})
	for range 100 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn) // until the server has had enough
		conn.Close()
	}
	if got := strings.Count(out.String(), "TLS handshake"); got != 1 {
		t.Errorf("%d lines", got)
	}
}
