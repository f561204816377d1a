package command

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
	Server     string
	Token      string
	TokenFile  string
	CA         string
	ClientCert string
	ClientKey  string
	Timeout    time.Duration
	JSON       bool
}

func (c *remote) declare(o *options) {
	o.text(&c.Server, "server", "http://127.0.0.1:7070", "URL", "The node")
	o.text(&c.Token, "token", "", "TEXT", "Access token (other users can see a command line: prefer the environment or --token-file)")
	o.text(&c.TokenFile, "token-file", "", "FILE", "File that holds the access token")
	o.text(&c.CA, "ca", "", "FILE", "Authorities to trust for https, in PEM (the system's)")
	o.text(&c.ClientCert, "client-cert", "", "FILE", "Client certificate, in PEM")
	o.text(&c.ClientKey, "client-key", "", "FILE", "Key of the client certificate, in PEM")
	o.duration(&c.Timeout, "timeout", "10s", "How long to wait for an answer")
	o.yes(&c.JSON, "json", "Print the answer as JSON, in the form of the service's contract")
}

// namespace is the option of the commands that work in one.
type namespace struct {
	Namespace string
}

func (c *namespace) declare(o *options) {
	o.text(&c.Namespace, "namespace,n", "default", "TEXT", "Namespace")
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
