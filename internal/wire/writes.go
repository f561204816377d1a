package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// FillRequest puts a fill on the wire.
func FillRequest(namespace string, w soracache.Write) *cachev1.FillRequest {
	return &cachev1.FillRequest{
		Namespace: namespace,
		Key:       w.Key,
		Schema:    w.Schema,
		Lease:     w.Lease[:],
		Value:     w.Entry.Value,
		Tags:      w.Entry.Tags,
		Ttl:       durationpb.New(w.Lifetime.TTL),
		Keep:      Duration(w.Lifetime.Keep),
		L1Ttl:     Duration(w.Lifetime.L1),
		Kind:      cachev1.Kind(w.Entry.Kind),
		Encoding:  w.Entry.Encoding,
		Etag:      w.Entry.ETag,
	}
}

// SetRequest puts a put on the wire.
func SetRequest(namespace string, w soracache.Write) *cachev1.SetRequest {
	return &cachev1.SetRequest{
		Namespace: namespace,
		Key:       w.Key,
		Schema:    w.Schema,
		Value:     w.Entry.Value,
		Tags:      w.Entry.Tags,
		Ttl:       durationpb.New(w.Lifetime.TTL),
		Keep:      Duration(w.Lifetime.Keep),
		L1Ttl:     Duration(w.Lifetime.L1),
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

// WriteResult reads the answer to one write.
func WriteResult[A writeAnswer](answer A, err error) (soracache.WriteResult, error) {
	if err != nil {
		return soracache.WriteResult{}, Error(err)
	}
	var result soracache.WriteResult
	switch a := any(answer).(type) {
	case *cachev1.FillResponse:
		result.Stored, result.Reason, result.Err = a.Stored, reasonOf(a.Reason), batchError(a.Error)
		result.SupersededBy.Targets = targetsOf(a.SupersededBy)
	case *cachev1.SetResponse:
		result.Err = batchError(a.Error)
		result.Stored = result.Err == nil
	case *cachev1.RenewResponse:
		result.Stored, result.Reason, result.LeaseFor = a.Held, reasonOf(a.Reason), a.LeaseFor.AsDuration()
	case *cachev1.ReleaseResponse:
		result.Stored, result.Reason = a.Released, reasonOf(a.Reason)
	}
	result.Stamp, err = stampsOf(answer.GetStamp())
	return result, err
}

// WriteResults reads the answers to so many writes.
func WriteResults[A writeAnswer](answers []A, want int, err error) ([]soracache.WriteResult, error) {
	if err != nil {
		return nil, Error(err)
	}
	if len(answers) != want {
		return nil, fmt.Errorf("%w: %d answers to %d writes", soracache.ErrUnavailable, len(answers), want)
	}
	results := make([]soracache.WriteResult, 0, want)
	for _, a := range answers {
		result, err := WriteResult(a, nil)
		result.Err = errors.Join(result.Err, err)
		results = append(results, result)
	}
	return results, nil
}
