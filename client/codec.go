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

// The codecs that every client knows.
var (
	// JSON encodes with encoding/json; its name is "json". It is what values
	// are encoded with that are neither bytes, nor strings, nor proto messages.
	JSON Codec = jsonCodec{}
	// Raw stores []byte and string as they are; its name is "raw".
	Raw Codec = rawCodec{}
	// Proto encodes proto messages in their binary form; its name is "proto".
	Proto Codec = protoCodec{}
)

type jsonCodec struct{}

func (jsonCodec) Name() string                          { return "json" }
func (jsonCodec) Marshal(value any) ([]byte, error)     { return json.Marshal(value) }
func (jsonCodec) Unmarshal(data []byte, into any) error { return json.Unmarshal(data, into) }

type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(value any) ([]byte, error) {
	switch v := value.(type) {
	case []byte:
		return slices.Clone(v), nil
	case string:
		return []byte(v), nil
	}
	return nil, fmt.Errorf("raw codec: %T is neither []byte nor string", value)
}

func (rawCodec) Unmarshal(data []byte, into any) error {
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

type protoCodec struct{}

func (protoCodec) Name() string { return "proto" }

func (protoCodec) Marshal(value any) ([]byte, error) {
	m, ok := value.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("proto codec: %T is no proto message", value)
	}
	if !m.ProtoReflect().IsValid() {
		return nil, errors.New("proto codec: nil message") // it would come back as an empty one
	}
	return proto.Marshal(m)
}

// Unmarshal decodes into a *M or, which is what a cache of *M passes, a **M.
func (protoCodec) Unmarshal(data []byte, into any) error {
	if m, ok := into.(proto.Message); ok {
		return proto.Unmarshal(data, m)
	}
	pointer := reflect.ValueOf(into)
	if pointer.Kind() != reflect.Pointer || !isProto(pointer.Type().Elem()) {
		return fmt.Errorf("proto codec: %T points to no proto message", into)
	}
	fresh := reflect.New(pointer.Type().Elem().Elem())
	if err := proto.Unmarshal(data, fresh.Interface().(proto.Message)); err != nil {
		return err
	}
	pointer.Elem().Set(fresh)
	return nil
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
	byName := map[string]Codec{JSON.Name(): JSON, Raw.Name(): Raw, Proto.Name(): Proto}
	for _, c := range slices.Concat(others, []Codec{standard}) {
		byName[c.Name()] = c
	}
	return codecs{standard: standard, byName: byName}
}

// codecOf returns what values of type T are encoded with unless a call says
// otherwise.
func codecOf[T any](known codecs) Codec {
	switch t := reflect.TypeFor[T](); {
	case t == reflect.TypeFor[[]byte](), t == reflect.TypeFor[string]():
		return Raw
	case isProto(t):
		return Proto
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
		name = Raw.Name()
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
