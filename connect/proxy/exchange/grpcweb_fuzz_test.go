// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/stormtest"
)

// pieces is an exchange whose body comes in pieces of at most step bytes.
type pieces struct {
	stream.ServerExchange
	in   []byte
	step int
}

func (p *pieces) ReadBody(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.step)], p.in)
	p.in = p.in[n:]
	return n, nil
}

// FuzzWebText holds the reader of gRPC-Web's text form against base64 by groups: the same bytes come out however they come in,
// or an error that blames the message.
func FuzzWebText(f *testing.F) {
	f.Add([]byte("AAAAAAA="), uint8(1), uint8(3))
	f.Add([]byte("AAAAAAcKBWhlbGxvAAAAAAc=gAAA"), uint8(7), uint8(40))
	f.Add([]byte("AA"), uint8(9), uint8(9))
	stormtest.Fuzz(f, func(t *testing.T, in []byte, step, room uint8) {
		var want []byte
		good := len(in)%4 == 0
		for i := 0; i+4 <= len(in); i += 4 {
			var group [3]byte
			n, err := base64.StdEncoding.Decode(group[:], in[i:i+4])
			if err != nil {
				good = false
				break
			}
			want = append(want, group[:n]...)
		}
		w := &webExchange{ServerExchange: &pieces{in: in, step: max(1, int(step))}, textIn: true}
		var got []byte
		buf := make([]byte, max(3, int(room)))
		for {
			n, err := w.ReadBody(buf)
			got = append(got, buf[:n]...)
			if err == nil && n == 0 {
				t.Fatal("neither bytes nor an end")
			}
			if err == io.EOF {
				if !good {
					t.Fatalf("%q is taken", in)
				}
				break
			}
			if err != nil {
				if good || !errors.Is(err, stream.ErrMalformed) {
					t.Fatalf("%q: %v", in, err)
				}
				break
			}
		}
		if good && !bytes.Equal(got, want) || !bytes.HasPrefix(want, got) {
			t.Fatalf("%q: got %x, want %x", in, got, want)
		}
	})
}
