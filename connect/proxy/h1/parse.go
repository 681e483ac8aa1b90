// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"strings"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/normalize"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// framing is what a head says about its own message and the connection.
type framing struct {
	http10    bool
	host      string
	hosts     int
	length    int64 // as stated, -1 where it isn't
	encodings int
	chunked   bool

	close, keepAlive, upgradeNamed bool
	upgrade                        string
	te                             bool // the sender takes trailers

	expect bool

	connections int
	connection  [4]string // values of the Connection fields
}

// persists says whether the sender is willing to go on with the connection (RFC 9112 §9.3).
func (f *framing) persists() bool {
	if f.http10 {
		return f.keepAlive && !f.close
	}
	return !f.close
}

const maxNominated = 32 // options in all Connection fields of a head

var (
	errNoColon   = malformed("a field line has no colon")
	errFieldName = malformed("a field name holds a character that isn't allowed, or a space before its colon")
	errFold      = malformed("a field line begins with white space (line folding)")
	errValue     = malformed("a field value holds a control character")
	errFields    = tooLarge(431, "the head has more fields than its limit")
)

// parseFields reads field lines, adds the ones that pass through to fields, and takes in the ones that frame the message.
func (f *framing) parseFields(s string, fields *header.List, limit int) error {
	f.length = -1
	for n := 0; s != ""; n++ {
		if n >= limit && !guard.Off("C68") {
			return errFields
		}
		name, value, rest, err := nextField(s)
		if err != nil {
			return err
		}
		s = rest
		if k := kindOf(name); k != fieldOther {
			if err := f.take(k, value); err != nil {
				return err
			}
			continue
		}
		fields.Add(name, value)
	}
	if f.chunked && f.length >= 0 && !guard.Off("C42") && !guard.Off("C43") {
		return malformed("both Content-Length and Transfer-Encoding")
	}
	return f.dropNominated(fields)
}

// nextField cuts the first field line off s, in which each line ends in CRLF.
func nextField(s string) (name, value, rest string, err error) {
	i := 0
	for i < len(s) && charKinds[s[i]]&charToken != 0 {
		i++
	}
	if i == 0 || i == len(s) || s[i] != ':' {
		switch {
		case s[0] == ' ' || s[0] == '\t':
			return "", "", "", errFold
		case i < len(s) && s[i] == '\r' && i > 0:
			return "", "", "", errNoColon
		}
		return "", "", "", errFieldName
	}
	start := i + 1
	for start < len(s) && (s[start] == ' ' || s[start] == '\t') {
		start++
	}
	end := strings.IndexByte(s[start:], '\r')
	if end += start; end < start || end+1 >= len(s) || s[end+1] != '\n' || !isValue(s[start:end]) && !guard.Off("C50") {
		return "", "", "", errValue
	}
	v := s[start:end]
	for v != "" && !guard.Off("C25") && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return s[:i], v, s[end+2:], nil
}

func (f *framing) take(k fieldKind, value string) error {
	switch k {
	case fieldHost:
		f.hosts++
		f.host = value
	case fieldContentLength:
		if f.length >= 0 && !guard.Off("C45") {
			return malformed("more than one Content-Length")
		}
		n, ok := parseLength(value)
		if !ok {
			return malformed("Content-Length is not a decimal number in range")
		}
		f.length = n
	case fieldTransferEncoding:
		if f.encodings++; f.encodings > 1 {
			return malformed("more than one Transfer-Encoding")
		}
		return f.takeEncoding(value)
	case fieldConnection:
		if f.connections == len(f.connection) {
			return malformed("too many Connection fields")
		}
		f.connection[f.connections] = value
		f.connections++
	case fieldTE:
		for item := ""; value != ""; {
			item, value = nextItem(value)
			if header.EqualFold(item, "trailers") {
				f.te = true
			}
		}
	case fieldUpgrade:
		if f.upgrade != "" {
			return malformed("more than one Upgrade")
		}
		f.upgrade = value
	case fieldExpect:
		if !header.EqualFold(value, "100-continue") {
			return refused(417, "an expectation other than 100-continue")
		}
		f.expect = true
	case fieldHop, fieldOther:
	}
	return nil
}

