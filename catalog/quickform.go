// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"encoding"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unsafe"

	"github.com/fxamacker/cbor/v2"
)

// What goes through the log, and is hashed for digests, is written and read by forms: what the library finds out about a type is found out once for all,
// and where a field is in memory, so that nothing is looked up, boxed or asked by reflection for each value. The bytes are the library's. What
// a form doesn't know, and whatever isn't quite as a form writes it, is left to the library: TestForms and FuzzForms hold one to the other.

// kindOfForm is how a value is written.
type kindOfForm uint8

const (
	formLibrary kindOfForm = iota // as the library does it
	formText
	formBool
	formInt   // of 64 bits
	formUint  // the same
	formBytes // []byte
	formRaw   // Raw
	formList
	formTexts // map[string]string
	formPointer
	formStruct
)

// form is how values of one type are written.
type form struct {
	kind   kindOfForm
	typ    reflect.Type
	elem   *form       // of a list or pointer
	fields []formField // of a struct, in the order of their names as they are written
}

type formField struct {
	*form
	name   string // as it is written
	offset uintptr
	leave  leaving
}

// leaving is when a field isn't written.
type leaving uint8

const (
	leaveNever leaving = iota
	leaveEmpty         // omitempty
	leaveZero          // omitzero
)

// mostFields is how many a struct with a form has at most.
const mostFields = 64

// forms are those of the types that are written or read most often.
var forms = func() map[reflect.Type]*form {
	out := map[reflect.Type]*form{}
	for _, t := range []reflect.Type{
		reflect.TypeFor[Register](), reflect.TypeFor[Deregister](), reflect.TypeFor[Sync](), reflect.TypeFor[KVOp](), reflect.TypeFor[snapshotRow](),
		reflect.TypeFor[Node](), reflect.TypeFor[Service](), reflect.TypeFor[Check](),
	} {
		if f := formOf(t, nil); f.kind == formStruct {
			out[t] = f
		}
	}
	return out
}()

// ownWays are the interfaces of types that say themselves how they are written or read.
var ownWays = []reflect.Type{
	reflect.TypeFor[cbor.Marshaler](), reflect.TypeFor[cbor.Unmarshaler](), reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.BinaryUnmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](), reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](),
}

func hasOwnWay(t reflect.Type) bool {
	return slices.ContainsFunc(ownWays, reflect.PointerTo(t).Implements)
}

// formOf makes the form of a type, which is inside others.
func formOf(t reflect.Type, above []reflect.Type) *form {
	f := &form{typ: t}
	switch {
	case t == reflect.TypeFor[Raw]():
		f.kind = formRaw
		return f
	case hasOwnWay(t) || slices.Contains(above, t):
		return f
	}
	above = append(slices.Clip(above), t)
	switch t.Kind() {
	case reflect.String:
		f.kind = formText
	case reflect.Bool:
		f.kind = formBool
	case reflect.Int, reflect.Int64:
		if t.Size() == 8 {
			f.kind = formInt
		}
	case reflect.Uint64:
		f.kind = formUint
	case reflect.Slice:
		if t == reflect.TypeFor[[]byte]() {
			f.kind = formBytes
		} else if elem := formOf(t.Elem(), above); elem.kind != formLibrary && t.Elem().Kind() != reflect.Uint8 {
			f.kind, f.elem = formList, elem
		}
	case reflect.Map:
		if t == reflect.TypeFor[map[string]string]() {
			f.kind = formTexts
		}
	case reflect.Pointer:
		if elem := formOf(t.Elem(), above); elem.kind == formStruct {
			f.kind, f.elem = formPointer, elem
		}
	case reflect.Struct:
		if fields, ok := fieldsOf(t, 0, above); ok && len(fields) <= mostFields {
			f.kind, f.fields = formStruct, fields
		}
	}
	return f
}

// fieldsOf are the forms of a struct's fields, with those of what is embedded in it; ok is false where that has rules that forms don't have.
func fieldsOf(t reflect.Type, base uintptr, above []reflect.Type) (out []formField, ok bool) {
	for i := range t.NumField() {
		sf := t.Field(i)
		name, rules, _ := strings.Cut(sf.Tag.Get("json"), ",")
		switch {
		case sf.Tag.Get("cbor") != "":
			return nil, false
		case sf.Anonymous && name == "":
			if sf.Type.Kind() != reflect.Struct || hasOwnWay(sf.Type) {
				return nil, false
			}
			inside, ok := fieldsOf(sf.Type, base+sf.Offset, above)
			if !ok {
				return nil, false
			}
			out = append(out, inside...)
			continue
		case !sf.IsExported() || name == "-":
			return nil, false
		}
		field := formField{form: formOf(sf.Type, above), offset: base + sf.Offset}
		name = cmp.Or(name, sf.Name)
		field.name = string(cborHead(nil, cborText, uint64(len(name)))) + name
		switch rules {
		case "":
		case "omitempty":
			field.leave = leaveEmpty
			if hasOwnWay(sf.Type) {
				field.leave = leaveNever // so the library
			} else if k := sf.Type.Kind(); k == reflect.Struct || k == reflect.Array {
				return nil, false // empty is more than zero there
			}
		case "omitzero":
			field.leave = leaveZero
			if _, own := reflect.PointerTo(sf.Type).MethodByName("IsZero"); own {
				return nil, false
			}
		default:
			return nil, false
		}
		out = append(out, field)
	}
	slices.SortFunc(out, func(a, b formField) int { return cmp.Compare(a.name, b.name) })
	for i := range out[min(1, len(out)):] {
		if out[i].name == out[i+1].name { // which of them holds, the library knows
			return nil, false
		}
	}
	return out, true
}

