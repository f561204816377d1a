package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server/auth"
	"github.com/soracache/soracache/internal/wire"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// The bounds that the contract sets and nobody configures.
const (
	defaultPageSize = 100
	maxPageSize     = 1000
	maxPageToken    = 4096
	minLease        = time.Millisecond
)

// parser checks what requests ask and turns it into the node's terms. It is
// pure. Its errors wrap one of the vocabulary's sentinels.
type parser struct {
	limits  soracache.Limits
	maxWait time.Duration
}

// namespace returns the namespace that a request means, if its caller may use
// it.
func (parser) namespace(ctx context.Context, name string) (string, error) {
	if name == "" {
		name = soracache.DefaultNamespace
	}
	if err := soracache.CheckNamespace(name); err != nil {
		return "", err
	}
	return name, auth.FromContext(ctx).AllowNamespace(name)
}

// readOptions are the parts of Get and BatchGet that both have.
type readOptions interface {
	GetMinStamp() []byte
	GetLease() bool
	GetWait() *durationpb.Duration
	GetRefreshWithin() *durationpb.Duration
	GetLeaseFor() *durationpb.Duration
	GetAcceptUnconfirmed() bool
	GetHolder() uint64
	GetSchema() string
}

// reads returns a request without its keys, and the read of which one for
// each key is to be made.
func (p parser) reads(ctx context.Context, namespace string, r readOptions) (soracache.GetRequest, soracache.Read, error) {
	req := soracache.GetRequest{AcceptUnconfirmed: r.GetAcceptUnconfirmed()}
	read := soracache.Read{Schema: r.GetSchema(), Lease: r.GetLease(), Holder: r.GetHolder()}
	var err error
	if err = soracache.CheckSchema(read.Schema); err != nil {
		return req, read, err
	}
	if req.Namespace, err = p.namespace(ctx, namespace); err != nil {
		return req, read, err
	}
	if read.Lease {
		// A lease keeps everybody else waiting: it is for those who can fill.
		if err = auth.FromContext(ctx).Allow(auth.Write); err != nil {
			return req, read, fmt.Errorf("a lease: %w", err)
		}
	}
	if req.MinStamp, err = soracache.DecodeStamps(r.GetMinStamp()); err != nil {
		return req, read, fmt.Errorf("min_stamp: %w", err)
	}
	if read.Wait, err = duration("wait", r.GetWait(), 0, p.maxWait); err != nil {
		return req, read, err
	}
	// It asks for nothing to be kept: a policy whose values live longer than here is
	// told so when it stores them, and reads as any other.
	longest := max(p.limits.TTL, soracache.DefaultLimits().TTL)
	if read.RefreshWithin, err = duration("refresh_within", r.GetRefreshWithin(), 0, longest); err != nil {
		return req, read, err
	}
	read.LeaseFor, err = leaseFor(r.GetLeaseFor())
	return req, read, err
}

// minStamps returns what each key's own answer must reflect, or nil where the
// request says nothing of the kind.
func minStamps(r *soracachev1.BatchGetRequest) ([]soracache.Stamps, error) {
	of := r.GetMinStampOf()
	if len(of) == 0 {
		return nil, nil
	}
	if len(of) != len(r.GetKeys()) {
		return nil, fmt.Errorf("%w: min_stamp_of has %d numbers for %d keys", soracache.ErrInvalid, len(of), len(r.GetKeys()))
	}
	different := make([]soracache.Stamps, len(r.GetMinStamps()))
	for i, b := range r.GetMinStamps() {
		var err error
		if different[i], err = soracache.DecodeStamps(b); err != nil {
			return nil, fmt.Errorf("min_stamps: %w", err)
		}
	}
	least := make([]soracache.Stamps, len(of))
	for i, number := range of {
		if number == 0 {
			continue
		}
		if int(number) > len(different) {
			return nil, fmt.Errorf("%w: min_stamp_of %d of %d", soracache.ErrInvalid, number, len(different))
		}
		least[i] = different[number-1]
	}
	return least, nil
}

// fill returns the write that completes a lease.
func (p parser) fill(r *soracachev1.FillRequest) (soracache.Write, error) {
	w, err := p.leased(soracache.OpFill, r)
	if err != nil {
		return w, err
	}
	w.Entry, w.Lifetime, err = p.entry(r)
	return w, err
}

// set returns the write that needs no lease.
func (p parser) set(r *soracachev1.SetRequest) (soracache.Write, error) {
	w, err := p.write(soracache.OpPut, r)
	if err != nil {
		return w, err
	}
	w.Entry, w.Lifetime, err = p.entry(r)
	return w, err
}

// keyed is a request that names a key in a schema.
type keyed interface {
	GetKey() string
	GetSchema() string
}

// write returns a write of a key.
func (p parser) write(op soracache.WriteOp, r keyed) (soracache.Write, error) {
	w := soracache.Write{Op: op, Key: r.GetKey(), Schema: r.GetSchema()}
	if err := p.limits.CheckKey(w.Key); err != nil {
		return w, err
	}
	return w, soracache.CheckSchema(w.Schema)
}

// leased returns a write that names a lease: one is required.
func (p parser) leased(op soracache.WriteOp, r interface {
	keyed
	GetLease() []byte
},
) (soracache.Write, error) {
	w, err := p.write(op, r)
	if err != nil {
		return w, err
	}
	if w.Lease, err = soracache.ParseLease(r.GetLease()); err != nil {
		return w, err
	}
	if w.Lease == (soracache.Lease{}) {
		return w, fmt.Errorf("%w: no lease", soracache.ErrInvalid)
	}
	return w, nil
}

