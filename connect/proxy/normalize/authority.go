// SPDX-License-Identifier: Apache-2.0

// Package normalize is the one place where the proxy brings a path or an authority to the form that it routes, authorises
// and forwards by, so that no two steps read the same request differently. It matches and rewrites nothing, and owns no
// goroutine.
package normalize

import "github.com/weftmesh/weft/internal/guard"

// ValidAuthority says whether s is a host with an optional port (RFC 3986 §3.2) in the strict form that every reader
// takes the same way: letters, digits, "-", ".", "_" and "~", or an IP literal in brackets, then maybe ":" and a port up to
// 65535. User information, percent-encoding, lists and bytes beyond ASCII are not valid.
func ValidAuthority(s string) bool {
	_, _, ok := splitAuthority(s)
	return ok
}

// splitAuthority parts host (with its brackets) and port ("" for none).
func splitAuthority(s string) (host, port string, ok bool) {
	end := 0
	if s != "" && s[0] == '[' {
		if end = literalEnd(s); end < 0 {
			return "", "", false
		}
	} else {
		for end < len(s) && hostChar(s[end]) {
			end++
		}
	}
	host = s[:end]
	if host == "" || len(host) > 255 {
		return "", "", false
	}
	if end == len(s) {
		return host, "", true
	}
	port = s[end+1:]
	if s[end] != ':' || port == "" || len(port) > 5 {
		return "", "", false
	}
	n := 0
	for i := 0; i < len(port); i++ {
		if port[i] < '0' || port[i] > '9' {
			return "", "", false
		}
		n = n*10 + int(port[i]-'0')
	}
	return host, port, n <= 65535
}

func hostChar(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// literalEnd is the index after the closing bracket of an IPv6 literal at the start of s, or -1.
func literalEnd(s string) int {
	colons := 0
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == ':':
			colons++
		case c == ']':
			if colons < 2 {
				return -1
			}
			return i + 1
		case c == '.' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f':
		default:
			return -1
		}
	}
	return -1
}

// Authority brings an authority to lower case with the zero Options. See Options.Authority.
func Authority(raw string) (string, error) { return Options{}.Authority(raw) }

// Authority brings an authority to its normal form: ValidAuthority, ASCII letters in lower case, and without the port and
// the host's trailing dot where the options say so. The result is a part of raw, with nothing allocated, where no letter
// changes; and Authority of a result is that result.
func (o Options) Authority(raw string) (string, error) {
	host, port, ok := splitAuthority(raw)
	if !ok {
		return "", ErrAuthority
	}
	dotted := o.StripDot && len(host) > 1 && host[len(host)-1] == '.'
	if dotted {
		host = host[:len(host)-1]
		if host[len(host)-1] == '.' {
			return "", ErrAuthority
		}
	}
	s := host
	if port != "" && !o.StripPort {
		if s = raw; dotted {
			s = host + ":" + port
		}
	}
	if guard.Off("C26") {
		return s, nil
	}
	return lower(s), nil
}

func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] |= 0x20
				}
			}
			return string(b)
		}
	}
	return s
}
