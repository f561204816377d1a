package stamps_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/stamps"
)

func TestKeys(t *testing.T) {
	stamp := stamps.Of("shop", soracache.Stamps{{Partition: 3, Stamp: soracache.Stamp{Epoch: 7, Position: 42}}})
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	keys := func(seal []byte, accept ...[]byte) stamps.Keys {
		k, err := stamps.NewKeys(seal, accept...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one, both, two := keys(key(1)), keys(key(2), key(1)), keys(key(2))
	sealed := one.Seal(stamp)

	for name, k := range map[string]stamps.Keys{"its own key": one, "a key that is still accepted": both} {
		if opened, err := k.Open(sealed); err != nil || opened.String() != stamp.String() {
			t.Errorf("%s: %v, %v", name, opened, err)
		}
	}
	if opened, err := two.Open(both.Seal(stamp)); err != nil || opened.String() != stamp.String() {
		t.Errorf("sealed by the first key: %v, %v", opened, err)
	}
	text, mac, _ := strings.Cut(sealed, ".")
	for name, open := range map[string]func() (stamps.Stamp, error){
		"another key":            func() (stamps.Stamp, error) { return two.Open(sealed) },
		"no key":                 func() (stamps.Stamp, error) { return stamps.Keys{}.Open(sealed) },
		"no seal":                func() (stamps.Stamp, error) { return one.Open(text) },
		"an empty seal":          func() (stamps.Stamp, error) { return one.Open(text + ".") },
		"a seal cut short":       func() (stamps.Stamp, error) { return one.Open(sealed[:len(sealed)-3]) },
		"another stamp's seal":   func() (stamps.Stamp, error) { return one.Open("x" + text + "." + mac) },
		"sealed, read as if not": func() (stamps.Stamp, error) { return stamps.Parse(sealed) },
		"too long":               func() (stamps.Stamp, error) { return one.Open(strings.Repeat("a", 65<<10)) },
	} {
		if s, err := open(); !errors.Is(err, soracache.ErrInvalid) || !s.IsZero() {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if s, err := one.Open(one.Seal(stamps.Stamp{})); err != nil || !s.IsZero() {
		t.Errorf("nothing: %v, %v", s, err)
	}
	if _, err := stamps.NewKeys(key(1), key(2)[:15]); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("a short key: %v", err)
	}
	if _, err := stamps.NewKeys(nil); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("no key: %v", err)
	}

	h := http.Header{}
	one.SetHeader(stamps.With(t.Context(), stamp), h)
	carried := func(ctx context.Context) string { return stamps.From(ctx).String() }
	if got := carried(one.WithHeader(t.Context(), h)); got != stamp.String() {
		t.Errorf("carries %q", got)
	}
	h.Add(stamps.Header, stamp.String()) // made up
	if got := carried(one.WithHeader(t.Context(), h)); got != "" {
		t.Errorf("carries %q of what was made up", got)
	}
}

func FuzzOpenStamp(f *testing.F) {
	k, err := stamps.NewKeys(bytes.Repeat([]byte{7}, 16))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("shop=AQAAAAAAAAAAB.AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := k.Open(text); err == nil && k.Seal(s) != text {
			t.Errorf("%q was not sealed", text)
		}
	})
}
