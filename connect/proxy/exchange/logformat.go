// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// record is what is known of an exchange or a tunnel when it is over. Its strings live as long as the exchange.
type record struct {
	began               time.Time
	took                time.Duration
	direction           config.Direction
	source, destination string
	method, path        string // as they came
	authority           string
	protocol            string // "" for a tunnel
	status              int
	reason              reason.Code
	rule                string // that refused
	toUp, toDown        int64  // bytes
	upstream, cluster   string
	route               string
	remote, local       netip.AddrPort
	sni, peerURI        string
	request             *header.List // as it was sent on
	response            *header.List
	trailers            *header.List
}

// piece appends one part of a format; it gives false where there is no such value.
type piece func(b []byte, r *record) ([]byte, bool)

// format is an access log made ready. It is never changed after it was made.
type format struct {
	config *config.AccessLog
	sink   *sink
	fields []formatField // empty: weft's own fields
	text   []piece
}

type formatField struct {
	name   string // as JSON, with its colon
	pieces []piece
}

// compileFormat gives nil where nothing is logged.
func (l *Logs) compileFormat(c *config.AccessLog) *format {
	if c == nil || c.Path == "" || l == nil {
		return nil
	}
	f := &format{config: c, sink: l.sink(c.Path)}
	if c.Text != "" {
		f.text = parseFormat(c.Text)
		return f
	}
	for _, name := range slices.Sorted(maps.Keys(c.JSON)) {
		f.fields = append(f.fields, formatField{string(quote(nil, name)) + ":", parseFormat(c.JSON[name])})
	}
	return f
}

var lines = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// log writes the line of one record.
func (l *Logs) log(f *format, r *record) {
	if f == nil {
		return
	}
	room := lines.Get().(*[]byte)
	b := (*room)[:0]
	switch {
	case f.text != nil:
		for _, p := range f.text {
			var ok bool
			if b, ok = p(b, r); !ok {
				b = append(b, '-')
			}
		}
		if len(b) == 0 || b[len(b)-1] != '\n' {
			b = append(b, '\n')
		}
	case f.fields != nil:
		b = appendFields(b, f.fields, r)
	default:
		b = appendOwn(b, r)
	}
	l.write(f.sink, b)
	*room = b
	lines.Put(room)
}

func appendFields(b []byte, fields []formatField, r *record) []byte {
	b = append(b, '{')
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, f.name...)
		b = append(b, '"')
		at, there := len(b), true
		for _, p := range f.pieces {
			var ok bool
			if b, ok = p(b, r); ok {
				continue
			}
			if there = len(f.pieces) > 1; there {
				b = append(b, '-')
			}
		}
		if !there {
			b = append(b[:at-1], "null"...)
			continue
		}
		b = append(escape(b, at), '"')
	}
	return append(b, "}\n"...)
}

// escape makes what stands in b from at on the inside of a JSON string. It rarely has anything to do.
func escape(b []byte, at int) []byte {
	from := at
	for from+8 <= len(b) && plain(binary.LittleEndian.Uint64(b[from:])) {
		from += 8
	}
	for _, c := range b[from:] {
		if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return escaped(b[:at], string(b[at:]))
		}
	}
	return b
}

// appendOwn writes weft's own fields.
func appendOwn(b []byte, r *record) []byte {
	text := func(name, v string) {
		if v != "" {
			b = append(append(append(b, ",\""...), name...), "\":"...)
			b = quote(b, v)
		}
	}
	number := func(name string, v int64) {
		b = append(append(append(b, ",\""...), name...), "\":"...)
		b = strconv.AppendInt(b, v, 10)
	}
	b = append(b, `{"start_time":"`...)
	b = append(r.began.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z"), '"')
	text("direction", r.direction.String())
	text("source", orUnknown(r.source))
	text("destination", orUnknown(r.destination))
	if r.protocol != "" {
		text("method", r.method)
		text("path", r.path)
		text("authority", r.authority)
		text("protocol", r.protocol)
		number("response_code", int64(r.status))
	} else {
		text("protocol", "tcp")
	}
	text("reason", string(r.reason))
	number("bytes_received", r.toUp)
	number("bytes_sent", r.toDown)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(r.took.Microseconds())/1000, 'f', -1, 64)
	text("upstream_host", r.upstream)
	for _, f := range [...][2]string{{"request_id", "x-request-id"}, {"traceparent", "traceparent"}, {"user_agent", "user-agent"}} {
		if r.request != nil {
			v, _ := r.request.Get(f[1])
			text(f[0], v)
		}
	}
	text("route", r.route)
	return append(b, "}\n"...)
}

