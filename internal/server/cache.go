package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/wire"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// cacheService answers CacheService from a node. Its errors are the
// vocabulary's; mapErrors gives them their codes.
type cacheService struct {
	node    Node
	parser  parser
	timeout time.Duration // of a request, beyond the wait that it asks for
	answer  int           // about the largest answer to a BatchGet, in bytes
	list    int           // the most keys of a listing for which there can be room
	began   func(*call)   // told when a stream has sent its first message
}

var _ rpc.CacheServiceHandler = (*cacheService)(nil)

// Get implements the RPC.
func (s *cacheService) Get(ctx context.Context, r *soracachev1.GetRequest) (*soracachev1.GetResponse, error) {
	req, read, err := s.parser.reads(ctx, r.GetNamespace(), r)
	if err != nil {
		return nil, err
	}
	if err := s.parser.limits.CheckKey(r.GetKey()); err != nil {
		return nil, err
	}
	read.Key = r.GetKey()
	req.Reads = []soracache.Read{read}
	results, err := s.read(ctx, req, read.Wait)
	if err != nil {
		return nil, err
	}
	if err := results[0].Err; err != nil {
		return nil, err
	}
	answer := getResponse(results[0])
	answer.InSchema = read.Schema != ""
	return answer, nil
}

// BatchGet implements the RPC. A key that is not valid fails alone.
func (s *cacheService) BatchGet(ctx context.Context, r *soracachev1.BatchGetRequest) (*soracachev1.BatchGetResponse, error) {
	req, read, err := s.parser.reads(ctx, r.GetNamespace(), r)
	if err != nil {
		return nil, err
	}
	if err := s.parser.batch(len(r.GetKeys())); err != nil {
		return nil, err
	}
	least, err := minStamps(r)
	if err != nil {
		return nil, err
	}
	results := make([]soracache.ReadResult, len(r.GetKeys()))
	var asked []int // where in results the answers to req.Reads belong
	for i, key := range r.GetKeys() {
		if err := s.parser.limits.CheckKey(key); err != nil {
			results[i].Err = err
			continue
		}
		read.Key = key
		if least != nil {
			read.MinStamp = least[i]
		}
		req.Reads = append(req.Reads, read)
		asked = append(asked, i)
	}
	if len(req.Reads) > 0 {
		found, err := s.read(ctx, req, read.Wait)
		if err != nil {
			return nil, err
		}
		for i, result := range found {
			results[asked[i]] = result
		}
		if len(found) < len(asked) {
			results = results[:asked[len(found)]]
		}
	}
	return s.batchGetResponse(ctx, req.Namespace, read.Schema, r.GetKeys(), results), nil
}

func (s *cacheService) read(ctx context.Context, req soracache.GetRequest, wait time.Duration) ([]soracache.ReadResult, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout+wait)
	defer cancel()
	results, err := s.node.Get(ctx, req)
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x != nil && slices.ContainsFunc(results, func(r soracache.ReadResult) bool { return r.Lease != soracache.Lease{} }) {
		x.undelivered = func() {
			keys := make([]string, len(req.Reads))
			for i := range keys {
				keys[i] = req.Reads[i].Key
			}
			s.handBack(x.ctx, req.Namespace, req.Reads[0].Schema, keys, results)
		}
	}
	if err != nil || len(results) == len(req.Reads) {
		return results, err
	}
	// For want of room, it may end early (see room.Room).
	if x != nil && len(results) < len(req.Reads) && (len(results) > 0 || x.denied != nil) {
		if len(results) == 0 {
			return nil, x.denied
		}
		return results, nil
	}
	return nil, errors.New("the node answered another number of reads")
}

// batchGetResponse ends the results before the one that would take the answer
// over its limit, though never before the first. The caller learns nothing of
// the leases among those that are cut off, so they are handed back before it
// can ask again.
func (s *cacheService) batchGetResponse(
	ctx context.Context, namespace, schema string, keys []string, results []soracache.ReadResult,
) *soracachev1.BatchGetResponse {
	answer := &soracachev1.BatchGetResponse{Results: make([]*soracachev1.GetResponse, 0, len(results)), InSchema: schema != ""}
	var together soracache.Stamps
	size := 0
	for i, result := range results {
		if result.Partitions > 0 {
			answer.Partitions, result.Partitions = uint32(result.Partitions), 0
		}
		item := getResponse(result)
		size += weight(item)
		if i > 0 && size > s.answer {
			s.handBack(ctx, namespace, schema, keys[i:], results[i:])
			break
		}
		answer.Results = append(answer.Results, item)
		together = merge(together, result.Stamp)
	}
	answer.Stamp = together.Encode()
	return answer
}

// weight is about the size of an answer on the wire, and no less. What its small
// parts take at most is counted for all of them: to count them takes longer than
// to send them.
func weight(r *soracachev1.GetResponse) int {
	const small = 160 // numbers, durations, a lease, what goes before the lengths
	n := small + len(r.Value) + len(r.Stamp) + len(r.Encoding) + len(r.Etag) + len(r.Error.GetCode()) + len(r.Error.GetMessage())
	for _, t := range r.Tags {
		n += 6 + len(t)
	}
	return n
}

