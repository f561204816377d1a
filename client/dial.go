package client

import (
	"math/rand/v2"
	"strings"

	"github.com/soracache/soracache"
)

// dialBackend returns what a client of the service at these URLs stands on, and
// what ends it: the nodes, each behind what batches the requests to it.
func dialBackend(urls string, cfg config) (_ soracache.Backend, end func(), err error) {
	h, endHTTP := httpClient(cfg)
	var members []*member
	var batches []*batched
	for raw := range strings.SplitSeq(urls, ",") {
		base, err := parseURL(raw)
		if err != nil {
			return nil, nil, err
		}
		node := newBatched(newRemote(h, base, cfg))
		batches = append(batches, node)
		members = append(members, &member{url: base, backend: node})
	}
	rand.Shuffle(len(members), func(i, j int) { //nolint:gosec // spread, not secrecy
		members[i], members[j] = members[j], members[i]
	})
	return &nodes{members: members, log: cfg.log}, func() {
		for _, b := range batches {
			b.close()
		}
		endHTTP()
	}, nil
}