// release returns the write that hands a lease back.
func (p parser) release(r *soracachev1.ReleaseRequest) (soracache.Write, error) {
	w, err := p.leased(soracache.OpRelease, r)
	w.Outcome = wire.Outcome(r.GetOutcome())
	return w, err
}

// stored are the parts of Fill and Set that both have.
type stored interface {
	GetValue() []byte
	GetTags() []string
	GetTtl() *durationpb.Duration
	GetKeep() *durationpb.Duration
	GetL1Ttl() *durationpb.Duration
	GetKind() soracachev1.Kind
	GetEncoding() string
	GetEtag() string
}

func (p parser) entry(r stored) (soracache.Entry, soracache.Lifetime, error) {
	lifetime, err := p.lifetime(r)
	if err != nil {
		return soracache.Entry{}, lifetime, err
	}
	kind, ok := wire.Kind(r.GetKind())
	if !ok {
		return soracache.Entry{}, lifetime, fmt.Errorf("%w: unknown kind %d", soracache.ErrInvalid, r.GetKind())
	}
	if kind == soracache.KindNotFound && len(r.GetValue()) > 0 {
		return soracache.Entry{}, lifetime, fmt.Errorf("%w: an entry of KIND_NOT_FOUND has no value", soracache.ErrInvalid)
	}
	entry := soracache.Entry{
		Value:    r.GetValue(),
		Tags:     r.GetTags(),
		Kind:     kind,
		Encoding: r.GetEncoding(),
		ETag:     r.GetEtag(),
	}
	if err := p.limits.CheckEntry(entry); err != nil {
		return entry, lifetime, err
	}
	entry.Tags = soracache.NormalizeTags(entry.Tags)
	return entry, lifetime, nil
}

func (p parser) lifetime(r stored) (soracache.Lifetime, error) {
	var lifetime soracache.Lifetime
	var err error
	if lifetime.TTL, err = duration("ttl", r.GetTtl(), minLease, p.limits.TTL); err != nil {
		return lifetime, err
	}
	if lifetime.Keep, err = optional("keep", r.GetKeep(), p.limits.TTL); err != nil {
		return lifetime, err
	}
	if lifetime.L1, err = optional("l1_ttl", r.GetL1Ttl(), p.limits.TTL); err != nil {
		return lifetime, err
	}
	return lifetime, p.limits.CheckLifetime(lifetime)
}

// invalidation returns what a request names: at least one target.
func (p parser) invalidation(ctx context.Context, r *soracachev1.InvalidateRequest) (soracache.InvalidateRequest, error) {
	var req soracache.InvalidateRequest
	var err error
	if req.Namespace, err = p.namespace(ctx, r.GetNamespace()); err != nil {
		return req, err
	}
	n := len(r.GetKeys()) + len(r.GetTags())
	if err := p.batch(n); err != nil {
		return req, err
	}
	req.Targets = wire.InvalidatedBy(r)
	for _, t := range req.Targets {
		if err := p.limits.CheckTarget(t); err != nil {
			return req, err
		}
	}
	if len(req.Targets) == 0 {
		return req, fmt.Errorf("%w: nothing to invalidate: name keys, tags, or all", soracache.ErrInvalid)
	}
	req.Acknowledge = r.GetAcknowledge()
	req.Settle, err = duration("settle", r.GetSettle(), 0, soracache.MaxSettle)
	return req, err
}

// batch checks the size of a batch. An empty batch is answered with nothing.
func (p parser) batch(n int) error {
	if n > p.limits.Batch {
		return fmt.Errorf("%w: batch of %d: at most %d", soracache.ErrTooLarge, n, p.limits.Batch)
	}
	return nil
}

// sameNamespace checks that an item of a batch is of the batch's namespace.
func sameNamespace(item, batch string) error {
	if item != "" && item != batch {
		return fmt.Errorf("%w: namespace %.80q in a batch of namespace %q", soracache.ErrInvalid, item, batch)
	}
	return nil
}

// page returns how many keys a listing is to have.
func (parser) page(size int32, token string) (int, error) {
	switch {
	case size < 0 || size > maxPageSize:
		return 0, fmt.Errorf("%w: page_size of %d: 1 to %d, or 0 for %d", soracache.ErrInvalid, size, maxPageSize, defaultPageSize)
	case len(token) > maxPageToken:
		return 0, fmt.Errorf("%w: malformed page_token", soracache.ErrInvalid)
	case size == 0:
		return defaultPageSize, nil
	}
	return int(size), nil
}

// leaseFor returns how long a lease is to last; zero means the default.
func leaseFor(d *durationpb.Duration) (time.Duration, error) {
	return optional("lease_for", d, soracache.MaxLease)
}

// optional is duration for what may be left out, or be zero, but is otherwise
// at least the millisecond that stores can tell from zero.
func optional(what string, d *durationpb.Duration, most time.Duration) (time.Duration, error) {
	if d.GetSeconds() == 0 && d.GetNanos() == 0 {
		return 0, nil
	}
	return duration(what, d, minLease, most)
}

// duration returns a duration in the range; nil is zero. What the message can
// say and Go cannot hold is out of every range.
func duration(what string, d *durationpb.Duration, least, most time.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, fmt.Errorf("%w: malformed %s", soracache.ErrInvalid, what)
	}
	v := d.AsDuration()
	if v < least || v > most {
		return 0, fmt.Errorf("%w: %s of %s: %s to %s", soracache.ErrInvalid, what, v, least, most)
	}
	return v, nil
}
