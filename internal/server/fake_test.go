package server_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
)

// fakeNode is a cache of one map, which is enough to see whether requests
// arrive as they were meant. It records them, and each method can be replaced.
type fakeNode struct {
	limits soracache.Limits
	full   bool

	onGet        func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error)
	onWrite      func(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error)
	onInvalidate func(context.Context, soracache.InvalidateRequest) (soracache.InvalidateResult, error)
	onHead       func(context.Context, string) (soracache.HeadResult, error)
	onWatch      func(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error
	onListKeys   func(limit int) ([]string, string, error)
	onExplain    func(context.Context, string, string) (node.Explanation, error)
	silent       []string
	store        []node.StorePart
	onReady      func(context.Context) error
	onDrain      func(context.Context) error

	mu            sync.Mutex // guards all below
	entries       map[string]soracache.Write
	position      soracache.Position
	gets          []soracache.GetRequest
	writes        []soracache.WriteRequest
	invalidations []soracache.InvalidateRequest
	listings      []listing
	watches       []soracache.WatchRequest
	drains        int
}

type listing struct {
	namespace, tag, token string
	limit                 int
}

func newFakeNode() *fakeNode {
	return &fakeNode{limits: soracache.DefaultLimits(), entries: map[string]soracache.Write{}, position: 100}
}

// fakeLease is the lease that the fake node gives for a key.
func fakeLease(key string) soracache.Lease {
	var lease soracache.Lease
	lease[0] = 1
	copy(lease[1:], key)
	return lease
}

func (f *fakeNode) stamps() soracache.Stamps {
	return soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: f.position}}}
}

func (f *fakeNode) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	f.mu.Lock()
	f.gets = append(f.gets, req)
	f.mu.Unlock()
	if f.onGet != nil {
		return f.onGet(ctx, req)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]soracache.ReadResult, len(req.Reads))
	for i, read := range req.Reads {
		results[i] = f.get(req.Namespace, read)
	}
	return results, nil
}

func (f *fakeNode) get(namespace string, read soracache.Read) soracache.ReadResult {
	w, found := f.entries[namespace+"/"+read.Key]
	if !found {
		result := soracache.ReadResult{Status: soracache.StatusMiss, Stamp: f.stamps()}
		if read.Lease {
			result.Lease, result.LeaseFor = fakeLease(read.Key), max(read.LeaseFor, soracache.DefaultLease)
		}
		return result
	}
	return soracache.ReadResult{
		Status: soracache.StatusHit, Entry: w.Entry, Stamp: f.stamps(), Tier: soracache.TierL1,
		FreshFor: w.Lifetime.TTL, KeepFor: max(w.Lifetime.Keep, w.Lifetime.TTL),
	}
}

func (f *fakeNode) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	f.mu.Lock()
	f.writes = append(f.writes, req)
	f.mu.Unlock()
	if f.onWrite != nil {
		return f.onWrite(ctx, req)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]soracache.WriteResult, len(req.Writes))
	for i, w := range req.Writes {
		f.position++
		results[i] = soracache.WriteResult{Stored: true, Stamp: f.stamps()}
		switch w.Op {
		case soracache.OpFill, soracache.OpPut:
			f.entries[req.Namespace+"/"+w.Key] = w
		case soracache.OpRenew:
			results[i].LeaseFor = w.LeaseFor
		case soracache.OpRelease:
		}
	}
	return results, nil
}

func (f *fakeNode) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	f.mu.Lock()
	f.invalidations = append(f.invalidations, req)
	f.mu.Unlock()
	if f.onInvalidate != nil {
		return f.onInvalidate(ctx, req)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, w := range f.entries {
		for _, target := range req.Targets {
			if target == soracache.Everything() || name == req.Namespace+"/"+target.Name && target.Kind == soracache.TargetKey ||
				target.Kind == soracache.TargetTag && slices.Contains(w.Entry.Tags, target.Name) {
				delete(f.entries, name)
			}
		}
	}
	f.position++
	return soracache.InvalidateResult{Stamp: f.stamps()}, nil
}

func (f *fakeNode) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	if f.onHead != nil {
		return f.onHead(ctx, namespace)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return soracache.HeadResult{Stamp: f.stamps(), Age: 20 * time.Millisecond}, nil
}

func (f *fakeNode) Explain(ctx context.Context, namespace, key string) (node.Explanation, error) {
	if f.onExplain != nil {
		return f.onExplain(ctx, namespace, key)
	}
	return node.Explanation{Status: soracache.StatusMiss, Reason: "nothing under " + namespace + "/" + key, ConfirmedAgo: -1}, nil
}

func (f *fakeNode) ListKeys(_ context.Context, namespace, tag, token string, limit int) ([]string, string, error) {
	if f.onListKeys != nil {
		return f.onListKeys(limit)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listings = append(f.listings, listing{namespace, tag, token, limit})
	from := 0
	if token != "" {
		var err error
		if from, err = strconv.Atoi(token); err != nil {
			return nil, "", fmt.Errorf("%w: malformed page token", soracache.ErrInvalid)
		}
	}
	var keys []string
	for name, w := range f.entries {
		if slices.Contains(w.Entry.Tags, tag) {
			keys = append(keys, name)
		}
	}
	slices.Sort(keys)
	keys = keys[min(from, len(keys)):]
	if len(keys) <= limit {
		return keys, "", nil
	}
	return keys[:limit], strconv.Itoa(from + limit), nil
}

func (f *fakeNode) Limits() soracache.Limits { return f.limits }

func (f *fakeNode) StoreFull() bool { return f.full }

func (f *fakeNode) Silent() []string { return f.silent }

func (f *fakeNode) Store() []node.StorePart { return f.store }

func (f *fakeNode) Ready(ctx context.Context) error {
	if f.onReady != nil {
		return f.onReady(ctx)
	}
	return nil
}

func (f *fakeNode) Drain(ctx context.Context) error {
	f.mu.Lock()
	f.drains++
	f.mu.Unlock()
	if f.onDrain != nil {
		return f.onDrain(ctx)
	}
	return nil
}

func (f *fakeNode) lastGet() soracache.GetRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gets[len(f.gets)-1]
}

func (f *fakeNode) lastWrite() soracache.WriteRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes[len(f.writes)-1]
}

// touched tells how often anything was asked of the node.
func (f *fakeNode) touched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.gets) + len(f.writes) + len(f.invalidations) + len(f.listings)
}

func (f *fakeNode) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	f.mu.Lock()
	f.watches = append(f.watches, req)
	f.mu.Unlock()
	if f.onWatch != nil {
		return f.onWatch(ctx, req, deliver)
	}
	if err := deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Reset: true}}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
