// SPDX-License-Identifier: Apache-2.0

package normalize

import (
	"errors"

	"github.com/weftmesh/weft/internal/guard"
)

// EscapedSlash is what becomes of %2F and %5C, which one reader takes for a separator and the next one doesn't.
type EscapedSlash uint8

// The actions, as Envoy's path_with_escaped_slashes_action has them.
const (
	Reject           EscapedSlash = iota // the path is refused
	Keep                                 // they stay as they are and separate nothing
	UnescapeRedirect                     // they become "/", and the caller is to be redirected to the result
	UnescapeForward                      // they become "/"
)

// Options say how strict the normaliser is. The zero value is the secure one: escaped slashes are refused, dot segments
// removed, slashes merged, and an authority keeps its port.
type Options struct {
	EscapedSlash EscapedSlash
	// KeepSlashes leaves "//" as it is.
	KeepSlashes bool
	// StripPort takes the port off an authority.
	StripPort bool
	// StripDot takes one trailing dot off an authority's host ("api.test." is "api.test").
	StripDot bool
}

var (
	// ErrPath marks a path that has no one meaning and is refused.
	ErrPath = errors.New("the path is refused")
	// ErrAuthority marks an authority that is no host with an optional port.
	ErrAuthority = errors.New("the authority is not a host with an optional port")
)

type pathError string

func (e pathError) Error() string { return ErrPath.Error() + ": " + string(e) }

func (e pathError) Unwrap() error { return ErrPath }

// What a path is refused for. Each is an error value of its own, so that refusing costs nothing.
var (
	errStart    error = pathError("it doesn't begin with /")
	errChar     error = pathError("it holds a space, a control character, # or a byte beyond ASCII")
	errEscape   error = pathError("a % is not followed by two hexadecimal digits")
	errControl  error = pathError("it holds an escaped control character")
	errSlash    error = pathError("it holds an escaped slash or backslash")
	errDotParam error = pathError("a dot segment carries a parameter")
)

// Path brings a request's path to its normal form with the zero Options. See Options.Path.
func Path(raw string) (string, error) {
	normal, _, err := Options{}.Path(raw)
	return normal, err
}

// Path brings a path, with its query, to the one form that is routed on, authorised and forwarded:
//
//   - the query (from the first "?") is only checked, never changed;
//   - a space, a control character, "#", a byte beyond ASCII, a % without two digits, and an escaped control character
//     (%00–%1F, %7F; in the path) are refused;
//   - escaped letters, digits, "-", ".", "_" and "~" are decoded, once; what stays escaped gets capital digits
//     (RFC 3986 §6.2.2);
//   - a backslash becomes "/"; %2F and %5C as EscapedSlash says;
//   - dot segments are removed (RFC 3986 §5.2.4), also above the root; "..;x", which some readers take for one, is
//     refused;
//   - then, unless KeepSlashes, repeated slashes become one.
//
// "*" and "" (OPTIONS *, CONNECT) stay. Upper and lower case are different paths. redirect says that UnescapeRedirect had
// something to do. The result is raw itself, with nothing allocated, where nothing changes; and Path of a result is that
// result.
func (o Options) Path(raw string) (normal string, redirect bool, err error) {
	if raw == "" || raw == "*" {
		return raw, false, nil
	}
	if raw[0] != '/' && raw[0] != '\\' && !guard.Off("C14") {
		return "", false, errStart
	}
	end, clean := o.scan(raw)
	if end < 0 {
		return "", false, errChar
	}
	if clean {
		return raw, false, nil
	}
	var room [256]byte
	out := room[:0]
	if out, redirect, err = o.decode(out, raw[:end]); err != nil {
		return "", false, err
	}
	if !guard.Off("C4") {
		if out, err = removeDots(out); err != nil {
			return "", false, err
		}
	}
	if !o.KeepSlashes && !guard.Off("C1") {
		out = mergeSlashes(out)
	}
	out = append(out, raw[end:]...)
	redirect = redirect && o.EscapedSlash == UnescapeRedirect
	if string(out) == raw {
		return raw, redirect, nil
	}
	return string(out), redirect, nil
}

// scan finds where the path ends and whether anything in it might have to change; end is -1 for a forbidden byte.
func (o Options) scan(raw string) (end int, clean bool) {
	end, clean = len(raw), true
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c <= ' ' || c >= 0x7f || c == '#' && !guard.Off("C6"):
			return -1, false
		case end != len(raw): // in the query
		case c == '?':
			end = i
		case c == '%' || c == '\\':
			clean = false
		case (c == '.' || c == '/') && i > 0 && raw[i-1] == '/':
			clean = clean && c == '/' && o.KeepSlashes
		}
	}
	return end, clean
}

// decode appends path with what is to be decoded decoded, and the backslashes turned.
func (o Options) decode(out []byte, path string) (_ []byte, unescaped bool, err error) {
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '\\' && !guard.Off("C3") {
			out = append(out, '/')
			continue
		}
		if c != '%' {
			out = append(out, c)
			continue
		}
		if i+2 >= len(path) {
			return nil, false, errEscape
		}
		hi, lo := hexDigit(path[i+1]), hexDigit(path[i+2])
		if hi < 0 || lo < 0 {
			return nil, false, errEscape
		}
		i += 2
		switch b := byte(hi<<4 | lo); {
		case (b < ' ' || b == 0x7f) && !guard.Off("C9") && !guard.Off("C12"):
			return nil, false, errControl
		case (b == '/' || b == '\\') && !guard.Off("C2"):
			switch o.EscapedSlash {
			case Keep:
				out = append(out, '%', upperHex[hi], upperHex[lo])
			case UnescapeRedirect, UnescapeForward:
				out, unescaped = append(out, '/'), true
			default:
				return nil, false, errSlash
			}
		case hostChar(b) && !guard.Off("C11"): // the unreserved set of RFC 3986 §2.3
			out = append(out, b)
		default:
			out = append(out, '%', upperHex[hi], upperHex[lo])
		}
	}
	return out, unescaped, nil
}

const upperHex = "0123456789ABCDEF"

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// removeDots works in place: the result is never longer. p begins with "/".
func removeDots(p []byte) ([]byte, error) {
	w := 0
	for i := 0; i < len(p); {
		next := i + 1
		for next < len(p) && p[next] != '/' {
			next++
		}
		segment := p[i+1 : next]
		switch dots, param := dotSegment(segment); {
		case param && !guard.Off("C7"):
			return nil, errDotParam
		case dots == 0:
			w += copy(p[w:], p[i:next])
		default:
			if dots == 2 {
				for w > 0 {
					if w--; p[w] == '/' {
						break
					}
				}
			}
			if next == len(p) { // the last segment leaves its slash
				p[w] = '/'
				w++
			}
		}
		i = next
	}
	return p[:w], nil
}

// dotSegment gives 1 for ".", 2 for "..", else 0; param says that one of them is followed by a parameter.
func dotSegment(s []byte) (dots int, param bool) {
	n := 0
	for n < len(s) && s[n] == '.' {
		n++
	}
	if n == 0 || n > 2 {
		return 0, false
	}
	if n == len(s) {
		return n, false
	}
	return 0, s[n] == ';'
}

func mergeSlashes(p []byte) []byte {
	w := 0
	for i, c := range p {
		if c != '/' || i == 0 || p[i-1] != '/' {
			p[w] = c
			w++
		}
	}
	return p[:w]
}
