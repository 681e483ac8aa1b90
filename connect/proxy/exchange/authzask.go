// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"cmp"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

const (
	checkPath   = "/envoy.service.auth.v3.Authorization/Check"
	partialBody = "x-envoy-auth-partial-body"
)

// question is how a program is asked about the request, and the message's body.
func (ex *exchange) question(a *config.Ask, body []byte, partial bool) (*stream.RequestHead, []byte) {
	h := &stream.RequestHead{Proto: stream.HTTP11, Scheme: "http", Authority: a.Authority}
	if a.GRPC {
		said := ex.checkRequest(a, body, partial)
		frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(said)))
		body = append(frame, said...)
		h.Proto, h.Method, h.Path = stream.HTTP2, "POST", checkPath
		h.Fields.Add("content-type", grpcType)
		h.Fields.Add("te", "trailers")
		h.Fields.Add("grpc-timeout", strconv.FormatInt(max(1, a.Timeout.Milliseconds()), 10)+"m")
	} else {
		h.Method, h.Path, h.Authority = ex.req.Method, a.PathPrefix+ex.req.Path, cmp.Or(ex.req.Authority, a.Authority)
		if a.PathPrefix != "" && ex.req.Path == "*" {
			h.Path = a.PathPrefix
		}
		for i := range ex.req.Fields.Len() {
			if f := ex.req.Fields.At(i); tells(a, f.Name) {
				h.Fields.Add(f.Name, f.Value)
			}
		}
		if a.MaxBody > 0 {
			h.Fields.Set(partialBody, strconv.FormatBool(partial))
		}
	}
	for _, add := range a.Add {
		h.Fields.Set(add.Name, add.Value)
	}
	h.Length = int64(len(body))
	return h, body
}

// tells says whether the program is told a field of the request. By HTTP it is told authorization in any case, as by an Envoy.
func tells(a *config.Ask, name string) bool {
	return !matchAny(a.Hide, name) && (matchAny(a.Send, name) || !a.GRPC && header.EqualFold(name, "authorization"))
}

func matchAny(list []config.StringMatch, s string) bool {
	for i := range list {
		if matchString(&list[i], s) {
			return true
		}
	}
	return false
}

// protoMessage writes protobuf's wire form: the messages are few, and their generated code would be linked into every proxy.
type protoMessage []byte

func (m *protoMessage) text(field protowire.Number, s string) {
	if s != "" {
		*m = protowire.AppendString(protowire.AppendTag(*m, field, protowire.BytesType), s)
	}
}

func (m *protoMessage) bytes(field protowire.Number, b []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), b)
}

func (m *protoMessage) number(field protowire.Number, n int64) {
	if n != 0 {
		*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), uint64(n))
	}
}

// checkRequest is a CheckRequest about the request.
func (ex *exchange) checkRequest(a *config.Ask, body []byte, partial bool) []byte {
	req, peer := ex.req, ex.d.peer
	var at, http protoMessage
	at.number(1, ex.rec.began.Unix())
	at.number(2, int64(ex.rec.began.Nanosecond()))
	if id, ok := req.Fields.Get("x-request-id"); ok {
		http.text(1, id)
	}
	http.text(2, req.Method)
	told := map[string]string{":method": req.Method, ":path": req.Path, ":authority": req.Authority, ":scheme": req.Scheme}
	names := []string{":method", ":path", ":authority", ":scheme"}
	for i := range req.Fields.Len() {
		f := req.Fields.At(i)
		name := strings.ToLower(f.Name)
		if !tells(a, name) {
			continue
		}
		if v, ok := told[name]; ok {
			told[name] = v + "," + f.Value
			continue
		}
		told[name] = f.Value
		names = append(names, name)
	}
	if a.MaxBody > 0 {
		if _, ok := told[partialBody]; !ok {
			names = append(names, partialBody)
		}
		told[partialBody] = strconv.FormatBool(partial)
	}
	for _, name := range names {
		if name[0] == ':' && !matchAny(a.Send, name) {
			continue
		}
		var pair protoMessage
		pair.text(1, name)
		pair.text(2, strings.ToValidUTF8(told[name], "!"))
		http.bytes(3, pair)
	}
	http.text(4, req.Path)
	http.text(5, req.Authority)
	http.text(6, req.Scheme)
	http.number(9, req.Length)
	http.text(10, map[stream.Proto]string{stream.HTTP10: "HTTP/1.0", stream.HTTP11: "HTTP/1.1", stream.HTTP2: "HTTP/2"}[req.Proto])
	if len(body) > 0 {
		http.bytes(12, body)
	}
	var request, attributes, whole protoMessage
	request.bytes(1, at)
	request.bytes(2, http)
	certificate := ""
	if a.Certificate && peer.TLS != nil && len(peer.TLS.PeerCertificates) > 0 {
		certificate = url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: peer.TLS.PeerCertificates[0].Raw})))
	}
	attributes.bytes(1, peerOf(peer.Remote, peer.URI, certificate))
	own := ""
	if t := ex.lv.config.TLS; t != nil && t.Own != nil {
		own = t.Own()
	}
	attributes.bytes(2, peerOf(peer.Local, own, ""))
	attributes.bytes(4, request)
	whole.bytes(1, attributes)
	return whole
}

