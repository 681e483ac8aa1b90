// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// headKind is what a header block is meant to be.
type headKind uint8

const (
	ignored  headKind = iota // of a stream that is gone: decoded for HPACK's sake only
	request                  // pseudo-header fields of a request
	response                 // :status
	trailer                  // none
)

// headIn collects one decoded header block. It is the connection's, and used again for each block: fields is swapped with
// the list of the exchange that the head is for.
type headIn struct {
	lim stream.Limits
	dec *hpack.Decoder

	kind     headKind
	fields   header.List
	size     int
	count    int
	tooLarge bool
	bad      string // the first breach, "" for none

	pseudo    pseudo
	method    string
	scheme    string
	authority string
	path      string
	protocol  string
	status    string
	host      string
	hasHost   bool
	regular   bool // a field that is no pseudo-header field has come
	hasLength bool
	length    int64
	expect    bool
	cookies   int
	cookieAt  int
	cookie    []byte
}

type pseudo uint8

const (
	hasMethod pseudo = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasProtocol
	hasStatus
)

func (in *headIn) begin(kind headKind) {
	fields := in.fields
	fields.Reset()
	*in = headIn{lim: in.lim, dec: in.dec, kind: kind, fields: fields, cookie: in.cookie[:0]}
	in.dec.SetEmitEnabled(kind != ignored)
}

func (in *headIn) fail(reason string) {
	if in.bad == "" {
		in.bad = reason
	}
}

// add takes one decoded field. What is over the limits is still decoded, as HPACK's state demands, but not kept.
func (in *headIn) add(f hpack.HeaderField) {
	in.size += int(f.Size())
	in.count++
	if (in.size > in.lim.HeadBytes || in.count > in.lim.Fields) && !guard.Off("C65") && !guard.Off("C68") {
		in.tooLarge = true
		in.dec.SetEmitEnabled(false)
		in.fields.Reset()
		return
	}
	switch {
	case in.bad != "":
	case strings.HasPrefix(f.Name, ":"):
		in.addPseudo(f.Name, f.Value)
	case !validName(f.Name):
		in.fail("a field name is empty, has capitals or characters that are no token")
	case !validValue(f.Value) && !guard.Off("C56"):
		in.fail("the value of field " + f.Name + " has a control character, or a space at its start or end")
	default:
		in.regular = true
		in.addField(f.Name, f.Value)
	}
}

func (in *headIn) addPseudo(name, value string) {
	var bit pseudo
	var to *string
	switch name {
	case ":method":
		bit, to = hasMethod, &in.method
	case ":scheme":
		bit, to = hasScheme, &in.scheme
	case ":authority":
		bit, to = hasAuthority, &in.authority
	case ":path":
		bit, to = hasPath, &in.path
	case ":protocol":
		bit, to = hasProtocol, &in.protocol
	case ":status":
		bit, to = hasStatus, &in.status
	}
	switch {
	case to == nil:
		in.fail("an unknown pseudo-header field")
	case in.regular && !guard.Off("C57"):
		in.fail(name + " after a regular field")
	case in.kind == trailer:
		in.fail(name + " in trailers")
	case (in.kind == response) != (bit == hasStatus):
		in.fail(name + " doesn't belong into this kind of head")
	case in.pseudo&bit != 0 && !guard.Off("C15") && !guard.Off("C57"):
		in.fail(name + " came twice")
	}
	if in.bad == "" {
		in.pseudo |= bit
		*to = value
	}
}

func (in *headIn) addField(name, value string) {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		if !guard.Off("C56") {
			in.fail("field " + name + " has no place in HTTP/2")
		}
		return
	case "te":
		if !strings.EqualFold(value, "trailers") {
			in.fail("field te may only be trailers")
			return
		}
	}
	if in.kind == trailer {
		if !barredTrailer(name) {
			in.fields.Add(name, value)
		}
		return
	}
	switch name {
	case "content-length":
		n, ok := parseLength(value)
		if !ok || in.hasLength {
			in.fail("content-length is no number, or came twice")
			return
		}
		in.hasLength, in.length = true, n
		return
	case "http2-settings":
		return
	}
	if in.kind == request && !in.addRequestField(name, value) {
		return
	}
	in.fields.Add(name, value)
}

