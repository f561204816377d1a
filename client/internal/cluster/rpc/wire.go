package rpc

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// wireDuration leaves zero out.
func wireDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// wireStamps decodes the stamp of an answer. One that is malformed is the
// service's fault, not an argument's.
func wireStamps(b []byte) (soracache.Stamps, error) {
	stamps, err := soracache.DecodeStamps(b)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed stamp in an answer", soracache.ErrUnavailable)
	}
	return stamps, nil
}

func wireStatus(s cachev1.Status) (soracache.Status, error) {
	switch s {
	case cachev1.Status_STATUS_MISS:
		return soracache.StatusMiss, nil
	case cachev1.Status_STATUS_HIT:
		return soracache.StatusHit, nil
	case cachev1.Status_STATUS_STALE:
		return soracache.StatusStale, nil
	}
	return 0, fmt.Errorf("%w: unknown status %d", soracache.ErrUnavailable, s)
}

// wireLeaseState makes a state that this build does not know one that is not
// waited for.
func wireLeaseState(s cachev1.LeaseState) soracache.LeaseState {
	switch s {
	case cachev1.LeaseState_LEASE_STATE_UNSPECIFIED:
		return soracache.LeaseNone
	case cachev1.LeaseState_LEASE_STATE_GRANTED:
		return soracache.LeaseGranted
	case cachev1.LeaseState_LEASE_STATE_HELD:
		return soracache.LeaseHeld
	}
	return soracache.LeaseRefused
}

// wireRefusal keeps a reason that this build does not know, which has no name.
func wireRefusal(r cachev1.Refusal) soracache.Refusal {
	return soracache.Refusal(min(uint32(r), math.MaxUint8)) //nolint:gosec // bounded
}

// wirePartitions makes a number that cannot be one that is not known.
func wirePartitions(n uint32) uint16 {
	if n > soracache.MaxPartitions {
		return 0
	}
	return uint16(n)
}

func wireTier(t cachev1.Tier) soracache.Tier {
	switch t {
	case cachev1.Tier_TIER_NEAR:
		return soracache.TierNear
	case cachev1.Tier_TIER_L1:
		return soracache.TierL1
	case cachev1.Tier_TIER_L2:
		return soracache.TierL2
	}
	return soracache.TierNone
}

// wireKind makes a kind that this build does not know one that it has no use
// for, rather than a value.
func wireKind(k cachev1.Kind) soracache.Kind {
	switch k {
	case cachev1.Kind_KIND_VALUE:
		return soracache.KindValue
	case cachev1.Kind_KIND_NOT_FOUND:
		return soracache.KindNotFound
	}
	return soracache.KindError
}

func fillRequest(namespace string, w soracache.Write) *cachev1.FillRequest {
	return &cachev1.FillRequest{
		Namespace: namespace,
		Key:       w.Key,
		Schema:    w.Schema,
		Lease:     w.Lease[:],
		Value:     w.Entry.Value,
		Tags:      w.Entry.Tags,
		Ttl:       durationpb.New(w.Lifetime.TTL),
		Keep:      wireDuration(w.Lifetime.Keep),
		L1Ttl:     wireDuration(w.Lifetime.L1),
		Kind:      cachev1.Kind(w.Entry.Kind),
		Encoding:  w.Entry.Encoding,
		Etag:      w.Entry.ETag,
	}
}

func setRequest(namespace string, w soracache.Write) *cachev1.SetRequest {
	return &cachev1.SetRequest{
		Namespace: namespace,
		Key:       w.Key,
		Schema:    w.Schema,
		Value:     w.Entry.Value,
		Tags:      w.Entry.Tags,
		Ttl:       durationpb.New(w.Lifetime.TTL),
		Keep:      wireDuration(w.Lifetime.Keep),
		L1Ttl:     wireDuration(w.Lifetime.L1),
		Kind:      cachev1.Kind(w.Entry.Kind),
		Encoding:  w.Entry.Encoding,
		Etag:      w.Entry.ETag,
	}
}

// writeAnswer is what the answers to fill, set, renew and release have in
// common.
type writeAnswer interface {
	*cachev1.FillResponse | *cachev1.SetResponse | *cachev1.RenewResponse | *cachev1.ReleaseResponse
	GetStamp() []byte
}

func writeResult[A writeAnswer](answer A, err error) (soracache.WriteResult, error) {
	if err != nil {
		return soracache.WriteResult{}, Error(err)
	}
	var result soracache.WriteResult
	switch a := any(answer).(type) {
	case *cachev1.FillResponse:
		result.Stored, result.Reason, result.Err = a.Stored, wireReason(a.Reason), batchError(a.Error)
		result.SupersededBy.Targets = wireTargets(a.SupersededBy)
	case *cachev1.SetResponse:
		result.Err = batchError(a.Error)
		result.Stored = result.Err == nil
	case *cachev1.RenewResponse:
		result.Stored, result.Reason, result.LeaseFor = a.Held, wireReason(a.Reason), a.LeaseFor.AsDuration()
	case *cachev1.ReleaseResponse:
		result.Stored, result.Reason = a.Released, wireReason(a.Reason)
	}
	result.Stamp, err = wireStamps(answer.GetStamp())
	return result, err
}

func writeResults[A writeAnswer](answers []A, want int, err error) ([]soracache.WriteResult, error) {
	if err != nil {
		return nil, Error(err)
	}
	if len(answers) != want {
		return nil, fmt.Errorf("%w: %d answers to %d writes", soracache.ErrUnavailable, len(answers), want)
	}
	results := make([]soracache.WriteResult, 0, want)
	for _, a := range answers {
		result, err := writeResult(a, nil)
		result.Err = errors.Join(result.Err, err)
		results = append(results, result)
	}
	return results, nil
}

func wireReason(r cachev1.Reason) soracache.Reason {
	switch r {
	case cachev1.Reason_REASON_SUPERSEDED:
		return soracache.ReasonSuperseded
	case cachev1.Reason_REASON_LEASE_LOST:
		return soracache.ReasonLeaseLost
	}
	return soracache.ReasonNone
}

// wireTargets reads the form that soracache.Target's String writes.
func wireTargets(names []string) []soracache.Target {
	var targets []soracache.Target
	for _, n := range names {
		kind, name, _ := strings.Cut(n, ":")
		switch kind {
		case "key":
			targets = append(targets, soracache.Key(name))
		case "tag":
			targets = append(targets, soracache.Tag(name))
		case "everything":
			targets = append(targets, soracache.Everything())
		}
	}
	return targets
}

// wireAge reads an age. One that is not possible is as old as can be: it confirms
// nothing.
func wireAge(d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if age := d.AsDuration(); d.IsValid() && age >= 0 {
		return age
	}
	return math.MaxInt64 / 4
}
