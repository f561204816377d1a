package encrypt

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// The vectors of the specification, one for each value of the bit that decides whether
// the subkey is reduced.
func TestXAESVectors(t *testing.T) {
	for _, tt := range []struct {
		key               byte
		plain, bound, hex string
	}{
		{1, "XAES-256-GCM", "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "XAES-256-GCM", "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x, err := newXAES(Key{ID: "k", Secret: bytes.Repeat([]byte{tt.key}, SecretBytes)})
		if err != nil {
			t.Fatal(err)
		}
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		sealed := x.seal(nil, nonce, []byte(tt.plain), []byte(tt.bound))
		if got := hex.EncodeToString(sealed); got != tt.hex {
			t.Errorf("key of %d: sealed %s; want %s", tt.key, got, tt.hex)
		}
		if opened, err := x.open(nonce, sealed, []byte(tt.bound)); string(opened) != tt.plain || err != nil {
			t.Errorf("key of %d: opened %q, %v", tt.key, opened, err)
		}
	}
}
