// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"reflect"
)

// Canonical is a record (a *Node, *Service, *Check, Sync, …) in the form in which weft stores and sends it: CBOR by field
// name, the same bytes for the same content.
func Canonical(record any) (data []byte, err error) {
	err = inScratch(record, func(encoded []byte) { data = bytes.Clone(encoded) })
	return data, err
}

// FromCanonical reads a record from its canonical form, strictly: a field that this version doesn't know is an error.
func FromCanonical(data []byte, record any) error {
	if to := reflect.ValueOf(record); to.Kind() == reflect.Pointer && !to.IsNil() && to.Elem().IsZero() {
		return decodeFresh(data, record)
	}
	return decode(data, record)
}

// decodeFresh is decode into a pointer to what is zero, by its form where that is enough.
func decodeFresh(data []byte, fresh any) error {
	if decodeQuickly(data, fresh) {
		return nil
	}
	reflect.ValueOf(fresh).Elem().SetZero()
	return decode(data, fresh)
}
