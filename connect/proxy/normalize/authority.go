// SPDX-License-Identifier: Apache-2.0

// Package normalize is the one place where the proxy brings a path or an authority to the form that it routes, authorises
// and forwards by, so that no two steps read the same request differently. It matches and rewrites nothing, and owns no
// goroutine.
package normalize

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
