// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Decoder is a type that takes its own node. The error may be an *Error with Field relative to the node.
type Decoder interface {
	DecodeNode(n *Node) error
}

// maxErrors is how many faults of one document are reported together.
const maxErrors = 20

var timeType = reflect.TypeFor[time.Time]()

// Into decodes the document into dst, a pointer to a struct. All faults are found, up to 20, and joined; each is an *Error.
// Nothing is promised about dst after an error. A field's names are its Go name and those in its tag
// `decode:"alias,alias"`; `decode:"-"` is never filled.
//
// Numbers and booleans are also taken from strings ("8080"), strings from numbers and booleans. A time.Duration is a
// string as "10s" or a number of nanoseconds. A single object stands for a list of one. Values of type any become
// string, bool, int64, float64, []any or map[string]any.
func (d *Document) Into(dst any) error { return d.decode(d.Root, "", dst) }

// Known is Into for a document of somebody else's: fields that dst hasn't are left out, and named.
func (d *Document) Known(dst any) (unknown []string, err error) {
	w := &walker{file: d.File, unknown: &unknown}
	err = w.root(d.Root, "", dst)
	return unknown, err
}

// Over is Into for a document that comes after others: its lists are appended to those in dst, its maps laid over them by key.
func (d *Document) Over(dst any) error {
	w := &walker{file: d.File, over: true}
	return w.root(d.Root, "", dst)
}

// NodeInto decodes a part of the document, found at field.
func (d *Document) NodeInto(n *Node, field string, dst any) error { return d.decode(n, field, dst) }

func (d *Document) decode(n *Node, field string, dst any) error {
	return (&walker{file: d.File}).root(n, field, dst)
}

type walker struct {
	file string
	over bool // lists are appended to, maps laid over
	errs []error

	unknown *[]string // where unknown fields are named; nil: they are faults
}

func (w *walker) root(n *Node, field string, dst any) error {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("decode into %T: want a pointer", dst)
	}
	w.value(n, &place{name: field}, v.Elem())
	return errors.Join(w.errs...)
}

func (w *walker) fail(n *Node, at *place, text string, args ...any) {
	if len(w.errs) < maxErrors {
		w.errs = append(w.errs, &Error{File: w.file, Line: n.Line, Field: at.String(), Text: fmt.Sprintf(text, args...)})
	}
}

// place is where in the document a value is. Its name is put together for a fault alone, as most documents have none.
type place struct {
	up    *place
	name  string
	index int // of an item of a list
	item  bool
}

func (p *place) String() string {
	switch {
	case p == nil:
		return ""
	case p.item:
		return p.up.String() + "[" + strconv.Itoa(p.index) + "]"
	}
	return join(p.up.String(), p.name)
}

func (w *walker) value(n *Node, at *place, v reflect.Value) {
	if n.many && v.Kind() != reflect.Slice && v.Kind() != reflect.Interface {
		if len(n.Items) > 1 {
			w.fail(n.Items[1], at, "given %d times, want it once", len(n.Items))
			return
		}
		n = n.Items[0]
	}
	if w.over && n.Kind == List && len(n.Items) == 1 && (v.Kind() == reflect.Struct || v.Kind() == reflect.Map) {
		n = n.Items[0] // in configuration files a list of one object stands for the object
	}
	if w.special(n, at, v) {
		return
	}
	if n.Kind == Null {
		v.SetZero()
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		w.value(n, at, p.Elem())
		v.Set(p)
	case reflect.Struct:
		w.object(n, at, v)
	case reflect.Map:
		w.mapping(n, at, v)
	case reflect.Slice:
		w.list(n, at, v)
	case reflect.Interface:
		v.Set(reflect.ValueOf(Any(n)))
	default:
		w.scalar(n, at, v)
	}
}

// special handles the types that have a form of their own.
func (w *walker) special(n *Node, at *place, v reflect.Value) bool {
	if v.CanAddr() {
		switch t := v.Addr().Interface().(type) {
		case Decoder:
			w.own(n, at, t.DecodeNode(n))
			return true
		case *time.Duration:
			w.duration(n, at, v)
			return true
		case encoding.TextUnmarshaler:
			if v.Type() == timeType || n.Kind == String {
				if n.Kind != String {
					w.fail(n, at, "want a string, got %s", n.Kind)
				} else if err := t.UnmarshalText([]byte(n.Text)); err != nil {
					w.fail(n, at, "%v", err)
				}
				return true
			}
		}
	}
	return false
}

