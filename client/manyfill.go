package client

import (
	"context"

	"github.com/soracache/soracache"
)

// For returns, inside a batch loader, the fill of one of its keys: what is said
// to it holds for that key alone. What is said to the fill itself holds for all
// of the batch; of two that contradict each other, the later counts. For any
// other key it returns nil, which takes everything and does nothing.
func (f *Fill) For(key string) *Fill {
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
	return Previous[T](context.WithValue(ctx, fillKey{}, FillFrom(ctx).For(key)))
}

// newBatch is the fill of a batch loader, of no keys yet.
func newBatch(c *Client, schema string, parent *Fill, keys int) *Fill {
	return &Fill{client: c, schema: schema, parent: parent, parts: make(map[string]*Fill, keys)}
}

// add makes a fill that of one key of the batch. Whatever the loader reads is
// asked to reflect what any of the leases does, since it goes into all values.
func (f *Fill) add(part *Fill) {
	f.parts[part.key] = part
	if part.leased {
		f.leased, f.stamp = true, f.stamp.Merge(part.stamp)
	}
}

// has tells whether this is the fill of a key.
func (f *Fill) has(key string) bool {
	if f.parts != nil {
		return f.parts[key] != nil
	}
	return f.key == key
}

// gather takes in what a batch loader read, for all keys at once: what it means
// for each of them is found out when the loader has returned.
func (f *Fill) gather(c *Client, in ingredient) {
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
func (f *Fill) sealParts() {
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
