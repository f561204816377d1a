package l2

import (
	"fmt"

	"github.com/soracache/soracache"
)

// CheckName reports whether something can stand under a name: a key, or the
// [soracache.Name] of a schema under a key. The error wraps [soracache.ErrInvalid].
func CheckName(name string) error {
	if name == "" || name[0] != '\xff' {
		return nil
	}
	schema, _ := soracache.SplitName(name)
	if schema == "" {
		return fmt.Errorf("%w: malformed name of a schema's entry", soracache.ErrInvalid)
	}
	return soracache.CheckSchema(schema)
}

// CheckTarget reports whether a target can be recorded: a record names a key, not
// what stands under it in one schema. The error wraps [soracache.ErrInvalid].
func CheckTarget(t soracache.Target) error {
	if t.Kind == soracache.TargetKey && t.Name != "" && t.Name[0] == '\xff' {
		return fmt.Errorf("%w: malformed key to invalidate", soracache.ErrInvalid)
	}
	return nil
}
