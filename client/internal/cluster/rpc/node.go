// Package rpc is a [soracache.Backend] over one node of a service: one RPC a request.
// It knows nothing of waiting, retrying or falling back.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/wire"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// maxAnswer bounds what an answer of the service may have the client allocate.
// It has room for the largest value that any service can be configured for.
const maxAnswer = 300 << 20

// Node is a backend over the node at a URL. It is reached over HTTP/1.1, which is the
// fastest way for unary calls.
type Node struct {
	rpc soracachev1connect.CacheServiceClient
	// get and batchGet are of the same service: see wire.ReadCodec.
	get      *connect.Client[cachev1.GetRequest, wire.ReadAnswer]
	batchGet *connect.Client[cachev1.BatchGetRequest, wire.BatchAnswer]
}

var _ soracache.Backend = (*Node)(nil)

// ParseURL accepts one http or https URL, with or without a path.
func ParseURL(raw string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil {
		return "", fmt.Errorf("%w: %w", soracache.ErrInvalid, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return "", fmt.Errorf("%w: want a URL such as http://127.0.0.1:7070, not %q", soracache.ErrInvalid, u.Redacted())
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return "", fmt.Errorf("%w: a URL without user, query and fragment, not %q (for credentials, see BearerToken)", soracache.ErrInvalid, u.Redacted())
	}
	return u.String(), nil
}

// New returns the node at a URL, which [ParseURL] has accepted. The token may be nil.
func New(h *http.Client, base string, token Token) *Node {
	via := metered{h}
	opts := []connect.ClientOption{
		connect.WithAcceptCompression("gzip", nil, nil), // values are small or already compressed
		connect.WithReadMaxBytes(maxAnswer),
	}
	if token != nil {
		opts = append(opts, connect.WithInterceptors(token))
	}
	reads := connect.WithClientOptions(append(slices.Clip(opts), connect.WithCodec(wire.ReadCodec{}))...)
	procedures := strings.TrimRight(base, "/")
	return &Node{
		rpc:      soracachev1connect.NewCacheServiceClient(via, base, opts...),
		get:      connect.NewClient[cachev1.GetRequest, wire.ReadAnswer](via, procedures+soracachev1connect.CacheServiceGetProcedure, reads),
		batchGet: connect.NewClient[cachev1.BatchGetRequest, wire.BatchAnswer](via, procedures+soracachev1connect.CacheServiceBatchGetProcedure, reads),
	}
}

// Get sends reads that ask alike together.
func (r *Node) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	if len(req.Reads) == 1 {
		result, err := r.getOne(ctx, req, req.Reads[0])
		return []soracache.ReadResult{result}, err
	}
	parts := runs(req.Reads, alike)
	if len(parts) == 1 {
		results, err := r.getMany(ctx, req, req.Reads)
		if err != nil && len(results) == 0 {
			return nil, err
		}
		return failedFrom(results, len(req.Reads), err), nil
	}
	results := make([]soracache.ReadResult, 0, len(req.Reads))
	for _, reads := range parts {
		part, err := r.getMany(ctx, req, reads)
		results = append(results, failedFrom(part, len(reads), err)...)
	}
	return results, nil
}

// failedFrom has what was not answered fail. What was may have leases with it.
func failedFrom(results []soracache.ReadResult, count int, err error) []soracache.ReadResult {
	for len(results) < count {
		results = append(results, soracache.ReadResult{Err: err})
	}
	return results
}

// Shape is what is the same for all reads of a request to a node.
type Shape struct {
	Lease                         bool
	LeaseFor, Wait, RefreshWithin time.Duration
	Holder                        uint64
	Schema                        string
}

// ShapeOf returns the shape of a read.
func ShapeOf(r *soracache.Read) Shape {
	return Shape{r.Lease, r.LeaseFor, r.Wait, r.RefreshWithin, r.Holder, r.Schema}
}

func alike(a, b soracache.Read) bool { return ShapeOf(&a) == ShapeOf(&b) }

// minStamps are the stamps of reads that have one of their own: those that differ,
// and for each read the number of its own, from 1.
func minStamps(reads []soracache.Read) (different [][]byte, of []uint32) {
	numbers := make(map[string]uint32)
	for i := range reads {
		if len(reads[i].MinStamp) == 0 {
			continue
		}
		if of == nil {
			of = make([]uint32, len(reads))
		}
		stamp := reads[i].MinStamp.Encode()
		number, known := numbers[string(stamp)]
		if !known {
			different = append(different, stamp)
			number = uint32(len(different)) //nolint:gosec // at most as many as reads
			numbers[string(stamp)] = number
		}
		of[i] = number
	}
	return different, of
}

