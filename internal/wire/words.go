// Package wire is where the wire contract and the vocabulary meet: each thing in both
// directions, for those who ask and those who answer.
package wire

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// RefusedHeader is in answers to requests that the node has not begun, so that a client
// may send them to another node whatever they ask for.
const RefusedHeader = "Soracache-Refused"

// Duration puts a duration on the wire, and leaves zero out.
func Duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// stampsOf reads the stamp of an answer. One that is malformed is the
// service's fault, not an argument's.
func stampsOf(b []byte) (soracache.Stamps, error) {
	stamps, err := soracache.DecodeStamps(b)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed stamp in an answer", soracache.ErrUnavailable)
	}
	return stamps, nil
}

func statusOf(s cachev1.Status) (soracache.Status, error) {
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

// leaseStateOf makes a state that this build does not know one that is not
// waited for.
func leaseStateOf(s cachev1.LeaseState) soracache.LeaseState {
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

// refusalOf keeps a reason that this build does not know, which has no name.
func refusalOf(r cachev1.Refusal) soracache.Refusal {
	return soracache.Refusal(min(uint32(r), math.MaxUint8)) //nolint:gosec // bounded
}

// partitionsOf makes a number that cannot be one that is not known.
func partitionsOf(n uint32) uint16 {
	if n > soracache.MaxPartitions {
		return 0
	}
	return uint16(n)
}

func tierOf(t cachev1.Tier) soracache.Tier {
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

// Kind reads a kind, and is false if this build does not know it.
func Kind(k cachev1.Kind) (kind soracache.Kind, ok bool) {
	switch k {
	case cachev1.Kind_KIND_VALUE:
		return soracache.KindValue, true
	case cachev1.Kind_KIND_NOT_FOUND:
		return soracache.KindNotFound, true
	case cachev1.Kind_KIND_ERROR:
		return soracache.KindError, true
	}
	return 0, false
}

// kindOf makes a kind that this build does not know one that it has no use for, rather
// than a value.
func kindOf(k cachev1.Kind) soracache.Kind {
	if kind, ok := Kind(k); ok {
		return kind
	}
	return soracache.KindError
}

// Outcome reads what became of a load. What this build does not know is that of a load
// which left nothing.
func Outcome(o cachev1.LoadOutcome) soracache.LoadOutcome {
	switch o {
	case cachev1.LoadOutcome_LOAD_OUTCOME_UNSPECIFIED:
		return soracache.LoadHandedBack
	case cachev1.LoadOutcome_LOAD_OUTCOME_NOT_STORABLE:
		return soracache.LoadNotStorable
	default:
		return soracache.LoadFailed
	}
}

func reasonOf(r cachev1.Reason) soracache.Reason {
	switch r {
	case cachev1.Reason_REASON_SUPERSEDED:
		return soracache.ReasonSuperseded
	case cachev1.Reason_REASON_LEASE_LOST:
		return soracache.ReasonLeaseLost
	}
	return soracache.ReasonNone
}

// ageOf reads an age. One that is not possible is as old as can be: it confirms
// nothing.
func ageOf(d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if age := d.AsDuration(); d.IsValid() && age >= 0 {
		return age
	}
	return math.MaxInt64 / 4
}

// Targets puts on the wire what a record names, as in "tag:products".
func Targets(r soracache.Record) []string {
	var names []string
	for _, t := range r.Targets {
		names = append(names, t.String())
	}
	return names
}

// targetsOf reads the form that soracache.Target's String writes.
func targetsOf(names []string) []soracache.Target {
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
