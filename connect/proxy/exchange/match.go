// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sort"
	"strconv"
	"strings"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// matchString says whether s matches m. Regular expressions are compiled to match the whole string.
func matchString(m *config.StringMatch, s string) bool {
	switch m.Kind {
	case config.MatchAny:
		return true
	case config.MatchRegex:
		if m.Plain != nil {
			if matches, sure := m.Plain.Match(s); sure {
				return matches
			}
		}
		return m.Regex != nil && m.Regex.MatchString(s)
	case config.MatchExact:
		if m.CaseFold {
			return header.EqualFold(s, m.Text)
		}
		return s == m.Text
	case config.MatchPrefix:
		return hasPrefix(s, m.Text, m.CaseFold)
	case config.MatchSuffix:
		return len(s) >= len(m.Text) && (s[len(s)-len(m.Text):] == m.Text ||
			m.CaseFold && header.EqualFold(s[len(s)-len(m.Text):], m.Text))
	case config.MatchContains:
		if m.CaseFold {
			return strings.Contains(strings.ToLower(s), strings.ToLower(m.Text))
		}
		return strings.Contains(s, m.Text)
	}
	return false
}

func hasPrefix(s, prefix string, fold bool) bool {
	return len(s) >= len(prefix) && (s[:len(prefix)] == prefix || fold && header.EqualFold(s[:len(prefix)], prefix))
}

// headerValue is what a header is hashed by: several fields of one name count as one, joined by commas.
func headerValue(req *stream.RequestHead, name string) (string, bool) {
	if v, ok := pseudo(req, name); ok {
		return v, true
	}
	first := req.Fields.Index(name, 0)
	if first < 0 {
		return "", false
	}
	v := req.Fields.At(first).Value
	for i := req.Fields.Index(name, first+1); i >= 0; i = req.Fields.Index(name, i+1) {
		v += "," + req.Fields.At(i).Value
	}
	return v, true
}

// pseudo is what matches call by a header's name and is none.
func pseudo(req *stream.RequestHead, name string) (string, bool) {
	switch name {
	case ":method":
		return req.Method, true
	case ":path":
		return req.Path, true
	case ":authority":
		return req.Authority, true
	case ":scheme":
		return req.Scheme, true
	}
	return req.Authority, header.EqualFold(name, "host")
}

// matchHeader follows Envoy: each of several fields of one name is looked at by itself, and one that matches is enough; a missing
// header matches nothing, inverted or not, except for a presence match.
func matchHeader(m *config.HeaderMatch, req *stream.RequestHead) bool {
	single, ok := pseudo(req, m.Name)
	switch {
	case ok:
		return (m.Present || matchValue(m, single)) != m.Invert
	case header.EqualFold(m.Name, "upgrade"): // the codecs take it out of the list
		if req.Upgrade == "" {
			return matchAbsent(m)
		}
		return (m.Present || matchValue(m, req.Upgrade)) != m.Invert
	}
	return matchFields(m, req)
}

func matchAbsent(m *config.HeaderMatch) bool {
	if m.Present {
		return m.Invert
	}
	return m.AbsentAs && matchValue(m, "") != m.Invert
}

func matchFields(m *config.HeaderMatch, req *stream.RequestHead) bool {
	at := req.Fields.Index(m.Name, 0)
	switch {
	case at < 0:
		return matchAbsent(m)
	case m.Present:
		return !m.Invert
	}
	for ; at >= 0; at = req.Fields.Index(m.Name, at+1) {
		if matchValue(m, req.Fields.At(at).Value) {
			return !m.Invert
		}
		if guard.Off("C21") {
			break
		}
	}
	return m.Invert
}

func matchValue(m *config.HeaderMatch, v string) bool {
	if m.Range != nil {
		n, err := strconv.ParseInt(v, 10, 64)
		return err == nil && n >= m.Range.From && n < m.Range.To
	}
	return matchString(&m.Value, v)
}

func matchQuery(m *config.QueryMatch, query string) bool {
	v, ok := queryValue(query, m.Name)
	return ok && (m.Present || matchString(&m.Value, v))
}

// queryValue is the first value of a parameter, as it is written: Envoy doesn't decode it either.
func queryValue(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if key == name {
			return value, true
		}
	}
	return "", false
}

