package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
)

// Codec turns values into bytes and back. Its name is stored with the value, so
// that readers in any language know how to decode it.
type Codec interface {
	// Name is the encoding's name, such as "json": at most 255 bytes.
	Name() string
	// Marshal encodes a value. The bytes are not changed afterwards, and must
	// not share memory with the value.
	Marshal(value any) ([]byte, error)
	// Unmarshal decodes data into the value that into points to. It must not
	// change data; the value may refer to it.
	Unmarshal(data []byte, into any) error
}

// JSON is the codec named "json": encoding/json. It is what values are encoded
// with that are neither bytes, nor strings, nor proto messages.
type JSON struct{}

// Name returns "json".
func (JSON) Name() string { return "json" }

// Marshal is json.Marshal.
func (JSON) Marshal(value any) ([]byte, error) { return json.Marshal(value) }

// Unmarshal is json.Unmarshal.
func (JSON) Unmarshal(data []byte, into any) error { return json.Unmarshal(data, into) }

// Raw is the codec named "raw": []byte and string as they are.
type Raw struct{}

// Name returns "raw".
func (Raw) Name() string { return "raw" }

// Marshal returns a copy of the bytes.
func (Raw) Marshal(value any) ([]byte, error) {
	switch v := value.(type) {
	case []byte:
		return slices.Clone(v), nil
	case string:
		return []byte(v), nil
	}
	return nil, fmt.Errorf("raw codec: %T is neither []byte nor string", value)
}

// Unmarshal lets *[]byte refer to data, and *string copy it.
func (Raw) Unmarshal(data []byte, into any) error {
	switch v := into.(type) {
	case *[]byte:
		*v = data
	case *string:
		*v = string(data)
	default:
		return fmt.Errorf("raw codec: %T points to neither []byte nor string", into)
	}
	return nil
}

// Proto is the codec named "proto": proto messages in their binary form.
type Proto struct{}

// Name returns "proto".
func (Proto) Name() string { return "proto" }

// Marshal is proto.Marshal. A nil message is an error, because it would come
// back as an empty one.
func (Proto) Marshal(value any) ([]byte, error) {
	m, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("proto codec: %T is no proto message", value)
	}
	if !m.ProtoReflect().IsValid() {
		return nil, errors.New("proto codec: nil message")
	}
	return proto.Marshal(m)
}

// Unmarshal decodes into a *M or, as a cache of *M asks for, a **M.
func (Proto) Unmarshal(data []byte, into any) error {
	if m, ok := into.(proto.Message); ok {
		return proto.Unmarshal(data, m)
	}
	target := reflect.ValueOf(into)
	if target.Kind() == reflect.Pointer && isProto(target.Type().Elem()) {
		fresh := reflect.New(target.Type().Elem().Elem())
		if m, ok := fresh.Interface().(proto.Message); ok {
			target.Elem().Set(fresh)
			return proto.Unmarshal(data, m)
		}
	}
	return fmt.Errorf("proto codec: %T points to no proto message", into)
}

// isProto tells whether t is a pointer type that is a proto message.
func isProto(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && t.Implements(reflect.TypeFor[proto.Message]())
}

// codecs are those that one client knows.
type codecs struct {
	// standard encodes what has no codec of its own kind.
	standard Codec
	byName   map[string]Codec
}

// newCodecs knows the three above, the standard one, and others.
func newCodecs(standard Codec, others []Codec) codecs {
	byName := make(map[string]Codec)
	for _, c := range slices.Concat([]Codec{JSON{}, Raw{}, Proto{}}, others, []Codec{standard}) {
		byName[c.Name()] = c
	}
	return codecs{standard: standard, byName: byName}
}

// codecOf returns what values of type T are encoded with unless a call says
// otherwise.
func codecOf[T any](known codecs) Codec {
	switch t := reflect.TypeFor[T](); {
	case t == reflect.TypeFor[[]byte](), t == reflect.TypeFor[string]():
		return Raw{}
	case isProto(t):
		return Proto{}
	default:
		return known.standard
	}
}

// decode reads an entry by the codec that it names: preferred if it is that
// one, or else any that the client knows.
func decode[T any](known codecs, preferred Codec, e soracache.Entry) (T, error) {
	var value, zero T
	if e.Kind != soracache.KindValue {
		return zero, fmt.Errorf("the entry holds no value but a marker (kind %d)", e.Kind)
	}
	name := e.Encoding
	if name == "" {
		name = Raw{}.Name()
	}
	codec, ok := known.byName[name]
	if preferred.Name() == name {
		codec, ok = preferred, true
	}
	if !ok {
		return zero, fmt.Errorf("no codec is known by the name %q", name)
	}
	if err := codec.Unmarshal(e.Value, &value); err != nil {
		return zero, fmt.Errorf("decode %s: %w", name, err)
	}
	return value, nil
}
