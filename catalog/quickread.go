// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"math"
	"reflect"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// mostItems is how many items a list or map has at most that is read without the library, which has bounds of its own.
const mostItems = 1 << 12

// keptWhole is how long a command is at most whose texts stay parts of it: most are a dozen short ones, and each was a piece of memory of its own.
const keptWhole = 1 << 10

// reader is what is read from.
type reader struct {
	rest string
	own  bool // texts are parts of it, not copies
}

// decodeQuickly reads into *v, which is zero, what the form of its type wrote. Where ok is false nothing is promised about *v, and the library is to
// read it anew: what is wrong, if anything is, it says.
func decodeQuickly(data []byte, v any) (ok bool) {
	to := reflect.ValueOf(v)
	f := forms[to.Type().Elem()]
	if f == nil || len(data) == 0 || len(data) > MaxCommandBytes {
		return false
	}
	r := reader{rest: unsafe.String(&data[0], len(data))} // which nobody keeps
	if _, kv := v.(*KVOp); !kv && len(data) <= keptWhole {
		r = reader{string(data), true}
	}
	return r.read(f, to.UnsafePointer()) && r.rest == ""
}

// head takes the head of an item: its type and its number.
func (r *reader) head() (major byte, n uint64, ok bool) {
	if r.rest == "" {
		return 0, 0, false
	}
	major, more, size := r.rest[0]&0xe0, r.rest[0]&0x1f, 0
	switch {
	case more < 24:
		n = uint64(more)
	case more < 28:
		size = 1 << (more - 24)
	default:
		return 0, 0, false
	}
	if len(r.rest) <= size {
		return 0, 0, false
	}
	for _, b := range []byte(r.rest[1 : 1+size]) {
		n = n<<8 | uint64(b)
	}
	r.rest = r.rest[1+size:]
	return major, n, true
}

// bytes takes a string of bytes or text.
func (r *reader) bytes(want byte) (s string, ok bool) {
	major, n, ok := r.head()
	if !ok || major != want || n > uint64(len(r.rest)) {
		return "", false
	}
	s, r.rest = r.rest[:n], r.rest[n:]
	return s, true
}

// text takes text, which may be kept.
func (r *reader) text() (s string, ok bool) {
	if s, ok = r.bytes(cborText); !ok || !utf8.ValidString(s) {
		return "", false
	}
	if !r.own {
		s = strings.Clone(s)
	}
	return s, true
}

// count takes the head of a list or map.
func (r *reader) count(want byte) (n int, ok bool) {
	major, many, ok := r.head()
	return int(many), ok && major == want && many <= mostItems && many <= uint64(len(r.rest)) //nolint:gosec // it is small, or not ok
}

// read reads a value into a place, which is zero.
func (r *reader) read(f *form, p unsafe.Pointer) (ok bool) {
	switch f.kind {
	case formText:
		*(*string)(p), ok = r.text()
		return ok
	case formRaw:
		s, ok := r.bytes(cborBytes)
		*(*Raw)(p) = Raw(strings.Clone(s))
		return ok
	case formBytes:
		s, ok := r.bytes(cborBytes)
		if ok {
			*(*[]byte)(p) = append(make([]byte, 0, len(s)), s...)
		}
		return ok
	case formBool:
		major, n, ok := r.head()
		*(*bool)(p) = n == cborTrue&^cborSimple
		return ok && major == cborSimple && (n == cborTrue&^cborSimple || n == cborFalse&^cborSimple)
	case formInt, formUint:
		return r.number(f, p)
	case formTexts:
		return r.texts((*map[string]string)(p))
	case formList:
		return r.list(f, p)
	case formPointer:
		to := reflect.New(f.elem.typ).UnsafePointer()
		*(*unsafe.Pointer)(p) = to
		return r.read(f.elem, to)
	case formStruct:
		return r.fields(f, p)
	}
	begin := r.rest
	return r.skip(0) && decode([]byte(begin[:len(begin)-len(r.rest)]), reflect.NewAt(f.typ, p).Interface()) == nil
}

func (r *reader) number(f *form, p unsafe.Pointer) bool {
	major, n, ok := r.head()
	switch {
	case !ok || major != cborUint && (major != cborNegative || f.kind == formUint) || n > math.MaxInt64 && f.kind == formInt:
		return false
	case major == cborNegative:
		*(*int64)(p) = -1 - int64(n)
	default:
		*(*uint64)(p) = n
	}
	return true
}

func (r *reader) texts(into *map[string]string) bool {
	n, ok := r.count(cborMap)
	if !ok {
		return false
	}
	m := make(map[string]string, n)
	for range n {
		k, ok := r.text()
		if !ok {
			return false
		}
		if m[k], ok = r.text(); !ok {
			return false
		}
	}
	*into = m
	return len(m) == n // a key that came twice is an error
}

func (r *reader) list(f *form, p unsafe.Pointer) bool {
	n, ok := r.count(cborArray)
	if !ok {
		return false
	}
	v := f.at(p)
	if n == 0 {
		v.Set(reflect.MakeSlice(f.typ, 0, 0))
		return true
	}
	v.Grow(n)
	v.SetLen(n)
	at := v.UnsafePointer()
	for i, size := 0, f.elem.typ.Size(); i < n; i++ {
		if !r.read(f.elem, unsafe.Add(at, uintptr(i)*size)) {
			return false
		}
	}
	return true
}

// fields reads a struct whose fields stand in the order in which they are written.
func (r *reader) fields(f *form, p unsafe.Pointer) bool {
	n, ok := r.count(cborMap)
	if !ok {
		return false
	}
	fields := f.fields
	for range n {
		for len(fields) > 0 && !strings.HasPrefix(r.rest, fields[0].name) {
			fields = fields[1:]
		}
		if len(fields) == 0 {
			return false
		}
		field := &fields[0]
		r.rest = r.rest[len(field.name):]
		if !r.read(field.form, unsafe.Add(p, field.offset)) {
			return false
		}
		fields = fields[1:]
	}
	return true
}

// skip takes an item, whatever it is.
func (r *reader) skip(depth int) bool {
	major, n, ok := r.head()
	if !ok || depth > mostNested {
		return false
	}
	items := n
	switch major {
	case cborUint, cborNegative, cborSimple:
		return true
	case cborBytes, cborText:
		ok = n <= uint64(len(r.rest))
		r.rest = r.rest[min(n, uint64(len(r.rest))):]
		return ok
	case cborArray:
	case cborMap:
		items = 2 * n
	default:
		return false
	}
	if n > uint64(len(r.rest)) {
		return false
	}
	for range items {
		if !r.skip(depth + 1) {
			return false
		}
	}
	return true
}
