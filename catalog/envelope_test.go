// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"math"
	"testing"
)

// A command's envelope, put together by hand, is what the encoder makes of it.
func TestEnvelope(t *testing.T) {
	for _, kind := range append([]string{"", "a name of more than twenty-three letters"}, commandTypes...) {
		for _, at := range []int64{0, 1, 23, 24, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, -1, -25, math.MinInt64} {
			c := Command{Type: kind, At: at, Body: must(encode(KVOp{Verb: KVSet, Key: "k"}))}
			if got, want := c.encode(), must(encode(c)); !bytes.Equal(got, want) {
				t.Errorf("%+v: %x, want %x", c, got, want)
			}
		}
	}
}