func peerOf(addr netip.AddrPort, principal, certificate string) []byte {
	var socket, address, out protoMessage
	if addr.IsValid() {
		socket.text(2, addr.Addr().Unmap().String())
		socket.number(3, int64(addr.Port()))
		address.bytes(1, socket)
		out.bytes(1, address)
	}
	out.text(4, principal)
	out.text(5, certificate)
	return out
}

// takeBody reads as much of the body as the program is told, and has it read again by whoever comes next. Not ok: the request was
// answered. A body of which no end comes is waited for as long as for anything of a request.
func (ex *exchange) takeBody(a *config.Ask) (body []byte, partial, ok bool) {
	req := ex.req
	if a.MaxBody == 0 || req.Length == 0 || req.Upgrade != "" {
		return nil, false, true
	}
	if !a.Partial && req.Length > int64(a.MaxBody) {
		ex.fail(reason.AuthzBody)
		return nil, false, false
	}
	if req.ExpectContinue && ex.d.multied {
		_ = ex.x.WriteInformational(&stream.ResponseHead{Status: 100}) // a client that is gone is noticed below
		req.ExpectContinue = false
	}
	b := &begun{ServerExchange: ex.x}
	ex.watch.limit(cmp.Or(ex.http.StreamIdle, defaultStreamIdle), 0, 0)
	ex.watch.hold(breaker{ex: ex})
	err := b.read(a.MaxBody, ex.watch.touch)
	ex.watch.hold(nil)
	if cause, _ := ex.watch.state(); cause != reason.None {
		ex.fail(cause)
		return nil, false, false
	}
	if err != nil {
		code := reason.DownstreamReset
		if errors.Is(err, stream.ErrMalformed) || errors.Is(err, stream.ErrTooLarge) {
			code = reason.BadRequest
		}
		ex.fail(code)
		return nil, false, false
	}
	partial = !b.ended && int64(len(b.head)) != req.Length || len(b.head) > a.MaxBody
	if partial && !a.Partial {
		ex.fail(reason.AuthzBody)
		return nil, false, false
	}
	ex.x = b
	return b.head[:min(len(b.head), a.MaxBody)], partial, true
}

// breaker has the watchdog end the reading of a body.
type breaker struct {
	stream.ClientExchange
	ex *exchange
}

func (b breaker) Reset(stream.Code) { b.ex.interrupt(false) }

// begun is an exchange of which the beginning of the request's body was read.
type begun struct {
	stream.ServerExchange
	head  []byte // that was, and wasn't read again
	ended bool   // nothing comes after it
}

// read reads until there are more than so many bytes, or the body has ended.
func (b *begun) read(most int, touch func()) error {
	const room = 512 // a reader may want room for more than it gives
	for len(b.head) <= most {
		b.head = slices.Grow(b.head, room)
		p := b.head[len(b.head):min(cap(b.head), most+room)]
		n, err := b.ServerExchange.ReadBody(p)
		b.head = b.head[:len(b.head)+n]
		if err == stream.EOF {
			b.ended = true
			return nil
		}
		if err != nil {
			return err
		}
		touch()
	}
	return nil
}

// ReadBody is stream.Body's.
func (b *begun) ReadBody(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	if b.ended {
		return 0, stream.EOF
	}
	return b.ServerExchange.ReadBody(p)
}

// Buffered is stream.Body's.
func (b *begun) Buffered() int {
	if b.ended {
		return len(b.head)
	}
	return len(b.head) + b.ServerExchange.Buffered()
}

// Whole says whether the body is here with its end.
func (b *begun) Whole() (int, bool) { return len(b.head), b.ended }

// Await waits for what is here and what is to come.
func (b *begun) Await(d time.Duration, most int) (int, bool) {
	if b.ended {
		return len(b.head), true
	}
	n, all := await(b.ServerExchange, d, most-len(b.head))
	return len(b.head) + n, all
}

var (
	errNoDecision = errors.New("the answer is no decision")
	errFailed     = errors.New("it says that it failed")
)

// httpDecision reads an answer by HTTP.
func httpDecision(a *config.Ask, resp *stream.ResponseHead, body []byte) (*decision, error) {
	if resp.Status >= 500 {
		return nil, fmt.Errorf("status %d: %w", resp.Status, errFailed)
	}
	d := &decision{allowed: resp.Status == 200, status: resp.Status, body: body}
	take := a.Deny
	if d.allowed {
		take = a.Pass
	}
	seen := map[string]bool{}
	for i := range resp.Fields.Len() {
		f := resp.Fields.At(i)
		if matchAny(take, f.Name) {
			name := strings.ToLower(f.Name)
			d.fields = append(d.fields, edit{name: f.Name, value: f.Value, add: seen[name]})
			seen[name] = true
		}
	}
	if d.allowed {
		d.edits, d.fields = d.fields, nil
	}
	return d, nil
}

// grpcDecision reads a CheckResponse.
func grpcDecision(resp *stream.ResponseHead, trailers *header.List, body []byte) (*decision, error) {
	status, ok := resp.Fields.Get("grpc-status")
	if trailers != nil && !ok {
		status, ok = trailers.Get("grpc-status")
	}
	if resp.Status != 200 || !ok || status != "0" {
		return nil, fmt.Errorf("status %d, grpc-status %q: %w", resp.Status, status, errFailed)
	}
	if len(body) < 5 || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-5) {
		return nil, errNoDecision
	}
	return parseCheck(body[5:])
}
