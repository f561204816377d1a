package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// fileResolver gives the options of a command their values from the YAML file
// that its --config names. The names in the file are those of the options;
// where an option's name has several parts, the file may nest them:
//
//	listen: 10.0.0.1:7070
//	tls: {cert: server.pem, key: server.key}
//	namespace-partitions: {shop: 4}
//
// A name that is no option is an error, so that a typing mistake is not
// silently a default.
type fileResolver struct {
	loaded bool
	values map[string]string
}

// Validate implements kong.Resolver.
func (*fileResolver) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. It is not asked about options that the
// command line has.
func (r *fileResolver) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	if parent.Command == nil || flag.Name == "config" {
		return nil, nil
	}
	if !r.loaded {
		if err := r.load(ctx, parent.Flags); err != nil {
			return nil, err
		}
	}
	value, ok := r.values[flag.Name]
	if !ok || inEnvironment(flag) {
		return nil, nil
	}
	return value, nil
}

func inEnvironment(flag *kong.Flag) bool {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return true
		}
	}
	return false
}

// load reads the file that the command's --config names, if it has one.
func (r *fileResolver) load(ctx *kong.Context, flags []*kong.Flag) error {
	r.loaded = true
	known := map[string]*kong.Flag{}
	file := ""
	for _, f := range flags {
		if f.Name == "config" {
			file, _ = ctx.FlagValue(f).(string)
		} else {
			known[f.Name] = f
		}
	}
	if file == "" {
		return nil
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	if r.values, err = parseConfig(in, known); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// parseConfig reads a configuration into the text that each option would have
// on the command line.
func parseConfig(in io.Reader, known map[string]*kong.Flag) (map[string]string, error) {
	values := map[string]string{}
	var document yaml.Node
	if err := yaml.NewDecoder(in).Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		return nil, err
	}
	return values, flatten(document.Content[0], "", known, values)
}

// flatten takes in one mapping, whose options' names begin with prefix.
func flatten(node *yaml.Node, prefix string, known map[string]*kong.Flag, values map[string]string) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want option: value", node.Line)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := prefix+node.Content[i].Value, node.Content[i+1]
		switch flag := known[name]; {
		case value.Kind == yaml.MappingNode && (flag == nil || !flag.IsMap()):
			if err := flatten(value, name+"-", known, values); err != nil {
				return err
			}
			continue
		case flag == nil:
			return fmt.Errorf("line %d: there is no option %s", node.Content[i].Line, name)
		}
		if _, twice := values[name]; twice {
			return fmt.Errorf("line %d: %s is given twice", node.Content[i].Line, name)
		}
		text, err := optionText(value)
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", value.Line, name, err)
		}
		values[name] = text
	}
	return nil
}

// optionText writes a value as it would be on the command line: a list with
// commas, a mapping as name=value with semicolons.
func optionText(value *yaml.Node) (string, error) {
	var parts []string
	switch value.Kind {
	case yaml.ScalarNode:
		return value.Value, nil
	case yaml.SequenceNode:
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("want plain values in the list")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	case yaml.MappingNode:
		for i := 0; i+1 < len(value.Content); i += 2 {
			if value.Content[i+1].Kind != yaml.ScalarNode {
				return "", errors.New("want plain values in the mapping")
			}
			parts = append(parts, value.Content[i].Value+"="+value.Content[i+1].Value)
		}
		return strings.Join(parts, ";"), nil
	}
	return "", errors.New("want a plain value, a list or a mapping")
}
