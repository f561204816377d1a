package command

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// options declares what a command takes: its options and its arguments. An option is
// declared in one place, with its name, what it is without being given, and its help;
// a name such as "tag,t" has a short form. Unless it is about one call, an option is
// also an environment variable, which is called after it, and may stand in the file
// of --config.
type options struct {
	*declared
	heading   string
	variables bool
	wanted    bool
}

// declared is what a command has declared.
type declared struct {
	flags     *pflag.FlagSet
	headings  []string
	arguments []argument
	// many takes all arguments that follow; nil: there are none.
	many     *[]string
	manyName string
}

// argument is one by its place.
type argument struct {
	name     string
	to       *string
	optional bool
}

func newOptions(flags *pflag.FlagSet) *options {
	return &options{declared: &declared{flags: flags}, variables: true}
}

// section has what is declared stand under a heading in help.
func (o *options) section(heading string) *options {
	under := *o
	under.heading = heading
	return &under
}

// perCall declares options that are about one call: they are no variables.
func (o *options) perCall() *options {
	call := *o
	call.variables = false
	return &call
}

// required declares options that must be given, in one way or another.
func (o *options) required() *options {
	wanted := *o
	wanted.wanted = true
	return &wanted
}

// What a flag says of itself beyond what its package knows.
const (
	noteHeading  = "heading"
	noteVariable = "variable"
	noteRequired = "required"
)

// note reads what a flag says of itself.
func note(f *pflag.Flag, what string) string {
	if said := f.Annotations[what]; len(said) > 0 {
		return said[0]
	}
	return ""
}

// add declares an option. What it is without being given is shown as it is written here.
func (o *options) add(v pflag.Value, name, initial, help string) *pflag.Flag {
	if initial != "" {
		if err := v.Set(initial); err != nil {
			panic(fmt.Sprintf("--%s: %v", name, err)) // a mistake of ours, in any run
		}
	}
	name, short, _ := strings.Cut(name, ",")
	f := o.flags.VarPF(v, name, short, help)
	f.DefValue = initial
	f.Annotations = map[string][]string{noteHeading: {o.heading}}
	if o.variables {
		variable := "SORACACHE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		f.Annotations[noteVariable] = []string{variable}
		f.Usage += " [$" + variable + "]"
	}
	if o.wanted {
		f.Annotations[noteRequired] = []string{"true"}
	}
	if !slices.Contains(o.headings, o.heading) {
		o.headings = append(o.headings, o.heading)
	}
	return f
}

func (o *options) text(to *string, name, initial, kind, help string) {
	o.add(&value[string]{to, kind, func(text string) (string, error) { return text, nil }}, name, initial, help)
}

func (o *options) number(to *int, name, initial, help string) {
	o.add(&value[int]{to, "N", strconv.Atoi}, name, initial, help)
}

func (o *options) duration(to *time.Duration, name, initial, help string) {
	o.add(&value[time.Duration]{to, "DURATION", time.ParseDuration}, name, initial, help)
}

func (o *options) size(to *size, name, initial, help string) {
	o.add(&value[size]{to, "SIZE", parseSize}, name, initial, help)
}

func (o *options) level(to *slog.Level, name, initial, help string) {
	o.add(&value[slog.Level]{to, "LEVEL", func(text string) (l slog.Level, err error) { return l, l.UnmarshalText([]byte(text)) }},
		name, initial, help)
}

// choice is one of several: the first unless another is given.
func (o *options) choice(to *string, name string, among []string, help string) {
	o.add(&value[string]{to, strings.Join(among, "|"), func(text string) (string, error) {
		if !slices.Contains(among, text) {
			return "", fmt.Errorf("must be one of %s", strings.Join(among, ", "))
		}
		return text, nil
	}}, name, among[0], help)
}

func (o *options) yes(to *bool, name, help string) {
	o.add(&value[bool]{to, "bool", parseYes}, name, "false", help).NoOptDefVal = "true"
}

// list is several with commas between them. Given again, it goes on.
func (o *options) list(to *[]string, name, initial, kind, help string) {
	l := &list{to: to, kind: kind, separator: ","}
	o.add(l, name, initial, help)
	l.given = false
}

// each is one of several: a comma is part of it.
func (o *options) each(to *[]string, name, kind, help string) {
	o.add(&list{to: to, kind: kind}, name, "", help)
}

