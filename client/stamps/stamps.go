// Package stamps lets whoever has seen something tell others, so that they are answered
// with nothing older: in a request's context, in a header, in a cookie.
package stamps

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/soracache/soracache"
)

// Stamp says how much of one or more namespaces somebody has seen. Whoever is
// given it, and reads under a context that carries it, is answered with nothing
// older, whichever client and node it asks: it reads the giver's own writes. The
// zero Stamp has seen nothing. A Stamp is immutable.
//
// A client carries what it has itself seen without being told to.
type Stamp struct {
	spaces map[string]soracache.Stamps
}

// Of returns the stamp of one namespace.
func Of(namespace string, seen soracache.Stamps) Stamp {
	if len(seen) == 0 {
		return Stamp{}
	}
	return Stamp{map[string]soracache.Stamps{namespace: seen}}
}

// Parse reads the form that String writes. What it could not have written
// gives an error that wraps [soracache.ErrInvalid].
func Parse(text string) (Stamp, error) {
	if text == "" {
		return Stamp{}, nil
	}
	if len(text) > maxStampText {
		return Stamp{}, fmt.Errorf("stamps: %w: a stamp of %d bytes", soracache.ErrInvalid, len(text))
	}
	s := Stamp{map[string]soracache.Stamps{}}
	for part := range strings.SplitSeq(text, ",") {
		namespace, encoded, _ := strings.Cut(part, "=")
		if err := soracache.CheckNamespace(namespace); err != nil {
			return Stamp{}, fmt.Errorf("stamps: stamp: %w", err)
		}
		raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
		if err != nil {
			return Stamp{}, fmt.Errorf("stamps: %w: malformed stamp", soracache.ErrInvalid)
		}
		stamps, err := soracache.DecodeStamps(raw)
		if err != nil {
			return Stamp{}, fmt.Errorf("stamps: %w", err)
		}
		if s.spaces[namespace] = stamps; len(stamps) == 0 {
			return Stamp{}, fmt.Errorf("stamps: %w: malformed stamp", soracache.ErrInvalid)
		}
	}
	return s, nil
}

// maxStampText is how long a stamp is at most that others may hand in.
const maxStampText = 64 << 10

// String returns the stamp as text of letters, digits and "=-_,": for a header,
// a cookie or a message.
func (s Stamp) String() string {
	parts := make([]string, 0, len(s.spaces))
	for _, namespace := range slices.Sorted(maps.Keys(s.spaces)) {
		parts = append(parts, namespace+"="+base64.RawURLEncoding.EncodeToString(s.spaces[namespace].Encode()))
	}
	return strings.Join(parts, ",")
}

// IsZero tells whether the stamp has seen nothing.
func (s Stamp) IsZero() bool { return len(s.spaces) == 0 }

// In returns what was seen of one namespace.
func (s Stamp) In(namespace string) soracache.Stamps { return s.spaces[namespace] }

// Merge returns the stamp of whoever has seen both. Where the two are of
// different lives of a ledger, other counts.
func (s Stamp) Merge(other Stamp) Stamp {
	merged := maps.Clone(s.spaces)
	if merged == nil {
		return other
	}
	for namespace, stamps := range other.spaces {
		merged[namespace] = merged[namespace].Merge(stamps)
	}
	return Stamp{merged}
}

// carrier is what a context carries: it grows with what is done under it.
type carrier struct {
	mu    sync.Mutex
	stamp Stamp // guarded by mu
}

type carrierKey struct{}

func carrierFrom(ctx context.Context) *carrier {
	c, _ := ctx.Value(carrierKey{}).(*carrier)
	return c
}

// With returns a context that carries a stamp: what is read under it, by any
// client of the stamp's namespaces, reflects at least that. The context also
// gathers what is seen under it, by reads and by invalidations, for [From]
// to return. The zero Stamp makes it do only that.
func With(ctx context.Context, s Stamp) context.Context {
	return context.WithValue(ctx, carrierKey{}, &carrier{stamp: From(ctx).Merge(s)})
}

// From returns what was seen under a context that [With] returned,
// beside the stamp that it was given. Hand it to who is to see no less.
func From(ctx context.Context) Stamp {
	c := carrierFrom(ctx)
	if c == nil {
		return Stamp{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stamp
}

// Header is the header in which stamps travel over HTTP.
const Header = "Soracache-Stamp"

// SetHeader writes what From returns into the header of a request or
// an answer, unless that is nothing.
func SetHeader(ctx context.Context, h http.Header) {
	if s := From(ctx); !s.IsZero() {
		h.Set(Header, s.String())
	}
}

// WithHeader is [With] with the stamp that a header brought, or with all
// of them if it came several times. A header that is none, or malformed, counts as
// having seen nothing.
//
// It is for headers that others of the same application have set. What comes from
// outside may have been made up: see [Keys].
func WithHeader(ctx context.Context, h http.Header) context.Context {
	return withHeader(ctx, h, Parse)
}

func withHeader(ctx context.Context, h http.Header, parse func(string) (Stamp, error)) context.Context {
	var all Stamp
	for _, value := range h.Values(Header) {
		s, err := parse(value)
		if err != nil {
			return With(ctx, Stamp{})
		}
		all = all.Merge(s)
	}
	return With(ctx, all)
}

// Without returns the stamp but for one namespace.
func (s Stamp) Without(namespace string) Stamp {
	if _, ok := s.spaces[namespace]; !ok {
		return s
	}
	others := maps.Clone(s.spaces)
	delete(others, namespace)
	return Stamp{others}
}

// Only returns a context that carries a stamp in place of what it carried, and gathers
// what is seen under it apart from that.
func Only(ctx context.Context, s Stamp) context.Context {
	return context.WithValue(ctx, carrierKey{}, &carrier{stamp: s})
}

// Gathers tells whether a context gathers what is seen under it.
func Gathers(ctx context.Context) bool { return carrierFrom(ctx) != nil }

// Note has a context gather what was seen of a namespace, if it gathers anything.
func Note(ctx context.Context, namespace string, seen soracache.Stamps) {
	c := carrierFrom(ctx)
	if c == nil || len(seen) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stamp = c.stamp.Merge(Of(namespace, seen))
}
