// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/stormtest"
)

// anything fills a value with whatever its type can hold: what is nil, empty, long, negative or of many bytes, too.
func anything(r *rand.Rand, v reflect.Value, depth int) {
	texts := []string{"", "a", "web", "a name of more than twenty-three letters", "\u00e4\u20ac", "\x00", string(bytes.Repeat([]byte("x"), 300))}
	text := func() string { return texts[r.IntN(len(texts))] }
	numbers := []int64{0, 1, 23, 24, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, -1, -24, -25, math.MinInt64}
	number := numbers[r.IntN(len(numbers))]
	switch o := v.Addr().Interface().(type) {
	case *Opaque:
		if *o = nil; r.IntN(2) == 0 {
			*o = Opaque{text(): number, "list": []any{text(), nil, true, 0.5}, "map": map[string]any{text(): text()}}
		}
		return
	case *EntryBox:
		o.Entry = &ServiceDefaults{EntryHead: EntryHead{Name: "web"}, Protocol: text()}
		return
	case *time.Time:
		*o = time.Unix(number%(1<<31), 0).UTC()
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text())
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(number >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(number) >> (64 - v.Type().Bits()))
	case reflect.Float32, reflect.Float64:
		v.SetFloat([]float64{0, math.Copysign(0, -1), 1.5, -1e300}[r.IntN(4)])
	case reflect.Pointer:
		if r.IntN(3) > 0 && depth < 8 {
			v.Set(reflect.New(v.Type().Elem()))
			anything(r, v.Elem(), depth+1)
		}
	case reflect.Slice:
		if n := r.IntN(4); n > 0 && depth < 8 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
			for i := range n - 1 {
				anything(r, v.Index(i), depth+1)
			}
		}
	case reflect.Map:
		if n := r.IntN(5); n > 0 && depth < 8 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n - 1 {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				anything(r, key, depth+1)
				anything(r, value, depth+1)
				v.SetMapIndex(key, value)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && r.IntN(3) > 0 {
				anything(r, v.Field(i), depth+1)
			}
		}
	}
}

// What forms write is what the library writes, and what they read is what it reads, for whatever a command or a row can hold.
func TestForms(t *testing.T) {
	if len(forms) != 8 {
		t.Fatalf("%d types have a form, not 8", len(forms))
	}
	for typ, f := range forms {
		r := rand.New(rand.NewPCG(3, 4))
		const tries = 400
		read := 0
		for range tries {
			v := reflect.New(typ)
			anything(r, v.Elem(), 0)
			want, wantErr := encode(v.Interface())
			got, err := appendValue([]byte("before"), v.Interface())
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("%s: %v, by the library %v", typ, err, wantErr)
			}
			if err != nil {
				continue
			}
			byValue, err := appendValue(nil, v.Elem().Interface())
			if err != nil || !bytes.Equal(got[len("before"):], want) || !bytes.Equal(byValue, want) {
				t.Fatalf("%s: %x\nby value %x, %v\nby the library %x", typ, got, byValue, err, want)
			}
			read += sameRead(t, typ, want)
		}
		if read < tries/4 { // what isn't there, and isn't left out, is left to the library
			t.Errorf("%s: %d of %d were read without the library", typ, read, tries)
		}
		if typ == reflect.TypeFor[Register]() && f.fields[0].kind == formLibrary {
			t.Error("a registration's fields have no form")
		}
	}
}

