package cluster

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// Nodes makes one backend of several, preferred in the order given.
func Nodes(log *slog.Logger, backends ...soracache.Backend) soracache.Backend {
	var members []*member
	for i, b := range backends {
		members = append(members, newMember(fmt.Sprint("node ", i), b, func() {}, log, nil))
	}
	asGiven := ranking{func([]*member, string) {}, func(members []*member, _ string) *member { return members[0] }}
	r := newRouter(func() []*member { return members }, asGiven, func() {})
	r.spread = asGiven.order
	return r
}

// Batched has concurrent requests to a backend travel together.
func Batched(node soracache.Backend) (_ soracache.Backend, end func()) {
	b := newBatchingNode(node)
	return b, b.close
}

// Routed routes between backends by their URLs.
func Routed(log *slog.Logger, by Routing, backends map[string]soracache.Backend, onBreaker func(string, bool)) soracache.Backend {
	var members []*member
	for url, b := range backends {
		members = append(members, newMember(url, b, func() {}, log, onBreaker))
	}
	rank, err := rankingOf(by)
	if err != nil {
		panic(err)
	}
	return newRouter(func() []*member { return members }, rank, func() {})
}

// RankByKey returns URLs in the order in which a key wants them.
func RankByKey(urls []string, key string) (order []string) {
	var members []*member
	for _, url := range urls {
		members = append(members, &member{url: url, seed: hashOf(url)})
	}
	byKey(members, key)
	if first := firstByKey(members, key); first != members[0] {
		return []string{"the first is not the first", first.url}
	}
	for _, m := range members {
		order = append(order, m.url)
	}
	return order
}

// Discovering routes between nodes that are learned from seeds.
func Discovering(log *slog.Logger, seeds []string, connect func(url string) (soracache.Backend, func()),
	list func(context.Context, string) ([]*cachev1.Member, error),
) (_ soracache.Backend, end func()) {
	d := newDirectory(seeds, func(url string) *member {
		backend, end := connect(url)
		return newMember(url, backend, end, log, nil)
	}, log)
	d.list = list
	return newRouter(d.members, ranking{byKey, firstByKey}, d.troubled), d.close
}
