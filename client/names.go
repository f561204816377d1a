package client

import (
	"fmt"
	"math"

	"github.com/soracache/soracache"
)

// names are the limits of keys and tags, and of what is stored beside values, that a
// client knows without asking. How long and how many keys, tags and values may be is the
// service's affair.
var names = soracache.Limits{KeyBytes: math.MaxInt, TagBytes: math.MaxInt, Tags: math.MaxInt, ValueBytes: math.MaxInt}

// checkTags refuses tags that no value can carry.
func checkTags(tags []string) error {
	for _, t := range tags {
		if err := names.CheckTag(t); err != nil {
			return err
		}
	}
	return nil
}

// check refuses names that nothing can have.
func (i *Invalidation) check() error {
	for _, k := range i.Keys {
		if err := names.CheckKey(k); err != nil {
			return err
		}
	}
	return checkTags(i.Tags)
}

// named returns the keys that there can be, and has the others fail, each alone.
func (b *bulk[T]) named(keys []string) []string {
	for i, key := range keys {
		if names.CheckKey(key) == nil {
			continue
		}
		rest := keys[:i:i]
		for _, key := range keys[i:] {
			if err := names.CheckKey(key); err != nil {
				b.failed[key] = fmt.Errorf("client: %w", err)
				continue
			}
			rest = append(rest, key)
		}
		return rest
	}
	return keys
}