// at is the value of a form's type at a place, for reflection.
func (f *form) at(p unsafe.Pointer) reflect.Value { return reflect.NewAt(f.typ, p).Elem() }

// left says whether a field isn't written.
func (f *formField) left(p unsafe.Pointer) bool {
	switch f.leave {
	case leaveEmpty:
		return f.empty(p)
	case leaveZero:
		return f.zero(p)
	}
	return false
}

func (f *form) empty(p unsafe.Pointer) bool {
	switch f.kind {
	case formText:
		return *(*string)(p) == ""
	case formBool:
		return !*(*bool)(p)
	case formInt, formUint:
		return *(*uint64)(p) == 0
	case formBytes, formList:
		return len(*(*[]byte)(p)) == 0 // of whatever its elements are
	case formTexts:
		return len(*(*map[string]string)(p)) == 0
	case formPointer:
		return *(*unsafe.Pointer)(p) == nil
	}
	v := f.at(p)
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Float32, reflect.Float64:
		return v.Float() == 0 // of either sign
	}
	return v.IsZero()
}

func (f *form) zero(p unsafe.Pointer) bool {
	switch f.kind {
	case formText, formBool, formInt, formUint, formPointer:
		return f.empty(p)
	case formStruct:
		for i := range f.fields {
			if !f.fields[i].zero(unsafe.Add(p, f.fields[i].offset)) {
				return false
			}
		}
		return true
	}
	return f.at(p).IsZero()
}

// append writes the value at a place.
func (f *form) append(to []byte, p unsafe.Pointer) ([]byte, error) {
	switch f.kind {
	case formText:
		s := *(*string)(p)
		return append(cborHead(to, cborText, uint64(len(s))), s...), nil
	case formBool:
		if *(*bool)(p) {
			return append(to, cborTrue), nil
		}
		return append(to, cborFalse), nil
	case formInt:
		if n := *(*int64)(p); n < 0 {
			return cborHead(to, cborNegative, uint64(-1-n)), nil
		}
		return cborHead(to, cborUint, *(*uint64)(p)), nil
	case formUint:
		return cborHead(to, cborUint, *(*uint64)(p)), nil
	case formBytes:
		b := *(*[]byte)(p)
		if b == nil {
			return append(to, cborNull), nil
		}
		return append(cborHead(to, cborBytes, uint64(len(b))), b...), nil
	case formRaw:
		s := *(*Raw)(p)
		return append(cborHead(to, cborBytes, uint64(len(s))), s...), nil
	case formTexts:
		return appendTexts(to, *(*map[string]string)(p)), nil
	case formList:
		return f.appendList(to, p)
	case formPointer:
		if at := *(*unsafe.Pointer)(p); at != nil {
			return f.elem.append(to, at)
		}
		return append(to, cborNull), nil
	case formStruct:
		return f.appendStruct(to, p)
	}
	data, err := encode(f.at(p).Interface())
	return append(to, data...), err
}

func (f *form) appendList(to []byte, p unsafe.Pointer) (_ []byte, err error) {
	list := *(*[]byte)(p) // of whatever its elements are: where they are, and how many
	if list == nil {
		return append(to, cborNull), nil
	}
	to = cborHead(to, cborArray, uint64(len(list)))
	for i, size := 0, f.elem.typ.Size(); i < len(list); i++ {
		if to, err = f.elem.append(to, unsafe.Add(unsafe.Pointer(unsafe.SliceData(list)), uintptr(i)*size)); err != nil {
			return to, err
		}
	}
	return to, nil
}

func (f *form) appendStruct(to []byte, p unsafe.Pointer) (_ []byte, err error) {
	var without uint64 // those that aren't written
	n := len(f.fields)
	for i := range f.fields {
		if field := &f.fields[i]; field.leave != leaveNever && field.left(unsafe.Add(p, field.offset)) {
			without |= 1 << i
			n--
		}
	}
	to = cborHead(to, cborMap, uint64(n))
	for i := range f.fields {
		if without&(1<<i) != 0 {
			continue
		}
		field := &f.fields[i]
		if to, err = field.append(append(to, field.name...), unsafe.Add(p, field.offset)); err != nil {
			return to, err
		}
	}
	return to, nil
}

func appendTexts(to []byte, m map[string]string) []byte {
	if m == nil {
		return append(to, cborNull)
	}
	to = cborHead(to, cborMap, uint64(len(m)))
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, k := range keys {
		to = append(cborHead(to, cborText, uint64(len(k))), k...)
		v := m[k]
		to = append(cborHead(to, cborText, uint64(len(v))), v...)
	}
	return to
}

// appendValue writes a value, or what a pointer points to, as encode does. A pointer saves a copy.
func appendValue(to []byte, v any) ([]byte, error) {
	r := reflect.ValueOf(v)
	if r.Kind() == reflect.Pointer && !r.IsNil() {
		r = r.Elem()
	}
	if r.IsValid() {
		if f := forms[r.Type()]; f != nil {
			if !r.CanAddr() {
				here := reflect.New(f.typ).Elem()
				here.Set(r)
				r = here
			}
			return f.append(to, r.Addr().UnsafePointer())
		}
	}
	data, err := encode(v)
	return append(to, data...), err
}
