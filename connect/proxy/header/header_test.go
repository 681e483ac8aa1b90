// SPDX-License-Identifier: Apache-2.0

package header

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func list(pairs ...string) *List {
	l := &List{}
	for i := 0; i < len(pairs); i += 2 {
		l.Add(pairs[i], pairs[i+1])
	}
	return l
}

func all(l *List) []Field {
	var out []Field
	for i := range l.Len() {
		out = append(out, l.At(i))
	}
	return out
}

func TestSetAndDelKeepOrder(t *testing.T) {
	l := list("A", "1", "b", "2", "a", "3", "C", "4", "a", "5")
	l.Set("a", "x")
	if d := cmp.Diff([]Field{{"A", "x"}, {"b", "2"}, {"C", "4"}}, all(l)); d != "" {
		t.Error("after Set", d)
	}
	l.Set("d", "6")
	l.Del("B")
	l.Del("none")
	if d := cmp.Diff([]Field{{"A", "x"}, {"C", "4"}, {"d", "6"}}, all(l)); d != "" {
		t.Error("after Del", d)
	}
}

func TestGetIgnoresCaseAndKeepsTheFirst(t *testing.T) {
	l := list("X-Role", "user", "x-role", "admin")
	if v, ok := l.Get("X-ROLE"); !ok || v != "user" {
		t.Errorf("got %q, %v", v, ok)
	}
	if i := l.Index("x-role", 1); i != 1 {
		t.Errorf("second at %d, want 1", i)
	}
	if _, ok := l.Get("x_role"); ok {
		t.Error("_ is taken for -")
	}
}

func TestResetAndCopyAllocateNothingOnceGrown(t *testing.T) {
	src, dst := list("a", "1", "b", "2"), &List{}
	dst.CopyFrom(src)
	if n := testing.AllocsPerRun(100, func() { dst.CopyFrom(src) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	dst.Reset()
	if dst.Len() != 0 || src.Len() != 2 {
		t.Errorf("lengths %d and %d", dst.Len(), src.Len())
	}
}

func TestEqualFoldIsASCIIOnly(t *testing.T) {
	for a := range 128 {
		for b := range 128 {
			x, y := string(rune(a)), string(rune(b))
			if got, want := EqualFold(x, y), strings.EqualFold(x, y); got != want {
				t.Errorf("%q and %q: got %v, want %v", x, y, got, want)
			}
		}
	}
	if EqualFold("\u212a", "k") || EqualFold("k", "\u212a") {
		t.Error("the Kelvin sign is no k")
	}
}
