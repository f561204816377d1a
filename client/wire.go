package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// sentinel is where the service's codes become the errors that callers can tell
// apart. The original stays wrapped, so a context's own end can be seen too.
func sentinel(err error) error {
	if connect.CodeOf(err) == connect.CodeInternal && !connect.IsWireError(err) && errors.Is(err, proto.Error) {
		// It was not sent: some name in it is not UTF-8.
		return fmt.Errorf("%w: %w", soracache.ErrInvalid, err)
	}
	if connect.CodeOf(err) == connect.CodeInvalidArgument && !connect.IsWireError(err) {
		// The answer is none, which says nothing against the request.
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	if connect.CodeOf(err) == connect.CodeResourceExhausted && isStoreFull(err) {
		return fmt.Errorf("%w: %w", soracache.ErrStoreFull, err)
	}
	var wire *connect.Error
	if errors.As(err, &wire) && wire.Code() == connect.CodeResourceExhausted && wire.Meta().Get("Retry-After") != "" {
		// The node has no memory for it now, which another may have.
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	kind := sentinelOf(connect.CodeOf(err))
	if errors.Is(kind, soracache.ErrInvalid) && wire != nil {
		return &invalidError{wire}
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// invalidError is what the service said against a request, in the words that a node
// in the same process has for it.
type invalidError struct{ said *connect.Error }

// Error implements error.
func (e *invalidError) Error() string { return soracache.ErrInvalid.Error() + ": " + e.said.Message() }

// Unwrap returns what it is and what was said.
func (e *invalidError) Unwrap() []error { return []error{soracache.ErrInvalid, e.said} }

// isStoreFull tells of what a limit is that was reached: the service says so in
// a detail of its error.
func isStoreFull(err error) bool {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return false
	}
	for _, detail := range failed.Details() {
		message, unknown := detail.Value()
		refused, ok := message.(*cachev1.Refused)
		if unknown == nil && ok && refused.Refusal == cachev1.Refusal_REFUSAL_STORE_FULL {
			return true
		}
	}
	return false
}

func sentinelOf(code connect.Code) error {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeFailedPrecondition:
		return soracache.ErrInvalid
	case connect.CodeResourceExhausted:
		return soracache.ErrTooLarge
	case connect.CodeUnauthenticated:
		return soracache.ErrUnauthenticated
	case connect.CodePermissionDenied:
		return soracache.ErrPermissionDenied
	case connect.CodeUnimplemented, connect.CodeNotFound:
		return soracache.ErrUnimplemented // nothing of ours is at that URL
	default:
		return soracache.ErrUnavailable
	}
}

// invalidateError is sentinel, but for an invalidation that is recorded and not
// acknowledged: the service tells so in a detail of its error.
func invalidateError(err error) error {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return sentinel(err)
	}
	for _, detail := range failed.Details() {
		message, unknown := detail.Value()
		incomplete, ok := message.(*cachev1.InvalidateIncomplete)
		if unknown != nil || !ok || !incomplete.Recorded {
			continue
		}
		stamp, malformed := wireStamps(incomplete.Stamp)
		if malformed != nil {
			return malformed
		}
		return &soracache.IncompleteError{Stamp: stamp, Stragglers: incomplete.Stragglers, Cause: context.DeadlineExceeded}
	}
	return sentinel(err)
}

// batchError is the failure of one item of a batch.
func batchError(e *cachev1.BatchError) error {
	if e == nil {
		return nil
	}
	return itemError(e.Code, e.Message, e.Refusal)
}

func itemError(name, message string, refusal cachev1.Refusal) error {
	if refusal == cachev1.Refusal_REFUSAL_STORE_FULL {
		return fmt.Errorf("%w: %s", soracache.ErrStoreFull, message)
	}
	var code connect.Code
	if err := code.UnmarshalText([]byte(name)); err != nil {
		code = connect.CodeUnknown
	}
	return fmt.Errorf("%w: %s", sentinelOf(code), message)
}

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
		return soracache.WriteResult{}, sentinel(err)
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
		return nil, sentinel(err)
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

// watchReader turns what a stream brings into steps of a watch. It refuses what
// cannot be the continuation of what came before: a watcher who takes in a wrong
// step trusts what it should not.
type watchReader struct {
	// partitions is how many there are; zero until an item has told.
	partitions uint32
	// at is where the watcher is, by partition: at first, what it came with.
	at map[uint16]soracache.Stamp
}

func newWatchReader(from soracache.Stamps) *watchReader {
	r := &watchReader{at: map[uint16]soracache.Stamp{}}
	for _, f := range from {
		r.at[f.Partition] = f.Stamp
	}
	return r
}

func (r *watchReader) items(wire []*cachev1.WatchItem) ([]soracache.WatchItem, error) {
	items := make([]soracache.WatchItem, 0, len(wire))
	for _, w := range wire {
		item, err := r.item(w)
		if err != nil {
			return nil, fmt.Errorf("%w: malformed step of a watch: %w", soracache.ErrUnavailable, err)
		}
		if item.Reset && len(item.Records) > 0 {
			// A reset takes everything away. What it names as well comes after it.
			alone := item
			alone.Records = nil
			items = append(items, alone)
			item.Reset = false
		}
		items = append(items, item)
	}
	return items, nil
}

// item reads one item, and notes where the watcher is after it.
func (r *watchReader) item(w *cachev1.WatchItem) (soracache.WatchItem, error) {
	switch n := w.GetPartitions(); {
	case n == 0 || n > soracache.MaxPartitions:
		return soracache.WatchItem{}, fmt.Errorf("%d partitions", n)
	case r.partitions != 0 && r.partitions != n:
		return soracache.WatchItem{}, fmt.Errorf("%d partitions, and %d before", n, r.partitions)
	case w.GetPartition() >= n:
		return soracache.WatchItem{}, fmt.Errorf("partition %d of %d", w.GetPartition(), n)
	}
	item := soracache.WatchItem{
		Partition:  uint16(w.GetPartition()),  //nolint:gosec // checked above
		Partitions: uint16(w.GetPartitions()), //nolint:gosec // checked above
		Epoch:      soracache.Epoch(w.GetEpoch()),
		Complete:   soracache.Position(w.GetComplete()),
		Reset:      w.GetReset_(),
	}
	at := r.at[item.Partition]
	switch {
	case item.Epoch == 0:
		return item, errors.New("no epoch")
	case item.Reset:
	case item.Epoch != at.Epoch:
		return item, errors.New("another epoch without a reset")
	case item.Complete < at.Position:
		return item, fmt.Errorf("position %d after %d", item.Complete, at.Position)
	}
	for _, wr := range w.GetRecords() {
		record, err := watchRecord(item.Epoch, wr)
		if err != nil {
			return item, err
		}
		item.Records = append(item.Records, record)
	}
	r.partitions = w.GetPartitions()
	r.at[item.Partition] = soracache.Stamp{Epoch: item.Epoch, Position: item.Complete}
	return item, nil
}

// watchRecord reads a record. What it names in words that this build does not
// know is everything.
func watchRecord(epoch soracache.Epoch, w *cachev1.WatchRecord) (soracache.Record, error) {
	record := soracache.Record{Epoch: epoch, Position: soracache.Position(w.GetPosition())}
	if record.Position == 0 {
		return record, errors.New("a record without a position")
	}
	if w.GetAll() || len(w.GetKeys())+len(w.GetTags()) == 0 || len(w.ProtoReflect().GetUnknown()) > 0 {
		record.Targets = append(record.Targets, soracache.Everything())
	}
	for _, k := range w.GetKeys() {
		record.Targets = append(record.Targets, soracache.Key(k))
	}
	for _, t := range w.GetTags() {
		record.Targets = append(record.Targets, soracache.Tag(t))
	}
	return record, nil
}
