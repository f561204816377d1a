package wire

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// GetResponse puts one read on the wire, which has not failed. The value is not copied:
// cached bytes are immutable.
func GetResponse(r soracache.ReadResult) *cachev1.GetResponse {
	answer := &cachev1.GetResponse{
		Status:      cachev1.Status(r.Status),
		Stamp:       r.Stamp.Encode(),
		Unconfirmed: r.Unconfirmed,
		Partitions:  uint32(r.Partitions),
	}
	if r.LeaseState != soracache.LeaseNone {
		answer.LeaseState = cachev1.LeaseState(r.LeaseState)
		answer.Refusal = cachev1.Refusal(r.Refusal)
	}
	if r.Age != 0 {
		answer.Age = durationpb.New(r.Age)
	}
	if r.Status != soracache.StatusMiss {
		answer.Value = r.Entry.Value
		answer.Tags = r.Entry.Tags
		answer.FreshFor = durationpb.New(r.FreshFor)
		answer.KeepFor = durationpb.New(r.KeepFor)
		answer.Tier = cachev1.Tier(r.Tier)
		answer.Kind = cachev1.Kind(r.Entry.Kind)
		answer.Encoding = r.Entry.Encoding
		answer.Etag = r.Entry.ETag
	}
	if r.Lease != (soracache.Lease{}) {
		answer.Lease = r.Lease[:]
	}
	if r.LeaseFor != 0 {
		answer.LeaseFor = durationpb.New(r.LeaseFor)
	}
	return answer
}

// FillResponse puts the result of a fill on the wire, which has not failed.
func FillResponse(r soracache.WriteResult) *cachev1.FillResponse {
	return &cachev1.FillResponse{
		Stored:       r.Stored,
		Reason:       cachev1.Reason(r.Reason),
		Stamp:        r.Stamp.Encode(),
		SupersededBy: Targets(r.SupersededBy),
	}
}

// RenewResponse puts the result of a renewal on the wire.
func RenewResponse(r soracache.WriteResult) *cachev1.RenewResponse {
	answer := &cachev1.RenewResponse{Held: r.Stored, Reason: cachev1.Reason(r.Reason), Stamp: r.Stamp.Encode()}
	if r.Stored {
		answer.LeaseFor = durationpb.New(r.LeaseFor)
	}
	return answer
}

// ReleaseResponse puts the result of a release on the wire.
func ReleaseResponse(r soracache.WriteResult) *cachev1.ReleaseResponse {
	return &cachev1.ReleaseResponse{Released: r.Stored, Reason: cachev1.Reason(r.Reason), Stamp: r.Stamp.Encode()}
}
