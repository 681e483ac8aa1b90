// SPDX-License-Identifier: Apache-2.0

// Package decode turns what people write (HCL, JSON, YAML) into Go structs, strictly: an unknown field, a wrong type, a
// value out of range or a key given twice is an error that names the file, the line and the field. Field names are taken
// without regard to case or underscores, so that Consul's CamelCase and snake_case forms both fit one struct.
//
// It reads bytes that it is given, opens no file and owns no goroutine.
package decode

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Error is one thing wrong in a document.
type Error struct {
	File  string // as given to Parse; "" for a request body
	Line  int    // from 1; 0 when unknown
	Field string // as "service.checks[0].interval"; "" for the document
	Text  string // what is wrong and what would be right
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File + ":")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:", e.Line)
	}
	if b.Len() > 0 {
		b.WriteString(" ")
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Text)
	return b.String()
}

// ErrUnknownFormat is a file whose name doesn't end in .hcl, .json, .yaml or .yml.
var ErrUnknownFormat = errors.New("unknown format: the name must end in .hcl, .json, .yaml or .yml")

// Kind is what a node of a document is.
type Kind uint8

// The kinds.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Object
)

func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

// Node is a value in a document, with its place.
type Node struct {
	Kind   Kind
	Line   int
	Bool   bool
	Text   string   // of a string, or a number as it was written
	Items  []*Node  // of a list
	Fields []*Field // of an object, in the order written, names unique
	// many marks a list that HCL makes of repeated blocks, or of a single one: it stands for its only item where an
	// object is wanted.
	many bool
}

// Field is a named value of an object.
type Field struct {
	Name  string
	Line  int
	Value *Node
}

// Field finds a field by name, without regard to case or underscores; nil if there is none.
func (n *Node) Field(name string) *Node {
	if n == nil || n.Kind != Object {
		return nil
	}
	for _, f := range n.Fields {
		if fold(f.Name) == fold(name) {
			return f.Value
		}
	}
	return nil
}

// Document is a parsed file.
type Document struct {
	File string
	Root *Node // always an object
}

// MaxDepth is how deep lists and objects may nest.
const MaxDepth = 64

// Parse reads a document in the format that the file's name says. The root must be an object.
func Parse(file string, data []byte) (*Document, error) { return ParseAs(file, "", data) }

// ParseAs is Parse in a format (hcl, json or yaml), whatever the name says; "" goes by the name.
func ParseAs(file, format string, data []byte) (*Document, error) {
	if format == "" {
		format = strings.TrimPrefix(strings.ToLower(filepath.Ext(file)), ".")
	}
	if i := invalidUTF8(data); i >= 0 {
		return nil, &Error{File: file, Line: 1 + strings.Count(string(data[:i]), "\n"), Text: fmt.Sprintf("invalid UTF-8 at byte %d", i)}
	}
	var root *Node
	var err error
	switch format {
	case "json":
		root, err = parseJSON(data)
	case "hcl":
		root, err = parseHCL(data)
	case "yaml", "yml":
		root, err = parseYAML(data)
	default:
		return nil, &Error{File: file, Text: ErrUnknownFormat.Error()}
	}
	return finish(file, root, err)
}

// ParseJSON reads a JSON request body.
func ParseJSON(data []byte) (*Document, error) {
	if i := invalidUTF8(data); i >= 0 {
		return nil, &Error{Text: fmt.Sprintf("invalid UTF-8 at byte %d", i)}
	}
	root, err := parseJSON(data)
	return finish("", root, err)
}

// JSON decodes a JSON body into dst, a pointer to a struct.
func JSON(data []byte, dst any) error {
	d, err := ParseJSON(data)
	if err != nil {
		return err
	}
	return d.Into(dst)
}

// JSONValue decodes a JSON body of any kind, a list too, into dst.
func JSONValue(data []byte, dst any) error {
	if i := invalidUTF8(data); i >= 0 {
		return &Error{Text: fmt.Sprintf("invalid UTF-8 at byte %d", i)}
	}
	root, err := parseJSON(data)
	if err != nil {
		return err
	}
	return (&Document{Root: root}).Into(dst)
}

func finish(file string, root *Node, err error) (*Document, error) {
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.File = file
			return nil, e
		}
		return nil, &Error{File: file, Text: err.Error()}
	}
	if root == nil || root.Kind == Null {
		root = &Node{Kind: Object, Line: 1}
	}
	if root.Kind != Object {
		return nil, &Error{File: file, Line: root.Line, Text: "the document must be an object, not " + root.Kind.String()}
	}
	return &Document{File: file, Root: root}, nil
}

func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// add puts a field into an object and refuses a second of the same name.
func (n *Node) add(field *Field) error {
	for _, f := range n.Fields {
		if f.Name == field.Name {
			return &Error{Line: field.Line, Field: field.Name, Text: fmt.Sprintf("given twice, first on line %d", f.Line)}
		}
	}
	if n.Fields == nil {
		n.Fields = make([]*Field, 0, someFields)
	}
	n.Fields = append(n.Fields, field)
	return nil
}

// someFields is how many most objects have at most.
const someFields = 6

// fold brings a name into the form that comparisons use: without regard to case, underscores and dashes.
func fold(name string) string {
	var room [64]byte
	return string(appendFold(room[:0], name))
}

func appendFold(to []byte, name string) []byte {
	for i := range len(name) {
		switch c := name[i]; {
		case c == '_' || c == '-':
		case c >= utf8.RuneSelf:
			return append(to[:0], strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(name, "_", ""), "-", ""))...)
		case 'A' <= c && c <= 'Z':
			to = append(to, c+'a'-'A')
		default:
			to = append(to, c)
		}
	}
	return to
}

// Remove takes a field out of an object, without regard to case or underscores, and gives its line.
func (n *Node) Remove(name string) (line int, ok bool) {
	if n == nil || n.Kind != Object {
		return 0, false
	}
	for i, f := range n.Fields {
		if fold(f.Name) == fold(name) {
			n.Fields = append(n.Fields[:i:i], n.Fields[i+1:]...)
			return f.Line, true
		}
	}
	return 0, false
}