// addRequestField takes what only a request treats apart, and says whether the field goes into the list.
func (in *headIn) addRequestField(name, value string) bool {
	switch name {
	case "host":
		if in.hasHost && in.host != value {
			in.fail("field host came twice")
		}
		in.host, in.hasHost = value, true
		return false
	case "cookie": // crumbs become one line (RFC 9113 §8.2.3)
		in.cookies++
		if in.cookies == 1 {
			in.cookieAt = in.fields.Len()
			return true
		}
		if in.cookies == 2 {
			in.cookie = append(in.cookie[:0], in.fields.At(in.cookieAt).Value...)
		}
		if len(in.cookie) > 0 && value != "" { // an empty one would leave a blank at the line's end
			in.cookie = append(in.cookie, "; "...)
		}
		in.cookie = append(in.cookie, value...)
		return false
	case "expect":
		in.expect = strings.EqualFold(value, "100-continue")
	}
	return true
}

// barredTrailer is for fields that would change how a message is framed, routed or trusted (RFC 9110 §6.5.1): dropped. All others pass, as a
// gRPC application may call its metadata as it likes.
func barredTrailer(name string) bool {
	switch name {
	case "host", "content-length", "content-encoding", "content-range", "te", "trailer", "expect", "cookie", "authorization",
		"proxy-authorization", "http2-settings":
		return true
	}
	return header.Vouches(name)
}

// request checks what came and moves it into h; the reason of a refusal, or "".
func (in *headIn) request(h *stream.RequestHead, end bool) string {
	if in.bad == "" {
		in.checkRequest()
	}
	if in.bad != "" {
		return in.bad
	}
	if in.cookies > 1 {
		in.fields.SetAt(in.cookieAt, string(in.cookie))
	}
	h.Proto = stream.HTTP2
	h.Method, h.Scheme, h.Authority, h.Path = in.method, in.scheme, in.authority, in.path
	if in.protocol != "" {
		h.Method, h.Upgrade = "GET", in.protocol
	}
	h.ExpectContinue = in.expect
	h.Fields, in.fields = in.fields, h.Fields
	h.Length = in.bodyLength(end)
	if h.Upgrade != "" {
		h.Length = -1
	}
	return ""
}

func (in *headIn) bodyLength(end bool) int64 {
	switch {
	case in.hasLength:
		return in.length
	case end:
		return 0
	}
	return -1
}

func (in *headIn) checkRequest() {
	const all = hasMethod | hasScheme | hasPath
	switch {
	case in.pseudo&hasMethod == 0 || !validMethod(in.method):
		in.fail(":method is missing or no token")
	case in.pseudo&hasProtocol != 0:
		if in.method != "CONNECT" || in.pseudo&all != all || in.pseudo&hasAuthority == 0 || !validMethod(in.protocol) {
			in.fail("an extended CONNECT needs :method CONNECT, :scheme, :path and :authority")
		}
	case in.method == "CONNECT":
		if in.pseudo != hasMethod|hasAuthority || in.authority == "" {
			in.fail("CONNECT needs :authority, and neither :scheme nor :path")
		}
	case in.pseudo&all != all && !guard.Off("C15"):
		in.fail(":scheme or :path is missing")
	}
	if in.pseudo&hasPath != 0 && !validPath(in.path, in.method) {
		in.fail(":path must begin with / and hold neither space nor control character")
	}
	if in.pseudo&hasScheme != 0 {
		in.checkScheme()
	}
	switch {
	case in.pseudo&hasAuthority == 0:
		in.authority = in.host
	case in.hasHost && !header.EqualFold(in.host, in.authority) && !guard.Off("C28"):
		in.fail("host and :authority differ")
	}
	if !validAuthority(in.authority) {
		in.fail(":authority is missing, empty, or has characters that it must not have")
	}
}

