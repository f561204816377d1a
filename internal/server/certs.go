package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// TLSFiles names the PEM files of a server that speaks TLS.
type TLSFiles struct {
	// Cert and Key are the certificate chain and its private key.
	Cert, Key string
	// ClientCA, if not empty, makes the server demand a client certificate
	// that one of these authorities has signed.
	ClientCA string
}

func (f TLSFiles) validate() error {
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return errors.New("TLS needs both a certificate and a key (--tls-cert and --tls-key)")
	case f.ClientCA != "" && f.Cert == "":
		return errors.New("a client CA (--tls-client-ca) needs a certificate and a key (--tls-cert and --tls-key)")
	}
	return nil
}

// names returns the files that are set.
func (f TLSFiles) names() []string {
	var names []string
	for _, name := range []string{f.Cert, f.Key, f.ClientCA} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// load reads the files. In place of what cannot be used it has what was there
// before, if anything was.
func (f TLSFiles) load(before *tls.Config) (*tls.Config, error) {
	if before == nil {
		before = &tls.Config{}
	}
	config := &tls.Config{
		Certificates: before.Certificates,
		ClientCAs:    before.ClientCAs,
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	cert, err := f.pair()
	if err != nil {
		err = fmt.Errorf("TLS certificate %s with key %s: %w", f.Cert, f.Key, err)
	} else {
		config.Certificates = []tls.Certificate{cert}
	}
	if f.ClientCA == "" {
		return config, err
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	authorities, caErr := f.authorities()
	if caErr != nil {
		return config, errors.Join(err, caErr)
	}
	config.ClientCAs = authorities
	return config, err
}

func (f TLSFiles) authorities() (*x509.CertPool, error) {
	text, err := readPEM(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("TLS client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("TLS client CA %s: no certificate in it", f.ClientCA)
	}
	return pool, nil
}

// pair reads the certificate chain and its key, which must match.
func (f TLSFiles) pair() (tls.Certificate, error) {
	chain, err := readPEM(f.Cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readPEM(f.Key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, key)
}

// readPEM reads a file whose last block must be whole: what is read while it is
// written would be a chain, or a list of authorities, without its end.
func readPEM(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	rest := text
	for block, after := pem.Decode(rest); block != nil; block, after = pem.Decode(rest) {
		rest = after
	}
	if bytes.Contains(rest, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("%s is being written, or was cut off", name)
	}
	return text, nil
}

// certs is the TLS configuration that new connections are given. It can be
// replaced while the server runs.
type certs struct {
	current atomic.Pointer[tls.Config]
}

// config returns a configuration that always gives what is current.
func (c *certs) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.current.Load(), nil
		},
	}
}
