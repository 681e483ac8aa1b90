// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"reflect"
	"strings"
)

// suggest names the known field that is nearest to a mistyped one, or nothing if none is near.
func suggest(v reflect.Value, name string) string {
	best, at := "", 3
	for _, known := range names(v.Type()) {
		if d := distance(fold(name), fold(known), at); d < at {
			best, at = known, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + snake(best) + "?"
}

func names(t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			all = append(all, names(sf.Type)...)
			continue
		}
		if !sf.IsExported() || sf.Tag.Get("decode") == "-" {
			continue
		}
		all = append(all, sf.Name)
	}
	return all
}

// snake is the form of a Go name that files use.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		upper := r >= 'A' && r <= 'Z'
		if upper && i > 0 {
			prev := name[i-1]
			nextLower := i+1 < len(name) && name[i+1] >= 'a' && name[i+1] <= 'z'
			if prev < 'A' || prev > 'Z' || nextLower {
				b.WriteByte('_')
			}
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// distance is the number of edits between two words, or limit if it is that or more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return min(row[len(b)], limit)
}
