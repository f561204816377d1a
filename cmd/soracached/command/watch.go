package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// watchCmd prints invalidations as they happen.
type watchCmd struct {
	namespace
	remote
}

func (c *watchCmd) declare(o *options) {
	c.namespace.declare(o)
	c.remote.declare(o.section("Connection"))
}

// errNoAnswer is why a watch ends that has not begun in time.
var errNoAnswer = fmt.Errorf("%w: the node does not answer", soracache.ErrUnavailable)

// Run watches until ctx ends, which is success, or until the node cannot go on.
func (c *watchCmd) Run(ctx context.Context, con *console) error {
	node, err := c.dial()
	if err != nil {
		return err
	}
	defer node.close()
	token, err := c.token()
	if err != nil {
		return usage(err)
	}
	watching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(c.Timeout, func() { cancel(errNoAnswer) })
	defer patience.Stop()
	lines := &watchLines{con: con, json: c.JSON}
	err = c.watch(watching, node, token, func(m *soracachev1.WatchResponse) error {
		patience.Stop()
		return lines.print(m)
	})
	switch {
	case ctx.Err() != nil:
		return nil // the operator has seen enough
	case watching.Err() != nil:
		return context.Cause(watching)
	}
	return err
}

// watch hands over every message, until there are no more.
func (c *watchCmd) watch(ctx context.Context, node *client, token string, each func(*soracachev1.WatchResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asking, call := connect.NewClientContext(ctx)
	if token != "" {
		call.RequestHeader().Set("Authorization", "Bearer "+token)
	}
	stream, err := node.cache.Watch(asking, &soracachev1.WatchRequest{Namespace: c.Namespace})
	if err != nil {
		return err
	}
	defer func() {
		cancel() // what is still to come is not waited for
		_ = stream.Close()
	}()
	for stream.Receive() {
		if err := each(stream.Msg()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: the node has ended the watch", soracache.ErrUnavailable)
}

// watchLines prints what a watch brings.
type watchLines struct {
	con  *console
	json bool
	// begun holds the partitions that have had their first item.
	begun map[uint32]bool
}

func (l *watchLines) print(m *soracachev1.WatchResponse) error {
	if l.json {
		return l.con.printJSON(m)
	}
	for _, item := range m.GetItems() {
		if err := l.printItem(item); err != nil {
			return err
		}
	}
	return nil
}

func (l *watchLines) printItem(item *soracachev1.WatchItem) error {
	if l.begun == nil {
		l.begun = map[uint32]bool{}
		l.con.note("watching; what is invalidated from now on follows")
	}
	if item.GetReset_() && l.begun[item.GetPartition()] {
		if err := l.con.say("%s  partition %d begins anew: what was invalidated shortly before is not known",
			clockText(item.GetComplete()), item.GetPartition()); err != nil {
			return err
		}
	}
	l.begun[item.GetPartition()] = true
	for _, r := range item.GetRecords() {
		names := watchedNames(r, item.GetPartition() == 0)
		if len(names) == 0 {
			continue
		}
		if err := l.con.say("%s  %s", clockText(r.GetPosition()), strings.Join(names, ", ")); err != nil {
			return err
		}
	}
	return nil
}

// watchedNames lists what a record names. A tag, and everything, is recorded in
// all partitions, and listed for one of them.
func watchedNames(r *soracachev1.WatchRecord, first bool) []string {
	var names []string
	for _, key := range r.GetKeys() {
		names = append(names, "key "+clean(key))
	}
	if !first {
		return names
	}
	for _, tag := range r.GetTags() {
		names = append(names, "tag "+clean(tag))
	}
	if r.GetAll() {
		names = append(names, "everything")
	}
	return names
}

// clockText is the time of a position: positions are microseconds.
func clockText(position uint64) string {
	return time.UnixMicro(int64(position)).Format("15:04:05.000000") //nolint:gosec // times
}