// counts are numbers by name, as in a=2;b=3. Given again, it goes on.
func (o *options) counts(to *map[string]int, name, help string) {
	o.add(counts{to}, name, "", help)
}

func (o *options) argument(to *string, name string) {
	o.arguments = append(o.arguments, argument{name: name, to: to})
}

// optional declares an argument that may be missing, and what it is then.
func (o *options) optional(to *string, name, initial string) {
	*to = initial
	o.arguments = append(o.arguments, argument{name: name, to: to, optional: true})
}

// rest takes any number of arguments.
func (o *options) rest(to *[]string, name string) { o.many, o.manyName = to, name }

// usage is how the arguments are written.
func (d *declared) usage() string {
	var b strings.Builder
	for _, a := range d.arguments {
		if a.optional {
			b.WriteString(" [" + a.name + "]")
		} else {
			b.WriteString(" " + a.name)
		}
	}
	if d.many != nil {
		b.WriteString(" [" + d.manyName + "...]")
	}
	return b.String()
}

// take sets the arguments.
func (d *declared) take(args []string) error {
	for _, a := range d.arguments {
		switch {
		case len(args) > 0:
			*a.to, args = args[0], args[1:]
		case !a.optional:
			return fmt.Errorf("%s is missing", a.name)
		}
	}
	switch {
	case d.many != nil:
		*d.many = args
	case len(args) > 0:
		return fmt.Errorf("unexpected argument %s", strconv.Quote(args[0]))
	}
	return nil
}

// fill gives options that the command line does not have what the environment says,
// or else the file that --config names. Then what is required must be there.
func (d *declared) fill() error {
	if err := d.visit(func(f *pflag.Flag) error {
		variable := note(f, noteVariable)
		text, ok := os.LookupEnv(variable)
		if variable == "" || !ok || f.Changed {
			return nil
		}
		if err := d.flags.Set(f.Name, text); err != nil {
			return fmt.Errorf("%w (from $%s)", err, variable)
		}
		return nil
	}); err != nil {
		return err
	}
	if config := d.flags.Lookup("config"); config != nil && config.Value.String() != "" {
		if err := d.fillFrom(config.Value.String()); err != nil {
			return err
		}
	}
	return d.visit(func(f *pflag.Flag) error {
		if note(f, noteRequired) != "" && !f.Changed {
			return fmt.Errorf("--%s is missing", f.Name)
		}
		return nil
	})
}

// visit visits the options that were declared, until an error.
func (d *declared) visit(visit func(*pflag.Flag) error) (err error) {
	d.flags.VisitAll(func(f *pflag.Flag) {
		if err == nil && f.Annotations != nil {
			err = visit(f)
		}
	})
	return err
}

// value is an option of any type: a [pflag.Value].
type value[T any] struct {
	to    *T
	kind  string // what help calls it
	parse func(text string) (T, error)
}

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err == nil {
		*v.to = parsed
	}
	return err
}

func (v *value[T]) String() string { return fmt.Sprint(*v.to) }
func (v *value[T]) Type() string   { return v.kind }

// list is an option of several values. What is given first takes the place of what was
// there without being given.
type list struct {
	to        *[]string
	kind      string
	separator string // empty: none
	given     bool
}

func (l *list) Set(text string) error {
	if !l.given {
		*l.to, l.given = nil, true
	}
	switch {
	case l.separator == "":
		*l.to = append(*l.to, text)
	case text != "":
		*l.to = append(*l.to, strings.Split(text, l.separator)...)
	}
	return nil
}

func (l *list) String() string { return strings.Join(*l.to, ",") }
func (l *list) Type() string   { return l.kind }

// counts is an option of numbers by name.
type counts struct{ to *map[string]int }

func (c counts) Set(text string) error {
	all := map[string]int{}
	maps.Copy(all, *c.to)
	for part := range strings.SplitSeq(text, ";") {
		if part == "" {
			continue
		}
		name, number, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("%q is not a name and a number such as shop=4", part)
		}
		all[name] = n
	}
	*c.to = all
	return nil
}

func (c counts) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(*c.to)) {
		parts = append(parts, fmt.Sprintf("%s=%d", name, (*c.to)[name]))
	}
	return strings.Join(parts, ";")
}

func (counts) Type() string { return "NAME=N;…" }

// parseYes knows the words that a configuration may have for it.
func parseYes(text string) (bool, error) {
	switch text {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, errors.New("want true or false")
}
