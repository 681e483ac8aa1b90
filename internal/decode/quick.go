// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// quick reads a document that is known to be valid JSON. encoding/json's tokens took four times as long: of what a small
// registration cost, a quarter went into its body.
type quick struct {
	data []byte
	at   int
	line int

	nodes  []Node  // room for the next ones, so that they aren't allocated one by one
	fields []Field // the same of fields
}

// How much room is made at once: for as many values as what is left of the document has with so many bytes each.
const (
	bytesPerValue = 10
	leastRoom     = 4
	mostRoom      = 64
)

func (q *quick) room() int { return min(max((len(q.data)-q.at)/bytesPerValue, leastRoom), mostRoom) }

func (q *quick) node(kind Kind) *Node {
	if len(q.nodes) == 0 {
		q.nodes = make([]Node, q.room())
	}
	n := &q.nodes[0]
	q.nodes = q.nodes[1:]
	n.Kind, n.Line = kind, q.line
	return n
}

// next skips what stands between values, and gives the byte that follows.
func (q *quick) next() byte {
	for {
		switch c := q.data[q.at]; c {
		case '\n':
			q.line++
			q.at++
		case ' ', '\t', '\r':
			q.at++
		default:
			return c
		}
	}
}

func (q *quick) value(depth int) (*Node, error) {
	c := q.next()
	if depth > MaxDepth {
		return nil, &Error{Line: q.line, Text: fmt.Sprintf("nested deeper than %d levels", MaxDepth)}
	}
	switch c {
	case '{':
		return q.object(depth)
	case '[':
		return q.list(depth)
	case '"':
		n := q.node(String)
		text, err := q.text()
		n.Text = text
		return n, err
	case 't':
		q.at += len("true")
		n := q.node(Bool)
		n.Bool = true
		return n, nil
	case 'f':
		q.at += len("false")
		return q.node(Bool), nil
	case 'n':
		q.at += len("null")
		return q.node(Null), nil
	}
	n, begin := q.node(Number), q.at
	for q.at < len(q.data) && bytes.IndexByte([]byte("+-.eE0123456789"), q.data[q.at]) >= 0 {
		q.at++
	}
	n.Text = string(q.data[begin:q.at])
	return n, nil
}

// text reads a string. What has escapes is left to encoding/json.
func (q *quick) text() (string, error) {
	begin, plain := q.at, true
	for q.at++; q.data[q.at] != '"'; q.at++ {
		if q.data[q.at] == '\\' {
			plain = false
			q.at++
		}
	}
	q.at++
	if plain {
		return string(q.data[begin+1 : q.at-1]), nil
	}
	var text string
	err := json.Unmarshal(q.data[begin:q.at], &text)
	return text, err
}

func (q *quick) list(depth int) (*Node, error) {
	n := q.node(List)
	q.at++
	for q.next() != ']' {
		v, err := q.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Items = append(n.Items, v)
		if q.next() == ',' {
			q.at++
		}
	}
	q.at++
	return n, nil
}

func (q *quick) object(depth int) (*Node, error) {
	n := q.node(Object)
	q.at++
	for q.next() != '}' {
		name, err := q.text()
		if err != nil {
			return nil, err
		}
		line := q.line
		q.next()
		q.at++ // the colon
		v, err := q.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if len(q.fields) == 0 {
			q.fields = make([]Field, q.room())
		}
		f := &q.fields[0]
		q.fields = q.fields[1:]
		f.Name, f.Line, f.Value = name, line, v
		if err := n.add(f); err != nil {
			return nil, err
		}
		if q.next() == ',' {
			q.at++
		}
	}
	q.at++
	return n, nil
}
