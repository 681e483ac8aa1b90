// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// Request is what of an HTTP request permissions and routes look at. Path is the normalised one; a query string in it is ignored.
type Request struct {
	Method string
	Path   string
	Header http.Header
	// Authority is the host that the request names, with its port if it names one. Scheme is looked at by routes alone.
	Authority, Scheme string
	// Claims are those of the verified tokens.
	Claims Claims
}

// PermissionMatches says whether a permission is about the request; a nil permission is about every one. The error is a pattern
// that isn't valid RE2. Patterns match the whole value, as in Envoy.
func PermissionMatches(p *catalog.IntentionHTTPPermission, req Request) (bool, error) {
	if p == nil {
		return true, nil
	}
	path, _, _ := strings.Cut(req.Path, "?")
	switch {
	case p.PathExact != "" && path != p.PathExact, p.PathPrefix != "" && !strings.HasPrefix(path, p.PathPrefix):
		return false, nil
	case p.PathRegex != "":
		if ok, err := full(p.PathRegex, path); !ok || err != nil {
			return false, err
		}
	}
	if len(p.Hosts) > 0 && !slices.ContainsFunc(p.Hosts, func(pattern string) bool { return isHost(pattern, req.Authority) }) {
		return false, nil
	}
	if len(p.Methods) > 0 && !slices.Contains(p.Methods, req.Method) {
		return false, nil
	}
	for _, h := range p.Header {
		if ok, err := headerMatches(h, req.Header); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// headerMatches looks at each value of a repeated header by itself: one that matches is enough. A header that is sent twice gets by
// no rule so. Of an absent header only an inverted Present is true: the
// inverted forms that look at a value don't match where there is none, in Envoy as here.
func headerMatches(h catalog.IntentionHTTPHeader, header http.Header) (bool, error) {
	values, present := header[http.CanonicalHeaderKey(h.Name)]
	if !present {
		return h.Present && h.Invert, nil
	}
	for _, v := range values {
		if ok, err := valueMatches(h, v); ok || err != nil {
			return !h.Invert, err
		}
	}
	return h.Invert, nil
}

// valueMatches leaves Invert aside.
func valueMatches(h catalog.IntentionHTTPHeader, v string) (ok bool, err error) {
	fold := func(s string) string { return s }
	if h.IgnoreCase {
		fold = strings.ToLower
	}
	switch {
	case h.Present:
		ok = true
	case h.Exact != "":
		ok = fold(v) == fold(h.Exact)
	case h.Prefix != "":
		ok = strings.HasPrefix(fold(v), fold(h.Prefix))
	case h.Suffix != "":
		ok = strings.HasSuffix(fold(v), fold(h.Suffix))
	case h.Contains != "":
		ok = strings.Contains(fold(v), fold(h.Contains))
	case h.Regex != "":
		ok, err = full(h.Regex, v)
	}
	return ok, err
}

func full(pattern, s string) (bool, error) {
	re, err := regexp.Compile(`^(?s:` + pattern + `)$`)
	if err != nil {
		return false, err
	}
	return re.MatchString(s), nil
}

// isHost compares an authority with a host, or with all names below one, leaving the port, case, and a dot at the end aside.
func isHost(pattern, authority string) bool {
	host := strings.ToLower(authority)
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		host = host[:i]
	}
	host, pattern = strings.TrimSuffix(host, "."), strings.ToLower(strings.TrimSuffix(pattern, "."))
	if below, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(host) > len(below) && strings.HasSuffix(host, below)
	}
	return host == pattern
}

// Excepted says whether a permission's Not leaves a request out.
func Excepted(p *catalog.IntentionPermission, req Request) (bool, error) {
	if p.Not == nil {
		return false, nil
	}
	return PermissionMatches(p.Not, req)
}