// plain says whether eight bytes stand in a JSON string as they are: all of them are printable ASCII, and neither a quote nor a backslash.
func plain(w uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	control := w - ones*' '
	quote, slash, del := w^ones*'"', w^ones*'\\', w^ones*0x7f
	return (w|control&^w|(quote-ones)&^quote|(slash-ones)&^slash|(del-ones)&^del)&highs == 0
}

const hexDigits = "0123456789abcdef"

// quote appends s as a JSON string.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	at := len(b)
	return append(escape(append(b, s...), at), '"')
}

// escaped appends s as the inside of a JSON string; what isn't UTF-8 becomes U+FFFD.
func escaped(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		i++
	}
	return b
}

// parseFormat reads a format with Envoy's command operators. An operator that weft doesn't know gives "-", as Envoy's do
// where they have no value.
func parseFormat(s string) []piece {
	var out []piece
	for s != "" {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			return append(out, literal(s))
		}
		if i > 0 {
			out = append(out, literal(s[:i]))
		}
		s = s[i+1:]
		if strings.HasPrefix(s, "%") {
			out, s = append(out, literal("%")), s[1:]
			continue
		}
		var op string
		if open := strings.IndexByte(s, '('); open >= 0 && (strings.IndexByte(s, '%') < 0 || open < strings.IndexByte(s, '%')) {
			end := strings.IndexByte(s[open:], ')')
			if end < 0 {
				return append(out, literal("%"+s))
			}
			rest := s[open+end:]
			stop := strings.IndexByte(rest, '%')
			if stop < 0 {
				return append(out, literal("%"+s))
			}
			op, s = s[:open+end+stop], rest[stop+1:]
		} else {
			var ok bool
			if op, s, ok = strings.Cut(s, "%"); !ok {
				return append(out, literal("%"+op))
			}
		}
		out = append(out, operator(op))
	}
	return out
}

func literal(s string) piece {
	return func(b []byte, _ *record) ([]byte, bool) { return append(b, s...), true }
}

func text(get func(*record) string) piece {
	return func(b []byte, r *record) ([]byte, bool) {
		s := get(r)
		return append(b, s...), s != ""
	}
}

func integer(get func(*record) int64) piece {
	return func(b []byte, r *record) ([]byte, bool) { return strconv.AppendInt(b, get(r), 10), true }
}

// operator makes the piece of one operator, without its % signs: NAME, NAME(ARGUMENT) or NAME(ARGUMENT):LENGTH.
func operator(op string) piece {
	name, arg, _ := strings.Cut(op, "(")
	arg, tail, _ := strings.Cut(arg, ")")
	limit := 0
	if n, ok := strings.CutPrefix(tail, ":"); ok {
		limit, _ = strconv.Atoi(n) // 0, no limit, where it isn't a number
	}
	p := namedOperator(name, arg)
	if limit <= 0 {
		return p
	}
	return func(b []byte, r *record) ([]byte, bool) {
		at := len(b)
		b, ok := p(b, r)
		return b[:min(len(b), at+limit)], ok
	}
}

func namedOperator(name, arg string) piece {
	switch name {
	case "START_TIME":
		return startTime(arg)
	case "REQ", "REQUEST_HEADER":
		return headerPiece(arg, requestField)
	case "RESP", "RESPONSE_HEADER":
		return headerPiece(arg, func(r *record, n string) string { return fieldOf(r.response, n) })
	case "TRAILER":
		return headerPiece(arg, func(r *record, n string) string { return fieldOf(r.trailers, n) })
	case "PROTOCOL":
		return text(func(r *record) string { return r.protocol })
	case "RESPONSE_CODE":
		return integer(func(r *record) int64 { return int64(r.status) })
	case "RESPONSE_CODE_DETAILS", "CONNECTION_TERMINATION_DETAILS", "UPSTREAM_TRANSPORT_FAILURE_REASON":
		if name == "RESPONSE_CODE_DETAILS" {
			return text(func(r *record) string {
				if r.reason == reason.None && r.protocol != "" {
					return "via_upstream"
				}
				if r.rule != "" {
					return string(r.reason) + ": " + r.rule
				}
				return string(r.reason)
			})
		}
		return text(func(r *record) string { return string(r.reason) })
	case "RESPONSE_FLAGS":
		return text(func(r *record) string { return flags[r.reason] })
	case "BYTES_RECEIVED":
		return integer(func(r *record) int64 { return r.toUp })
	case "BYTES_SENT":
		return integer(func(r *record) int64 { return r.toDown })
	case "DURATION":
		return integer(func(r *record) int64 { return r.took.Milliseconds() })
	case "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS":
		return text(func(r *record) string { return r.upstream })
	case "UPSTREAM_CLUSTER":
		return text(func(r *record) string { return r.cluster })
	case "ROUTE_NAME":
		return text(func(r *record) string { return r.route })
	case "REQUESTED_SERVER_NAME":
		return text(func(r *record) string { return r.sni })
	case "DOWNSTREAM_PEER_URI_SAN":
		return text(func(r *record) string { return r.peerURI })
	}
	return addressOperator(name)
}

