package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/flight"
)

// LoadContext is what a loader may say about the value that it is loading. A loader
// gets its own from [LoadContextFrom], and the interceptors around it get the same. What is
// said after the outermost of them has returned has no effect. A nil LoadContext takes everything and does nothing.
//
// A loader that itself reads from the same client needs to say nothing: what
// it reads is proven at least as new as the lease that it loads under, and the
// tags of what it reads become tags of what it loads.
type LoadContext struct {
	client *Client
	schema string
	key    string
	// parent is the fill inside whose loader this one was asked for.
	parent *LoadContext
	// parts are, in a batch loader, the fills of its keys. This one then stands for
	// all of them: what is said to it is passed on. It has no key of its own, and
	// its stamp has what any of theirs reflects. See [LoadContext.For].
	parts map[string]*LoadContext
	// leased tells whether the value can be stored at all, and stamp is then
	// the lease's: how much of the ledger the value is known to reflect.
	leased bool
	stamp  soracache.Stamps
	// visit is the call of the loader to its source, if that is one of the policy's.
	visit *visit

	// mu guards what follows: a loader may use several goroutines.
	mu         sync.Mutex
	sealed     bool // the loader has returned
	policy     Policy
	doNotCache bool
	ttlSet     bool // the loader has spoken of the TTL
	etag       string
	// tags are those found while loading, which Change cannot take away.
	tags []string
	// previous is a *T with the value that is to be replaced, and before its
	// entry; nil: there is none. Neither changes after the loader was called.
	previous any
	before   soracache.Entry
	// taint is the first ingredient's reason not to store the value.
	taint error
	// gathered is, in a batch loader, what was read inside, if that was absorbed.
	gathered ingredient
	absorbed bool
	// proofs are the stamps of what was read inside. They matter only to a
	// loader further out when this value itself has no lease, and so no stamp.
	proofs []soracache.Stamps
}

type fillKey struct{}

// LoadContextFrom returns the fill of the loader that was called with ctx, or nil
// outside of a loader.
func LoadContextFrom(ctx context.Context) *LoadContext {
	f, _ := ctx.Value(fillKey{}).(*LoadContext)
	return f
}

// AddTags adds tags to the value, beside those of its policy.
func (f *LoadContext) AddTags(tags ...string) {
	f.change(func(f *LoadContext) { f.tags = slices.Concat(f.tags, tags) })
}

// SetTTL changes how long the value is fresh. Zero or less means not to store
// it, unless a later call says otherwise.
func (f *LoadContext) SetTTL(ttl time.Duration) {
	f.change(func(f *LoadContext) { f.policy, f.ttlSet = f.policy.WithTTL(max(ttl, 0)), true })
}

// SetETag stores a validator of the source beside the value, for the next
// loader to get from [Previous]. It has at most 255 bytes of UTF-8: with any other the
// value is not stored.
func (f *LoadContext) SetETag(etag string) {
	f.change(func(f *LoadContext) { f.etag = etag })
}

// AdjustPolicy changes the policy under which the value is stored. How long to wait
// for the loader is decided already, and tags that were found while loading
// stay. If the result can never be right, the value is not stored.
func (f *LoadContext) AdjustPolicy(change func(*Policy)) {
	if f == nil {
		return
	}
	for _, part := range f.parts {
		part.AdjustPolicy(change)
	}
	f.mu.Lock()
	before, sealed := f.policy, f.sealed
	f.mu.Unlock()
	if sealed {
		return
	}
	after := before.With(change) // which may read from the cache, and so tell this fill
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.sealed {
		f.policy = f.policy.changed(before, after)
	}
}

// DoNotCache lets the value be returned to its callers and not be stored, whatever
// else is said.
func (f *LoadContext) DoNotCache() {
	f.change(func(f *LoadContext) { f.doNotCache = true })
}

