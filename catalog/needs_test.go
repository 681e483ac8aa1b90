// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
)

// Every command of this version can be named, and is of a version that this code knows.
func TestCommandTypes(t *testing.T) {
	for _, kind := range commandTypes {
		body, err := newBody(kind)
		if err != nil || body.commandType() != kind {
			t.Errorf("%s: %v, %v", kind, body, err)
			continue
		}
		if v, _ := Needs(body); v > SchemaVersion {
			t.Errorf("%s needs version %d, and this code knows up to %d", kind, v, SchemaVersion)
		}
	}
	for _, p := range laterFields {
		if SchemaVersion == 1 {
			t.Errorf("there are fields of later versions: %+v", p)
		}
	}
}

// Fields of later versions are found wherever they are.
func TestPlans(t *testing.T) {
	type inner struct {
		Old string
		New string `schema:"3"`
	}
	type outer struct {
		One   inner
		Many  []inner
		By    map[string]*inner
		Ptr   *inner
		Plain []string
		Later int `schema:"2"`
		Self  *outer
	}
	p := planOf(reflect.TypeFor[outer](), map[reflect.Type]bool{})
	for name, c := range map[string]struct {
		v    outer
		want uint64
	}{
		"nothing": {outer{Plain: []string{"x"}, One: inner{Old: "x"}, Many: []inner{{Old: "y"}}, Ptr: &inner{}}, 1},
		"itself":  {outer{Later: 1}, 2},
		"inside":  {outer{One: inner{New: "x"}}, 3},
		"a list":  {outer{Many: []inner{{}, {New: "x"}}}, 3},
		"a map":   {outer{By: map[string]*inner{"a": {New: "x"}}}, 3},
		"pointer": {outer{Ptr: &inner{New: "x"}, Later: 1}, 3},
	} {
		version, what := uint64(1), ""
		p.look(reflect.ValueOf(&c.v), &version, &what)
		if version != c.want || (what == "") != (c.want == 1) {
			t.Errorf("%s: version %d (%s), want %d", name, version, what, c.want)
		}
	}
}

// A log entry, or a snapshot, of a version that a server doesn't know stops it, and nothing of it is applied. The version is
// never lowered.
func TestOlderServer(t *testing.T) {
	s := newStore(t, Config{})
	do(t, s, web("n1", 80))
	newer := RaiseSchema{SchemaVersion + 1}
	var c *CorruptError
	rs := s.Apply([]LogEntry{{2, mustEncode(t, newer)}, {3, mustEncode(t, web("n2", 80))}})
	if !errors.As(rs[0].Err, &c) || !errors.Is(rs[0].Err, ErrSchema) || !errors.As(rs[1].Err, &c) || s.Position().Index != 1 {
		t.Errorf("%+v", rs)
	}
	for _, v := range []uint64{SchemaVersion, 0} {
		if r := do(t, s, RaiseSchema{v}); r.Err != nil || s.Read().Schema() != SchemaVersion {
			t.Errorf("raised to %d: %+v, it is %d", v, r, s.Read().Schema())
		}
	}
}

// Needs costs next to nothing where nothing is of a later version.
func BenchmarkNeeds(b *testing.B) {
	body := randomCommand(rand.New(rand.NewPCG(1, 1)))
	for b.Loop() {
		Needs(body)
	}
}