func (w *walker) own(n *Node, at *place, err error) {
	if err == nil {
		return
	}
	var e *Error
	if errors.As(err, &e) {
		line := e.Line
		if line == 0 {
			line = n.Line
		}
		w.errs = append(w.errs, &Error{File: w.file, Line: line, Field: join(at.String(), e.Field), Text: e.Text})
		return
	}
	w.fail(n, at, "%v", err)
}

func (w *walker) duration(n *Node, at *place, v reflect.Value) {
	switch n.Kind {
	case Null:
		v.SetInt(0)
	case Number:
		ns, err := strconv.ParseFloat(n.Text, 64)
		if err != nil || ns != math.Trunc(ns) || math.Abs(ns) > math.MaxInt64/2 {
			w.fail(n, at, `want a duration as "10s", or a whole number of nanoseconds, got %s`, n.Text)
			return
		}
		v.SetInt(int64(ns))
	case String:
		if n.Text == "" { // as Consul shows a time that isn't there, and gets it back
			v.SetInt(0)
			return
		}
		d, err := time.ParseDuration(n.Text)
		if err != nil {
			if ns, err := strconv.ParseInt(n.Text, 10, 64); err == nil {
				v.SetInt(ns)
				return
			}
			w.fail(n, at, `invalid duration %q: want one as "10s" or "1m30s"`, n.Text) // clients look for the first two words
			return
		}
		v.SetInt(int64(d))
	default:
		w.fail(n, at, `want a duration as "10s", got %s`, n.Kind)
	}
}

func (w *walker) object(n *Node, at *place, v reflect.Value) {
	if n.Kind != Object {
		w.fail(n, at, "want an object, got %s", n.Kind)
		return
	}
	seen := make([]given, 0, 16)
	known := fieldsOf(v.Type())
	for _, f := range n.Fields {
		here := place{up: at, name: f.Name}
		target, ok := fieldOf(v, known, f.Name)
		if !ok {
			if w.unknown != nil {
				*w.unknown = append(*w.unknown, here.String())
				continue
			}
			w.fail(&Node{Line: f.Line}, &here, "unknown field%s", suggest(v, f.Name))
			continue
		}
		if i := slices.IndexFunc(seen, func(g given) bool { return g.field == target.name }); i >= 0 {
			w.fail(&Node{Line: f.Line}, &here, "given twice, also as %q", seen[i].as)
			continue
		}
		seen = append(seen, given{target.name, f.Name})
		w.value(f.Value, &here, target.value)
	}
}

// given is a field that an object has given, under a name.
type given struct{ field, as string }

type target struct {
	name  string
	value reflect.Value
}

// fieldOf finds the field of a struct that a name stands for; known are those of its type.
func fieldOf(v reflect.Value, known map[string]fieldAt, name string) (target, bool) {
	var room [64]byte
	f, ok := known[string(appendFold(room[:0], name))]
	switch {
	case !ok:
		return target{}, false
	case len(f.index) == 1:
		return target{f.name, v.Field(f.index[0])}, true
	}
	return target{f.name, v.FieldByIndex(f.index)}, true
}

// fieldAt is a field of a struct, or of one that is embedded in it.
type fieldAt struct {
	name  string
	index []int
}

// fieldSets are the fields of the types that were asked for, by folded name. A type's are always the same: to find them anew for every
// name of every body was a tenth of what a registration cost.
var fieldSets sync.Map // reflect.Type → map[string]fieldAt

func fieldsOf(t reflect.Type) map[string]fieldAt {
	if known, ok := fieldSets.Load(t); ok {
		return known.(map[string]fieldAt)
	}
	all := map[string]fieldAt{}
	add := func(name string, f fieldAt) {
		if _, there := all[name]; !there { // the first holds
			all[name] = f
		}
	}
	for i := range t.NumField() {
		sf := t.Field(i)
		tag := sf.Tag.Get("decode")
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			for _, name := range slices.Sorted(maps.Keys(fieldsOf(sf.Type))) {
				f := fieldsOf(sf.Type)[name]
				add(name, fieldAt{f.name, append([]int{i}, f.index...)})
			}
			continue
		}
		if !sf.IsExported() || tag == "-" {
			continue
		}
		add(fold(sf.Name), fieldAt{sf.Name, sf.Index})
		for alias := range strings.SplitSeq(tag, ",") {
			if alias != "" {
				add(fold(alias), fieldAt{sf.Name, sf.Index})
			}
		}
	}
	fieldSets.Store(t, all)
	return all
}

