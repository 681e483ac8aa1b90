// SPDX-License-Identifier: Apache-2.0

package normalize

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/stormtest"
)

// Each row states a rule; "" as the result means that the path is refused.
func TestPath(t *testing.T) {
	keep := Options{EscapedSlash: Keep}
	forward := Options{EscapedSlash: UnescapeForward}
	redirect := Options{EscapedSlash: UnescapeRedirect}
	for _, tc := range []struct {
		rule string
		o    Options
		in   string
		want string
	}{
		{"a plain path stays", Options{}, "/admin/secret", "/admin/secret"},
		{"the root stays", Options{}, "/", "/"},
		{"a trailing slash is another path", Options{}, "/admin/", "/admin/"},
		{"* stays", Options{}, "*", "*"},
		{"no leading slash is refused", Options{}, "svc/Method", ""},
		{"slashes are merged", Options{}, "//admin///secret", "/admin/secret"},
		{"slashes are merged at the end", Options{}, "/a//", "/a/"},
		{"or kept", Options{KeepSlashes: true}, "/a//b", "/a//b"},
		{"an escaped slash is refused", Options{}, "/admin%2fsecret", ""},
		{"in both cases", Options{}, "/admin%2Fsecret", ""},
		{"or kept, with capital digits", keep, "/admin%2fsecret", "/admin%2Fsecret"},
		{"or decoded", forward, "/admin%2fsecret", "/admin/secret"},
		{"or decoded to redirect", redirect, "/admin%2fsecret", "/admin/secret"},
		{"decoded ones are merged and resolved", forward, "/x%2f..%2f%2fadmin", "/admin"},
		{"a backslash is a slash", Options{}, `/admin\secret`, "/admin/secret"},
		{"also first", Options{}, `\admin`, "/admin"},
		{"an escaped backslash is an escaped slash", Options{}, "/admin%5Csecret", ""},
		{"and is decoded as one", forward, "/admin%5csecret", "/admin/secret"},
		{"dot segments go", Options{}, "/x/../admin/./secret", "/admin/secret"},
		{"escaped ones too", Options{}, "/x/%2e%2E/admin", "/admin"},
		{"half escaped ones too", Options{}, "/x/.%2e/admin", "/admin"},
		{"at the end they leave a slash", Options{}, "/a/b/..", "/a/"},
		{"one dot at the end too", Options{}, "/a/b/.", "/a/b/"},
		{"above the root there is nothing", Options{}, "/../../a", "/a"},
		{"dots go before slashes are merged", Options{}, "/a//../b", "/a/b"},
		{"dots in a name stay", Options{}, "/a/..b/.c/d../...", "/a/..b/.c/d../..."},
		{"a dot segment with a parameter is refused", Options{}, "/x/..;/admin", ""},
		{"also with one dot, also escaped", Options{}, "/x/%2e;a=b/admin", ""},
		{"parameters elsewhere stay", Options{}, "/admin;x=y/secret", "/admin;x=y/secret"},
		{"decoding happens once", Options{}, "/%252e%252e%252fadmin", "/%252e%252e%252fadmin"},
		{"a fragment is refused", Options{}, "/admin/secret#a", ""},
		{"also in the query", Options{}, "/admin?a#b", ""},
		{"unreserved characters are decoded", Options{}, "/%61dmin/%7e%5F%2d%39", "/admin/~_-9"},
		{"case is kept", Options{}, "/ADMIN", "/ADMIN"},
		{"other escapes stay, with capital digits", Options{}, "/caf%c3%a9%20%3f", "/caf%C3%A9%20%3F"},
		{"overlong forms are no slashes", Options{}, "/%c0%af%e0%80%af", "/%C0%AF%E0%80%AF"},
		{"NUL is refused", Options{}, "/a%00b", ""},
		{"CR and LF are refused", Options{}, "/a%0d%0ab", ""},
		{"a tab is refused", Options{}, "/a%09", ""},
		{"DEL is refused", Options{}, "/a%7f", ""},
		{"raw NUL is refused", Options{}, "/a\x00b", ""},
		{"raw DEL is refused", Options{}, "/a\x7f", ""},
		{"a raw space is refused", Options{}, "/a b", ""},
		{"raw bytes beyond ASCII are refused", Options{}, "/caf\xc3\xa9", ""},
		{"% with one digit is refused", Options{}, "/a%2", ""},
		{"% without digits is refused", Options{}, "/a%zz", ""},
		{"an empty query stays", Options{}, "/a?", "/a?"},
		{"the query is not normalised", Options{}, "/a/../b?x=//../%2f%zz", "/b?x=//../%2f%zz"},
		{"a second ? is the query's", Options{}, "/./a?b?/../c", "/a?b?/../c"},
	} {
		t.Run(tc.rule, func(t *testing.T) {
			got, redirect, err := tc.o.Path(tc.in)
			if tc.want == "" {
				if !errors.Is(err, ErrPath) {
					t.Fatalf("%q: got %q, %v, want it refused", tc.in, got, err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Fatalf("%q: got %q, %v, want %q", tc.in, got, err, tc.want)
			}
			if want := tc.o.EscapedSlash == UnescapeRedirect; redirect != want {
				t.Errorf("%q: redirect %v, want %v", tc.in, redirect, want)
			}
		})
	}
}

// Every escape of one byte has exactly one of four fates.
func TestPathSingleEscapes(t *testing.T) {
	for b := range 256 {
		in := fmt.Sprintf("/a%%%02xb", b)
		got, err := Path(in)
		switch c := byte(b); {
		case c < ' ' || c == 0x7f || c == '/' || c == '\\':
			if err == nil {
				t.Errorf("%s: got %q, want it refused", in, got)
			}
		case strings.IndexByte("-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c) >= 0:
			if want := "/a" + string(c) + "b"; got != want {
				t.Errorf("%s: got %q, want %q", in, got, want)
			}
		default:
			if want := fmt.Sprintf("/a%%%02Xb", b); got != want {
				t.Errorf("%s: got %q, want %q", in, got, want)
			}
		}
	}
}

func TestPathOfPlainPathAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Path("/api/v1/users/42.json?a=%2f&b=//x"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestAuthority(t *testing.T) {
	strip := Options{StripPort: true, StripDot: true}
	for _, tc := range []struct {
		o        Options
		in, want string
	}{
		{Options{}, "api.test", "api.test"},
		{Options{}, "SECRET.com", "secret.com"},
		{Options{}, "Api.Test:8080", "api.test:8080"},
		{Options{}, "api.test.", "api.test."},
		{strip, "API.test.:80", "api.test"},
		{Options{StripDot: true}, "API.test.:80", "api.test:80"},
		{strip, "[2001:DB8::1]:443", "[2001:db8::1]"},
		{Options{}, "[::1]", "[::1]"},
		{Options{}, "[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.1]:1"},
		{Options{}, "10.0.0.1:65535", "10.0.0.1:65535"},
		{Options{}, "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{Options{}, "my_service", "my_service"},
		{Options{}, "", ""},
		{Options{}, ":80", ""},
		{Options{}, "a:", ""},
		{Options{}, "a:65536", ""},
		{Options{}, "a:80:90", ""},
		{Options{}, "a:8o", ""},
		{Options{}, "user@a", ""},
		{Options{}, "a,b", ""},
		{Options{}, "a b", ""},
		{Options{}, "a/b", ""},
		{Options{}, "a%2eb", ""},
		{Options{}, "a\\b", ""},
		{Options{}, "b\xc3\xbccher", ""},
		{Options{}, "[::1", ""},
		{Options{}, "[]", ""},
		{Options{}, "[::1%25eth0]", ""},
		{Options{}, "[::1]x", ""},
		{strip, "a..", ""},
		{Options{}, strings.Repeat("a", 256), ""},
	} {
		got, err := tc.o.Authority(tc.in)
		if got != tc.want || (err == nil) == (tc.want == "") {
			t.Errorf("%q: got %q, %v, want %q", tc.in, got, err, tc.want)
		}
		if err != nil && !errors.Is(err, ErrAuthority) {
			t.Errorf("%q: %v is not ErrAuthority", tc.in, err)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "//x/%2e%2e/..;", `\\a\b`, "/%2f%5c/%252e", "/a/./..?x#", "*"} {
		for a := range 4 {
			f.Add(s, uint8(a), a&1 == 1)
		}
	}
	stormtest.Fuzz(f, func(t *testing.T, raw string, action uint8, keep bool) {
		o := Options{EscapedSlash: EscapedSlash(action % 4), KeepSlashes: keep}
		once, _, err := o.Path(raw)
		if err != nil {
			if !errors.Is(err, ErrPath) {
				t.Fatalf("%q: %v is not ErrPath", raw, err)
			}
			return
		}
		twice, redirect, err := o.Path(once)
		if err != nil || twice != once || redirect {
			t.Fatalf("%q: once %q, twice %q, redirect %v, %v", raw, once, twice, redirect, err)
		}
		if once == "" || once == "*" {
			return
		}
		path, _, _ := strings.Cut(once, "?")
		if path[0] != '/' || !keep && strings.Contains(path, "//") || strings.Contains(path, `\`) {
			t.Fatalf("%q: %q is not normal", raw, once)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q: %q holds a dot segment", raw, once)
			}
		}
	})
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"a", "A.b.:80", "[::1]:1", "a@b"} {
		f.Add(s, true, true)
	}
	stormtest.Fuzz(f, func(t *testing.T, raw string, port, dot bool) {
		o := Options{StripPort: port, StripDot: dot}
		once, err := o.Authority(raw)
		if err != nil {
			return
		}
		if twice, err := o.Authority(once); err != nil || twice != once {
			t.Fatalf("%q: once %q, twice %q, %v", raw, once, twice, err)
		}
	})
}

func BenchmarkPath(b *testing.B) {
	for _, p := range []string{"/api/v1/users/42?x=y", "/api//v1/%75sers/../42"} {
		b.Run(p, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = Path(p)
			}
		})
	}
}
