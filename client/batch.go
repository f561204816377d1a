package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/soracache/soracache"
)

// For returns, inside a batch loader, the fill of one of its keys: what is said
// to it holds for that key alone. What is said to the fill itself holds for all
// of the batch; of two that contradict each other, the later counts. For any
// other key it returns nil, which takes everything and does nothing.
func (f *LoadContext) For(key string) *LoadContext {
	switch {
	case f == nil:
		return nil
	case f.parts != nil:
		return f.parts[key]
	case f.key == key:
		return f
	}
	return nil
}

// PreviousOf is [Previous] for one key of a batch loader. To say that the value is
// still right, the loader returns a [*ManyError] with [ErrNotModified] for the key.
func PreviousOf[T any](ctx context.Context, key string) (value T, etag string, ok bool) {
	return Previous[T](context.WithValue(ctx, fillKey{}, LoadContextFrom(ctx).For(key)))
}

// newBatch is the fill of a batch loader, of no keys yet.
func newBatch(c *Client, schema string, parent *LoadContext, keys int) *LoadContext {
	return &LoadContext{client: c, schema: schema, parent: parent, parts: make(map[string]*LoadContext, keys)}
}

// add makes a fill that of one key of the batch. Whatever the loader reads is
// asked to reflect what any of the leases does, since it goes into all values.
func (f *LoadContext) add(part *LoadContext) {
	f.parts[part.key] = part
	if part.leased {
		f.leased, f.stamp = true, f.stamp.Merge(part.stamp)
	}
}

// has tells whether this is the fill of a key.
func (f *LoadContext) has(key string) bool {
	if f.parts != nil {
		return f.parts[key] != nil
	}
	return f.key == key
}

// gather takes in what a batch loader read, for all keys at once: what it means
// for each of them is found out when the loader has returned.
func (f *LoadContext) gather(c *Client, in ingredient) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed {
		return
	}
	f.gathered.tags = append(f.gathered.tags, in.tags...)
	if f.client != c {
		in.proofs, in.taint = nil, errForeign
	}
	f.gathered.proofs = append(f.gathered.proofs, in.proofs...)
	if f.gathered.taint == nil {
		f.gathered.taint = in.taint
	}
	f.absorbed = true
}

// sealParts passes on what was gathered, and ends what can be said of each key.
func (f *LoadContext) sealParts() {
	if f.parts == nil {
		return
	}
	f.mu.Lock()
	all, absorbed := f.gathered, f.absorbed
	f.sealed = true
	f.mu.Unlock()
	all.tags = soracache.NormalizeTags(all.tags)
	for _, part := range f.parts {
		if absorbed {
			part.absorb(f.client, all)
		}
		part.seal()
	}
}

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

// errorsOf returns what the error of a batch loader means for each of the keys that it
// was called with. A [*ManyError] speaks of single keys if it is about these: see
// [Cache.GetOrSetMany]. One of another call, which the loader hands on, is an error
// like any other. So is one beside which there is no result for those that it does not
// name: that they do not exist was not said.
func errorsOf[T any](keys []string, values map[string]T, err error) func(key string) error {
	many, ok := err.(*ManyError) //nolint:errorlint // one that is wrapped is of another call
	switch {
	case !ok:
		return func(string) error { return err }
	case !many.isAbout(keys):
		return func(string) error { return othersError{many} }
	}
	return func(key string) error {
		if own := many.Errors[key]; own != nil || values != nil {
			return own
		}
		return othersError{many}
	}
}

// othersError is a ManyError to a key that it is not about. An answer to one of its
// keys, such as that there is no such thing, is none to that key.
type othersError struct{ *ManyError }

// Unwrap returns what is no answer.
func (e othersError) Unwrap() []error {
	return slices.DeleteFunc(e.ManyError.Unwrap(), isAnswer)
}