// leastOf is what the answer to a read must reflect.
func leastOf(req soracache.GetRequest, read soracache.Read) soracache.Stamps {
	if len(read.MinStamp) > 0 {
		return read.MinStamp
	}
	return req.MinStamp
}

func (r *Node) getOne(ctx context.Context, req soracache.GetRequest, read soracache.Read) (soracache.ReadResult, error) {
	answer, err := r.get.CallUnary(ctx, connect.NewRequest(&cachev1.GetRequest{
		Namespace:         req.Namespace,
		Key:               read.Key,
		MinStamp:          leastOf(req, read).Encode(),
		Lease:             read.Lease,
		Wait:              wire.Duration(read.Wait),
		RefreshWithin:     wire.Duration(read.RefreshWithin),
		LeaseFor:          wire.Duration(read.LeaseFor),
		AcceptUnconfirmed: req.AcceptUnconfirmed,
		Holder:            read.Holder,
		Schema:            read.Schema,
	}))
	if err != nil {
		return soracache.ReadResult{}, wire.Error(err)
	}
	if answer.Msg.Err == nil && read.Schema != "" && !answer.Msg.InSchema {
		return soracache.ReadResult{}, r.noSchemas(ctx, req.Namespace, []string{read.Key}, []soracache.ReadResult{answer.Msg.Result})
	}
	return answer.Msg.Result, answer.Msg.Err
}

// noSchemas is for the answer of a node that knows nothing of schemas. It is about
// the default one: what it brings is another's, and leases are handed back.
func (r *Node) noSchemas(ctx context.Context, namespace string, keys []string, results []soracache.ReadResult) error {
	for i := range min(len(keys), len(results)) {
		if lease := results[i].Lease; lease != (soracache.Lease{}) {
			_, _ = r.writeOne(ctx, namespace, soracache.Write{Op: soracache.OpRelease, Key: keys[i], Lease: lease}) // or it runs out
		}
	}
	return fmt.Errorf("%w: the node is of a version that knows nothing of schemas", soracache.ErrUnavailable)
}

// getMany asks again for what an answer had no room for. On an error it returns
// what it has.
func (r *Node) getMany(ctx context.Context, req soracache.GetRequest, reads []soracache.Read) ([]soracache.ReadResult, error) {
	var results []soracache.ReadResult
	for len(results) < len(reads) {
		rest := reads[len(results):]
		different, of := minStamps(rest)
		answer, err := r.batchGet.CallUnary(ctx, connect.NewRequest(&cachev1.BatchGetRequest{
			Namespace:         req.Namespace,
			Keys:              keysOf(rest),
			MinStamp:          req.MinStamp.Encode(),
			Lease:             rest[0].Lease,
			Wait:              wire.Duration(rest[0].Wait),
			RefreshWithin:     wire.Duration(rest[0].RefreshWithin),
			LeaseFor:          wire.Duration(rest[0].LeaseFor),
			AcceptUnconfirmed: req.AcceptUnconfirmed,
			Holder:            rest[0].Holder,
			Schema:            rest[0].Schema,
			MinStamps:         different,
			MinStampOf:        of,
		}))
		switch {
		case err != nil:
			return results, wire.Error(err)
		case answer.Msg.Err != nil:
			return results, answer.Msg.Err
		case rest[0].Schema != "" && !answer.Msg.InSchema:
			return results, r.noSchemas(ctx, req.Namespace, keysOf(rest), answer.Msg.Results)
		}
		part := answer.Msg.Results
		if n := len(part); n == 0 || n > len(rest) {
			return results, fmt.Errorf("%w: %d answers to %d reads", soracache.ErrUnavailable, n, len(rest))
		}
		if results == nil {
			results = part
		} else {
			results = append(results, part...)
		}
	}
	return results, nil
}

// Write sends consecutive fills together, and consecutive puts; renewals and
// releases have no batch.
func (r *Node) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	if len(req.Writes) == 1 {
		result, err := r.writeOne(ctx, req.Namespace, req.Writes[0])
		return []soracache.WriteResult{result}, err
	}
	results := make([]soracache.WriteResult, 0, len(req.Writes))
	for _, writes := range runs(req.Writes, together) {
		part, err := r.writeMany(ctx, req.Namespace, writes)
		if err != nil && len(writes) == len(req.Writes) {
			return nil, err
		}
		for len(part) < len(writes) {
			part = append(part, soracache.WriteResult{Err: err})
		}
		results = append(results, part...)
	}
	return results, nil
}

