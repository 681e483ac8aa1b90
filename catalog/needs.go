// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"reflect"
	"strconv"
)

// The schema version is what all servers of a cluster understand. A field that came later than the first version has it in a
// tag, as `schema:"2"`; a command that did, says so by schemaVersion. Until the cluster's version has been raised that far,
// no log entry may hold a value in such a field, or such a command: a server of an older version would refuse it.

// versioned is a command that came later than the first version, or whose value decides.
type versioned interface{ schemaVersion() uint64 }

func (c RaiseSchema) schemaVersion() uint64 { return c.Version }

// Needs gives the schema version that a command needs, and what of it needs it.
func Needs(body Body) (version uint64, what string) {
	version, what = 1, body.commandType()
	if v, ok := body.(versioned); ok {
		version = max(version, v.schemaVersion())
	}
	if len(laterFields) == 0 {
		return version, what
	}
	t := reflect.TypeOf(body)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if plan := laterFields[t]; plan != nil {
		plan.look(reflect.ValueOf(body), &version, &what)
	}
	return version, what
}

// plan is where in a type there are fields of later versions; nil where there are none.
type plan struct {
	fields  []planned
	element *plan            // of a slice, map or pointer
	boxed   map[string]*plan // of the config entries in a box, by kind
}

type planned struct {
	index   int
	name    string
	version uint64 // 0: only what is in it
	inside  *plan
}

// laterFields are the plans of the commands that have such fields.
var laterFields = func() map[reflect.Type]*plan {
	out := map[reflect.Type]*plan{}
	for _, kind := range commandTypes {
		t := reflect.TypeOf(must(newBody(kind))).Elem()
		if p := planOf(t, map[reflect.Type]bool{}); p != nil {
			out[t] = p
		}
	}
	return out
}()

func planOf(t reflect.Type, above map[reflect.Type]bool) *plan {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		if inside := planOf(t.Elem(), above); inside != nil {
			return &plan{element: inside}
		}
	case reflect.Struct:
		if t == reflect.TypeFor[EntryBox]() {
			return boxPlan(above)
		}
		if above[t] {
			return nil // what is in it is looked for already
		}
		above[t] = true
		defer delete(above, t)
		p := &plan{}
		for i := range t.NumField() {
			f := t.Field(i)
			version, err := strconv.ParseUint(f.Tag.Get("schema"), 10, 64)
			inside := planOf(f.Type, above)
			if err == nil || inside != nil {
				p.fields = append(p.fields, planned{i, f.Name, version, inside})
			}
		}
		if len(p.fields) > 0 {
			return p
		}
	}
	return nil
}

func boxPlan(above map[reflect.Type]bool) *plan {
	p := &plan{boxed: map[string]*plan{}}
	for _, kind := range EntryKinds() {
		if inside := planOf(reflect.TypeOf(must(NewEntry(kind))).Elem(), above); inside != nil {
			p.boxed[kind] = inside
		}
	}
	if len(p.boxed) == 0 {
		return nil
	}
	return p
}

func (p *plan) look(v reflect.Value, version *uint64, what *string) {
	switch {
	case v.Kind() == reflect.Pointer && p.element == nil && p.boxed == nil, v.Kind() == reflect.Interface:
		if !v.IsNil() {
			p.look(v.Elem(), version, what)
		}
	case p.boxed != nil:
		if e := v.Interface().(EntryBox).Entry; e != nil && p.boxed[e.EntryKind()] != nil {
			p.boxed[e.EntryKind()].look(reflect.ValueOf(e), version, what)
		}
	case p.element != nil:
		p.lookEach(v, version, what)
	default:
		for _, f := range p.fields {
			field := v.Field(f.index)
			if field.IsZero() {
				continue
			}
			if f.version > *version {
				*version, *what = f.version, fmt.Sprintf("the field %s of %s", f.name, v.Type().Name())
			}
			if f.inside != nil {
				f.inside.look(field, version, what)
			}
		}
	}
}

func (p *plan) lookEach(v reflect.Value, version *uint64, what *string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			p.element.look(v.Elem(), version, what)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			p.element.look(it.Value(), version, what)
		}
	default:
		for i := range v.Len() {
			p.element.look(v.Index(i), version, what)
		}
	}
}

// checkSchema says whether a store that knows versions up to newest can read a log entry: another server may be newer.
func checkSchema(body Body, newest uint64) error {
	if need, what := Needs(body); need > newest {
		return fmt.Errorf("%w: %s needs version %d, and this weft knows up to %d: start a newer one", ErrSchema, what, need, newest)
	}
	return nil
}
