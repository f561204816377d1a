package node

import (
	"errors"
	"testing"

	"github.com/soracache/soracache"
)

func FuzzParsePage(f *testing.F) {
	f.Add("")
	f.Add(page{partition: 3, cursor: "cursor"}.String())
	f.Add("AQAA")
	f.Add("AQ==")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := parsePage(token)
		switch {
		case err != nil:
			if !errors.Is(err, soracache.ErrInvalid) {
				t.Errorf("%q: %v", token, err)
			}
		case token != "" && p.String() != token:
			t.Errorf("%q was read as %+v, which is %q", token, p, p)
		}
	})
}