// handBack releases the leases among results that nobody will be told of. If
// that fails, they run out.
func (s *cacheService) handBack(ctx context.Context, namespace, schema string, keys []string, results []soracache.ReadResult) {
	req := soracache.WriteRequest{Namespace: namespace}
	for i, result := range results {
		if result.Lease != (soracache.Lease{}) {
			req.Writes = append(req.Writes, soracache.Write{Op: soracache.OpRelease, Key: keys[i], Schema: schema, Lease: result.Lease})
		}
	}
	if len(req.Writes) == 0 {
		return
	}
	_, _ = s.write(context.WithoutCancel(ctx), req)
}

// Fill implements the RPC.
func (s *cacheService) Fill(ctx context.Context, r *soracachev1.FillRequest) (*soracachev1.FillResponse, error) {
	result, err := s.writeOne(ctx, r.GetNamespace(), func() (soracache.Write, error) { return s.parser.fill(r) })
	if err != nil {
		return nil, err
	}
	return fillResponse(result), nil
}

// BatchFill implements the RPC. A fill that is not valid fails alone.
func (s *cacheService) BatchFill(ctx context.Context, r *soracachev1.BatchFillRequest) (*soracachev1.BatchFillResponse, error) {
	fills := r.GetFills()
	results, err := s.writeBatch(ctx, r.GetNamespace(), len(fills), func(i int, namespace string) (soracache.Write, error) {
		if err := sameNamespace(fills[i].GetNamespace(), namespace); err != nil {
			return soracache.Write{}, err
		}
		return s.parser.fill(fills[i])
	})
	if err != nil {
		return nil, err
	}
	answer := &soracachev1.BatchFillResponse{Stamp: merged(results)}
	for _, result := range results {
		answer.Results = append(answer.Results, fillResponse(result))
	}
	return answer, nil
}

// Set implements the RPC.
func (s *cacheService) Set(ctx context.Context, r *soracachev1.SetRequest) (*soracachev1.SetResponse, error) {
	result, err := s.writeOne(ctx, r.GetNamespace(), func() (soracache.Write, error) { return s.parser.set(r) })
	if err != nil {
		return nil, err
	}
	return setResponse(result), nil
}

// BatchSet implements the RPC. A set that is not valid fails alone.
func (s *cacheService) BatchSet(ctx context.Context, r *soracachev1.BatchSetRequest) (*soracachev1.BatchSetResponse, error) {
	sets := r.GetSets()
	results, err := s.writeBatch(ctx, r.GetNamespace(), len(sets), func(i int, namespace string) (soracache.Write, error) {
		if err := sameNamespace(sets[i].GetNamespace(), namespace); err != nil {
			return soracache.Write{}, err
		}
		return s.parser.set(sets[i])
	})
	if err != nil {
		return nil, err
	}
	answer := &soracachev1.BatchSetResponse{Stamp: merged(results)}
	for _, result := range results {
		answer.Results = append(answer.Results, setResponse(result))
	}
	return answer, nil
}

// Renew implements the RPC.
func (s *cacheService) Renew(ctx context.Context, r *soracachev1.RenewRequest) (*soracachev1.RenewResponse, error) {
	result, err := s.writeOne(ctx, r.GetNamespace(), func() (soracache.Write, error) {
		w, err := s.parser.leased(soracache.OpRenew, r)
		if err != nil {
			return w, err
		}
		w.LeaseFor, err = leaseFor(r.GetLeaseFor())
		return w, err
	})
	if err != nil {
		return nil, err
	}
	return wire.RenewResponse(result), nil
}

// Release implements the RPC.
func (s *cacheService) Release(ctx context.Context, r *soracachev1.ReleaseRequest) (*soracachev1.ReleaseResponse, error) {
	result, err := s.writeOne(ctx, r.GetNamespace(), func() (soracache.Write, error) {
		return s.parser.release(r)
	})
	if err != nil {
		return nil, err
	}
	return wire.ReleaseResponse(result), nil
}

// writeOne performs the write that parse returns.
func (s *cacheService) writeOne(
	ctx context.Context, name string, parse func() (soracache.Write, error),
) (soracache.WriteResult, error) {
	namespace, err := s.parser.namespace(ctx, name)
	if err != nil {
		return soracache.WriteResult{}, err
	}
	w, err := parse()
	if err != nil {
		return soracache.WriteResult{}, err
	}
	results, err := s.write(ctx, soracache.WriteRequest{Namespace: namespace, Writes: []soracache.Write{w}})
	if err != nil {
		return soracache.WriteResult{}, err
	}
	return results[0], results[0].Err
}

