// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/connect/proxy/trace"
	"github.com/weftmesh/weft/internal/guard"
)

const (
	plainText    = "text/plain; charset=utf-8"
	clientCert   = "x-forwarded-client-cert"
	originalPath = "x-envoy-original-path"
)

func randomUint64() uint64 { return rand.Uint64() }

// forwardedFields sets what the proxy says of the request to whom it sends it.
func (ex *exchange) forwardedFields() {
	f := &ex.req.Fields
	ex.forwardCertificate(f)
	if f.Index("x-forwarded-proto", 0) < 0 {
		f.Add("x-forwarded-proto", ex.req.Scheme)
	}
	if ex.http.GenerateRequestID && f.Index("x-request-id", 0) < 0 {
		f.Add("x-request-id", newRequestID())
	}
	switch {
	case ex.http.Spans != nil:
		ex.beginSpan(f, ex.http.Spans)
	case ex.http.Trace && f.Index(traceparent, 0) < 0:
		f.Add(traceparent, trace.Begin(true).String())
	}
}

func (ex *exchange) forwardCertificate(f *header.List) {
	mutual := ex.d.peer.TLS != nil && len(ex.d.peer.TLS.PeerCertificates) > 0
	switch ex.http.ForwardClient {
	case config.AlwaysForwardClient:
	case config.ForwardOnlyClient:
		if !mutual {
			f.Del(clientCert)
		}
	case config.AppendClient:
		own := ex.d.certificate()
		before, ok := f.Get(clientCert)
		switch {
		case !mutual:
			f.Del(clientCert)
		case ok && before != "":
			f.Set(clientCert, before+","+own)
		default:
			f.Set(clientCert, own)
		}
	default:
		if !guard.Off("C30") {
			f.Del(clientCert)
		}
		if own := ex.d.certificate(); ex.http.ForwardClient == config.SanitizeSetClient && own != "" {
			f.Add(clientCert, own)
		}
	}
}

