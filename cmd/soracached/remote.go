package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// remote says which node an operator's command talks to, and how.
type remote struct {
	Server     string        `default:"http://127.0.0.1:7070" env:"SORACACHE_SERVER" placeholder:"URL" help:"The node (${default})."`
	Token      string        `env:"SORACACHE_TOKEN" help:"Access token (other users can see a command line: prefer the environment or --token-file)."`
	TokenFile  string        `env:"SORACACHE_TOKEN_FILE" placeholder:"FILE" help:"File that holds the access token."`
	CA         string        `name:"ca" env:"SORACACHE_CA" placeholder:"FILE" help:"Authorities to trust for https, in PEM (the system's)."`
	ClientCert string        `env:"SORACACHE_CLIENT_CERT" placeholder:"FILE" help:"Client certificate, in PEM."`
	ClientKey  string        `env:"SORACACHE_CLIENT_KEY" placeholder:"FILE" help:"Key of the client certificate, in PEM."`
	Timeout    time.Duration `default:"10s" env:"SORACACHE_TIMEOUT" help:"How long to wait for an answer (${default})."`
	JSON       bool          `name:"json" env:"SORACACHE_JSON" help:"Print the answer as JSON, in the form of the service's contract."`
}

// namespace is the option of the commands that work in one.
type namespace struct {
	Namespace string `short:"n" default:"default" env:"SORACACHE_NAMESPACE" help:"Namespace (${default})."`
}

// client talks to one node.
type client struct {
	cache   rpc.CacheServiceClient
	cluster rpc.ClusterServiceClient
	http    *http.Client
}

// at is the same for another node of the cluster.
func (r remote) at(url string) remote {
	r.Server = url
	return r
}

// dial returns a client, which connects when it is first used. What can go
// wrong before that is the operator's mistake.
func (r remote) dial() (*client, error) {
	base, err := r.base()
	if err != nil {
		return nil, usage(err)
	}
	config, err := clientTLS(r.CA, r.ClientCert, r.ClientKey)
	if err != nil {
		return nil, usage(err)
	}
	token, err := r.token()
	if err != nil {
		return nil, usage(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, Proxy: http.ProxyFromEnvironment}}
	every := connect.WithInterceptors(r.onEveryCall(token))
	return &client{
		cache:   rpc.NewCacheServiceClient(c, base, every),
		cluster: rpc.NewClusterServiceClient(c, base, every),
		http:    c,
	}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// onEveryCall adds the token and the timeout.
func (r remote) onEveryCall(token string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if token != "" {
				req.Header().Set("Authorization", "Bearer "+token)
			}
			ctx, cancel := context.WithTimeout(ctx, r.Timeout)
			defer cancel()
			return next(ctx, req)
		}
	}
}

// base is the node's URL; a bare host:port means http.
func (r remote) base() (string, error) {
	text := r.Server
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("--server: %q is not an http or https URL", withoutPassword(r.Server))
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

func (r remote) token() (string, error) {
	if r.TokenFile == "" || r.Token != "" {
		return r.Token, nil
	}
	token, err := readSecret(r.TokenFile)
	return strings.TrimSpace(token), err
}

// clientTLS returns how to speak TLS as a client, given PEM files that may be
// missing.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("a client certificate and its key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
