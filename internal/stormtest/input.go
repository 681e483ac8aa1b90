// SPDX-License-Identifier: Apache-2.0

package stormtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// value is one argument of a body: bytes (of a text, too), or a number.
type value struct {
	of     reflect.Type
	bytes  []byte
	number uint64
}

// input is all of them.
type input []value

func (in input) clone() input {
	out := slices.Clone(in)
	for i := range out {
		out[i].bytes = bytes.Clone(out[i].bytes)
	}
	return out
}

func isBytes(t reflect.Type) bool { return t.Kind() == reflect.String || t.Kind() == reflect.Slice }

func inputOf(args []reflect.Value) (in input) {
	for _, a := range args {
		v := value{of: a.Type()}
		switch {
		case a.Kind() == reflect.String:
			v.bytes = []byte(a.String())
		case a.Kind() == reflect.Slice:
			v.bytes = bytes.Clone(a.Bytes())
		case a.Kind() == reflect.Bool:
			if a.Bool() {
				v.number = 1
			}
		case a.CanInt():
			v.number = uint64(a.Int())
		default:
			v.number = a.Uint()
		}
		in = append(in, v)
	}
	return in
}

// into sets a body's arguments. Those of bytes are valid until the input changes.
func (in input) into(args []reflect.Value) {
	for i, v := range in {
		switch a := args[i]; {
		case a.Kind() == reflect.String:
			a.SetString(string(v.bytes))
		case a.Kind() == reflect.Slice:
			a.SetBytes(v.bytes)
		case a.Kind() == reflect.Bool:
			a.SetBool(v.number&1 == 1)
		case a.CanInt():
			a.SetInt(int64(v.number))
		default:
			a.SetUint(v.number)
		}
	}
}

const version = "go test fuzz v1"

// String is the file of testdata/fuzz.
func (in input) String() string {
	b := bytes.NewBufferString(version)
	for _, v := range in {
		a := reflect.New(v.of).Elem()
		input{v}.into([]reflect.Value{a})
		switch v.of.Kind() {
		case reflect.String, reflect.Slice:
			fmt.Fprintf(b, "\n%s(%q)", strings.Replace(v.of.String(), "uint8", "byte", 1), v.bytes)
		default:
			fmt.Fprintf(b, "\n%s(%v)", v.of, a)
		}
	}
	return b.String()
}

// corpus reads what Go's fuzzing has found for a target; files of another signature that the target once had are passed over.
func corpus(dir, target string, body reflect.Type) (found [][]any, err error) {
	if dir == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, target, "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if lines[0] != version || len(lines) != body.NumIn() {
			continue
		}
		var args []any
		for i, line := range lines[1:] {
			if v, err := parsed(line, body.In(i+1)); err == nil {
				args = append(args, v)
			}
		}
		if len(args) == len(lines)-1 {
			found = append(found, args)
		}
	}
	return found, nil
}

// parsed reads a line of such a file: a type, and a literal in brackets.
func parsed(line string, as reflect.Type) (any, error) {
	kind, literal, ok := strings.Cut(strings.TrimSuffix(line, ")"), "(")
	if name := strings.ReplaceAll(as.String(), "uint8", "byte"); !ok || strings.ReplaceAll(kind, "uint8", "byte") != name {
		return nil, fmt.Errorf("%q is no %s", line, as)
	}
	out := reflect.New(as).Elem()
	switch {
	case isBytes(as):
		text, err := strconv.Unquote(literal)
		if err != nil {
			return nil, err
		}
		out.Set(reflect.ValueOf(text).Convert(as))
	case as.Kind() == reflect.Bool:
		out.SetBool(literal == "true")
	case strings.HasPrefix(literal, "'"):
		r, _, _, err := strconv.UnquoteChar(literal[1:], '\'')
		if err != nil {
			return nil, err
		}
		out.Set(reflect.ValueOf(r).Convert(as))
	default:
		n, err := strconv.ParseInt(literal, 0, 64)
		if err != nil {
			return nil, err
		}
		out.Set(reflect.ValueOf(n).Convert(as))
	}
	return out.Interface(), nil
}