// newRequestID is a random UUID (RFC 9562 §5.4).
func newRequestID() string {
	var raw [16]byte
	random(raw[:])
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	var b [36]byte
	at := 0
	for i, part := range [...][2]int{{0, 4}, {4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		if i > 0 {
			b[at] = '-'
			at++
		}
		at += hex.Encode(b[at:], raw[part[0]:part[1]])
	}
	return string(b[:])
}

func random(b []byte) {
	for i := 0; i < len(b); i += 8 {
		v := rand.Uint64()
		for k := i; k < min(i+8, len(b)); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
}

// rewrite changes the request for the route that takes it.
func (ex *exchange) rewrite(f *config.Forward) {
	req := ex.req
	if f.PrefixTo != "" || f.RegexFrom != nil {
		path, query := splitPath(req.Path)
		var changed string
		if f.PrefixTo != "" {
			changed = f.PrefixTo + path[min(len(path), matchedLength(&ex.route.Match, path)):]
		} else {
			changed = f.RegexFrom.ReplaceAllString(path, f.RegexTo)
		}
		if changed == "" || changed[0] != '/' {
			changed = "/" + changed
		}
		if changed != path {
			req.Fields.Set(originalPath, req.Path)
			req.Path = changed + query
		}
	}
	if f.HostTo != "" {
		if req.Fields.Index("x-forwarded-host", 0) < 0 {
			req.Fields.Add("x-forwarded-host", req.Authority)
		}
		req.Authority = f.HostTo
	}
	for _, m := range [...]*config.Mutations{ex.weighted.Request, ex.route.Request, ex.host.Request} {
		mutate(&req.Fields, m)
	}
}

// matchedLength is how much of path the route's match was about.
func matchedLength(m *config.Match, path string) int {
	switch {
	case m.Exact != "":
		return len(path)
	case m.Separated != "":
		return len(m.Separated)
	}
	return len(m.Prefix)
}

func mutate(l *header.List, m *config.Mutations) {
	if m == nil {
		return
	}
	for _, name := range m.Remove {
		l.Del(name)
	}
	for _, v := range m.Set {
		l.Set(v.Name, v.Value)
	}
	for _, v := range m.Add {
		l.Add(v.Name, v.Value)
	}
}

func (ex *exchange) mutateResponse() {
	if ex.setCookie != "" {
		ex.resp.Fields.Add("set-cookie", ex.setCookie)
	}
	if ex.weighted != nil {
		mutate(&ex.resp.Fields, ex.weighted.Response)
	}
	if ex.route != nil {
		mutate(&ex.resp.Fields, ex.route.Response)
	}
	if ex.host != nil {
		mutate(&ex.resp.Fields, ex.host.Response)
	}
	mutate(&ex.resp.Fields, ex.decision)
	ex.corsFields()
	if ex.route != nil {
		ex.bindSession()
	}
}

// hash works out what the request is hashed by.
func (ex *exchange) hash(f *config.Forward, c *choice) {
	for i := range f.Hash {
		h := &f.Hash[i]
		v, ok := ex.hashValue(h)
		if !ok {
			continue
		}
		k := hashString(v)
		if c.hashed {
			k = mix(c.hash<<1 ^ c.hash>>63 ^ k)
		}
		c.hash, c.hashed = k, true
		if h.Terminal {
			return
		}
	}
}

func (ex *exchange) hashValue(h *config.HashBy) (string, bool) {
	switch {
	case h.Header != "":
		return headerValue(ex.req, h.Header)
	case h.Query != "":
		if _, q := splitPath(ex.req.Path); q != "" {
			return queryValue(q[1:], h.Query)
		}
	case h.SourceIP:
		return ex.d.peer.Remote.Addr().String(), ex.d.peer.Remote.IsValid()
	case h.Cookie != "":
		for i := ex.req.Fields.Index("cookie", 0); i >= 0; i = ex.req.Fields.Index("cookie", i+1) {
			if v, ok := cookie(ex.req.Fields.At(i).Value, h.Cookie); ok {
				return v, true
			}
		}
		if h.CookieMake {
			v := strconv.FormatUint(rand.Uint64(), 16)
			ex.setCookie = cookieFor(h, v)
			return v, true
		}
	}
	return "", false
}

func cookie(all, name string) (string, bool) {
	for all != "" {
		var pair string
		pair, all, _ = strings.Cut(all, ";")
		if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
			return strings.Trim(v, `"`), true
		}
	}
	return "", false
}

func cookieFor(h *config.HashBy, v string) string {
	s := h.Cookie + `="` + v + `"`
	if h.CookieTTL > 0 {
		s += "; Max-Age=" + strconv.Itoa(int(h.CookieTTL.Seconds()))
	}
	if h.CookiePath != "" {
		s += "; Path=" + h.CookiePath
	}
	return s + "; HttpOnly"
}

// redirect answers with another place.
func (ex *exchange) redirect(r *config.Redirect) {
	scheme := ex.req.Scheme
	authority := ex.req.Authority
	if r.Scheme != "" && r.Scheme != scheme {
		scheme = r.Scheme
		authority = stripPort(authority)
	}
	if r.Host != "" {
		authority = r.Host
	}
	if r.Port != 0 {
		authority = stripPort(authority) + ":" + strconv.Itoa(int(r.Port))
	}
	path, query := splitPath(ex.req.Path)
	switch {
	case r.Path != "":
		path = r.Path
		if strings.Contains(path, "?") {
			query = ""
		}
	case r.PrefixTo != "":
		path = r.PrefixTo + path[min(len(path), matchedLength(&ex.route.Match, path)):]
	}
	if r.StripQuery {
		query = ""
	}
	status := r.Status
	if status == 0 {
		status = 301
	}
	ex.rec.reason = reason.Direct
	ex.respondWith(status, "location", scheme+"://"+authority+path+query)
}

// answer is how the proxy answers by itself.
type answer struct {
	status, grpc int
	text         string
}

var answers = map[reason.Code]answer{
	reason.RBACDenied:             {403, 7, "RBAC: access denied"},
	reason.NoRoute:                {404, 12, "no route matches the request"},
	reason.NoCluster:              {503, 14, "the route's target isn't known"},
	reason.NoHealthyUpstream:      {503, 14, "no healthy upstream"},
	reason.UpstreamConnectFailure: {503, 14, "the upstream can't be reached"},
	reason.UpstreamTLSFailure:     {503, 14, "the upstream isn't who it should be"},
	reason.UpstreamReset:          {503, 14, "the upstream closed before it had answered"},
	reason.UpstreamTimeout:        {504, 4, "the upstream didn't answer in time"},
	reason.StreamIdleTimeout:      {408, 4, "nothing moved for too long"},
	reason.UpstreamOverflow:       {503, 14, "a limit of the upstream is reached"},
	reason.UpstreamProtocol:       {502, 13, "the upstream's answer isn't valid HTTP"},
	reason.BadRequest:             {400, 13, "the request isn't valid HTTP"},
	reason.BadPath:                {400, 13, "the path has no one meaning"},
	reason.HeaderTooLarge:         {431, 8, "the head is too large"},
	reason.UpgradeRefused:         {403, 12, "the protocol can't be changed here"},
	reason.RateLimited:            {429, 8, "too many requests"},
	reason.TokenInvalid:           {401, 16, "the token is not valid"},
	reason.AuthzError:             {403, 7, "nobody decides about the request"},
	reason.AuthzBody:              {413, 8, "the body is too large to be decided about"},
	reason.Overloaded:             {503, 14, "too many requests are under way"},
	reason.Draining:               {503, 14, "the proxy is stopping"},
}

// fail answers for a request that the proxy can't or won't pass on.
func (ex *exchange) fail(code reason.Code) {
	ex.rec.reason = code
	if code == reason.DownstreamReset {
		ex.x.Reset(stream.CodeCancel)
		return
	}
	a, ok := answers[code]
	if !ok {
		a = answer{500, 13, string(code)}
	}
	if !ex.grpc {
		for i := range ex.http.Fallbacks {
			if fb := &ex.http.Fallbacks[i]; slices.Contains(fb.Reasons, string(code)) {
				ex.reply(fb.Status, fb.Body, code)
				return
			}
		}
	}
	if code == reason.StreamIdleTimeout && ex.cluster != nil && ex.source.ended {
		a.status = 504 // it wasn't the client who was silent
	}
	if ex.grpc {
		ex.grpcCode = a.grpc
	}
	ex.reply(a.status, []byte(a.text+"\n"), code)
}

// reply answers with a short body.
func (ex *exchange) reply(status int, body []byte, code reason.Code) {
	h := &ex.resp
	h.Reset()
	h.Status = status
	if code != reason.None {
		h.Fields.Add(reason.Header, string(code))
	}
	if ex.grpc && code != reason.None {
		h.Status = 200
		h.Fields.Add("content-type", "application/grpc")
		h.Fields.Add("grpc-status", strconv.Itoa(ex.grpcCode))
		h.Fields.Add("grpc-message", strings.TrimSpace(string(body)))
		ex.write(nil)
		return
	}
	if len(body) > 0 {
		h.Fields.Add("content-type", plainText)
	}
	h.Length, h.HasLength = int64(len(body)), true
	ex.write(body)
}

// respondWith answers without a body and with one field.
func (ex *exchange) respondWith(status int, name, value string) {
	h := &ex.resp
	h.Reset()
	h.Status, h.HasLength = status, true
	h.Fields.Add(name, value)
	ex.write(nil)
}

func (ex *exchange) write(body []byte) {
	h := &ex.resp
	ex.rec.status = h.Status
	ex.answered = true
	ex.mutateResponse()
	if ex.req.Method == "HEAD" {
		body = nil
	}
	err := ex.x.WriteHead(h, len(body) == 0)
	if err == nil && len(body) > 0 {
		ex.rec.toDown = int64(len(body))
		if err = ex.x.WriteBody(body); err == nil {
			err = ex.x.Finish(nil)
		}
	} else if err == nil {
		err = ex.x.Flush()
	}
	if err != nil {
		ex.x.Reset(stream.CodeCancel)
	}
}