func (w *walker) mapping(n *Node, at *place, v reflect.Value) {
	if n.Kind != Object {
		w.fail(n, at, "want an object, got %s", n.Kind)
		return
	}
	m := reflect.MakeMapWithSize(v.Type(), len(n.Fields))
	if w.over {
		for _, k := range v.MapKeys() {
			m.SetMapIndex(k, v.MapIndex(k))
		}
	}
	for _, f := range n.Fields {
		e := reflect.New(v.Type().Elem()).Elem()
		w.value(f.Value, &place{up: at, name: f.Name}, e)
		m.SetMapIndex(reflect.ValueOf(f.Name).Convert(v.Type().Key()), e)
	}
	v.Set(m)
}

func (w *walker) list(n *Node, at *place, v reflect.Value) {
	items := n.Items
	switch n.Kind {
	case List:
	case Object:
		items = []*Node{n}
	default:
		if v.Type().Elem().Kind() != reflect.String || n.Kind != String || !w.over {
			w.fail(n, at, "want a list, got %s", n.Kind)
			return
		}
		items = []*Node{n} // in configuration files one string stands for a list of it
	}
	s := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		w.value(item, &place{up: at, index: i, item: true}, s.Index(i))
	}
	if w.over {
		s = reflect.AppendSlice(v.Slice3(0, v.Len(), v.Len()), s)
	}
	v.Set(s)
}

func (w *walker) scalar(n *Node, at *place, v reflect.Value) {
	if n.Kind == List || n.Kind == Object {
		w.fail(n, at, "want %s, got %s", wanted(v), n.Kind)
		return
	}
	text := n.Text
	if n.Kind == Bool {
		text = strconv.FormatBool(n.Bool)
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		var b bool
		if b, err = strconv.ParseBool(text); err == nil {
			v.SetBool(b)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		err = w.integer(text, v)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var u uint64
		if u, err = strconv.ParseUint(text, 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
		}
	case reflect.Float32, reflect.Float64:
		var f float64
		if f, err = strconv.ParseFloat(text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			v.SetFloat(f)
		}
	default:
		err = errors.New("no such type")
	}
	if err != nil {
		w.fail(n, at, "want %s, got %s %q", wanted(v), n.Kind, text)
	}
}

func (w *walker) integer(text string, v reflect.Value) error {
	i, err := strconv.ParseInt(text, 10, v.Type().Bits())
	if err != nil {
		f, ferr := strconv.ParseFloat(text, 64)
		if ferr != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 || v.OverflowInt(int64(f)) {
			return err
		}
		i = int64(f)
	}
	v.SetInt(i)
	return nil
}

func wanted(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// Any is a node as plain Go values: nil, bool, string, int64, float64, []any, map[string]any.
func Any(n *Node) any {
	switch n.Kind {
	case Bool:
		return n.Bool
	case String:
		return n.Text
	case Number:
		if i, err := strconv.ParseInt(n.Text, 10, 64); err == nil {
			return i
		}
		f, _ := strconv.ParseFloat(n.Text, 64)
		return f
	case List:
		if n.many && len(n.Items) == 1 {
			return Any(n.Items[0])
		}
		l := make([]any, len(n.Items))
		for i, item := range n.Items {
			l[i] = Any(item)
		}
		return l
	case Object:
		m := make(map[string]any, len(n.Fields))
		for _, f := range n.Fields {
			m[f.Name] = Any(f.Value)
		}
		return m
	}
	return nil
}

func join(field, name string) string {
	switch {
	case field == "":
		return name
	case name == "":
		return field
	case strings.HasPrefix(name, "["):
		return field + name
	}
	return field + "." + name
}

// FromAny is a plain Go value as a node, the inverse of Any; values of other types become null.
func FromAny(v any) *Node {
	switch t := v.(type) {
	case bool:
		return &Node{Kind: Bool, Bool: t}
	case string:
		return &Node{Kind: String, Text: t}
	case int64:
		return &Node{Kind: Number, Text: strconv.FormatInt(t, 10)}
	case float64:
		return &Node{Kind: Number, Text: strconv.FormatFloat(t, 'g', -1, 64)}
	case []any:
		n := &Node{Kind: List}
		for _, item := range t {
			n.Items = append(n.Items, FromAny(item))
		}
		return n
	case map[string]any:
		n := &Node{Kind: Object}
		for _, name := range slices.Sorted(maps.Keys(t)) {
			n.Fields = append(n.Fields, &Field{Name: name, Value: FromAny(t[name])})
		}
		return n
	}
	return &Node{Kind: Null}
}
