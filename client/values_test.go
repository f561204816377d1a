package client_test

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache/client"
)

// visit does not survive JSON as it is.
type visit struct {
	Page  string
	Tags  []string `json:",omitempty"`
	Extra any
	notes []string
}

func newVisit() visit {
	return visit{Page: "/", Tags: []string{}, Extra: 7, notes: []string{"mine"}}
}

// byDoors runs a test by each of the two ways to ask.
func byDoors(t *testing.T, test func(s *stage, many bool), opts ...client.Option) {
	t.Helper()
	for name, many := range map[string]bool{"one key": false, "many keys": true} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(s *stage) { test(s, many) }, opts...)
		})
	}
}

// everybody returns what each caller of a value gets: one whose load is superseded;
// three that share the load after that, which is stored; the next, from the memory of
// their process; and another process.
func everybody(s *stage, many bool, opts ...client.CallOption) []visit {
	of := func(p *process) *client.Cache[visit] {
		return client.NewCache[visit](p.Client, client.Policy{TTL: time.Minute}, opts...)
	}
	values := make([]visit, 6)
	call := func(i int, p *process) {
		var err error
		values[i], err = callBy(s.Context(), many, of(p), func() (visit, error) {
			time.Sleep(time.Second)
			return newVisit(), nil
		})
		if err != nil {
			s.Error(err)
		}
	}
	var callers sync.WaitGroup
	for i := range 4 {
		callers.Go(func() { call(i, s.a) })
		synctest.Wait()
	}
	if _, err := s.b.Remove(s.Context(), "k"); err != nil {
		s.Fatal(err)
	}
	callers.Wait()
	asked := s.a.track.reads.Load()
	call(4, s.a)
	if s.a.track.reads.Load() != asked {
		s.Error("it is not in the process' own memory")
	}
	call(5, s.b)
	if s.a.told.loads != 2 || s.b.told.loads != 0 {
		s.Errorf("%d and %d loads", s.a.told.loads, s.b.told.loads)
	}
	return values
}

func TestServeDecoded(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		values := everybody(s, many, client.ServeDecoded())
		for i, v := range values {
			if !reflect.DeepEqual(v, values[0]) {
				s.Errorf("caller %d got %#v, and the first %#v", i, v, values[0])
			}
		}
		if v := values[0]; v.notes != nil || v.Tags != nil || v.Extra != 7.0 || v.Page != "/" {
			s.Errorf("got %#v", v)
		}
	})
}

// Without the option, the process that loads goes on with its own object.
func TestValuesDifferByTier(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		values := everybody(s, many)
		for i, v := range values[:5] {
			if !reflect.DeepEqual(v, newVisit()) {
				s.Errorf("caller %d got %#v", i, v)
			}
		}
		if v := values[5]; v.notes != nil || v.Tags != nil || v.Extra != 7.0 || v.Page != "/" {
			s.Errorf("another process got %#v", v)
		}
	})
}

// What is not stored is decoded all the same: no caller can tell.
func TestServeDecodedWithoutStoring(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		get := func(opts ...client.CallOption) {
			s.Helper()
			cache := client.NewCache[visit](s.a.Client, client.Policy{TTL: time.Minute}, append(opts, client.ServeDecoded())...)
			v, err := callBy(s.Context(), many, cache, func() (visit, error) { return newVisit(), nil })
			if err != nil || v.notes != nil || v.Extra != 7.0 {
				s.Errorf("got %#v, %v", v, err)
			}
		}
		get(client.WithTTL(0))
		get(client.AdjustPolicy(func(p *client.Policy) { p.MaxBytes = 3 }))
		s.cut()
		get()
	})
}

// hidden encodes well, and can never be decoded.
type hidden struct{ By fmt.Stringer }

func TestServeDecodedOfWhatCannotBe(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		cache := client.NewCache[hidden](s.a.Client, client.Default(), client.ServeDecoded())
		for range 2 {
			v, err := callBy(s.Context(), many, cache, func() (hidden, error) { return hidden{time.Second}, nil })
			if v.By != time.Second || err != nil {
				s.Errorf("got %v, %v", v, err)
			}
		}
		if s.explain("k").Present || len(s.a.told.notStored) != 2 {
			s.Errorf("stored: %t; told of %v", s.explain("k").Present, s.a.told.notStored)
		}
		never := client.NewCache[func()](s.a.Client, client.Default(), client.ServeDecoded())
		if f, err := callBy(s.Context(), many, never, func() (func(), error) { return func() {}, nil }); f == nil || err != nil {
			s.Errorf("got no function: %v", err)
		}
	})
}

