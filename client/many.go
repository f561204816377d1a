package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// GetOrSetMany returns the values of many keys, in one call: each from the
// nearest tier that has it, and those that none has from one call of load, with
// all of their keys. It stores what load returned. A key that is given several
// times is asked for once.
//
// What holds for GetOrSet holds for each key. One caller in the whole cluster
// loads it at a time: load is called with the keys that nobody else is loading,
// and only when what it returned is stored does the call wait for those that
// somebody else is. So callers with the same keys in different orders never wait
// for each other in a circle. Within the process, what is being found or loaded is
// shared with other calls, for many keys or for one.
//
// A key that the result of load lacks does not exist: it is absent from the
// result of the call, and remembered as such under a policy with a NotFoundTTL.
// If load returns an error, that is the error of the keys it was called with, and
// what it returned beside it does not count. Only a [*ManyError] that names some of
// these keys, and no other ones, is about the keys that it names: for the rest, the
// result counts if there is one, and what it lacks does not exist. A *ManyError that
// is wrapped, names other keys, or leaves some unnamed is that of another call, and
// an error like any other. Values of keys that load was not called with count for
// nothing. The context of load has the caller's values, no
// deadline, and ends when nobody wants any of its keys any more. What load says by [FillFrom] holds
// for all its keys; see [Fill.For] for one of them. Whatever it reads from the
// same client becomes an ingredient of each of its values.
//
// The keys that failed are told by an error of type [*ManyError]. The values of
// all others are returned beside it. If the service is unreachable or slow, all
// that is not in memory is loaded by one call of load, and not stored.
func (c *Cache[T]) GetOrSetMany(ctx context.Context, keys []string, load func(ctx context.Context, missing []string) (map[string]T, error), opts ...CallOption) (map[string]T, error) {
	return c.many(ctx, load, opts).all(keys)
}

// all is the call.
func (m *many[T]) all(keys []string) (map[string]T, error) {
	if err := check[T](m.client, nil, &m.settings, ""); err != nil {
		for _, key := range keys {
			m.fail(key, err)
		}
		m.count = Progress{Done: len(keys), Failed: len(keys)}
		return map[string]T{}, fmt.Errorf("client: %w", err)
	}
	ctx, end := m.client.observer.start(m.caller, OpGetOrSetMany, "")
	m.run(ctx, keys)
	values, err := m.result()
	end(Outcome{Loaded: m.count.Loaded > 0, Err: err})
	return values, err
}

// result is what the caller gets.
func (m *many[T]) result() (map[string]T, error) {
	values := make(map[string]T, len(m.found))
	for key, o := range m.found {
		if o.marker != nil {
			continue // there is none, or it is among those that failed
		}
		value, err := own(&m.settings, o.value)
		if err != nil {
			m.fail(key, err)
			continue
		}
		values[key] = value
	}
	return values, (&ManyError{Errors: m.failed}).orNil()
}

// manySettings are what holds for one call for many keys.
type manySettings struct {
	batch, concurrency int // zero: the default
	progress           func(Progress)
	total              int
}

// LoadBatch is how many keys a batch loader is called with at most. The default
// of GetOrSetMany is all of them, and that of [Cache.Each] and [Cache.Warm]
// [DefaultLoadBatch]; what is less than 1 means the default.
func LoadBatch(n int) CallOption { return func(s *settings) { s.many.batch = max(n, 0) } }

// LoadConcurrency is how many calls of a batch loader run at the same time on
// behalf of one caller. What is less than 1 means [DefaultLoadConcurrency].
func LoadConcurrency(n int) CallOption {
	return func(s *settings) { s.many.concurrency = max(n, 0) }
}

// The defaults of loads of many keys.
const (
	// DefaultLoadBatch is how many keys are read, and loaded, together where there
	// may be too many of them for memory, unless [LoadBatch] says otherwise.
	DefaultLoadBatch = 256
	// DefaultLoadConcurrency is how many calls of a batch loader run at the same
	// time, unless [LoadConcurrency] says otherwise.
	DefaultLoadConcurrency = 4
)

// ManyError says which keys of a call failed, and why. errors.Is and errors.As
// find what any of them failed with.
type ManyError struct {
	// Errors has the error of each key that failed; see Unnamed.
	Errors map[string]error
	// Unnamed is how many more failed that Errors leaves out, because they were
	// too many: see [MostWarmErrors].
	Unnamed int
}

// Error names the first few keys.
func (e *ManyError) Error() string {
	const most = 3
	keys := slices.Sorted(maps.Keys(e.Errors))
	var text strings.Builder
	fmt.Fprintf(&text, "%d of the keys failed: ", len(keys)+e.Unnamed)
	for i, key := range keys[:min(len(keys), most)] {
		if i > 0 {
			text.WriteString("; ")
		}
		fmt.Fprintf(&text, "%.80q: %v", key, e.Errors[key])
	}
	if more := len(keys) + e.Unnamed - most; more > 0 {
		fmt.Fprintf(&text, "; and %d more", more)
	}
	return text.String()
}

// Unwrap returns the errors in the order of their keys.
func (e *ManyError) Unwrap() []error {
	errs := make([]error, 0, len(e.Errors))
	for _, key := range slices.Sorted(maps.Keys(e.Errors)) {
		errs = append(errs, e.Errors[key])
	}
	return errs
}

// isAbout tells whether it names some of these keys, no other ones, and all that
// failed.
func (e *ManyError) isAbout(keys []string) bool {
	named := 0
	for _, key := range keys {
		if _, ok := e.Errors[key]; ok {
			named++
		}
	}
	return named > 0 && named == len(e.Errors) && e.Unnamed == 0
}

// orNil is the error unless there is none.
func (e *ManyError) orNil() error {
	if len(e.Errors) == 0 {
		return nil
	}
	return e
}

// unique returns the keys in their order, each once.
func unique(keys []string) []string {
	seen := make(map[string]struct{}, len(keys))
	once := make([]string, 0, len(keys))
	for _, key := range keys {
		if _, again := seen[key]; !again {
			seen[key] = struct{}{}
			once = append(once, key)
		}
	}
	return once
}
