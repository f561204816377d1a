package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/soracache/soracache"
)

// A message may take far more memory than its bytes: an empty item of a batch
// takes two bytes on the wire and hundreds in memory. So what a message will
// take is counted on its bytes, before it is decoded.

// shape is what the counting knows of a message type.
type shape struct {
	bytes  int // of the Go struct
	widest int // of the structs of all messages inside, itself included
	fields map[protowire.Number]shapeField
}

type shapeField struct {
	name     string
	repeated bool
	message  *shape         // nil: a string, bytes or a number
	text     bool           // a string
	number   bool           // of which many may stand in one element
	nth      int            // of the message's repeated fields, as far as they are counted apart
	wire     protowire.Type // of a number that stands alone
}

// shapeWithin reads a message type's descriptor. Each type is read once.
func shapeWithin(d protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[d.FullName()]; s != nil {
		return s
	}
	s := &shape{bytes: 1 << 10, fields: map[protowire.Number]shapeField{}}
	if t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil {
		s.bytes = int(reflect.TypeOf(t.Zero().Interface()).Elem().Size())
	}
	s.widest = s.bytes
	known[d.FullName()] = s
	lists := 0
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		field := shapeField{
			name: string(f.Name()), repeated: f.Cardinality() == protoreflect.Repeated,
			text:   f.Kind() == protoreflect.StringKind,
			number: f.Message() == nil && f.Kind() != protoreflect.StringKind && f.Kind() != protoreflect.BytesKind,
			wire:   wireOf(f.Kind()),
		}
		if field.repeated {
			field.nth = min(lists, mostLists-1)
			lists++
		}
		if f.Message() != nil {
			field.message = shapeWithin(f.Message(), known)
			s.widest = max(s.widest, field.message.widest)
		}
		s.fields[f.Number()] = field
	}
	return s
}

// wireOf is how a number of some kind is encoded.
func wireOf(k protoreflect.Kind) protowire.Type {
	switch k { //nolint:exhaustive // all others are varints
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	}
	return protowire.VarintType
}

// counted is what a message will be once it is decoded.
type counted struct {
	items int // elements of that of the message's own repeated fields which has the most
	bytes int // of memory, about, and no less

	of [mostLists]int // elements of each of those fields
}

// mostLists is how many repeated fields of a message are counted apart.
const mostLists = 4

// What an element of a slice takes while the slice grows (the old one and the
// new one, which is up to twice as large), and the head of a string.
const (
	elementBytes = 3 * 8
	stringBytes  = 3 * 16
)

// errNested is as far as anybody nests what is no attack.
var errNested = errors.New("nested too deeply")

// most is how far things are counted before it is clear that they are refused.
type most struct{ items, bytes int }

func (c *counted) over(m most) bool { return c.items > m.items || c.bytes > m.bytes }

// countProto counts what the wire form holds. It stops early once more than the
// most was found. What it finds malformed is malformed to the decoder, too.
func countProto(b []byte, s *shape, m most) (counted, error) {
	c := counted{bytes: s.bytes}
	err := c.proto(b, s, m, true)
	return c, err
}

func (c *counted) proto(b []byte, s *shape, m most, top bool) error {
	for len(b) > 0 && !c.over(m) {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		f, known := s.fields[number]
		rest := b[n:]
		if !known || wire != protowire.BytesType {
			size := protowire.ConsumeFieldValue(number, wire, rest)
			if size < 0 {
				return protowire.ParseError(size)
			}
			b = rest[size:]
			if c.bytes += 3 * (n + size); f.number && f.repeated && wire == f.wire {
				c.bytes += elementBytes
				c.count(1, f.nth, top)
			} // what is not known is kept as it is, in a slice that grows
			continue
		}
		v, size := protowire.ConsumeBytes(rest)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = rest[size:]
		elements := 1
		switch {
		case f.message != nil:
			c.bytes += f.message.bytes
			if err := c.proto(v, f.message, m, false); err != nil {
				return err
			}
		case f.number:
			elements = packed(v, f.wire)
			c.bytes += 3 * (n + size)
		case f.text && !utf8.Valid(v):
			return notUTF8(f.name)
		default:
			c.bytes += stringBytes + len(v)
		}
		if f.repeated {
			c.bytes += elements * elementBytes
			c.count(elements, f.nth, top)
		}
	}
	return nil
}

// packed is how many numbers stand in one element.
func packed(b []byte, wire protowire.Type) (n int) {
	switch wire { //nolint:exhaustive // numbers have no other
	case protowire.Fixed32Type:
		return len(b) / 4
	case protowire.Fixed64Type:
		return len(b) / 8
	}
	for _, c := range b {
		if c < 0x80 { // the last byte of a varint
			n++
		}
	}
	return n
}

func (c *counted) count(n, nth int, top bool) {
	if top {
		c.of[nth] += n
		c.items = max(c.items, c.of[nth])
	}
}

// notUTF8 says of which field of a message a string is that is not UTF-8, in
// the words that a key gets that comes another way.
func notUTF8(field string) error {
	return fmt.Errorf("%w: %s is not UTF-8", soracache.ErrInvalid, strings.TrimSuffix(field, "s"))
}

// mostNested is how deeply protojson reads.
const mostNested = 10_000

// countJSON counts what the text holds. It knows no grammar: what is no JSON is
// for the decoder to tell.
func countJSON(b []byte, s *shape, m most) (counted, error) {
	c := counted{bytes: s.bytes}
	depth, list, name := 0, false, []byte(nil) // list: the container at depth 2 is an array
	value := func(bytes int) {
		c.bytes += bytes
		if depth == 2 && list {
			c.count(1, 0, true)
		}
	}
	for i := 0; i < len(b) && !c.over(m); {
		switch b[i] {
		case ' ', '\t', '\n', '\r', ',', ':':
			i++
		case '{', '[':
			value(s.widest + elementBytes)
			if depth++; depth == 2 {
				list, c.of[0] = b[i] == '[', 0
			}
			if depth > mostNested {
				return c, errNested
			}
			i++
		case '}', ']':
			depth--
			i++
		case '"':
			end := i + stringEnd(b[i:])
			text := b[i:end]
			value(stringBytes + elementBytes + len(text))
			if !utf8.Valid(text) {
				return c, notUTF8(unquoted(name))
			}
			if i = end; isName(b[i:]) {
				name = text
			}
		default:
			end := i + 1
			for end < len(b) && !strings.ContainsRune(" \t\n\r,:{}[]\"", rune(b[end])) {
				end++
			}
			value(elementBytes + s.widest) // null may stand for a message
			i = end
		}
	}
	return c, nil
}

// isName tells whether a string is a name, by what follows it.
func isName(rest []byte) bool {
	for _, b := range rest {
		switch b {
		case ' ', '\t', '\n', '\r':
		default:
			return b == ':'
		}
	}
	return false
}

func unquoted(text []byte) string {
	var name string
	if len(text) > mostQuoted {
		return "a string"
	}
	if json.Unmarshal(text, &name) != nil {
		return "a string"
	}
	return name
}
