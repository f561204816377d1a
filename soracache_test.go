package soracache_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
)

func TestWordsForPeople(t *testing.T) {
	for got, want := range map[fmt.Stringer]string{
		soracache.Key("a"):              "key:a",
		soracache.Tag("a"):              "tag:a",
		soracache.Everything():          "everything",
		soracache.Target{9, "a"}:        "target(9):a",
		soracache.TierNone:              "none",
		soracache.TierNear:              "near",
		soracache.TierL1:                "l1",
		soracache.TierL2:                "l2",
		soracache.Tier(9):               "l2",
		soracache.ReasonNone:            "stored",
		soracache.ReasonSuperseded:      "superseded",
		soracache.ReasonLeaseLost:       "lease lost",
		soracache.Reason(9):             "lease lost",
		soracache.Lease{0: 1, 15: 0xff}: "010000000000000000000000000000ff",
	} {
		if got.String() != want {
			t.Errorf("%T reads %q, want %q", got, got, want)
		}
	}
}

func TestParseLease(t *testing.T) {
	whole := bytes.Repeat([]byte{7}, 16)
	if got, err := soracache.ParseLease(whole); err != nil || !bytes.Equal(got[:], whole) {
		t.Errorf("16 bytes: %v, %v", got, err)
	}
	if got, err := soracache.ParseLease(nil); err != nil || got != (soracache.Lease{}) {
		t.Errorf("no bytes: %v, %v", got, err)
	}
	for _, n := range []int{1, 15, 17, 32} {
		if _, err := soracache.ParseLease(make([]byte, n)); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestCheckNamespace(t *testing.T) {
	for _, good := range []string{soracache.DefaultNamespace, "a", "0", "a-b_c", strings.Repeat("a", 64)} {
		if err := soracache.CheckNamespace(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-a", "_a", "A", "a b", "a/b", "a{b}", "é", "a\n", "\x00", strings.Repeat("a", 65)} {
		if err := soracache.CheckNamespace(bad); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCheckNames(t *testing.T) {
	limits := soracache.DefaultLimits()
	checks := map[string]struct {
		check func(string) error
		most  int
	}{
		"key": {limits.CheckKey, 1024},
		"tag": {limits.CheckTag, 256},
	}
	for what, c := range checks {
		for _, good := range []string{"a", "\x00", "日本", " ", strings.Repeat("a", c.most)} {
			if err := c.check(good); err != nil {
				t.Errorf("%s %.20q: %v", what, good, err)
			}
		}
		for _, bad := range []string{"", "\xff", "a\xc3", "\xed\xa0\x80", strings.Repeat("a", c.most+1)} {
			if err := c.check(bad); !errors.Is(err, soracache.ErrInvalid) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s %.20q: %v", what, bad, err)
			}
		}
	}
}

func TestCheckEntry(t *testing.T) {
	limits := soracache.DefaultLimits()
	tags := func(n int) []string { return strings.Split(strings.Repeat("t,", n-1)+"t", ",") }
	for what, c := range map[string]struct {
		entry soracache.Entry
		want  error
	}{
		"nothing":              {soracache.Entry{}, nil},
		"the largest value":    {soracache.Entry{Value: make([]byte, 8<<20)}, nil},
		"too large a value":    {soracache.Entry{Value: make([]byte, 8<<20+1)}, soracache.ErrTooLarge},
		"the most tags":        {soracache.Entry{Tags: tags(64)}, nil},
		"too many tags":        {soracache.Entry{Tags: tags(65)}, soracache.ErrInvalid},
		"an empty tag":         {soracache.Entry{Tags: []string{"a", ""}}, soracache.ErrInvalid},
		"the last kind":        {soracache.Entry{Kind: soracache.KindError}, nil},
		"an unknown kind":      {soracache.Entry{Kind: soracache.KindError + 1}, soracache.ErrInvalid},
		"the longest encoding": {soracache.Entry{Encoding: strings.Repeat("e", 255)}, nil},
		"too long an encoding": {soracache.Entry{Encoding: strings.Repeat("e", 256)}, soracache.ErrInvalid},
		"a broken encoding":    {soracache.Entry{Encoding: "\xff"}, soracache.ErrInvalid},
		"the longest etag":     {soracache.Entry{ETag: strings.Repeat("e", 255)}, nil},
		"too long an etag":     {soracache.Entry{ETag: strings.Repeat("e", 256)}, soracache.ErrInvalid},
		"a broken etag":        {soracache.Entry{ETag: "\xff"}, soracache.ErrInvalid},
	} {
		if err := limits.CheckEntry(c.entry); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func TestCheckLifetime(t *testing.T) {
	limits := soracache.DefaultLimits()
	const month = 30 * 24 * time.Hour
	for _, c := range []struct {
		life soracache.Lifetime
		good bool
	}{
		{soracache.Lifetime{TTL: time.Millisecond}, true},
		{soracache.Lifetime{TTL: month}, true},
		{soracache.Lifetime{TTL: month, Keep: month, L1: month}, true},
		{soracache.Lifetime{TTL: time.Second, Keep: time.Second}, true},
		{soracache.Lifetime{}, false},
		{soracache.Lifetime{TTL: -time.Second}, false},
		{soracache.Lifetime{TTL: time.Millisecond - 1}, false},
		{soracache.Lifetime{Keep: time.Hour}, false},
		{soracache.Lifetime{TTL: month + 1}, false},
		{soracache.Lifetime{TTL: time.Second, Keep: time.Second - 1}, false},
		{soracache.Lifetime{TTL: time.Second, Keep: -1}, false},
		{soracache.Lifetime{TTL: time.Second, Keep: month + 1}, false},
		{soracache.Lifetime{TTL: time.Second, L1: -1}, false},
	} {
		err := limits.CheckLifetime(c.life)
		if (err == nil) != c.good || err != nil && !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%+v: %v", c.life, err)
		}
	}
}

func TestLimitsValidate(t *testing.T) {
	if err := soracache.DefaultLimits().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for what, spoil := range map[string]func(l *soracache.Limits){
		"no key":            func(l *soracache.Limits) { l.KeyBytes = 0 },
		"too long a key":    func(l *soracache.Limits) { l.KeyBytes = 32<<10 + 1 },
		"no tag":            func(l *soracache.Limits) { l.TagBytes = 0 },
		"too long a tag":    func(l *soracache.Limits) { l.TagBytes = 32<<10 + 1 },
		"no tags":           func(l *soracache.Limits) { l.Tags = 0 },
		"too many tags":     func(l *soracache.Limits) { l.Tags = 1025 },
		"no value":          func(l *soracache.Limits) { l.ValueBytes = 0 },
		"too large a value": func(l *soracache.Limits) { l.ValueBytes = 256<<20 + 1 },
		"no TTL":            func(l *soracache.Limits) { l.TTL = 0 },
		"too long a TTL":    func(l *soracache.Limits) { l.TTL = 367 * 24 * time.Hour },
		"no batch":          func(l *soracache.Limits) { l.Batch = 0 },
		"too large a batch": func(l *soracache.Limits) { l.Batch = 100_001 },
	} {
		l := soracache.DefaultLimits()
		spoil(&l)
		if err := l.Validate(); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestNormalizeTags(t *testing.T) {
	given := []string{"b", "a", "b", "", "a"}
	if got := soracache.NormalizeTags(given); !slices.Equal(got, []string{"", "a", "b"}) {
		t.Errorf("normalized: %q", got)
	}
	if !slices.Equal(given, []string{"b", "a", "b", "", "a"}) {
		t.Errorf("the input became %q", given)
	}
	if got := soracache.NormalizeTags(nil); len(got) != 0 {
		t.Errorf("nothing became %q", got)
	}
}
