package client_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

func TestStampKeys(t *testing.T) {
	w := newWorld(t)
	receipt, err := w.client.InvalidateTags(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	stamp := receipt.Stamp
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	keys := func(seal []byte, accept ...[]byte) client.StampKeys {
		k, err := client.NewStampKeys(seal, accept...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one, both, two := keys(key(1)), keys(key(2), key(1)), keys(key(2))
	sealed := one.Seal(stamp)

	for name, k := range map[string]client.StampKeys{"its own key": one, "a key that is still accepted": both} {
		if opened, err := k.Open(sealed); err != nil || opened.String() != stamp.String() {
			t.Errorf("%s: %v, %v", name, opened, err)
		}
	}
	if opened, err := two.Open(both.Seal(stamp)); err != nil || opened.String() != stamp.String() {
		t.Errorf("sealed by the first key: %v, %v", opened, err)
	}
	text, mac, _ := strings.Cut(sealed, ".")
	for name, open := range map[string]func() (client.Stamp, error){
		"another key":            func() (client.Stamp, error) { return two.Open(sealed) },
		"no key":                 func() (client.Stamp, error) { return client.StampKeys{}.Open(sealed) },
		"no seal":                func() (client.Stamp, error) { return one.Open(text) },
		"an empty seal":          func() (client.Stamp, error) { return one.Open(text + ".") },
		"a seal cut short":       func() (client.Stamp, error) { return one.Open(sealed[:len(sealed)-3]) },
		"another stamp's seal":   func() (client.Stamp, error) { return one.Open("x" + text + "." + mac) },
		"sealed, read as if not": func() (client.Stamp, error) { return client.ParseStamp(sealed) },
		"too long":               func() (client.Stamp, error) { return one.Open(strings.Repeat("a", 65<<10)) },
	} {
		if s, err := open(); !errors.Is(err, soracache.ErrInvalid) || !s.IsZero() {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if s, err := one.Open(one.Seal(client.Stamp{})); err != nil || !s.IsZero() {
		t.Errorf("nothing: %v, %v", s, err)
	}
	if _, err := client.NewStampKeys(key(1), key(2)[:15]); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("a short key: %v", err)
	}
	if _, err := client.NewStampKeys(nil); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("no key: %v", err)
	}

	h := http.Header{}
	one.SetHeader(client.WithStamp(t.Context(), stamp), h)
	carried := func(ctx context.Context) string { return client.StampFrom(ctx).String() }
	if got := carried(one.WithHeader(t.Context(), h)); got != stamp.String() {
		t.Errorf("carries %q", got)
	}
	h.Add(client.StampHeader, stamp.String()) // made up
	if got := carried(one.WithHeader(t.Context(), h)); got != "" {
		t.Errorf("carries %q of what was made up", got)
	}
}

func FuzzOpenStamp(f *testing.F) {
	k, err := client.NewStampKeys(bytes.Repeat([]byte{7}, 16))
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
