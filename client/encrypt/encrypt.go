// Package encrypt keeps the values of a cache secret from its nodes, its store, and
// whoever can read these: it wraps a [client.Codec], and encrypts what that one encodes.
//
//	keys, err := encrypt.NewKeys(
//		encrypt.Key{ID: "2026-10", Secret: october}, // encrypts
//		encrypt.Key{ID: "2026-07", Secret: july},    // still decrypts
//	)
//	orders := client.NewCache[Order](c, client.Default(),
//		client.WithCodec(encrypt.AESGCM(client.JSON{}, keys)))
//
// Compress before you encrypt: encrypt.AESGCM(compress.Zstd(codec, options), keys).
//
// # What is secret
//
// Values are. Keys, tags, ETags and the text of errors that are kept are not, nor is the
// length of a value. Do not compress values that have a secret beside text that
// strangers choose: the length could tell them the secret.
//
// Give every cache that holds secrets its codec, by [client.WithCodec].
// [client.DefaultCodec] is not enough: bytes, strings and proto messages have codecs of
// their own, which it does not replace.
//
// # Readers are kept out, writers are not
//
// An entry that is not, byte for byte, what a holder of the key encrypted cannot be
// read, and the client loads the value anew. But a codec does not see which key of the
// cache a value belongs to, and the client goes by the encoding that an entry names. So
// whoever can write to the store can put an older value back, copy a value from one key
// to another, or store one that is not encrypted. Where that matters, store in the value
// which key it belongs to and check it, and use separate [Keys] for what must not be
// confused, such as tenants.
package encrypt

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/soracache/soracache/client"
)

// Why a value cannot be read, beside what the wrapped codec says. Hooks.OnUnreadable is
// told; test with errors.Is.
var (
	// ErrUnknownKey says that the value was encrypted with a key that is not among those
	// known here.
	ErrUnknownKey = errors.New("encrypted with a key that is not known")
	// ErrNotAuthentic says that the value is not what a holder of the key wrote: it is
	// damaged, was tampered with, or is of another codec.
	ErrNotAuthentic = errors.New("not what a holder of the key encrypted")
)

// AESGCM returns a codec that encrypts what codec encodes, with the first of keys, and
// decrypts it with the one that it was encrypted with. Its name is codec's name followed
// by "+xaes256gcm", such as "json+xaes256gcm". If codec or keys are nil, so is the
// result, which the client refuses.
//
// The cipher is AES-256 in Galois/Counter mode, with a random nonce of 192 bits as the
// C2SP specification XAES-256-GCM has it. With the 96 bits of plain AES-GCM, a key would
// have to be replaced before all processes together have encrypted 2^32 values. Here
// nobody has to count.
//
// The result is safe for concurrent use.
func AESGCM(codec client.Codec, keys *Keys) client.Codec {
	if codec == nil || keys == nil || keys.known.Load() == nil {
		return nil
	}
	name := codec.Name() + "+xaes256gcm"
	return &aesgcm{codec: codec, keys: keys, name: name, bound: []byte(name)}
}

// aesgcm encrypts what another codec encodes. It stores, one after the other: one byte
// with the length of the key's id, the id, the nonce, and what XAES-256-GCM makes of the
// encoded value, with the codec's name as additional data, so that an entry that names
// another codec cannot be read. This is a stored format and never changes.
type aesgcm struct {
	codec client.Codec
	keys  *Keys
	name  string
	bound []byte
}

// Name returns the name of the wrapped codec followed by "+xaes256gcm".
func (c *aesgcm) Name() string { return c.name }

// Marshal encrypts what the wrapped codec makes of a value.
func (c *aesgcm) Marshal(value any) ([]byte, error) {
	data, err := c.codec.Marshal(value)
	if err != nil {
		return nil, err
	}
	k := c.keys.known.Load().first
	head := 1 + len(k.id) + nonceBytes
	out := make([]byte, head, head+len(data)+tagBytes)
	out[0] = byte(len(k.id)) //nolint:gosec // checked by NewKeys
	copy(out[1:], k.id)
	nonce := out[head-nonceBytes:]
	_, _ = rand.Read(nonce) // never fails
	return k.seal(out, nonce, data, c.bound), nil
}

// Unmarshal has the wrapped codec decode what Marshal encrypted.
func (c *aesgcm) Unmarshal(data []byte, into any) error {
	id, sealed, ok := split(data)
	if !ok {
		return fmt.Errorf("%w: %d bytes are too few", ErrNotAuthentic, len(data))
	}
	k, ok := c.keys.known.Load().byID[string(id)]
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnknownKey, id)
	}
	content, err := k.open(sealed[:nonceBytes], sealed[nonceBytes:], c.bound)
	if err != nil {
		return ErrNotAuthentic
	}
	return c.codec.Unmarshal(content, into)
}

// split returns the key's id, and the nonce with what is behind it.
func split(data []byte) (id, sealed []byte, ok bool) {
	if len(data) == 0 {
		return nil, nil, false
	}
	end := 1 + int(data[0])
	if len(data) < end+nonceBytes+tagBytes {
		return nil, nil, false
	}
	return data[1:end], data[end:], true
}
