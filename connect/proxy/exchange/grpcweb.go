// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// webExchange makes a gRPC-Web request, which browsers can send, one of gRPC: the messages are framed alike; what gRPC says in
// trailers stands in a last frame of the body; and the text form is base64 (PROTOCOL-WEB.md of gRPC).
type webExchange struct {
	stream.ServerExchange
	textIn, textOut bool
	framed          bool // the response is one of gRPC
	room            [2 << 10]byte
	left            int // characters at room's beginning that wait for the rest of their group
}

const (
	grpcType     = "application/grpc"
	grpcWebType  = "application/grpc-web"
	webText      = "-text"
	trailerFrame = 0x80
)

// webOf gives the exchange as one of gRPC, nil where it is none of gRPC-Web.
func webOf(x stream.ServerExchange) *webExchange {
	req := x.Request()
	form, _ := req.Fields.Get("content-type")
	rest, ok := strings.CutPrefix(form, grpcWebType)
	if !ok || req.Method != "POST" {
		return nil
	}
	accept, _ := req.Fields.Get("accept")
	w := &webExchange{ServerExchange: x, textIn: strings.HasPrefix(rest, webText), textOut: strings.HasPrefix(accept, grpcWebType+webText)}
	rest = strings.TrimPrefix(rest, webText)
	if rest != "" && rest[0] != '+' && rest[0] != ';' {
		return nil // a type that only begins so
	}
	req.Fields.Set("content-type", grpcType+rest)
	req.Fields.Set("te", "trailers")
	if w.textIn {
		req.Length = -1
	}
	return w
}

// Await waits for the body as it is sent.
func (w *webExchange) Await(d time.Duration, most int) (int, bool) {
	return await(w.ServerExchange, d, most)
}

// ReadBody is stream.Body's. p has room for a group of three bytes.
func (w *webExchange) ReadBody(p []byte) (int, error) {
	if !w.textIn {
		return w.ServerExchange.ReadBody(p)
	}
	for {
		room := w.room[:max(w.left+1, min(len(w.room), len(p)/3*4))]
		n, err := w.ServerExchange.ReadBody(room[w.left:])
		have := w.left + n
		whole := have &^ 3
		out := 0
		// Padding may stand at the end of any group: a client may encode each message by itself.
		for i := 0; i < whole; i += 4 {
			m, bad := base64.StdEncoding.Decode(p[out:], room[i:i+4])
			if bad != nil {
				return 0, fmt.Errorf("%w: the body of gRPC-Web's text form isn't base64", stream.ErrMalformed)
			}
			out += m
		}
		w.left = copy(w.room[:], room[whole:have])
		switch {
		case out > 0:
			return out, nil // an end comes again
		case err == io.EOF && w.left > 0:
			return 0, fmt.Errorf("%w: the body of gRPC-Web's text form ends within a group", stream.ErrMalformed)
		case err != nil:
			return 0, err
		}
	}
}

// Buffered is stream.Body's.
func (w *webExchange) Buffered() int {
	if w.textIn {
		return w.ServerExchange.Buffered() / 4 * 3
	}
	return w.ServerExchange.Buffered()
}

// WriteHead is stream.ServerExchange's.
func (w *webExchange) WriteHead(h *stream.ResponseHead, end bool) error {
	form, _ := h.Fields.Get("content-type")
	if rest, ok := strings.CutPrefix(form, grpcType); ok {
		w.framed = true
		form := grpcWebType
		if w.textOut {
			form += webText
		}
		if rest == "" {
			rest = "+proto"
		}
		h.Fields.Set("content-type", form+rest)
		if !end {
			h.Length, h.HasLength = -1, false
		}
	}
	return w.ServerExchange.WriteHead(h, end)
}

// WriteBody is stream.ServerExchange's.
func (w *webExchange) WriteBody(p []byte) error {
	if w.framed && w.textOut {
		p = base64.StdEncoding.AppendEncode(nil, p)
	}
	return w.ServerExchange.WriteBody(p)
}

// Finish is stream.ServerExchange's.
func (w *webExchange) Finish(trailers *header.List) error {
	if !w.framed || trailers == nil {
		return w.ServerExchange.Finish(trailers)
	}
	frame := make([]byte, 5, 128)
	for i := range trailers.Len() {
		f := trailers.At(i)
		frame = append(frame, strings.ToLower(f.Name)+": "+f.Value+"\r\n"...)
	}
	frame[0] = trailerFrame
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-5))
	if err := w.WriteBody(frame); err != nil {
		return err
	}
	return w.ServerExchange.Finish(nil)
}

var _ stream.ServerExchange = (*webExchange)(nil)
