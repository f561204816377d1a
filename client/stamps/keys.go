package stamps

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/soracache/soracache"
)

// Keys turn stamps into text that only who has one of the keys can have
// made, for stamps that leave the application: in a browser's cookie, say. Whoever
// can make up a stamp can make every read of theirs miss; see docs/read-your-writes.md.
//
// The zero Keys has no key: it opens nothing, and seals to nothing.
type Keys struct {
	keys [][]byte
}

// The lengths of a key and of what it adds to a stamp.
const (
	leastStampKey = 16
	stampMAC      = 16
)

// NewKeys returns keys of which the first seals, and any opens: to change it,
// let all processes first accept the new one, then seal with it, and then forget
// the old one. Each has 16 random bytes at least; fewer, or no key at all, is an
// error that wraps [soracache.ErrInvalid].
func NewKeys(seal []byte, accept ...[]byte) (Keys, error) {
	var k Keys
	for _, key := range append([][]byte{seal}, accept...) {
		if len(key) < leastStampKey {
			return Keys{}, fmt.Errorf("stamps: %w: a stamp key of %d bytes: at least %d", soracache.ErrInvalid, len(key), leastStampKey)
		}
		k.keys = append(k.keys, slices.Clone(key))
	}
	return k, nil
}

// Seal returns the stamp as text of letters, digits and "=-_,.". A zero stamp is
// the empty text.
func (k Keys) Seal(s Stamp) string {
	if s.IsZero() || len(k.keys) == 0 {
		return ""
	}
	text := s.String()
	return text + "." + base64.RawURLEncoding.EncodeToString(macOf(k.keys[0], text))
}

// Open reads the form that Seal writes. What was not sealed by one of the keys
// gives an error that wraps [soracache.ErrInvalid].
func (k Keys) Open(sealed string) (Stamp, error) {
	if sealed == "" {
		return Stamp{}, nil
	}
	if len(sealed) > maxStampText {
		return Stamp{}, fmt.Errorf("stamps: %w: a stamp of %d bytes", soracache.ErrInvalid, len(sealed))
	}
	text, encoded, _ := strings.Cut(sealed, ".")
	mac, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || !k.made(text, mac) {
		return Stamp{}, fmt.Errorf("stamps: %w: a stamp that none of the keys has sealed", soracache.ErrInvalid)
	}
	return Parse(text)
}

func (k Keys) made(text string, mac []byte) bool {
	return slices.ContainsFunc(k.keys, func(key []byte) bool { return hmac.Equal(mac, macOf(key, text)) })
}

// macOf is the first half of HMAC-SHA-256 (RFC 2104, RFC 4868).
func macOf(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("soracache stamp\x00"))
	h.Write([]byte(text))
	return h.Sum(nil)[:stampMAC]
}

// SetHeader is [SetHeader] with a sealed stamp.
func (k Keys) SetHeader(ctx context.Context, h http.Header) {
	if sealed := k.Seal(From(ctx)); sealed != "" {
		h.Set(Header, sealed)
	}
}

// WithHeader is [WithHeader] for sealed stamps. What none of the keys has
// sealed counts as having seen nothing.
func (k Keys) WithHeader(ctx context.Context, h http.Header) context.Context {
	return withHeader(ctx, h, k.Open)
}
