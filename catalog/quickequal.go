// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"maps"
	"reflect"
	"unsafe"
)

// deepEqual is reflect.DeepEqual of what two pointers point to, by the form of the type where it has one: most records that come are as they
// were, and to find that out was a fortieth of a registration.
func deepEqual[T any](a, b *T) bool {
	if f := forms[reflect.TypeFor[T]()]; f != nil {
		return f.equal(unsafe.Pointer(a), unsafe.Pointer(b))
	}
	return reflect.DeepEqual(a, b)
}

// equal says whether the values at two places are deeply equal, as package reflect means it: what is absent isn't what is empty.
func (f *form) equal(a, b unsafe.Pointer) bool {
	switch f.kind {
	case formText, formRaw:
		return *(*string)(a) == *(*string)(b)
	case formBool:
		return *(*bool)(a) == *(*bool)(b)
	case formInt, formUint:
		return *(*uint64)(a) == *(*uint64)(b)
	case formBytes:
		x, y := *(*[]byte)(a), *(*[]byte)(b)
		return (x == nil) == (y == nil) && string(x) == string(y)
	case formTexts:
		x, y := *(*map[string]string)(a), *(*map[string]string)(b)
		return (x == nil) == (y == nil) && maps.Equal(x, y)
	case formPointer:
		x, y := *(*unsafe.Pointer)(a), *(*unsafe.Pointer)(b)
		return x == y || x != nil && y != nil && f.elem.equal(x, y)
	case formList:
		x, y := *(*[]byte)(a), *(*[]byte)(b) // of whatever their elements are
		if (x == nil) != (y == nil) || len(x) != len(y) {
			return false
		}
		for i, size := 0, f.elem.typ.Size(); i < len(x); i++ {
			at := uintptr(i) * size
			if !f.elem.equal(unsafe.Add(unsafe.Pointer(unsafe.SliceData(x)), at), unsafe.Add(unsafe.Pointer(unsafe.SliceData(y)), at)) {
				return false
			}
		}
		return true
	case formStruct:
		for i := range f.fields {
			field := &f.fields[i]
			if !field.equal(unsafe.Add(a, field.offset), unsafe.Add(b, field.offset)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(f.at(a).Interface(), f.at(b).Interface())
}
