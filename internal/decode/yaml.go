// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxYAMLNodes bounds what aliases may unfold to.
const maxYAMLNodes = 4 << 20

type yamlParser struct{ nodes int }

// parseYAML reads one YAML document.
func parseYAML(data []byte) (*Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Error{Text: "the document is empty"}
		}
		return nil, &Error{Text: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, &Error{Line: more.Line, Text: "a second document in one file: write each into a file of its own"}
	}
	p := &yamlParser{}
	return p.value(&doc, 0)
}

func (p *yamlParser) value(y *yaml.Node, depth int) (*Node, error) {
	p.nodes++
	if depth > MaxDepth {
		return nil, &Error{Line: y.Line, Text: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	if p.nodes > maxYAMLNodes {
		return nil, &Error{Line: y.Line, Text: "the document is too large, its aliases unfolded"}
	}
	switch y.Kind {
	case yaml.DocumentNode:
		return p.value(y.Content[0], depth)
	case yaml.AliasNode:
		return p.value(y.Alias, depth+1)
	case yaml.SequenceNode:
		n := &Node{Kind: List, Line: y.Line}
		for _, c := range y.Content {
			v, err := p.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.Items = append(n.Items, v)
		}
		return n, nil
	case yaml.MappingNode:
		return p.mapping(y, depth)
	}
	return p.scalar(y)
}

func (p *yamlParser) mapping(y *yaml.Node, depth int) (*Node, error) {
	n := &Node{Kind: Object, Line: y.Line}
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := y.Content[i]
		if key.Kind != yaml.ScalarNode {
			return nil, &Error{Line: key.Line, Text: "a key must be a plain word"}
		}
		if key.Tag == "!!merge" {
			return nil, &Error{Line: key.Line, Field: key.Value, Text: "merge keys aren't taken: write the fields out"}
		}
		v, err := p.value(y.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		if err := n.add(&Field{Name: key.Value, Line: key.Line, Value: v}); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (p *yamlParser) scalar(y *yaml.Node) (*Node, error) {
	n := &Node{Line: y.Line, Text: y.Value}
	switch y.ShortTag() {
	case "!!null":
		n.Kind = Null
	case "!!bool":
		n.Kind = Bool
		if err := y.Decode(&n.Bool); err != nil {
			return nil, &Error{Line: y.Line, Text: "not YAML: " + err.Error()}
		}
	case "!!int":
		var i int64
		if err := y.Decode(&i); err != nil {
			return nil, &Error{Line: y.Line, Text: "the number " + y.Value + " is out of range"}
		}
		n.Kind, n.Text = Number, strconv.FormatInt(i, 10)
	case "!!float":
		n.Kind = Number
	default:
		n.Kind = String
	}
	return n, nil
}
