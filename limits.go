package soracache

import (
	"fmt"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"
)

// DefaultNamespace is the namespace of requests that name none.
const DefaultNamespace = "default"

// Limits bounds what the service takes in. Every field must be positive;
// [DefaultLimits] has the defaults.
type Limits struct {
	KeyBytes   int           // longest key, in bytes of UTF-8 (default 1,024)
	TagBytes   int           // longest tag, in bytes of UTF-8 (default 256)
	Tags       int           // most tags of an entry or of an invalidation's entry (default 64)
	ValueBytes int           // largest value, in bytes (default 8 MiB)
	TTL        time.Duration // longest TTL or keep time (default 30 days)
	Batch      int           // most keys, tags or writes in one request (default 1,000)
}

// DefaultLimits returns the limits of a service that was told nothing else.
func DefaultLimits() Limits {
	return Limits{
		KeyBytes:   1024,
		TagBytes:   256,
		Tags:       64,
		ValueBytes: 8 << 20,
		TTL:        30 * 24 * time.Hour,
		Batch:      1000,
	}
}

// Validate reports the first field that is not usable.
func (l Limits) Validate() error {
	switch {
	case l.KeyBytes < 1 || l.KeyBytes > 32<<10:
		return fmt.Errorf("%w: key limit must be 1 to 32768 bytes", ErrInvalid)
	case l.TagBytes < 1 || l.TagBytes > 32<<10:
		return fmt.Errorf("%w: tag limit must be 1 to 32768 bytes", ErrInvalid)
	case l.Tags < 1 || l.Tags > 1024:
		return fmt.Errorf("%w: tags per entry must be 1 to 1024", ErrInvalid)
	case l.ValueBytes < 1 || l.ValueBytes > 256<<20:
		return fmt.Errorf("%w: value limit must be 1 byte to 256 MiB", ErrInvalid)
	case l.TTL < time.Millisecond || l.TTL > 366*24*time.Hour:
		return fmt.Errorf("%w: TTL limit must be 1ms to 366 days", ErrInvalid)
	case l.Batch < 1 || l.Batch > 100_000:
		return fmt.Errorf("%w: batch limit must be 1 to 100000", ErrInvalid)
	}
	return nil
}

var namespacePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// CheckNamespace reports whether a namespace has the form
// [a-z0-9][a-z0-9_-]{0,63}.
func CheckNamespace(namespace string) error {
	if !namespacePattern.MatchString(namespace) {
		return fmt.Errorf("%w: namespace %.80q must match [a-z0-9][a-z0-9_-]{0,63}", ErrInvalid, namespace)
	}
	return nil
}

// CheckKey reports whether a key is 1 to KeyBytes bytes of UTF-8.
func (l Limits) CheckKey(key string) error { return checkName("key", key, l.KeyBytes) }

// CheckTag reports whether a tag is 1 to TagBytes bytes of UTF-8.
func (l Limits) CheckTag(tag string) error { return checkName("tag", tag, l.TagBytes) }

// CheckTarget refuses a target whose name no key or tag has, and one of a kind that
// there is not.
func (l Limits) CheckTarget(t Target) error {
	switch t.Kind {
	case TargetKey:
		return l.CheckKey(t.Name)
	case TargetTag:
		return l.CheckTag(t.Name)
	case TargetAll:
		return nil
	}
	return fmt.Errorf("%w: unknown target %d", ErrInvalid, t.Kind)
}

func checkName(what, name string, most int) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty %s", ErrInvalid, what)
	case len(name) > most:
		return fmt.Errorf("%w: %s of %d bytes: at most %d", ErrInvalid, what, len(name), most)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: %s is not UTF-8", ErrInvalid, what)
	}
	return nil
}

// CheckEntry reports whether an entry is within the limits: an over-long
// value is [ErrTooLarge], everything else [ErrInvalid]. Encoding and ETag are
// at most 255 bytes of UTF-8.
func (l Limits) CheckEntry(e Entry) error {
	if len(e.Value) > l.ValueBytes {
		return fmt.Errorf("%w: value of %d bytes: at most %d", ErrTooLarge, len(e.Value), l.ValueBytes)
	}
	if len(e.Tags) > l.Tags {
		return fmt.Errorf("%w: %d tags: at most %d", ErrInvalid, len(e.Tags), l.Tags)
	}
	for _, t := range e.Tags {
		if err := l.CheckTag(t); err != nil {
			return err
		}
	}
	if e.Kind > KindError {
		return fmt.Errorf("%w: unknown kind %d", ErrInvalid, e.Kind)
	}
	if len(e.Encoding) > 255 || !utf8.ValidString(e.Encoding) {
		return fmt.Errorf("%w: encoding must be at most 255 bytes of UTF-8", ErrInvalid)
	}
	if len(e.ETag) > 255 || !utf8.ValidString(e.ETag) {
		return fmt.Errorf("%w: etag must be at most 255 bytes of UTF-8", ErrInvalid)
	}
	return nil
}

// CheckLifetime reports whether 0 < TTL <= Keep (if set) <= the limit, and L1
// is not negative.
func (l Limits) CheckLifetime(t Lifetime) error {
	switch {
	case t.TTL < time.Millisecond:
		return fmt.Errorf("%w: TTL must be at least 1ms", ErrInvalid)
	case t.TTL > l.TTL:
		return fmt.Errorf("%w: TTL of %s: at most %s", ErrInvalid, t.TTL, l.TTL)
	case t.Keep != 0 && t.Keep < t.TTL:
		return fmt.Errorf("%w: keep of %s is shorter than the TTL of %s", ErrInvalid, t.Keep, t.TTL)
	case t.Keep > l.TTL:
		return fmt.Errorf("%w: keep of %s: at most %s", ErrInvalid, t.Keep, l.TTL)
	case t.L1 < 0:
		return fmt.Errorf("%w: L1 TTL must not be negative", ErrInvalid)
	}
	return nil
}

// NormalizeTags returns the tags sorted and without repetition. The input is
// not changed.
func NormalizeTags(tags []string) []string {
	if len(tags) < 2 {
		return tags
	}
	sorted := slices.Clone(tags)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}
