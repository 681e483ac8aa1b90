// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// hostile is what a server answers the first request with, and what has to come of it.
type hostile struct {
	answer func(f *http2.Framer, id uint32)
	status int // 0: it fails
	unsent bool
}

func hostileServers() map[string]hostile {
	head := func(f *http2.Framer, id uint32, status string) {
		var b bytes.Buffer
		_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: status})
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: true})
	}
	return map[string]hostile{
		"control": {func(f *http2.Framer, id uint32) { head(f, id, "200") }, 200, false},
		"max frame size 0": {func(f *http2.Framer, _ uint32) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0})
		}, 0, false},
		"initial window 2³¹": {func(f *http2.Framer, _ uint32) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, 0, false},
		"header table of 4 GiB": {func(f *http2.Framer, id uint32) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1<<32 - 1})
			head(f, id, "200")
		}, 200, false},
		"no streams after GOAWAY": {func(f *http2.Framer, id uint32) {
			_ = f.WriteGoAway(id, http2.ErrCodeNo, nil)
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
			head(f, id, "200")
		}, 200, false},
		"GOAWAY before the request": {func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }, 0, true},
		"GOAWAY that rises": {func(f *http2.Framer, id uint32) {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			_ = f.WriteGoAway(id+100, http2.ErrCodeNo, nil)
		}, 0, true},
		"a push": {func(f *http2.Framer, id uint32) {
			_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true})
		}, 0, false},
		"an answer nobody asked for": {func(f *http2.Framer, id uint32) { head(f, id+2, "200") }, 0, false},
		"DATA before the head":       {func(f *http2.Framer, id uint32) { _ = f.WriteData(id, true, []byte("x")) }, 0, false},
		"a window over its maximum":  {func(f *http2.Framer, _ uint32) { _ = f.WriteWindowUpdate(0, 1<<31-1) }, 0, false},
		"1xx without an end": {func(f *http2.Framer, id uint32) {
			var b bytes.Buffer
			_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: "103"})
			for range 10_000 {
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true}) != nil {
					return
				}
			}
		}, 0, false},
		"SETTINGS without an end": {func(f *http2.Framer, _ uint32) {
			for f.WriteSettings() == nil {
			}
		}, 0, false},
		"PING without an end": {func(f *http2.Framer, _ uint32) {
			for f.WritePing(false, [8]byte{}) == nil {
			}
		}, 0, false},
	}
}

// A server that means harm ends its own connection: the request on it fails soon, and says whether it may be sent again. What
// is allowed, though strange, goes on; the control is answered.
func TestC67_HostileServers(t *testing.T) {
	for name, c := range hostileServers() {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			cl, err := NewClient(a, ClientConfig{})
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cl.Run(t.Context()) }()
			_ = b.SetDeadline(time.Now().Add(10 * time.Second))
			served := make(chan struct{})
			go func() {
				defer close(served)
				if _, err := io.ReadFull(b, make([]byte, len(preface))); err != nil {
					t.Error(err)
					return
				}
				f := http2.NewFramer(b, b)
				f.AllowIllegalWrites = true
				_ = f.WriteSettings()
				for {
					fr, err := f.ReadFrame()
					if err != nil {
						return
					}
					if h, ok := fr.(*http2.HeadersFrame); ok {
						go func() { _, _ = io.Copy(io.Discard, b) }() // the client's own frames; ends with the connection
						c.answer(f, h.StreamID)
						return
					}
				}
			}()
			defer time.AfterFunc(8*time.Second, func() { // nobody waits for an end that a server doesn't make
				t.Error("it goes on")
				cl.Close()
				_ = b.Close()
			}).Stop()
			x, err := cl.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var h stream.ResponseHead
			if err = x.WriteHead(reqHead("GET", "/", 0), true); err == nil {
				_ = x.Flush() // what went wrong, the answer says
			}
			if err == nil {
				for err == nil && h.Status < 200 {
					h.Reset()
					err = x.ReadHead(&h)
				}
			}
			x.Close()
			switch {
			case c.status == 0 && err == nil:
				t.Errorf("it was answered %d", h.Status)
			case c.status != 0 && (err != nil || h.Status != c.status):
				t.Errorf("%d, %v", h.Status, err)
			case errors.Is(err, stream.ErrNotSent) != c.unsent:
				t.Errorf("not processed for certain: %v, want %v: %v", !c.unsent, c.unsent, err)
			}
			cl.Close()
			<-done
			<-served
		})
	}
}
