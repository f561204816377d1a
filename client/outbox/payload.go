package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// version is the format of payloads that this package writes and reads.
const version = 1

// payload is an invalidation as a row carries it. A later version may write
// another format; a relay that does not know it must not guess.
type payload struct {
	Version     int      `json:"v"`
	Keys        []string `json:"keys,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	All         bool     `json:"all,omitempty"`
	Acknowledge bool     `json:"ack,omitempty"`
	// Settle is in nanoseconds.
	Settle time.Duration `json:"settle_ns,omitempty"`
}

// encode returns what a row is to carry, in ASCII: so no connection's character
// set can change it, and with it which key is invalidated.
func encode(what client.Invalidation) (string, error) {
	if err := check(what); err != nil {
		return "", err
	}
	text, err := json.Marshal(payload{
		Version: version, Keys: what.Keys, Tags: what.Tags, All: what.All,
		Acknowledge: what.Acknowledge, Settle: what.Settle,
	})
	if err != nil {
		return "", err
	}
	return ascii(text), nil
}

// decode is the reverse. Its errors wrap [soracache.ErrInvalid].
func decode(text string) (client.Invalidation, error) {
	var p payload
	in := json.NewDecoder(strings.NewReader(text))
	in.DisallowUnknownFields() // a field that is not known may say what matters
	if err := in.Decode(&p); err != nil {
		return client.Invalidation{}, invalid("unreadable payload: %s", err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return client.Invalidation{}, invalid("unreadable payload: there is more after it")
	}
	if p.Version != version {
		return client.Invalidation{}, invalid("payload of version %d: this is %d", p.Version, version)
	}
	what := client.Invalidation{Keys: p.Keys, Tags: p.Tags, All: p.All, Acknowledge: p.Acknowledge, Settle: p.Settle}
	return what, check(what)
}

// check refuses what no service would take. Which lengths it takes, only the
// service knows.
func check(what client.Invalidation) error {
	if len(what.Keys) == 0 && len(what.Tags) == 0 && !what.All {
		return invalid("an invalidation that names nothing")
	}
	for _, names := range [][]string{what.Keys, what.Tags} {
		for _, name := range names {
			if name == "" || !utf8.ValidString(name) {
				return invalid("%q cannot be a key or a tag", name)
			}
		}
	}
	if what.Settle < 0 || what.Settle > soracache.MaxSettle {
		return invalid("settle of %s: 0 to %s", what.Settle, soracache.MaxSettle)
	}
	return nil
}

// ascii writes JSON without any other characters.
func ascii(text []byte) string {
	var out bytes.Buffer
	for _, r := range string(text) {
		switch high, low := utf16.EncodeRune(r); {
		case r < utf8.RuneSelf:
			out.WriteRune(r)
		case high != utf8.RuneError:
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// plain makes an error's text one that every column of text can hold.
func plain(err error) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	return text[:min(len(text), 1000)]
}
