package client

import (
	"context"
	"reflect"
	"slices"
	"testing"
)

// calling returns hooks of which each says its name.
func calling(who string, said *[]string) (h Hooks) {
	v := reflect.ValueOf(&h).Elem()
	for i := range v.NumField() {
		name := who + v.Type().Field(i).Name
		f := v.Field(i)
		f.Set(reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
			*said = append(*said, name)
			if f.Type().NumOut() == 0 {
				return nil
			}
			end := func(Outcome) { *said = append(*said, name+" end") }
			return []reflect.Value{args[0], reflect.ValueOf(end)}
		}))
	}
	return h
}

// callHook calls a hook with zero values.
func callHook(hook reflect.Value) {
	var args []reflect.Value
	for i := range hook.Type().NumIn() {
		arg := reflect.Zero(hook.Type().In(i))
		if hook.Type().In(i) == reflect.TypeFor[context.Context]() {
			arg = reflect.ValueOf(context.Background())
		}
		args = append(args, arg)
	}
	if out := hook.Call(args); len(out) == 2 {
		out[1].Call([]reflect.Value{reflect.ValueOf(Outcome{})})
	}
}

// joined is what a client of several options has.
func joined(hooks ...Hooks) Hooks {
	var c config
	WithHooks(hooks...)(&c)
	return c.hooks
}

// Whoever adds a hook must also join it.
func TestJoinHooks(t *testing.T) {
	var said []string
	both := reflect.ValueOf(joined(calling("a", &said), Hooks{}, calling("b", &said)))
	empty := reflect.ValueOf(joined(Hooks{}, Hooks{}))
	one := reflect.ValueOf(joined(Hooks{}, calling("c", &said)))
	for i := range both.NumField() {
		name := both.Type().Field(i).Name
		want := []string{"a" + name, "b" + name, "c" + name}
		if name == "OnStart" {
			want = []string{"aOnStart", "bOnStart", "bOnStart end", "aOnStart end", "cOnStart", "cOnStart end"}
		}
		said = nil
		if both.Field(i).IsNil() || one.Field(i).IsNil() {
			t.Errorf("%s is not joined", name)
			continue
		}
		callHook(both.Field(i))
		callHook(one.Field(i))
		if !slices.Equal(said, want) {
			t.Errorf("%s: told %v", name, said)
		}
		if !empty.Field(i).IsNil() {
			t.Errorf("%s of nothing is something, which costs", name)
		}
	}
}
