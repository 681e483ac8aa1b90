// SPDX-License-Identifier: Apache-2.0

// Package header holds the header list of the proxy's data path: an ordered list of fields, kept as they came, searched
// without regard to case, reused from request to request. It parses and writes nothing (the codecs do that) and owns no
// goroutine.
package header

// Field is one header line. Name keeps the case in which it arrived (HTTP/2: always lower case).
type Field struct {
	Name, Value string
}

// List is an ordered list of fields. The zero value is an empty list. It isn't safe for use by several goroutines.
// Its strings may be parts of one larger string: keeping a Value beyond the exchange keeps the whole head alive.
type List struct {
	fields []Field
}

// Len is the number of fields.
func (l *List) Len() int { return len(l.fields) }

// At gives field i, 0 ≤ i < Len.
func (l *List) At(i int) Field { return l.fields[i] }

// SetAt replaces the value of field i and keeps its name.
func (l *List) SetAt(i int, value string) { l.fields[i].Value = value }

// Add appends a field, whether or not one of that name is there.
func (l *List) Add(name, value string) { l.fields = append(l.fields, Field{name, value}) }

// Index is the position of the first field called name at or after from, or -1.
func (l *List) Index(name string, from int) int {
	for i := from; i < len(l.fields); i++ {
		if EqualFold(l.fields[i].Name, name) {
			return i
		}
	}
	return -1
}

// Get is the value of the first field called name, and whether there is one.
func (l *List) Get(name string) (string, bool) {
	if i := l.Index(name, 0); i >= 0 {
		return l.fields[i].Value, true
	}
	return "", false
}

// Set leaves exactly one field called name, in the place of the first or at the end.
func (l *List) Set(name, value string) {
	i := l.Index(name, 0)
	if i < 0 {
		l.Add(name, value)
		return
	}
	l.fields[i].Value = value
	l.deleteFrom(name, i+1)
}

// Del removes every field called name.
func (l *List) Del(name string) { l.deleteFrom(name, 0) }

func (l *List) deleteFrom(name string, from int) {
	i := l.Index(name, from)
	if i < 0 {
		return
	}
	kept := l.fields[:i]
	for _, f := range l.fields[i+1:] {
		if !EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	clear(l.fields[len(kept):])
	l.fields = kept
}

// Reset empties the list and lets go of its strings; the room is kept for the next head.
func (l *List) Reset() {
	clear(l.fields)
	l.fields = l.fields[:0]
}

// CopyFrom makes l hold src's fields. The strings are shared.
func (l *List) CopyFrom(src *List) {
	l.Reset()
	l.fields = append(l.fields, src.fields...)
}

// EqualFold compares two header names, ASCII letters without regard to case (RFC 9110 §5.1).
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}

// Vouches says whether a field tells of who calls, and on which way: proxies write it and take it out of what strangers send. In a trailer it
// would come after all that was decided, and some servers merge trailers into the head.
func Vouches(name string) bool {
	return EqualFold(name, "forwarded") || HasPrefixFold(name, "x-forwarded-") || HasPrefixFold(name, "x-weft-") || HasPrefixFold(name, "x-envoy-")
}

// HasPrefixFold says whether a name begins with a prefix, by EqualFold.
func HasPrefixFold(name, prefix string) bool {
	return len(name) >= len(prefix) && EqualFold(name[:len(prefix)], prefix)
}
