package l2

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/soracache/soracache"
)

// Scheme is a kind of store, known by how the URLs of its stores begin. Programs that
// open a store by its URL are given schemes as values: see embedded.Config.Schemes, and
// command.Main for soracached. docs/stores.md shows the whole way.
type Scheme struct {
	// Name is what precedes the first colon of a URL: lower-case letters, digits, and
	// in between + - and . as in "memory" or "mystore+tls".
	Name string
	// Open opens the store that a URL names; all of the URL is the store's to
	// interpret. The context bounds opening alone. An error about the URL itself
	// wraps [soracache.ErrInvalid]. A store behind a network should open though
	// nobody answers yet: a node without its store has loaders run.
	Open func(ctx context.Context, url string, o OpenOptions) (Store, error)
}

// OpenOptions are what a program tells every store that it opens.
type OpenOptions struct {
	// Timeout is how long the program waits for an answer of the store. Contexts
	// of calls end by then at the latest.
	Timeout time.Duration
	// Logger is told what an operator should know. It is never nil.
	Logger *slog.Logger
}

// SchemeOf returns the scheme's name of a URL: empty if it has none.
func SchemeOf(url string) string {
	name, _, found := strings.Cut(url, ":")
	if !found || !isScheme(name) {
		return ""
	}
	return name
}

// Validate reports what is wrong with a scheme. The error wraps [soracache.ErrInvalid].
func (s Scheme) Validate() error {
	switch {
	case !isScheme(s.Name):
		return fmt.Errorf("%w: %q is no name of a scheme", soracache.ErrInvalid, s.Name)
	case s.Open == nil:
		return fmt.Errorf("%w: the scheme %s does not open anything", soracache.ErrInvalid, s.Name)
	}
	return nil
}

// isScheme tells whether a name is one of a scheme, as RFC 3986 has it, in small letters.
func isScheme(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || strings.IndexByte("+-.", c) >= 0):
		default:
			return false
		}
	}
	return name != ""
}