func addressOperator(name string) piece {
	what, ok := strings.CutPrefix(name, "DOWNSTREAM_")
	if !ok {
		return literal("-")
	}
	get := func(r *record) netip.AddrPort { return r.remote }
	if rest, ok := strings.CutPrefix(what, "LOCAL_"); ok {
		what, get = "REMOTE_"+rest, func(r *record) netip.AddrPort { return r.local }
	}
	switch strings.TrimPrefix(what, "DIRECT_") {
	case "REMOTE_ADDRESS":
		return func(b []byte, r *record) ([]byte, bool) {
			a := get(r)
			if !a.IsValid() {
				return b, false
			}
			return a.AppendTo(b), true
		}
	case "REMOTE_ADDRESS_WITHOUT_PORT":
		return func(b []byte, r *record) ([]byte, bool) {
			a := get(r)
			if !a.IsValid() {
				return b, false
			}
			return a.Addr().AppendTo(b), true
		}
	case "REMOTE_PORT":
		return func(b []byte, r *record) ([]byte, bool) {
			return strconv.AppendUint(b, uint64(get(r).Port()), 10), get(r).IsValid()
		}
	}
	return literal("-")
}

// flags are Envoy's short names for what happened.
var flags = map[reason.Code]string{
	reason.None: "-", reason.NoRoute: "NR", reason.NoCluster: "NC", reason.NoHealthyUpstream: "UH", reason.UpstreamConnectFailure: "UF",
	reason.UpstreamTLSFailure: "UF", reason.UpstreamReset: "UR", reason.UpstreamTimeout: "UT", reason.StreamIdleTimeout: "SI",
	reason.UpstreamOverflow: "UO", reason.UpstreamProtocol: "UPE", reason.BadRequest: "DPE", reason.BadPath: "DPE",
	reason.HeaderTooLarge: "DPE", reason.DownstreamReset: "DC", reason.RBACDenied: "UAEX", reason.TokenInvalid: "UAEX",
	reason.AuthzDenied: "UAEX", reason.AuthzError: "UAEX",
}

// headerPiece is "NAME" or "NAME?OTHER": the first that is there.
func headerPiece(arg string, get func(*record, string) string) piece {
	first, second, _ := strings.Cut(arg, "?")
	return text(func(r *record) string {
		if v := get(r, first); v != "" || second == "" {
			return v
		}
		return get(r, second)
	})
}

func requestField(r *record, name string) string {
	switch {
	case name == ":METHOD" || name == ":method":
		return r.method
	case name == ":PATH" || name == ":path" || header.EqualFold(name, "x-envoy-original-path"):
		return r.path
	case name == ":AUTHORITY" || name == ":authority" || header.EqualFold(name, "host"):
		return r.authority
	}
	return fieldOf(r.request, name)
}

func fieldOf(l *header.List, name string) string {
	if l == nil || name == "" {
		return ""
	}
	v, _ := l.Get(name)
	return v
}

// second is a point in time, made ready as far as the point before its milliseconds.
type second struct {
	unix int64
	text [len("2006-01-02T15:04:05.")]byte
}

// clockFace writes times. It keeps the last second: to make a date of one takes longer than most of a line.
type clockFace struct{ last atomic.Pointer[second] }

func (f *clockFace) append(b []byte, r *record) ([]byte, bool) {
	now := f.last.Load()
	if unix := r.began.Unix(); now == nil || now.unix != unix {
		now = &second{unix: unix}
		r.began.UTC().AppendFormat(now.text[:0], "2006-01-02T15:04:05.")
		f.last.Store(now)
	}
	ms := r.began.Nanosecond() / 1e6
	return append(append(b, now.text[:]...), '0'+byte(ms/100), '0'+byte(ms/10%10), '0'+byte(ms%10), 'Z'), true
}

// startTime reads the few forms of strftime that logs use.
func startTime(arg string) piece {
	if arg == "" {
		return new(clockFace).append
	}
	layout := strings.NewReplacer("%Y", "2006", "%m", "01", "%d", "02", "%H", "15", "%M", "04", "%S", "05", "%T", "15:04:05",
		"%F", "2006-01-02", "%3f", "000", "%6f", "000000", "%9f", "000000000", "%z", "-0700", "%Z", "MST", "%b", "Jan").Replace(arg)
	if arg == "%s" {
		return func(b []byte, r *record) ([]byte, bool) { return fmt.Appendf(b, "%d", r.began.Unix()), true }
	}
	return func(b []byte, r *record) ([]byte, bool) { return r.began.UTC().AppendFormat(b, layout), true }
}
