package client_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/internal/fake"
)

type product struct {
	ID   int    `json:"id"`
	Name string `json:"name,omitempty"`
}

// roundTrip loads a value, checks how it is stored, and reads it back.
func roundTrip[T any](w *world, encoding, bytes string, value T, same func(a, b T) bool, opts ...client.CallOption) {
	w.Helper()
	key := fmt.Sprintf("%s/%q", encoding, bytes) // a key is UTF-8
	load := func(context.Context) (T, error) { return value, nil }
	if _, err := client.GetOrSet(w.Context(), w.client, key, load, opts...); err != nil {
		w.Errorf("%s: load: %v", key, err)
	}
	e, ok := w.service.Stored(key)
	if !ok || e.Encoding != encoding || string(e.Value) != bytes {
		w.Errorf("stored: %t, as %q: %q; want %q: %q", ok, e.Encoding, e.Value, encoding, bytes)
	}
	got, found, err := client.Get[T](w.Context(), w.client, key, opts...)
	if err != nil || !found || !same(got, value) {
		w.Errorf("%s: read back %v, %t, %v", key, got, found, err)
	}
	if err := client.Set(w.Context(), w.client, key, value, opts...); err != nil {
		w.Errorf("%s: set: %v", key, err)
	}
	if again, _ := w.service.Stored(key); again.Encoding != encoding || string(again.Value) != bytes {
		w.Errorf("set as %q: %q", again.Encoding, again.Value)
	}
}

func equal[T comparable](a, b T) bool { return a == b }

type text string

func TestEncodings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		roundTrip(w, "json", `{"id":7,"name":"lamp"}`, product{7, "lamp"}, equal)
		roundTrip(w, "json", `{"id":8}`, &product{ID: 8}, func(a, b *product) bool { return *a == *b })
		roundTrip(w, "json", `null`, (*product)(nil), equal)
		roundTrip(w, "json", `42`, 42, equal)
		roundTrip(w, "json", `"named"`, text("named"), equal)
		roundTrip(w, "raw", "text", "text", equal)
		roundTrip(w, "raw", "", "", equal)
		roundTrip(w, "raw", "\x00\xff", []byte{0, 255}, bytes.Equal)
		roundTrip(w, "json", `"text"`, "text", equal, client.WithCodec(client.JSON{}))
		roundTrip(w, "proto", "\x08\x05", durationpb.New(5*time.Second), func(a, b *durationpb.Duration) bool { return proto.Equal(a, b) })
		roundTrip(w, "gob", string(gobBytes(t, product{9, "gob"})), product{9, "gob"}, equal, client.WithCodec(gobCodec{}))
	})
}

func TestRawBytesAreNotSharedWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		buffer := []byte("one")
		if err := client.Set(t.Context(), w.client, "k", buffer); err != nil {
			t.Fatal(err)
		}
		copy(buffer, "two")
		if v, _, _ := client.Get[[]byte](t.Context(), w.client, "k"); string(v) != "one" {
			t.Errorf("the caller's buffer was stored: %q", v)
		}
	})
}

func TestNilProtoMessageIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v, err := client.GetOrSet(t.Context(), w.client, "k", func(context.Context) (*durationpb.Duration, error) { return nil, nil })
		if _, ok := w.service.Stored("k"); v != nil || err != nil || ok {
			t.Errorf("got %v, %v, stored: %t", v, err, ok)
		}
	})
}

// An entry that a cache cannot read is never a wrong value: it is replaced.
func TestUnreadableEntries(t *testing.T) {
	tests := []struct {
		name  string
		entry soracache.Entry
	}{
		{"an encoding that nobody knows", soracache.Entry{Value: []byte("x"), Encoding: "cbor"}},
		{"damaged JSON", soracache.Entry{Value: []byte("{"), Encoding: "json"}},
		{"JSON of another type", soracache.Entry{Value: []byte(`"lamp"`), Encoding: "json"}},
		{"raw bytes where a struct is expected", soracache.Entry{Value: []byte(`{"id":1}`), Encoding: "raw"}},
		{"no encoding means raw", soracache.Entry{Value: []byte(`{"id":1}`)}},
		{"a proto message where a struct is expected", soracache.Entry{Value: []byte{8, 1}, Encoding: "proto"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.service.Put("k", tt.entry)
				if v, found, err := client.Get[product](t.Context(), w.client, "k"); found || err != nil {
					t.Errorf("Get: %v, %t, %v", v, found, err)
				}
				load := func(context.Context) (product, error) { return product{7, "lamp"}, nil }
				for range 2 {
					if v, err := client.GetOrSet(t.Context(), w.client, "k", load); v.ID != 7 || err != nil {
						t.Errorf("GetOrSet: %v, %v", v, err)
					}
				}
				if w.heard.loads != 1 || w.heard.hits != 1 || w.heard.unread != 2 {
					t.Errorf("%d loads, %d hits, %d unreadable", w.heard.loads, w.heard.hits, w.heard.unread)
				}
			})
		})
	}
}