func together(a, b soracache.Write) bool {
	return a.Op == b.Op && (a.Op == soracache.OpFill || a.Op == soracache.OpPut)
}

func (r *Node) writeOne(ctx context.Context, namespace string, w soracache.Write) (soracache.WriteResult, error) {
	switch w.Op {
	case soracache.OpFill:
		return wire.WriteResult(r.rpc.Fill(ctx, wire.FillRequest(namespace, w)))
	case soracache.OpPut:
		return wire.WriteResult(r.rpc.Set(ctx, wire.SetRequest(namespace, w)))
	case soracache.OpRenew:
		return wire.WriteResult(r.rpc.Renew(ctx, &cachev1.RenewRequest{
			Schema:    w.Schema,
			Namespace: namespace, Key: w.Key, Lease: w.Lease[:], LeaseFor: wire.Duration(w.LeaseFor),
		}))
	case soracache.OpRelease:
		return wire.WriteResult(r.rpc.Release(ctx, &cachev1.ReleaseRequest{
			Schema:    w.Schema,
			Namespace: namespace, Key: w.Key, Lease: w.Lease[:], Outcome: cachev1.LoadOutcome(w.Outcome),
		}))
	}
	return soracache.WriteResult{}, fmt.Errorf("%w: unknown write %d", soracache.ErrInvalid, w.Op)
}

func (r *Node) writeMany(ctx context.Context, namespace string, writes []soracache.Write) ([]soracache.WriteResult, error) {
	switch {
	case len(writes) == 1:
		result, err := r.writeOne(ctx, namespace, writes[0])
		result.Err = errors.Join(result.Err, err)
		return []soracache.WriteResult{result}, nil
	case writes[0].Op == soracache.OpFill:
		req := &cachev1.BatchFillRequest{Namespace: namespace}
		for _, w := range writes {
			req.Fills = append(req.Fills, wire.FillRequest("", w))
		}
		answer, err := r.rpc.BatchFill(ctx, req)
		return wire.WriteResults(answer.GetResults(), len(writes), err)
	default:
		req := &cachev1.BatchSetRequest{Namespace: namespace}
		for _, w := range writes {
			req.Sets = append(req.Sets, wire.SetRequest("", w))
		}
		answer, err := r.rpc.BatchSet(ctx, req)
		return wire.WriteResults(answer.GetResults(), len(writes), err)
	}
}

// Invalidate sends one request for all targets.
func (r *Node) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	return wire.InvalidateResult(r.rpc.Invalidate(ctx, wire.InvalidateRequest(req)))
}

// Head asks how far the node has followed the namespace.
func (r *Node) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	return wire.HeadResult(r.rpc.Head(ctx, &cachev1.HeadRequest{Namespace: namespace}))
}

// runs splits a batch into the longest parts whose neighbours are the same.
func runs[E any](batch []E, same func(a, b E) bool) [][]E {
	var parts [][]E
	for len(batch) > 0 {
		n := 1
		for n < len(batch) && same(batch[n-1], batch[n]) {
			n++
		}
		parts = append(parts, batch[:n])
		batch = batch[n:]
	}
	return slices.Clip(parts)
}

func keysOf(reads []soracache.Read) []string {
	keys := make([]string, len(reads))
	for i, r := range reads {
		keys[i] = r.Key
	}
	return keys
}

// Watch opens a stream, which has a connection of its own.
func (r *Node) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	stream, err := r.rpc.Watch(ctx, &cachev1.WatchRequest{Namespace: req.Namespace, Stamp: req.From.Encode()})
	if err != nil {
		return wire.Error(err)
	}
	defer func() {
		end() // what is still to come is not waited for
		_ = stream.Close()
	}()
	reader := wire.NewWatchReader(req.From)
	for stream.Receive() {
		items, err := reader.Items(stream.Msg().GetItems())
		if err != nil {
			return err
		}
		if len(items) == 0 {
			continue
		}
		if err := deliver(items); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return wire.Error(err)
	}
	return fmt.Errorf("%w: the watch has ended", soracache.ErrUnavailable)
}