func (in *headIn) checkScheme() {
	switch {
	case in.scheme == "http" || in.scheme == "https":
	case header.EqualFold(in.scheme, "https"):
		in.scheme = "https"
	case header.EqualFold(in.scheme, "http"):
		in.scheme = "http"
	default:
		in.fail(":scheme is neither http nor https")
	}
}

// response checks what came and moves it into h; the reason of a refusal, or "".
func (in *headIn) response(h *stream.ResponseHead, end bool) string {
	code, err := strconv.Atoi(in.status)
	if in.bad == "" && (err != nil || len(in.status) != 3 || code < 100 || code == 101) {
		in.fail(":status is missing or no status that HTTP/2 knows")
	}
	if in.bad == "" && code < 200 && end {
		in.fail("an informational head ends the stream")
	}
	if in.bad != "" {
		return in.bad
	}
	h.Proto, h.Status, h.Upgrade = stream.HTTP2, code, ""
	h.Fields, in.fields = in.fields, h.Fields
	h.HasLength = in.hasLength
	h.Length = in.bodyLength(end)
	if code < 200 || code == 204 {
		h.HasLength, h.Length = false, 0
	}
	return ""
}

func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// tokens has the characters of a token (RFC 9110 §5.6.2).
var tokens = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokens[s[i]] || (s[i] >= 'A' && s[i] <= 'Z') {
			return false
		}
	}
	return s != ""
}

func validMethod(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokens[s[i]] {
			return false
		}
	}
	return s != ""
}

func validValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return s == "" || !(blank(s[0]) || blank(s[len(s)-1]))
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

func validPath(s, method string) bool {
	if s == "*" {
		return method == "OPTIONS"
	}
	if s == "" || s[0] != '/' && !guard.Off("C14") {
		return false
	}
	return visible(s)
}

func visible(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func validAuthority(s string) bool {
	return s != "" && visible(s) && !strings.ContainsAny(s, `/\?#@,`)
}

// wholeFields is how many bytes at the beginning of b are whole representations of fields (RFC 7541 §6). What isn't well formed counts as whole: whoever
// decodes it says so.
func wholeFields(b []byte) (n int) {
	for n < len(b) {
		size, ok := fieldSize(b[n:])
		if !ok {
			break
		}
		n += size
	}
	return n
}

// fieldSize is the size of the field that b begins with; false: not all of it is there.
func fieldSize(b []byte) (n int, ok bool) {
	bits, texts := 4, 1 // a literal with a name's index
	switch {
	case b[0]&0x80 != 0: // an index
		bits, texts = 7, 0
	case b[0]&0x40 != 0: // a literal for the table
		bits = 6
	case b[0]&0x20 != 0: // the table's size
		bits, texts = 5, 0
	}
	index, n, ok := varint(b, bits)
	if ok && texts > 0 && index == 0 {
		texts = 2 // the name too
	}
	for ; ok && texts > 0; texts-- {
		var size uint64
		var head int
		if size, head, ok = varint(b[n:], 7); ok {
			if n += head; size > uint64(len(b)-n) {
				return 0, false
			}
			n += int(size)
		}
	}
	return n, ok
}

// varint reads an integer whose first byte has so many bits for it (RFC 7541 §5.1), and how many bytes it took; false: not all of it is there. It takes
// as long ones as the decoder does: one may have bytes that add nothing. What is longer ends with b.
func varint(b []byte, bits int) (v uint64, n int, ok bool) {
	if len(b) == 0 {
		return 0, 0, false
	}
	most := uint64(1)<<bits - 1
	if v = uint64(b[0]) & most; v < most {
		return v, 1, true
	}
	for shift := 0; shift < 63; shift += 7 {
		if n++; n == len(b) {
			return 0, 0, false
		}
		v += uint64(b[n]&0x7f) << shift
		if b[n]&0x80 == 0 {
			return v, n + 1, true
		}
	}
	return 0, len(b), true
}
