package encrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// The lengths of XAES-256-GCM.
const (
	nonceBytes = 24
	tagBytes   = 16
	// The first half of a nonce chooses a key of AES-256-GCM, whose own nonce is the
	// second half.
	half = nonceBytes / 2
)

// xaes is XAES-256-GCM with one key, as https://c2sp.org/XAES-256-GCM specifies it: a
// key of AES-256-GCM is derived from the key and the first half of a nonce (by CMAC in
// counter mode, NIST SP 800-108), and used with the other half. Two nonces of 192 random
// bits do not collide in practice, which two of 96 bits may after 2^32 values.
type xaes struct {
	id    string
	block cipher.Block
	// k1 is the subkey of CMAC for whole blocks, and all messages here are one block.
	k1 [aes.BlockSize]byte
}

func newXAES(k Key) (*xaes, error) {
	block, err := aes.NewCipher(k.Secret)
	if err != nil {
		return nil, err
	}
	x := &xaes{id: k.ID, block: block}
	block.Encrypt(x.k1[:], x.k1[:]) // of zeros
	// It is doubled in the field of 2^128 elements, in constant time.
	var carry byte
	for i := len(x.k1) - 1; i >= 0; i-- {
		next := x.k1[i] >> 7
		x.k1[i] = x.k1[i]<<1 | carry
		carry = next
	}
	x.k1[len(x.k1)-1] ^= carry * 0x87
	return x, nil
}

// seal appends to out what is encrypted under a nonce.
func (x *xaes) seal(out, nonce, data, bound []byte) []byte {
	return x.derive(nonce[:half]).Seal(out, nonce[half:], data, bound)
}

// open returns what was encrypted, in memory of its own.
func (x *xaes) open(nonce, sealed, bound []byte) ([]byte, error) {
	return x.derive(nonce[:half]).Open(nil, nonce[half:], sealed, bound)
}

// derive returns AES-256-GCM with the key that the first half of a nonce chooses.
func (x *xaes) derive(nonce []byte) cipher.AEAD {
	var derived [2 * aes.BlockSize]byte
	for i := range 2 {
		message := derived[i*aes.BlockSize:][:aes.BlockSize]
		message[1], message[2] = byte(i+1), 'X'
		copy(message[4:], nonce)
		subtle.XORBytes(message, message, x.k1[:])
		x.block.Encrypt(message, message)
	}
	block, err := aes.NewCipher(derived[:])
	if err != nil {
		panic(err) // its length is right
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has blocks of 16 bytes
	}
	return gcm
}
