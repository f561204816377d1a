package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// server is one address at which a Redis primary is reached.
type server struct {
	// loading is held by whoever finds out which process answers there, and
	// loads the scripts into it.
	loading chan struct{}
	// current is that process as last seen; nil at first. It may be another by
	// now, in which case its scripts are not known there.
	current atomic.Pointer[process]
	// client is what it was last reached by; nil at first.
	client atomic.Pointer[goredis.Client]
}

// partition is what the store remembers of an [l2.Partition]: the names of its
// keys, and which server and process answered for it last.
type partition struct {
	l2.Partition
	// base is what the names of all its keys begin with; keys are those of t, k
	// and h, ready to be sent.
	base string
	keys [3]any
	// invalid is why no such partition can be; nil if it can.
	invalid error
	// serving is the process that answered last; nil until the partition is
	// first used.
	serving atomic.Pointer[process]
	// enterAfter is when the partition is next to be entered in the index, on a
	// clock that begins with the process.
	enterAfter atomic.Int64
	// lookBy is until when somebody looks after it, as far as is known here, on the
	// same clock: see [Store.enters].
	lookBy atomic.Int64
}

// mostPartitions bounds what is remembered of partitions, half of it. Whoever uses
// more at a time pays for making their names, and for entering them in the index,
// again and again.
const mostPartitions = 512

func (s *Store) partition(p l2.Partition) *partition {
	s.mu.RLock()
	known := s.partitions[p]
	s.mu.RUnlock()
	if known != nil {
		return known
	}
	if err := checkPartition(p); err != nil {
		return &partition{Partition: p, invalid: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known = s.partitions[p]; known != nil {
		return known
	}
	if known = s.older[p]; known == nil {
		known = newPartition(s.config.Prefix, p)
	}
	if len(s.partitions) >= mostPartitions {
		s.older, s.partitions = s.partitions, make(map[l2.Partition]*partition)
	}
	s.partitions[p] = known
	return known
}

// newPartition names a partition's keys.
func newPartition(prefix string, p l2.Partition) *partition {
	base := fmt.Sprintf("%s{%s/%d}", prefix, p.Namespace, p.Index)
	return &partition{Partition: p, base: base, keys: [3]any{base + "t", base + "k", base + "h"}}
}

func checkPartition(p l2.Partition) error {
	if err := soracache.CheckNamespace(p.Namespace); err != nil {
		return err
	}
	if p.Index >= p.Count || p.Count > soracache.MaxPartitions {
		return fmt.Errorf("%w: partition %s of %d", soracache.ErrInvalid, p, p.Count)
	}
	return nil
}

// attach returns the process that serves a partition. Stale is what was found
// not to know the scripts: another process by now, or the same after SCRIPT
// FLUSH.
func (s *Store) attach(ctx context.Context, p *partition, stale *process) (*process, error) {
	if found := p.serving.Load(); found != nil && found != stale {
		return found, nil
	}
	client, err := s.primary(ctx, p)
	if err != nil {
		return nil, err
	}
	found, _, err := s.process(ctx, client, stale)
	if err != nil {
		return nil, err
	}
	p.serving.Store(found)
	return found, nil
}

// process returns the process behind a client, other than the stale one, and
// whether it had to be asked for that.
func (s *Store) process(ctx context.Context, client *goredis.Client, stale *process) (found *process, asked bool, err error) {
	at := s.server(client.Options().Addr)
	select {
	case at.loading <- struct{}{}:
		defer func() { <-at.loading }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if found = at.current.Load(); found != nil && found != stale {
		return found, false, nil
	}
	if found, err = s.load(ctx, client); err != nil {
		return nil, true, err
	}
	at.current.Store(found)
	at.client.Store(client)
	return found, true, nil
}

// primary returns the client of the server that a partition's keys live on.
func (s *Store) primary(ctx context.Context, p *partition) (*goredis.Client, error) {
	if s.cluster == nil {
		return s.single, nil
	}
	client, err := s.cluster.MasterForKey(ctx, p.base)
	if err == nil {
		s.mapped.Store(true)
	}
	return client, err
}

// Part implements [l2.Store]: in a cluster, it is the address of the master that
// holds the slot, once the client knows who does.
func (s *Store) Part(at l2.Partition) string {
	if !s.mapped.Load() {
		return ""
	}
	client, err := s.primary(context.Background(), s.partition(at))
	if err != nil {
		return ""
	}
	return client.Options().Addr
}

func (s *Store) server(addr string) *server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers[addr] == nil {
		s.servers[addr] = &server{loading: make(chan struct{}, 1)}
	}
	return s.servers[addr]
}

// load finds out which process is behind a client and loads the scripts into
// it, on one connection, so that it cannot be replaced in between.
func (s *Store) load(ctx context.Context, client *goredis.Client) (*process, error) {
	conn := client.Conn()
	defer conn.Close() // hands it back to the pool
	run, err := s.runID(ctx, conn)
	if err != nil {
		return nil, err
	}
	loaded, texts := newProcess(run, s.config.Retention)
	pipe := conn.Pipeline()
	policy := pipe.ConfigGet(ctx, "maxmemory-policy")
	for _, text := range texts {
		pipe.ScriptLoad(ctx, text)
	}
	s.roundTrips.Add(1)
	commands, _ := pipe.Exec(ctx)
	for _, c := range commands[1:] {
		if c.Err() != nil {
			return nil, fmt.Errorf("loading scripts: %w", c.Err())
		}
	}
	s.warnOfPolicy(policy.Val()["maxmemory-policy"])
	return loaded, nil
}

// runID returns 52 bits of the run id of the process behind a connection, or 0
// if the user may not ask.
func (s *Store) runID(ctx context.Context, conn *goredis.Conn) (uint64, error) {
	s.roundTrips.Add(1)
	info, err := conn.Info(ctx, "server").Result()
	if goredis.HasErrorPrefix(err, "NOPERM") {
		s.warnRunID.Do(func() {
			s.config.Logger.Warn("INFO is forbidden: a restart of Redis cannot be told from a pause", "error", err)
		})
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); ok && len(id) >= 13 {
			run, err := strconv.ParseUint(id[:13], 16, 64)
			if err == nil {
				return max(run, 1), nil
			}
		}
	}
	return 0, nil
}

// warnOfPolicy warns once of a policy that evicts ledgers. (A user who may not
// read the configuration gets no warning.)
func (s *Store) warnOfPolicy(policy string) {
	if strings.HasPrefix(policy, "allkeys-") {
		s.warnPolicy.Do(func() {
			s.config.Logger.Warn("Redis may evict ledgers, and with each all entries of its partition: set maxmemory-policy to volatile-lru or noeviction",
				"maxmemory-policy", policy)
		})
	}
}