// takeEncoding accepts "chunked" alone: a coding that the codec doesn't know can't be told from one that another reader
// takes for no coding at all.
func (f *framing) takeEncoding(value string) error {
	if header.EqualFold(value, "chunked") || guard.Off("C44") {
		f.chunked = true
		return nil
	}
	if value == "" {
		return malformed("an empty Transfer-Encoding")
	}
	chunked := 0
	for rest := value; rest != ""; {
		var item string
		if item, rest = nextItem(rest); header.EqualFold(item, "chunked") {
			chunked++
			if rest != "" || chunked > 1 {
				return malformed("chunked is not the last transfer coding, or is there twice")
			}
		}
	}
	return refused(501, "a transfer coding other than chunked")
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

// dropNominated reads the Connection options and takes the fields that they name out of the message.
func (f *framing) dropNominated(fields *header.List) error {
	count := 0
	for _, rest := range f.connection[:f.connections] {
		for rest != "" {
			var o string
			if o, rest = nextItem(rest); o == "" {
				continue
			}
			if count++; count > maxNominated {
				return malformed("too many Connection options")
			}
			switch {
			case header.EqualFold(o, "close"):
				f.close = true
			case header.EqualFold(o, "keep-alive"):
				f.keepAlive = true
			case header.EqualFold(o, "upgrade"):
				f.upgradeNamed = true
			case !isToken(o):
				return malformed("a Connection option is not a token")
			case kindOf(o) == fieldOther && !keptOnNomination(o):
				fields.Del(o)
			}
		}
	}
	return nil
}

// upgradeTo is the one protocol that the message asks to change to, or "". A list, and HTTP/2 in the clear, are passed
// over as RFC 9110 §7.8 allows.
func (f *framing) upgradeTo() string {
	if !f.upgradeNamed || f.http10 || !isProtocol(f.upgrade) || header.HasPrefixFold(f.upgrade, "h2") && !guard.Off("C54") ||
		header.HasPrefixFold(f.upgrade, "http") {
		return ""
	}
	return f.upgrade
}

// isProtocol matches token ["/" token].
func isProtocol(s string) bool {
	name, version, slash := strings.Cut(s, "/")
	return isToken(name) && (!slash || isToken(version))
}

// parseRequest reads a whole head (its lines, without the empty one) into h; h's strings are parts of s.
func (f *framing) parseRequest(s string, h *stream.RequestHead, limits *stream.Limits) error {
	*f = framing{}
	end := strings.IndexByte(s, '\r')
	if end < 0 || end+1 >= len(s) || s[end+1] != '\n' {
		return malformed("a control character in the request line")
	}
	line := s[:end]
	method, rest, ok := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken(method) {
		return malformed("the request line is not method, target and version with single spaces between")
	}
	switch {
	case version == "HTTP/1.1":
		h.Proto = stream.HTTP11
	case version == "HTTP/1.0":
		h.Proto, f.http10 = stream.HTTP10, true
	case len(version) == 8 && version[:5] == "HTTP/" && isDigit(version[5]) && version[6] == '.' && isDigit(version[7]):
		return refused(505, "an HTTP version other than 1.0 and 1.1")
	default:
		return malformed("the request line does not end in a version")
	}
	h.Method = method
	if err := f.parseFields(s[end+2:], &h.Fields, limits.Fields); err != nil {
		return err
	}
	if err := f.parseTarget(target, h); err != nil {
		return err
	}
	return f.requestFraming(h)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

var errTarget = malformed("the request target holds a character that isn't allowed")

// parseTarget takes the four forms of RFC 9112 §3.2.
func (f *framing) parseTarget(target string, h *stream.RequestHead) error {
	switch {
	case f.hosts > 1 && !guard.Off("C28"):
		return malformed("more than one Host")
	case f.hosts == 0 && !f.http10:
		return malformed("no Host")
	case f.hosts == 1 && !normalize.ValidAuthority(f.host):
		return malformed("Host is not a host with an optional port")
	case target == "" || !allOf(target, charTarget):
		return errTarget
	}
	h.Authority = f.host
	switch {
	case h.Method == "CONNECT":
		if !normalize.ValidAuthority(target) {
			return malformed("the target of CONNECT is not a host and a port")
		}
		return f.setAuthority(target, "", h)
	case target[0] == '/':
		h.Path = target
	case target == "*":
		if h.Method != "OPTIONS" {
			return malformed("the target * is for OPTIONS alone")
		}
		h.Path = target
	default:
		return f.parseAbsolute(target, h)
	}
	return nil
}

func (f *framing) parseAbsolute(target string, h *stream.RequestHead) error {
	i := strings.Index(target, "://")
	if i < 0 || !header.EqualFold(target[:i], "http") && !header.EqualFold(target[:i], "https") {
		return malformed("the request target is neither a path nor an http URI")
	}
	rest := target[i+3:]
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, path := rest[:end], rest[end:]
	if !normalize.ValidAuthority(authority) {
		return malformed("the request target's authority is not a host with an optional port")
	}
	switch {
	case path == "" && h.Method == "OPTIONS":
		path = "*"
	case path == "":
		path = "/"
	case path[0] == '?':
		path = "/" + path
	}
	return f.setAuthority(authority, path, h)
}

// setAuthority takes the target's authority; a Host that says something else is refused, not replaced, as whoever stands
// before or behind may read the other one.
func (f *framing) setAuthority(authority, path string, h *stream.RequestHead) error {
	if f.hosts == 1 && !header.EqualFold(authority, f.host) && !guard.Off("C13") && !guard.Off("C28") {
		return malformed("Host and the request target name different hosts")
	}
	h.Authority, h.Path = authority, path
	return nil
}

func (f *framing) requestFraming(h *stream.RequestHead) error {
	switch {
	case f.chunked && f.http10:
		return malformed("Transfer-Encoding in HTTP/1.0")
	case f.chunked:
		h.Length = -1
	case f.length > 0:
		h.Length = f.length
	}
	if h.Length != 0 && (h.Method == "TRACE" || h.Method == "CONNECT") {
		return malformed("a body with TRACE or CONNECT")
	}
	if f.te {
		h.Fields.Add("TE", "trailers")
	}
	h.Upgrade = f.upgradeTo()
	if h.Upgrade != "" && h.Method == "CONNECT" {
		return malformed("Upgrade with CONNECT")
	}
	h.ExpectContinue = f.expect && !f.http10 && h.Length != 0
	return nil
}

// parseResponse reads a whole response head into h. method and upgrade are the request's.
func (f *framing) parseResponse(s, method, upgrade string, h *stream.ResponseHead, limits *stream.Limits) error {
	*f = framing{}
	end := strings.IndexByte(s, '\r')
	if end < 0 || end+1 >= len(s) || s[end+1] != '\n' {
		return malformed("a control character in the status line")
	}
	line := s[:end]
	if len(line) < 12 || line[:7] != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > 12 && (line[12] != ' ' || !allOf(line[13:], charValue)) {
		return malformed("the status line is not version, status and reason")
	}
	h.Proto = stream.HTTP11
	if line[7] == '0' {
		h.Proto, f.http10 = stream.HTTP10, true
	}
	if line[9] == '0' || !isDigit(line[9]) || !isDigit(line[10]) || !isDigit(line[11]) {
		return malformed("the status is not a number of three digits")
	}
	h.Status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
	if err := f.parseFields(s[end+2:], &h.Fields, limits.Fields); err != nil {
		return err
	}
	return f.responseFraming(method, upgrade, h)
}

// responseFraming follows RFC 9112 §6.3.
func (f *framing) responseFraming(method, upgrade string, h *stream.ResponseHead) error {
	switch {
	case f.chunked && f.http10:
		return malformed("Transfer-Encoding in HTTP/1.0")
	case h.Status == 101:
		if (upgrade == "" || !header.EqualFold(f.upgrade, upgrade)) && !guard.Off("C52") {
			return malformed("status 101 for an upgrade that was not asked for")
		}
		h.Upgrade = f.upgrade
		fallthrough
	case h.Status < 200, h.Status == 204, method == "CONNECT" && h.Status < 300:
		if (f.chunked || f.length > 0) && !guard.Off("C51") {
			return malformed("a body with a status that has none")
		}
		return nil
	}
	h.HasLength = f.length >= 0
	h.Length = f.length // -1: chunked, or until the connection ends
	if h.Length < 0 && (method == "HEAD" || h.Status == 304) {
		h.Length = 0
	}
	return nil
}