// Without the option such a value is stored, and no process but the one that loaded
// it ever reads it: that costs loads, but no storm.
func TestValueThatNobodyCanDecode(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		loads := 0
		for range 100 {
			for _, p := range []*process{s.a, s.b} {
				if v, err := askBy(s.Context(), many, client.NewCache[hidden](p.Client, client.Default()), hidden{time.Second}, &loads); v.By != time.Second || err != nil {
					s.Errorf("got %v, %v", v, err)
				}
			}
		}
		s.wantFills(2) // and each has its own near
	})
}

// Two Go types under one key.
type (
	lamp    struct{ ID, Watts int }
	invoice struct {
		ID    string
		Total int
	}
	sofa struct{ ID, Seats int }
)

// Whoever asks for one type never gets the other's value, where that can be known.
func TestTwoTypesUnderOneKey(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		lamps, invoices := client.NewCache[lamp](s.a.Client, client.Default()), client.NewCache[invoice](s.a.Client, client.Default())
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() {
				time.Sleep(time.Duration(i/10) * time.Millisecond)
				v, err := callBy(s.Context(), many, lamps, func() (lamp, error) { time.Sleep(time.Millisecond); return lamp{1, 60}, nil })
				if v != (lamp{1, 60}) || err != nil {
					s.Errorf("got %v, %v", v, err)
				}
			})
			callers.Go(func() {
				time.Sleep(time.Duration(i/10) * time.Millisecond)
				v, err := callBy(s.Context(), many, invoices, func() (invoice, error) { time.Sleep(time.Millisecond); return invoice{"i", 9}, nil })
				if v != (invoice{"i", 9}) || err != nil {
					s.Errorf("got %v, %v", v, err)
				}
			})
		}
		callers.Wait()
		stats := s.node.Stats()
		if stats.Invalidations != 0 || stats.FillsStored > 3 {
			s.Errorf("%d invalidations, %d fills", stats.Invalidations, stats.FillsStored)
		}
	})
}

// Where JSON decodes, nothing can be known: what both have is taken over, and what
// only one has is zero. A codec that is strict, or a type that cannot be nil, finds
// some of it.
func TestTypesThatDecodeFromEachOther(t *testing.T) {
	strict := client.WithCodec(client.JSON{DisallowUnknownFields: true})
	byDoors(t, func(s *stage, many bool) {
		loads := 0
		get := func(opts ...client.CallOption) sofa {
			s.Helper()
			v, err := askBy(s.Context(), many, client.NewCache[sofa](s.b.Client, client.Default(), opts...), sofa{2, 3}, &loads)
			if err != nil {
				s.Error(err)
			}
			return v
		}
		if _, err := askBy(s.Context(), many, client.NewCache[lamp](s.a.Client, client.Default()), lamp{1, 60}, new(int)); err != nil {
			s.Fatal(err)
		}
		if v := get(client.AdjustPolicy(func(p *client.Policy) { p.Near = -1 })); v != (sofa{1, 0}) || loads != 0 {
			s.Errorf("got %v after %d loads", v, loads)
		}
		if v := get(strict); v != (sofa{2, 3}) || loads != 1 {
			s.Errorf("got %v after %d loads", v, loads)
		}
	})
}