// What is compared by forms is as equal as package reflect says: a value and its copy, the copy with anything else in one of its fields, and what is absent or
// empty.
func TestFormsEqual(t *testing.T) {
	for typ, f := range forms {
		r := rand.New(rand.NewPCG(7, 8))
		equal := 0
		for range 400 {
			a, b := reflect.New(typ), reflect.New(typ)
			anything(r, a.Elem(), 0)
			if data, err := encode(a.Interface()); err != nil || decode(data, a.Interface()) != nil || decode(data, b.Interface()) != nil {
				continue
			}
			for range r.IntN(3) {
				field := b.Elem().Field(r.IntN(typ.NumField()))
				anything(r, field, 6)
			}
			want := reflect.DeepEqual(a.Interface(), b.Interface())
			if got := f.equal(a.UnsafePointer(), b.UnsafePointer()); got != want {
				t.Fatalf("%s: %+v and %+v: %v, package reflect says %v", typ, a.Elem(), b.Elem(), got, want)
			}
			if want {
				equal++
			}
		}
		if equal < 20 || equal > 380 {
			t.Errorf("%s: %d of 400 pairs are equal", typ, equal)
		}
	}
	absent, empty := Service{}, Service{Tags: []string{}}
	if deepEqual(&absent, &empty) || deepEqual(&Node{}, &Node{Meta: map[string]string{}}) || !deepEqual(&empty, &Service{Tags: []string{}}) {
		t.Error("what is absent is what is empty")
	}
}

// sameRead reads a value with and without the library, and says in how many ways it could.
func sameRead(t *testing.T, typ reflect.Type, data []byte) int {
	t.Helper()
	quick, slow := reflect.New(typ), reflect.New(typ)
	if !decodeQuickly(data, quick.Interface()) {
		return 0
	}
	if err := decode(data, slow.Interface()); err != nil {
		t.Fatalf("%s: %x is read without the library, which says: %v", typ, data, err)
	}
	same := reflect.DeepEqual(quick.Interface(), slow.Interface())
	if again := reflect.New(typ); !same && decode(data, again.Interface()) == nil && !reflect.DeepEqual(again.Interface(), slow.Interface()) {
		same = bytes.Equal(must(encode(quick.Interface())), must(encode(slow.Interface()))) // what isn't a number isn't equal to itself either
	}
	if !same {
		t.Fatalf("%s: %x is read as %+v, by the library as %+v", typ, data, quick.Elem(), slow.Elem())
	}
	return 1
}

// Whatever is read without the library, the library reads, and as the same.
func FuzzForms(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for typ := range forms {
		for range 5 {
			v := reflect.New(typ)
			anything(r, v.Elem(), 5)
			if data, err := encode(v.Interface()); err == nil {
				f.Add(data)
			}
		}
	}
	f.Add(must(encode(snapshotRow{Coordinate: &NodeCoordinate{Node: "n", Coord: Coordinate{Error: math.NaN()}}})))
	f.Add(must(encode(KVOp{Verb: KVSet, Key: "k", Value: []byte("v")})))
	f.Add(must(encode(Register{Node: Node{Node: "n", Meta: map[string]string{"a": "b", "cc": ""}}, Services: []Service{{ID: "web", Tags: []string{"a"}}}, Checks: []Check{{CheckID: "c"}}})))
	stormtest.Fuzz(f, func(t *testing.T, data []byte) {
		for typ := range forms {
			sameRead(t, typ, data)
		}
	})
}

// BenchmarkCommand is a registration as the log gets it, and as it is read there again.
func BenchmarkCommand(b *testing.B) {
	node := Node{Node: "r1", Address: "10.1.0.1", Scope: Scope{}.Default("dc1")}
	register := Register{
		Node: node, Services: []Service{{Scope: node.Scope, Node: "r1", ID: "s1", Service: "s1", Port: 1234, Tags: []string{"a", "b"}, Weights: Weights{1, 1}}},
		Checks: []Check{{Scope: node.Scope, Node: "r1", Name: "c", CheckID: "c1", ServiceID: "s1", Status: HealthPassing}},
	}
	for name, body := range map[string]Body{"register": register, "kv": KVOp{Verb: KVSet, Key: "key-1", Value: bytes.Repeat([]byte("x"), 100)}} {
		at := time.Unix(1<<31, 0)
		data := must(EncodeAt(body, at))
		b.Run(name+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = EncodeAt(body, at)
			}
		})
		b.Run(name+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Decode(data)
			}
		})
	}
}
