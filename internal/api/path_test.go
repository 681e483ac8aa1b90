// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/stormtest"
)

// FuzzKeyPath asks for a key in each way in which clients write paths: whole escaped, part by part, and as it is. The handler gets the key
// that was meant, byte for byte, or the request is refused for a byte that can't be printed; whatever else is sent is answered.
func FuzzKeyPath(f *testing.F) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, s := range []string{"a", "app/web/a", "/", "//", "a//b", "a/../b", ".", "..", "a/./b", "%", "%2F", "%252F", "a b+c", "?x#y", "\xff\xfe", "ключ/鍵", ";=&", "", string(every), "a/"} {
		f.Add(s)
	}
	var m *Mux
	var got []string
	stormtest.Fuzz(f, func(t *testing.T, key string) {
		if m == nil {
			m = serverMux(t, MuxConfig{}, func(_ http.ResponseWriter, r *Request) error {
				got = append(got, r.Method+" "+r.PathValue("name"))
				return nil
			})
		}
		ask := func(target string) (code int, ok bool) {
			u, err := url.ParseRequestURI(target)
			if err != nil {
				return 0, false // no server gets so far
			}
			got = nil
			w := httptest.NewRecorder()
			m.ServeHTTP(w, &http.Request{
				Method: http.MethodGet, URL: u, RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "127.0.0.1:8500",
				Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), RemoteAddr: "127.0.0.1:1234",
			})
			return w.Code, true
		}
		var whole strings.Builder
		for i := range len(key) {
			fmt.Fprintf(&whole, "%%%02X", key[i])
		}
		parts := strings.Split(key, "/")
		for i, p := range parts {
			parts[i] = url.PathEscape(p)
		}
		hidden := strings.IndexFunc(key, unprintable) >= 0
		for _, form := range []string{whole.String(), strings.Join(parts, "/")} {
			code, ok := ask("/v1/kv/" + form)
			switch {
			case !ok:
				t.Errorf("%q as %s can't be asked for", key, form)
			case hidden && (code != http.StatusBadRequest || got != nil):
				t.Errorf("%q as %s: %d, %q", key, form, code, got)
			case !hidden && (code != http.StatusOK || len(got) != 1 || got[0] != "GET "+key):
				t.Errorf("%q as %s: %d, %q", key, form, code, got)
			}
		}
		for _, target := range []string{"/v1/kv/" + key, "/v1/kv/" + form2(key), "/" + key, "/v1/" + key} { // as it is: anything but a panic, or a redirect
			if code, ok := ask(target); ok && code >= 500 {
				t.Errorf("%q: %d", target, code)
			}
		}
	})
}

// form2 is a key escaped twice.
func form2(key string) string { return url.PathEscape(url.PathEscape(key)) }