func TestStrictJSON(t *testing.T) {
	strict := client.JSON{DisallowUnknownFields: true}
	var l lamp
	for text, ok := range map[string]bool{
		`{"ID":1,"Watts":2}`:           true,
		` {"ID":1} `:                   true,
		`{"ID":1,"Seats":2}`:           false,
		`{"ID":1}{"ID":2}`:             false,
		`{"ID":1} x`:                   false,
		`{"ID":"1"}`:                   false,
		``:                             false,
		`null`:                         false,
		`{"ID":1,"Watts":2,"Watts":3}`: true,
	} {
		if err := strict.Unmarshal([]byte(text), &l); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
	if strict.Name() != "json" {
		t.Error("strict JSON has a name of its own")
	}
}

// null is a nil pointer of somebody else's, and no value of a struct.
func TestNullIsNoStruct(t *testing.T) {
	type nullable struct{ json.RawMessage }
	for _, into := range []any{new(lamp), new(int), new(string), new([3]int), new(bool), new(time.Duration)} {
		if err := (client.JSON{}).Unmarshal([]byte("null"), into); err == nil {
			t.Errorf("null became a %T", into)
		}
	}
	for _, into := range []any{new(*lamp), new([]int), new(map[string]int), new(any), new(nullable), new(time.Time), new(json.RawMessage)} {
		if err := (client.JSON{}).Unmarshal([]byte("null"), into); err != nil {
			t.Errorf("%T: %v", into, err)
		}
	}
	if err := (client.JSON{}).Unmarshal([]byte("null"), nil); err == nil {
		t.Error("decoded into nothing")
	}
	byDoors(t, func(s *stage, many bool) {
		if err := client.Set(s.Context(), s.a.Client, "k", (*lamp)(nil)); err != nil {
			s.Fatal(err)
		}
		loads := 0
		v, err := askBy(s.Context(), many, client.NewCache[lamp](s.b.Client, client.Default()), lamp{1, 60}, &loads)
		if v.ID != 1 || err != nil || loads != 1 {
			s.Errorf("got %v, %v after %d loads", v, err, loads)
		}
	})
}

// back is what a codec gives back of a value.
func back[T any](t *testing.T, codec client.Codec, value T) (back T) {
	t.Helper()
	data, err := codec.Marshal(value)
	if err == nil {
		err = codec.Unmarshal(data, &back)
	}
	if err != nil {
		t.Fatalf("%T: %v", value, err)
	}
	return back
}

// The claims of docs/values.md, row by row.
func TestWhatSurvivesJSON(t *testing.T) {
	j := client.JSON{}
	type secret struct {
		Name string
		pass string
	}
	if v := back(t, j, secret{"n", "p"}); v != (secret{Name: "n"}) {
		t.Errorf("unexported: %+v", v)
	}
	type skipped struct {
		Name string
		Gone int `json:"-"`
	}
	if v := back(t, j, skipped{"n", 7}); v != (skipped{Name: "n"}) {
		t.Errorf("skipped: %+v", v)
	}
	if v := back(t, j, struct{ S []int }{[]int{}}); v.S == nil {
		t.Error("an empty slice became nil without omitempty")
	}
	type list struct {
		S []int `json:",omitempty"`
	}
	if v := back(t, j, list{[]int{}}); v.S != nil {
		t.Error("an empty slice survived omitempty")
	}
	if v := back[any](t, j, 7); v != 7.0 {
		t.Errorf("an int in an any: %T", v)
	}
	if v := back[any](t, j, int64(math.MaxInt64)); v != float64(1<<63) {
		t.Errorf("a large int64 in an any: %v", v)
	}
	if v := back(t, j, int64(math.MaxInt64)); v != math.MaxInt64 {
		t.Errorf("a large int64: %v", v)
	}
	if v, ok := back[any](t, j, lamp{1, 60}).(map[string]any); !ok || v["Watts"] != 60.0 {
		t.Errorf("a struct in an any: %v", v)
	}
	if v := back(t, j, map[string]int(nil)); v != nil {
		t.Errorf("a nil map: %v", v)
	}
	if v := back(t, j, map[int64]string{math.MaxInt64: "x"}); v[math.MaxInt64] != "x" {
		t.Errorf("keys that are numbers: %v", v)
	}
	now := time.Now()
	if v := back(t, j, now); !v.Equal(now) || strings.Contains(v.String(), "m=") || !strings.Contains(now.String(), "m=") {
		t.Errorf("a time: %v and %v", v, now)
	}
	here := now.In(time.FixedZone("here", 3600))
	if v := back(t, j, here); !v.Equal(now) || v.Location().String() == "here" {
		t.Errorf("a time somewhere: %v and %v", v, here)
	}
	if v := back(t, j, "\xff"); v != "�" {
		t.Errorf("bytes that are not UTF-8: %q", v)
	}
	if v := back(t, client.Raw{}, "\xff"); v != "\xff" {
		t.Errorf("raw: %q", v)
	}
	shared := &lamp{1, 60}
	if v := back(t, j, []*lamp{shared, shared}); v[0] == v[1] {
		t.Error("one thing referred to twice survived")
	}
	type base struct{ ID int }
	type derived struct {
		base
		Name string
	}
	if v := back(t, j, derived{base{7}, "n"}); v.ID != 7 {
		t.Errorf("an embedded struct: %+v", v)
	}
	for name, value := range map[string]any{
		"NaN": math.NaN(), "infinity": math.Inf(1), "a function": func() {}, "a channel": make(chan int),
		"a complex number": 1i, "a map with keys of an interface": map[any]int{1: 2}, "a map with struct keys": map[lamp]int{{1, 2}: 3},
	} {
		if _, err := j.Marshal(value); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
	type ring struct{ Next *ring }
	r := &ring{}
	r.Next = r
	if _, err := j.Marshal(r); err == nil {
		t.Error("a ring was encoded")
	}
	data, err := j.Marshal(hidden{time.Second})
	if err != nil || j.Unmarshal(data, &hidden{}) == nil {
		t.Errorf("an interface with methods was decoded: %v", err)
	}
	if v := back(t, client.Proto{}, durationpb.New(0)); v == nil {
		t.Error("an empty message became nil")
	}
	if _, err := (client.Proto{}).Marshal((*durationpb.Duration)(nil)); err == nil {
		t.Error("a nil message was encoded")
	}
	if v := back(t, client.Raw{}, []byte(nil)); len(v) != 0 {
		t.Errorf("nil bytes: %v", v)
	}
}
