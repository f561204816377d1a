package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
)

// Codec turns values into bytes and back. Its name is stored with the value, so
// that readers in any language know how to decode it.
type Codec interface {
	// Name is the encoding's name, such as "json": at most 255 bytes of UTF-8.
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
type JSON struct {
	// DisallowUnknownFields refuses to read an object that has a field which the
	// type lacks: it is another type's, or another version's. What the type has and
	// the object lacks is zero all the same.
	DisallowUnknownFields bool
}

// Name returns "json".
func (JSON) Name() string { return "json" }

// Marshal is json.Marshal.
func (JSON) Marshal(value any) ([]byte, error) { return json.Marshal(value) }

// Unmarshal is json.Unmarshal, but null is no value of a type that cannot be nil,
// unless that decodes itself.
func (c JSON) Unmarshal(data []byte, into any) error {
	if string(data) == "null" && !takesNull(into) {
		return fmt.Errorf("null is no %T", into)
	}
	if !c.DisallowUnknownFields {
		return json.Unmarshal(data, into)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// takesNull tells whether null stands for a value of what is pointed to.
func takesNull(into any) bool {
	if _, decodesItself := into.(json.Unmarshaler); decodesItself {
		return true
	}
	target := reflect.TypeOf(into)
	if target == nil || target.Kind() != reflect.Pointer {
		return true // json tells what is wrong with it
	}
	switch target.Elem().Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		return true
	default:
		return false
	}
}

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
