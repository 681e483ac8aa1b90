// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftmesh/weft/internal/stormtest"
)

// A command's envelope, put together and taken apart by hand, is what the library makes of it.
func TestEnvelope(t *testing.T) {
	tricky := "\x64Type\x62kv\x64Type\x61"
	for _, kind := range append([]string{"", "a name of more than twenty-three letters"}, commandTypes...) {
		for _, at := range []int64{0, 1, 23, 24, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, -1, -25, math.MinInt64} {
			body := KVOp{Verb: KVSet, Key: Raw(tricky), Value: []byte(tricky)}
			c := Command{Type: kind, At: at, Body: must(encode(body))}
			got, want := must(encodeCommand(kind, at, body)), must(encode(c))
			if !bytes.Equal(got, want) {
				t.Errorf("%+v: %x, want %x", c, got, want)
			}
			if opened, err := openCommand(want); err != nil || !cmp.Equal(opened, c) {
				t.Errorf("%+v: %+v, %v", c, opened, err)
			}
			if _, ok := openQuickly(want); ok != (kind != "" && len(kind) < 24 && (at == 0 || at > math.MaxUint32)) {
				t.Errorf("%+v: read without the library: %v", c, ok)
			}
		}
	}
}

// What is read without the library, and has a body that is one good value, is what the library reads.
func FuzzEnvelope(f *testing.F) {
	for _, at := range []int64{0, math.MaxUint32 + 1} {
		f.Add(must(encodeCommand("kv", at, KVOp{Verb: KVSet, Key: "k", Value: []byte("\x64Type\x62kv")})))
	}
	f.Add([]byte("\xa2\x64Body\xa0\xa0\x64Type\x62kv"))
	f.Add([]byte("\xa2\x64Body\x64Type\x62kv\x64Type\x62kv"))
	f.Add([]byte("\xa2\x64Body\x19\x30\x30\x64Type\x62\x30\x89")) // no UTF-8
	stormtest.Fuzz(f, func(t *testing.T, data []byte) {
		quick, ok := openQuickly(data)
		var body any
		if !ok || decode(quick.Body, &body) != nil {
			return
		}
		var c Command
		if err := decode(data, &c); err != nil || !cmp.Equal(c, quick) {
			t.Errorf("%x: %+v, %v by the library, %+v without", data, c, err, quick)
		}
	})
}