// Whatever comes in the way of replacing it, the loader's value is returned.
func TestUnreadableEntryThatCannotBeReplaced(t *testing.T) {
	bad := soracache.Entry{Value: []byte("{"), Encoding: "json"}
	for name, fault := range map[string]func(s *fake.Service){
		"the lease is refused": func(s *fake.Service) {
			s.Bend = func(r *soracache.ReadResult) {
				r.Lease, r.LeaseState, r.Refusal = soracache.Lease{}, soracache.LeaseRefused, soracache.RefusalStoreFull
			}
		},
		"the service gives no lease beside an entry": func(s *fake.Service) {
			s.Bend = func(r *soracache.ReadResult) { r.Lease, r.LeaseState = soracache.Lease{}, soracache.LeaseNone }
		},
		"the entry is always another": func(s *fake.Service) {
			s.Bend = func(r *soracache.ReadResult) {
				r.FreshFor += time.Duration(len(s.Gets)) * time.Minute
				r.Lease, r.LeaseState = soracache.Lease{}, soracache.LeaseNone
			}
		},
		"such questions are refused": func(s *fake.Service) {
			s.Look = func(op, _ string) {
				if op == "get" && len(s.Gets) == 2 {
					s.Fail = soracache.ErrInvalid
				}
			}
		},
		"the service breaks down": func(s *fake.Service) {
			s.Look = func(op, _ string) {
				if op == "get" && len(s.Gets) == 2 {
					s.Fail = soracache.ErrUnavailable
				}
			}
		},
		"the fill is refused": func(s *fake.Service) {
			s.Deny = func(soracache.Write) error { return soracache.ErrTooLarge }
		},
	} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, many: %t", name, many), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.service.Put("k", bad)
					fault(w.service)
					loads := 0
					v, err := askBy(t.Context(), many, client.NewCache[product](w.client, client.Default()), product{ID: 7}, &loads)
					if v.ID != 7 || err != nil || loads != 1 || w.heard.unread != 1 || len(w.service.Invalidations) != 0 {
						t.Errorf("got %v, %v after %d loads; %d unreadable, %d removals", v, err, loads, w.heard.unread, len(w.service.Invalidations))
					}
					if asked := len(w.service.Gets); asked > 3 {
						t.Errorf("asked %d times", asked)
					}
				})
			})
		}
	}
}

func TestEntriesOfFormerCodecsAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, client.KnownCodecs(gobCodec{}))
		w.service.Put("gob", soracache.Entry{Value: gobBytes(t, product{7, "lamp"}), Encoding: "gob"})
		w.service.Put("json", soracache.Entry{Value: []byte(`"text"`), Encoding: "json"})
		if v, found, err := client.Get[product](t.Context(), w.client, "gob"); v.Name != "lamp" || !found || err != nil {
			t.Errorf("gob: %v, %t, %v", v, found, err)
		}
		if v, found, err := client.Get[string](t.Context(), w.client, "json"); v != "text" || !found || err != nil {
			t.Errorf("json: %v, %t, %v", v, found, err)
		}
		moving := newWorld(t, client.DefaultCodec(gobCodec{}))
		roundTrip(moving, "gob", string(gobBytes(t, product{8, "new"})), product{8, "new"}, equal)
		roundTrip(moving, "raw", "text", "text", equal)
		moving.service.Put("former", soracache.Entry{Value: []byte(`{"id":9}`), Encoding: "json"})
		if v, found, err := client.Get[product](t.Context(), moving.client, "former"); v.ID != 9 || !found || err != nil {
			t.Errorf("former: %v, %t, %v", v, found, err)
		}
	})
}

func TestCodecsRefuseWhatIsNotTheirs(t *testing.T) {
	var n int
	var m wrapperspb.StringValue
	for name, err := range map[string]error{
		"raw marshal":       second(client.Raw{}.Marshal(1)),
		"raw unmarshal":     client.Raw{}.Unmarshal([]byte("1"), &n),
		"proto marshal":     second(client.Proto{}.Marshal(1)),
		"proto unmarshal":   client.Proto{}.Unmarshal([]byte{8, 1}, &n),
		"proto no pointer":  client.Proto{}.Unmarshal([]byte{8, 1}, n),
		"proto bad message": client.Proto{}.Unmarshal([]byte{0xff}, &m),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := (client.Proto{}).Unmarshal([]byte("\x0a\x02hi"), &m); err != nil || m.Value != "hi" {
		t.Errorf("into a message itself: %q, %v", m.Value, err)
	}
}

func second(_ []byte, err error) error { return err }

// gobCodec is a codec of an application's own.
type gobCodec struct{}

func (gobCodec) Name() string { return "gob" }

func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(data []byte, into any) error {
	if len(data) == 0 {
		return errors.New("empty")
	}
	return gob.NewDecoder(bytes.NewReader(data)).Decode(into)
}

func gobBytes(t *testing.T, v any) []byte {
	t.Helper()
	b, err := gobCodec{}.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A codec that is none is refused where it is given, whether or not there is anything to
// be read by it.
func TestNoCodec(t *testing.T) {
	c := clienttest.New(t)
	if err := client.Set(t.Context(), c, "k", "v"); err != nil {
		t.Fatal(err)
	}
	none := client.WithCodec(nil)
	for name, use := range map[string]func() error{
		"Get":      func() error { _, _, err := client.Get[string](t.Context(), c, "k", none); return err },
		"GetOrSet": func() error { _, err := client.GetOrSet(t.Context(), c, "k", never, none); return err },
		"GetOrSetMany": func() error {
			_, err := client.NewCache[string](c, client.Default()).GetOrSetMany(t.Context(), []string{"k"}, echo, none)
			return err
		},
		"Set": func() error { return client.Set(t.Context(), c, "k", "v", none) },
		"DefaultCodec": func() error {
			_, err := client.Dial([]string{"http://127.0.0.1:1"}, client.DefaultCodec(nil))
			return err
		},
		"KnownCodecs": func() error {
			_, err := client.Dial([]string{"http://127.0.0.1:1"}, client.KnownCodecs(client.Raw{}, nil))
			return err
		},
	} {
		if err := use(); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
