// Package auth knows who may do what: bearer tokens, kept as SHA-256 digests
// in a file, each with a name, scopes and namespaces. It knows nothing of RPC
// or HTTP beyond the text of an Authorization header.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"

	"github.com/soracache/soracache"
)

// Scope is a set of things that a token allows. Scopes do not include one
// another: a token has exactly those that its line names.
type Scope uint8

// The scopes.
const (
	// Read allows Get, BatchGet, Head, ListKeys, Explain, Watch and Members.
	Read Scope = 1 << iota
	// Write allows Fill, Set, Renew and Release, their batches, and taking a
	// lease.
	Write
	// Invalidate allows Invalidate.
	Invalidate
	// Admin allows what concerns the node and no namespace: Stats.
	Admin
)

var scopeNames = [...]string{"read", "write", "invalidate", "admin"}

// String returns the names of the scopes, comma separated.
func (s Scope) String() string {
	var names []string
	for i, name := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// Principal is who makes a request. It is immutable.
type Principal struct {
	// Name is how logs call it.
	Name   string
	scopes Scope
	// namespaces is sorted; nil means every namespace.
	namespaces []string
}

// Anyone is the principal of every request to a server without tokens: it may
// do everything.
func Anyone() *Principal {
	return &Principal{Name: "anyone", scopes: Read | Write | Invalidate | Admin}
}

// Allow reports whether the principal has every scope asked for; if not, the
// error wraps [soracache.ErrPermissionDenied].
func (p *Principal) Allow(scopes Scope) error {
	if missing := scopes &^ p.scopes; missing != 0 {
		return fmt.Errorf("%w: the token %q has no scope %s", soracache.ErrPermissionDenied, p.Name, missing)
	}
	return nil
}

// AllowNamespace reports whether the principal may use a namespace; if not,
// the error wraps [soracache.ErrPermissionDenied].
func (p *Principal) AllowNamespace(namespace string) error {
	if p.namespaces == nil {
		return nil
	}
	if _, found := slices.BinarySearch(p.namespaces, namespace); !found {
		return fmt.Errorf("%w: the token %q is not for namespace %q", soracache.ErrPermissionDenied, p.Name, namespace)
	}
	return nil
}

type contextKey struct{}

// NewContext returns a context that carries the principal.
func NewContext(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns the principal that a context carries. Without one it
// returns a principal that may do nothing.
func FromContext(ctx context.Context) *Principal {
	if p, ok := ctx.Value(contextKey{}).(*Principal); ok {
		return p
	}
	return &Principal{Name: "nobody", namespaces: []string{}}
}

// Tokens is a set of tokens, known by their digests. It is immutable and safe
// for concurrent use.
type Tokens struct {
	list []token
}

type token struct {
	digest    [sha256.Size]byte
	principal *Principal
}

// Authenticate returns the principal of an Authorization header, given all its
// values. The error wraps [soracache.ErrUnauthenticated] and does not tell a
// wrong token from an unknown one.
//
// Every digest is compared, in constant time, whether or not one matched
// already, so that the time taken tells nothing of the set.
func (t *Tokens) Authenticate(header []string) (*Principal, error) {
	secret, err := bearer(header)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(secret))
	var found *Principal
	for i := range t.list {
		if subtle.ConstantTimeCompare(t.list[i].digest[:], digest[:]) == 1 {
			found = t.list[i].principal
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: unknown token", soracache.ErrUnauthenticated)
	}
	return found, nil
}

// Len returns how many tokens there are.
func (t *Tokens) Len() int { return len(t.list) }

func bearer(header []string) (string, error) {
	switch {
	case len(header) == 0:
		return "", fmt.Errorf("%w: want the header Authorization: Bearer TOKEN", soracache.ErrUnauthenticated)
	case len(header) > 1:
		return "", fmt.Errorf("%w: more than one Authorization header", soracache.ErrUnauthenticated)
	}
	scheme, secret, _ := strings.Cut(header[0], " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return "", fmt.Errorf("%w: the Authorization header is not of the form Bearer TOKEN", soracache.ErrUnauthenticated)
	}
	return secret, nil
}
