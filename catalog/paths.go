// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

// UnmatchedPath is an error if one of the rules has a path, or a header, that no request has: proxies bring a request's path into its one form
// before they compare, so that a rule in another form would never match, and a deny would let everything by. It is asked before a
// write and not when one is applied: what was written before stays as it is.
func (s *ServiceIntentions) UnmatchedPath() error {
	for i, src := range s.Sources {
		for j, p := range src.Permissions {
			if p.HTTP == nil || guard.Off("C20") {
				continue
			}
			if err := unmatchedPath(fmt.Sprintf("Sources[%d].Permissions[%d].HTTP", i, j), p.HTTP); err != nil {
				return err
			}
		}
	}
	return nil
}

func unmatchedPath(f string, p *IntentionHTTPPermission) error {
	if why := unmatched(p.PathExact, true); why != "" {
		return invalidf("%s.PathExact %q matches no request: %s", f, p.PathExact, why)
	}
	if why := unmatched(p.PathPrefix, false); why != "" {
		return invalidf("%s.PathPrefix %q matches no request: %s", f, p.PathPrefix, why)
	}
	for i, h := range p.Header {
		if slices.Contains(framing, strings.ToLower(h.Name)) {
			return invalidf("%s.Header[%d].Name %q can't be decided about: it says how a message is sent, and proxies take it off before they ask the rules", f, i, h.Name)
		}
	}
	return nil
}

// framing are the fields that are of a connection, not of a request.
var framing = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "http2-settings", "expect"}

// unmatched says why a path, or with whole false the beginning of one, isn't as requests' are after they were brought into one form.
func unmatched(path string, whole bool) string {
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '?':
			return "paths are compared without the query, from ? on"
		case c <= ' ' || c == '#' || c >= 0x7f:
			return "a path has no space, control character, # or byte beyond ASCII; write it as %20, for a space"
		case c == '\\':
			return `\ is taken for /`
		case c == '%':
			if i+2 >= len(path) {
				if !whole {
					return ""
				}
				return "a % stands before two hexadecimal digits"
			}
			hi, lo := strings.IndexByte(upperHex, path[i+1]), strings.IndexByte(upperHex, path[i+2])
			if hi < 0 || lo < 0 {
				return "a % stands before two hexadecimal digits, with capital letters"
			}
			d := byte(hi<<4 | lo)
			switch {
			case d == '/' || d == '\\':
				return "%2F and %5C are taken for /"
			case d < ' ' || d == 0x7f:
				return "escaped control characters are refused"
			case 'a' <= d|0x20 && d|0x20 <= 'z' || '0' <= d && d <= '9' || strings.IndexByte("-._~", d) >= 0:
				return fmt.Sprintf("write %%%X as %c", d, d)
			}
		}
	}
	switch {
	case strings.Contains(path, "//"):
		return "repeated slashes are taken for one"
	case strings.Contains(path, "/./"), strings.Contains(path, "/../"), whole && (strings.HasSuffix(path, "/.") || strings.HasSuffix(path, "/..")):
		return "the segments . and .. are resolved"
	}
	return ""
}

const upperHex = "0123456789ABCDEF"