// splitPath parts a path and its query, which begins with "?" or is empty.
func splitPath(p string) (path, query string) {
	if i := strings.IndexByte(p, '?'); i >= 0 {
		return p[:i], p[i:]
	}
	return p, ""
}

func matchRoute(m *config.Match, req *stream.RequestHead) bool {
	path, query := splitPath(req.Path)
	switch {
	case m.Exact != "":
		if path != m.Exact && !(m.CaseFold && header.EqualFold(path, m.Exact)) {
			return false
		}
	case m.Prefix != "":
		if !hasPrefix(path, m.Prefix, m.CaseFold) {
			return false
		}
	case m.Separated != "":
		if !hasPrefix(path, m.Separated, m.CaseFold) || len(path) > len(m.Separated) && path[len(m.Separated)] != '/' {
			return false
		}
	case m.Regex != nil:
		if !m.Regex.MatchString(path) {
			return false
		}
	}
	if m.GRPC && !isGRPC(req) {
		return false
	}
	for i := range m.Headers {
		if !matchHeader(&m.Headers[i], req) {
			return false
		}
	}
	for i := range m.Query {
		if query == "" || !matchQuery(&m.Query[i], query[1:]) {
			return false
		}
	}
	return true
}

// isGRPC says whether a request is one of gRPC, by its content type.
func isGRPC(req *stream.RequestHead) bool {
	ct, ok := req.Fields.Get("content-type")
	const name = "application/grpc"
	return ok && hasPrefix(ct, name, true) && (len(ct) == len(name) || ct[len(name)] == '+' || ct[len(name)] == ';')
}

// routes is a route table made ready for looking up authorities. It is never changed after it was made.
type routes struct {
	table    *config.RouteTable
	exact    map[string]*config.VirtualHost
	suffixes []wildcard // "*.x", longest first
	prefixes []wildcard // "x.*", longest first
	any      *config.VirtualHost
}

type wildcard struct {
	text string
	host *config.VirtualHost
}

func compileRoutes(t *config.RouteTable) *routes {
	r := &routes{table: t, exact: map[string]*config.VirtualHost{}}
	if t == nil {
		return r
	}
	for _, h := range t.Hosts {
		for _, d := range h.Domains {
			d = strings.ToLower(d)
			switch {
			case d == "*":
				if r.any == nil {
					r.any = h
				}
			case strings.HasPrefix(d, "*"):
				r.suffixes = append(r.suffixes, wildcard{d[1:], h})
			case strings.HasSuffix(d, "*"):
				r.prefixes = append(r.prefixes, wildcard{d[:len(d)-1], h})
			case r.exact[d] == nil:
				r.exact[d] = h
			}
		}
	}
	for _, w := range [][]wildcard{r.suffixes, r.prefixes} {
		sort.SliceStable(w, func(i, j int) bool { return len(w[i].text) > len(w[j].text) })
	}
	return r
}

// host finds the virtual host of an authority in its normal form: exact, with and then without its port, longest suffix,
// longest prefix, any.
func (r *routes) host(authority string) *config.VirtualHost {
	bare := stripPort(authority)
	if h := r.exact[authority]; h != nil {
		return h
	}
	if h := r.exact[bare]; h != nil && !guard.Off("C27") {
		return h
	}
	for _, w := range r.suffixes {
		if len(authority) > len(w.text) && strings.HasSuffix(authority, w.text) || len(bare) > len(w.text) && strings.HasSuffix(bare, w.text) {
			return w.host
		}
	}
	for _, w := range r.prefixes {
		if len(authority) > len(w.text) && strings.HasPrefix(authority, w.text) {
			return w.host
		}
	}
	return r.any
}

// stripPort takes the port off a valid authority.
func stripPort(authority string) string {
	for i := len(authority) - 1; i >= 0; i-- {
		switch c := authority[i]; {
		case c == ':':
			return authority[:i]
		case c < '0' || c > '9':
			return authority
		}
	}
	return authority
}

// route is the first route of h that matches.
func route(h *config.VirtualHost, req *stream.RequestHead) *config.Route {
	for _, r := range h.Routes {
		if matchRoute(&r.Match, req) {
			return r
		}
	}
	return nil
}
