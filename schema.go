package soracache

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A schema is the form of the values under a key, such as "order/2": what one
// version of an application writes and can read. A key may have a value in each
// of several schemas. They are entries of their own, each with its own lease:
// none is found by who reads another, and none replaces another. But they are
// values of one key, so whatever names the key names all of them. The default
// schema is "".
const (
	// MaxSchemaBytes is how long the name of a schema may be.
	MaxSchemaBytes = 64
	// MaxSchemas is how many schemas, beside the default one, may have a value or a
	// lease under one key. One more takes the place of the one that ends first.
	MaxSchemas = 8
)

// CheckSchema reports whether a schema is at most [MaxSchemaBytes] bytes of UTF-8
// without control characters. Empty is the default schema.
func CheckSchema(schema string) error {
	switch {
	case len(schema) > MaxSchemaBytes:
		return fmt.Errorf("%w: schema of %d bytes: at most %d", ErrInvalid, len(schema), MaxSchemaBytes)
	case !utf8.ValidString(schema):
		return fmt.Errorf("%w: schema is not UTF-8", ErrInvalid)
	case strings.ContainsFunc(schema, unicode.IsControl):
		return fmt.Errorf("%w: schema %q has a control character", ErrInvalid, schema)
	}
	return nil
}

// nameMark begins a name that is not a key, and ends its schema. Neither a key
// nor a schema has that byte, since both are UTF-8.
const nameMark = "\xff"

// Name returns what the entry of a schema stands under, and its lease: the key
// itself for the default schema, and else nameMark, the schema, nameMark and
// the key. It is a part of the stored format and never changes.
func Name(schema, key string) string {
	if schema == "" {
		return key
	}
	return nameMark + schema + nameMark + key
}

// SplitName returns the schema and the key of a [Name].
func SplitName(name string) (schema, key string) {
	if !strings.HasPrefix(name, nameMark) {
		return "", name
	}
	schema, key, ok := strings.Cut(name[len(nameMark):], nameMark)
	if !ok {
		return "", name
	}
	return schema, key
}

// KeyOf returns the key of a [Name]: what partitions, records and marks go by.
func KeyOf(name string) string {
	if name == "" || name[0] != nameMark[0] {
		return name
	}
	_, key := SplitName(name)
	return key
}
