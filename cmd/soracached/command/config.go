package command

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// fillFrom gives options what a file says, unless they have been given.
func (d *declared) fillFrom(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	known := map[string]*pflag.Flag{}
	_ = d.visit(func(f *pflag.Flag) error {
		if f.Name != "config" {
			known[f.Name] = f
		}
		return nil
	})
	values, err := parseConfig(in, known)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if known[name].Changed {
			continue
		}
		if err := d.flags.Set(name, values[name]); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// parseConfig reads a configuration into the text that each option would have
// on the command line. The names in the file are those of the options; where an
// option's name has several parts, the file may nest them:
//
//	listen: 10.0.0.1:7070
//	tls: {cert: server.pem, key: server.key}
//	namespace-partitions: {shop: 4}
//
// A name that is no option is an error, so that a typing mistake is not
// silently a default.
func parseConfig(in io.Reader, known map[string]*pflag.Flag) (map[string]string, error) {
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
func flatten(node *yaml.Node, prefix string, known map[string]*pflag.Flag, values map[string]string) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want option: value", node.Line)
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := prefix+node.Content[i].Value, node.Content[i+1]
		switch flag := known[name]; {
		case value.Kind == yaml.MappingNode && !hasNames(flag):
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

// hasNames tells whether a mapping is the value of an option.
func hasNames(flag *pflag.Flag) bool {
	if flag == nil {
		return false
	}
	_, names := flag.Value.(counts)
	return names
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
