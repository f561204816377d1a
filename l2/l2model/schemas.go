package l2model

import (
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// listed is a schema under a key, and until when it has an entry or a lease there
// at the latest.
type listed struct {
	schema string
	until  time.Time
}

// enlist notes that a name has an entry or a lease until some time. Where a key
// would have too many schemas, the one that ends first goes.
func (s step) enlist(name string, until time.Time) {
	schema, key := soracache.SplitName(name)
	if schema == "" {
		return
	}
	list := s.schemas[key]
	i := slices.IndexFunc(list, func(l listed) bool { return l.schema == schema })
	if i >= 0 {
		if until.After(list[i].until) {
			list[i].until = until
		}
		return
	}
	list = slices.DeleteFunc(list, func(l listed) bool {
		over := !s.now.Before(l.until) || l.until.Sub(s.now) > l2.MaxKeep
		if over {
			s.drop(l.schema, key)
		}
		return over
	})
	for len(list) >= soracache.MaxSchemas {
		first := 0
		for i := range list {
			if list[i].until.Before(list[first].until) {
				first = i
			}
		}
		s.drop(list[first].schema, key)
		list = slices.Delete(list, first, first+1)
	}
	s.schemas[key] = append(list, listed{schema, until})
}

// drop deletes what stands under a key in one schema.
func (s step) drop(schema, key string) {
	name := soracache.Name(schema, key)
	delete(s.entries, name)
	delete(s.leases, name)
}

// dropAll deletes what stands under a key in every schema.
func (s step) dropAll(key string) {
	s.drop("", key)
	for _, l := range s.schemas[key] {
		s.drop(l.schema, key)
	}
	delete(s.schemas, key)
}

// sweepSchemas forgets schemas that have nothing any more.
func (s step) sweepSchemas() {
	for key, list := range s.schemas {
		list = slices.DeleteFunc(list, func(l listed) bool { return !s.now.Before(l.until) })
		if s.schemas[key] = list; len(list) == 0 {
			delete(s.schemas, key)
		}
	}
}

// counts tells whether what stands under a name counts.
func (s step) counts(name string) bool {
	schema, key := soracache.SplitName(name)
	return schema == "" || slices.ContainsFunc(s.schemas[key], func(l listed) bool { return l.schema == schema })
}

func cloneSchemas(of map[string][]listed) map[string][]listed {
	clone := make(map[string][]listed, len(of))
	for key, list := range of {
		clone[key] = slices.Clone(list)
	}
	return clone
}