// writeBatch performs the n writes that parse returns; those that it does not
// return fail alone.
func (s *cacheService) writeBatch(
	ctx context.Context, name string, n int, parse func(i int, namespace string) (soracache.Write, error),
) ([]soracache.WriteResult, error) {
	namespace, err := s.parser.namespace(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := s.parser.batch(n); err != nil {
		return nil, err
	}
	results := make([]soracache.WriteResult, n)
	req := soracache.WriteRequest{Namespace: namespace}
	var asked []int // where in results the answers to req.Writes belong
	for i := range n {
		w, err := parse(i, namespace)
		if err != nil {
			results[i].Err = err
			continue
		}
		req.Writes = append(req.Writes, w)
		asked = append(asked, i)
	}
	if len(req.Writes) == 0 {
		return results, nil
	}
	done, err := s.write(ctx, req)
	if err != nil {
		return nil, err
	}
	for i, result := range done {
		results[asked[i]] = result
	}
	return results, nil
}

func (s *cacheService) write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	results, err := s.node.Write(ctx, req)
	if err == nil && len(results) != len(req.Writes) {
		err = errors.New("the node answered another number of writes")
	}
	return results, err
}

// merged returns what all results together reflect.
func merged(results []soracache.WriteResult) []byte {
	var together soracache.Stamps
	for _, result := range results {
		together = merge(together, result.Stamp)
	}
	return together.Encode()
}

// merge spares the copy in the ordinary case that all items of a batch reflect
// the same.
func merge(together, stamp soracache.Stamps) soracache.Stamps {
	if slices.Equal(together, stamp) {
		return together
	}
	return together.Merge(stamp)
}

// Invalidate implements the RPC.
func (s *cacheService) Invalidate(ctx context.Context, r *soracachev1.InvalidateRequest) (*soracachev1.InvalidateResponse, error) {
	req, err := s.parser.invalidation(ctx, r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if req.Acknowledge {
		var early context.CancelFunc
		ctx, early = beforeDeadline(ctx)
		defer early()
	}
	result, err := s.node.Invalidate(ctx, req)
	if err != nil {
		return nil, err
	}
	return &soracachev1.InvalidateResponse{Stamp: result.Stamp.Encode(), Stragglers: result.Stragglers}, nil
}

// maxHeadStart is how long before its caller's deadline a request is given up
// that has something to tell by then.
const maxHeadStart = 100 * time.Millisecond

// beforeDeadline ends a little before the context's deadline: a tenth of the
// time that is left. At the deadline itself the caller is gone, and would never
// learn that its invalidation is recorded, and who has not acknowledged it.
func beforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, maxHeadStart)))
}

// ListKeys implements the RPC.
func (s *cacheService) ListKeys(ctx context.Context, r *soracachev1.ListKeysRequest) (*soracachev1.ListKeysResponse, error) {
	namespace, err := s.parser.namespace(ctx, r.GetNamespace())
	if err != nil {
		return nil, err
	}
	if err := s.parser.limits.CheckTag(r.GetTag()); err != nil {
		return nil, err
	}
	size, err := s.parser.page(r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	size = min(size, s.list)
	found, err := reserve(ctx, size*listedBytes(s.parser.limits.KeyBytes))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	keys, next, err := s.node.ListKeys(ctx, namespace, r.GetTag(), r.GetPageToken(), size)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, key := range keys {
		n += listedBytes(len(key))
	}
	if err := found(n); err != nil {
		return nil, err
	}
	return &soracachev1.ListKeysResponse{Keys: keys, NextPageToken: next}, nil
}

// listedBytes is about what a key of a length takes while it is listed: twice its
// name, with the schema and what slices take that grow. What it takes in the answer
// comes to that.
func listedBytes(length int) int { return 2 * (length + 128) }

// explainBytes is what explaining reads of an entry at most, however large it is.
const explainBytes = 160 << 10

// Explain implements the RPC.
func (s *cacheService) Explain(ctx context.Context, r *soracachev1.ExplainRequest) (*soracachev1.ExplainResponse, error) {
	namespace, err := s.parser.namespace(ctx, r.GetNamespace())
	if err != nil {
		return nil, err
	}
	if err := s.parser.limits.CheckKey(r.GetKey()); err != nil {
		return nil, err
	}
	if err := soracache.CheckSchema(r.GetSchema()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	found, err := reserve(ctx, explainBytes)
	if err != nil {
		return nil, err
	}
	explanation, err := s.node.Explain(ctx, namespace, soracache.Name(r.GetSchema(), r.GetKey()))
	if err != nil {
		return nil, err
	}
	if err := found(min(explanation.L2.ValueBytes+4<<10, explainBytes)); err != nil {
		return nil, err
	}
	return explainResponse(explanation), nil
}

// Head implements the RPC.
func (s *cacheService) Head(ctx context.Context, r *soracachev1.HeadRequest) (*soracachev1.HeadResponse, error) {
	namespace, err := s.parser.namespace(ctx, r.GetNamespace())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	head, err := s.node.Head(ctx, namespace)
	if err != nil {
		return nil, err
	}
	return &soracachev1.HeadResponse{Stamp: head.Stamp.Encode(), Age: durationpb.New(head.Age)}, nil
}
