// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
)

type jsonParser struct {
	dec   *json.Decoder
	lines []int // offsets of line starts
}

// parseJSON reads a document. What is valid goes the short way; only for the rest is it asked where and why it isn't.
func parseJSON(data []byte) (*Node, error) {
	if json.Valid(data) {
		q := &quick{data: data, line: 1}
		return q.value(0)
	}
	return explainJSON(data)
}

func explainJSON(data []byte) (*Node, error) {
	p := &jsonParser{dec: json.NewDecoder(bytes.NewReader(data)), lines: []int{0}}
	p.dec.UseNumber()
	for i, c := range data {
		if c == '\n' {
			p.lines = append(p.lines, i+1)
		}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, &Error{Text: "the document is empty"}
	}
	n, err := p.value(0)
	if err != nil {
		return nil, p.explain(err)
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, &Error{Line: p.line(), Text: "there is more after the end of the document"}
	}
	return n, nil
}

func (p *jsonParser) line() int {
	return sort.SearchInts(p.lines, int(p.dec.InputOffset())+1)
}

func (p *jsonParser) explain(err error) error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return &Error{Line: sort.SearchInts(p.lines, int(syntax.Offset)), Text: "not JSON: " + syntax.Error()}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Line: len(p.lines), Text: "not JSON: it ends too early"}
	}
	return &Error{Line: p.line(), Text: "not JSON: " + err.Error()}
}

func (p *jsonParser) value(depth int) (*Node, error) {
	if depth > MaxDepth {
		return nil, &Error{Line: p.line(), Text: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	line := p.line()
	switch t := tok.(type) {
	case json.Delim:
		if t == '[' {
			return p.list(line, depth)
		}
		return p.object(line, depth)
	case bool:
		return &Node{Kind: Bool, Line: line, Bool: t}, nil
	case json.Number:
		return &Node{Kind: Number, Line: line, Text: t.String()}, nil
	case string:
		return &Node{Kind: String, Line: line, Text: t}, nil
	}
	return &Node{Kind: Null, Line: line}, nil
}

func (p *jsonParser) list(line, depth int) (*Node, error) {
	n := &Node{Kind: List, Line: line}
	for p.dec.More() {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Items = append(n.Items, v)
	}
	_, err := p.dec.Token()
	return n, err
}

func (p *jsonParser) object(line, depth int) (*Node, error) {
	n := &Node{Kind: Object, Line: line}
	for p.dec.More() {
		tok, err := p.dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := tok.(string)
		at := p.line()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := n.add(&Field{Name: name, Line: at, Value: v}); err != nil {
			return nil, err
		}
	}
	_, err := p.dec.Token()
	return n, err
}
