// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"context"
	"io"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/stormtest"
)

// seedFrames are some good beginnings for the fuzzer.
func seedFrames(fields ...string) [][]byte {
	var hb, out bytes.Buffer
	enc := hpack.NewEncoder(&hb)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	fr := http2.NewFramer(&out, nil)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: hb.Bytes(), EndHeaders: true})
	_ = fr.WriteDataPadded(1, false, []byte("body"), []byte{0, 0, 0})
	_ = fr.WriteWindowUpdate(1, 10)
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0, 1, 'a', 1, 'b'}, EndHeaders: true, EndStream: true})
	_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
	_ = fr.WritePing(false, [8]byte{1})
	_ = fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	return [][]byte{out.Bytes(), out.Bytes()[:30], {}, bytes.Repeat([]byte{0}, 200)}
}

func FuzzServer(f *testing.F) {
	for _, b := range seedFrames(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "cookie", "a", "cookie", "b") {
		f.Add(b)
	}
	stormtest.Fuzz(f, func(t *testing.T, in []byte) {
		nc := stormtest.Conn(append([]byte(preface), in...), 0)
		s, err := NewServer(nc, ServerConfig{}, func(x stream.ServerExchange) {
			checkHead(t, x.Request())
			echo(x)
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Run(context.Background())
		if s.handlers != 0 || len(s.streams) != 0 {
			t.Fatalf("%d handlers, %d streams left", s.handlers, len(s.streams))
		}
	})
}

// checkHead holds a head against what its type promises.
func checkHead(t *testing.T, h *stream.RequestHead) {
	if h.Method == "" || h.Authority == "" || (h.Path == "" && h.Method != "CONNECT") {
		t.Errorf("head %+v", h)
	}
	for i := range h.Fields.Len() {
		f := h.Fields.At(i)
		if !validName(f.Name) || !validValue(f.Value) || f.Name == "host" || f.Name == "content-length" {
			t.Errorf("field %q: %q", f.Name, f.Value)
		}
	}
}

func FuzzClient(f *testing.F) {
	for _, b := range seedFrames(":status", "200", "content-length", "4") {
		f.Add(b)
	}
	stormtest.Fuzz(f, func(t *testing.T, in []byte) {
		c, err := NewClient(stormtest.Conn(in, 0), ClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		x, err := c.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := x.WriteHead(reqHead("POST", "/", -1), false); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Run(context.Background()) }()
		_ = x.WriteBody([]byte("hello"))
		_ = x.Finish(nil)
		var h stream.ResponseHead
		for err = x.ReadHead(&h); err == nil && h.Status < 200 && h.Status != 101; err = x.ReadHead(&h) {
		}
		for b := make([]byte, 100); err == nil; {
			_, err = x.ReadBody(b)
		}
		if err == io.EOF {
			_ = x.Trailers()
		}
		x.Close()
		<-done
	})
}