// change runs do under the lock, unless the loader has returned. In a batch
// loader it does so for every key.
func (f *LoadContext) change(do func(*LoadContext)) {
	if f == nil {
		return
	}
	for _, part := range f.parts {
		part.change(do)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.sealed {
		do(f)
	}
}

// seal ends what the loader can say.
func (f *LoadContext) seal() {
	f.sealParts()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sealed = true
}

// verdict is what the loader said: the policy to store the value under with all
// of its tags, and its etag, or the reason not to store it.
func (f *LoadContext) verdict() (policy Policy, etag string, refused error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	policy = f.policy.WithTags(f.tags...)
	if f.doNotCache || f.ttlSet && policy.notStored {
		return policy, f.etag, errDoNotCache
	}
	if f.taint != nil {
		return policy, f.etag, f.taint
	}
	return policy, f.etag, policy.Validate()
}

// loads tells whether this fill, or one that it is nested in, is loading the
// key in the schema at this moment.
func (f *LoadContext) loads(c *Client, schema, key string) bool {
	for ; f != nil; f = f.parent {
		if f.client == c && f.schema == schema && f.has(key) && !f.ended() {
			return true
		}
	}
	return false
}

func (f *LoadContext) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sealed
}

// leftBehind returns the context, and the fill, of a call that is made within another:
// none of a loader that has returned, whose context somebody goes on with. Nothing of it
// waits for the call.
func leftBehind(ctx context.Context) (context.Context, *LoadContext) {
	outer := LoadContextFrom(ctx)
	if outer == nil || !outer.ended() {
		return ctx, outer
	}
	return flight.Outside(context.WithValue(ctx, fillKey{}, (*LoadContext)(nil))), nil
}

// ingredient is what a reader inside a loader passes on to what it loads.
type ingredient struct {
	tags []string
	// proofs are what the ingredient, or each of its own ingredients if it has
	// no stamp, is proven to reflect.
	proofs []soracache.Stamps
	// taint, if set, forbids storing what is computed from the ingredient.
	taint error
}

// absorb takes in something that the loader read through client c. Its tags
// become tags of the value, so invalidating it invalidates the value.
//
// The value may be stored only if its ingredient is proven to reflect all that
// the lease does: a record after the lease's stamp then kills the value by the
// tags it now has, and one before it the ingredient does not survive. An
// ingredient of another namespace or partition has no such proof, because an
// invalidation reaches ledgers one after the other.
func (f *LoadContext) absorb(c *Client, in ingredient) {
	if f != nil && f.parts != nil {
		f.gather(c, in)
		return
	}
	f.change(func(f *LoadContext) {
		f.tags = soracache.NormalizeTags(slices.Concat(f.tags, in.tags))
		if f.client == c { // or they would speak of other ledgers
			f.proofs = append(f.proofs, in.proofs...)
		}
		taint := in.taint
		switch {
		case f.client != c:
			taint = errForeign
		case taint == nil && f.leased && slices.ContainsFunc(in.proofs, f.exceeds):
			taint = errUnproven
		}
		if f.taint == nil {
			f.taint = taint
		}
	})
}

// exceeds tells whether the lease reflects anything that the proof does not.
func (f *LoadContext) exceeds(proof soracache.Stamps) bool {
	for _, p := range proof {
		own, _ := f.stamp.At(p.Partition) // of another partition: no epoch at all
		if own.Epoch != p.Stamp.Epoch || own.Position > p.Stamp.Position {
			return true
		}
	}
	return len(proof) == 0
}

// pure tells whether the loader was given nothing by a cache.
func (f *LoadContext) pure() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.taint == nil && len(f.proofs) == 0
}

// asIngredient is what the value brings into a loader further out.
func (f *LoadContext) asIngredient() ingredient {
	f.mu.Lock()
	defer f.mu.Unlock()
	in := ingredient{tags: soracache.NormalizeTags(slices.Concat(f.policy.Tags, f.tags)), proofs: f.proofs, taint: f.taint}
	if f.leased {
		in.proofs = []soracache.Stamps{f.stamp} // untainted, its own ingredients are no older
	}
	return in
}
