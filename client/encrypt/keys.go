package encrypt

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// SecretBytes is how long the secret of a key is.
	SecretBytes = 32
	// MaxIDBytes is how long the id of a key may be.
	MaxIDBytes = 64
)

// A Key is a secret with a name.
type Key struct {
	// ID says which key it is, such as "2026-10": 1 to [MaxIDBytes] bytes of UTF-8. It is
	// stored with every value, for all to see. An id never gets another secret.
	ID string
	// Secret is [SecretBytes] bytes from a source of random bytes, such as crypto/rand or
	// `openssl rand 32`. A password is none.
	Secret []byte
}

// String returns the id without the secret, so that printing a key does not tell it.
func (k Key) String() string { return "key " + k.ID }

// GoString does the same for %#v.
func (k Key) GoString() string { return fmt.Sprintf("encrypt.Key{ID: %q}", k.ID) }

// Keys are those that values are encrypted with: the first encrypts, and all of them
// decrypt. They are safe for concurrent use. Several codecs may share them.
type Keys struct{ known atomic.Pointer[ring] }

// ring is what Keys know at one time. It does not change.
type ring struct {
	first *xaes
	byID  map[string]*xaes
}

// NewKeys returns keys of which the first encrypts and all decrypt. No two have the same
// id. Secrets are copied.
func NewKeys(first Key, others ...Key) (*Keys, error) {
	keys := new(Keys)
	if err := keys.Replace(first, others...); err != nil {
		return nil, err
	}
	return keys, nil
}

// Replace changes the keys while they are in use: from now on the first one given
// encrypts, and all that are given decrypt. If it fails, the keys stay as they were.
// An entry that was encrypted with a key that is gone cannot be read, and is a miss.
//
// To rotate without a miss, let all processes know the new key before the first of them
// encrypts with it:
//
//  1. Everywhere, Replace(old, new).
//  2. When that is done everywhere, Replace(new, old).
//  3. When all that the old key has encrypted has expired, Replace(new).
//
// If the old secret may be known to others, clear the namespace after step 2 and go
// on with step 3 at once.
func (k *Keys) Replace(first Key, others ...Key) error {
	known := &ring{byID: make(map[string]*xaes, 1+len(others))}
	for _, key := range append([]Key{first}, others...) {
		if err := key.check(); err != nil {
			return err
		}
		if known.byID[key.ID] != nil {
			return fmt.Errorf("two encryption keys have the id %q", key.ID)
		}
		x, err := newXAES(key)
		if err != nil {
			return err
		}
		known.byID[key.ID] = x
	}
	known.first = known.byID[first.ID]
	k.known.Store(known)
	return nil
}

func (k Key) check() error {
	switch {
	case k.ID == "":
		return errors.New("an encryption key has no id")
	case len(k.ID) > MaxIDBytes || !utf8.ValidString(k.ID):
		return fmt.Errorf("the id of an encryption key must be at most %d bytes of UTF-8: %.80q", MaxIDBytes, k.ID)
	case len(k.Secret) != SecretBytes:
		return fmt.Errorf("the secret of encryption key %q has %d bytes, and must have %d", k.ID, len(k.Secret), SecretBytes)
	}
	return nil
}
