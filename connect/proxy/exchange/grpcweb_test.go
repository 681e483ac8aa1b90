// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// grpcEcho is a server of gRPC that sends the body back, with its status in trailers; "/none" has only that.
var grpcEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	w.Header().Set("X-Te", r.Header.Get("Te"))
	if r.URL.Path == "/none" {
		w.Header().Set("Grpc-Status", "5")
		return
	}
	if r.URL.Path == "/plain" {
		http.Error(w, "no gRPC here", http.StatusTeapot)
		return
	}
	_, _ = io.Copy(w, r.Body)
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
})

func TestGRPCWeb(t *testing.T) {
	r := newRig(t, func(s *config.Snapshot) {
		s.Clusters["api"].Codec = config.HTTP2
		s.Listeners["l"].HTTP.GRPCWeb = true
	}, upstream(t, grpcEcho))
	message := func(s string) []byte { return append([]byte{0, 0, 0, 0, byte(len(s))}, s...) }
	big := append([]byte{0, 0, 1, 0, 0}, bytes.Repeat([]byte("x"), 1<<16)...)
	two := append(message("hello"), message("x")...)
	text := func(parts ...[]byte) (s string) {
		for _, p := range parts {
			s += base64.StdEncoding.EncodeToString(p)
		}
		return s
	}
	const trailers = "\x80\x00\x00\x00\x1agrpc-status: 0\r\nx-sum: 7\r\n"
	for _, c := range []struct {
		name, path, form, accept, in string
		wantForm, want               string
		status                       int
	}{
		{"binary", "/", "application/grpc-web+proto", "", string(two), "application/grpc-web+proto", string(two) + trailers, 200},
		{"binary without a suffix", "/", "application/grpc-web", "", string(two), "application/grpc-web+proto", string(two) + trailers, 200},
		{"big", "/", "application/grpc-web+proto", "", string(big), "application/grpc-web+proto", string(big) + trailers, 200},
		{"text", "/", "application/grpc-web-text+proto", "application/grpc-web-text", text(two), "application/grpc-web-text+proto", string(two) + trailers, 200},
		{"text in parts", "/", "application/grpc-web-text", "application/grpc-web-text", text(message("hello"), message("x")), "application/grpc-web-text+proto", string(two) + trailers, 200},
		{"big text", "/", "application/grpc-web-text", "application/grpc-web-text", text(big), "application/grpc-web-text+proto", string(big) + trailers, 200},
		{"text in, binary out", "/", "application/grpc-web-text", "", text(two), "application/grpc-web+proto", string(two) + trailers, 200},
		{"empty", "/", "application/grpc-web+proto", "", "", "application/grpc-web+proto", trailers, 200},
		{"only trailers", "/none", "application/grpc-web+proto", "", string(two), "application/grpc-web+proto", "", 200},
		{"not gRPC", "/plain", "application/grpc-web+proto", "", string(two), "text/plain; charset=utf-8", "no gRPC here\n", http.StatusTeapot},
		{"another type", "/", "application/grpc-webby", "", "x", "application/grpc-webby", "x", 200},
	} {
		for _, version := range []int{1, 2} {
			t.Run(fmt.Sprint(c.name, " h", version), func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), "POST", r.url(c.path), strings.NewReader(c.in))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", c.form)
				if c.accept != "" {
					req.Header.Set("Accept", c.accept)
				}
				resp, err := client(t, version).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got := body(t, resp)
				if strings.Contains(resp.Header.Get("Content-Type"), "-text") {
					got = decodeParts(t, got)
				}
				if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.wantForm || got != c.want {
					t.Errorf("%s %q\n%.200q\nwant %q\n%.200q", resp.Status, resp.Header.Get("Content-Type"), got, c.wantForm, c.want)
				}
				if te := resp.Header.Get("X-Te"); te != "trailers" && c.wantForm != "text/plain; charset=utf-8" && c.name != "another type" {
					t.Errorf("the server saw te %q", te)
				}
				if c.path == "/none" && resp.Header.Get("Grpc-Status") != "5" {
					t.Error(resp.Header)
				}
			})
		}
	}
	for _, bad := range []string{"AAAA*AAA", "AAAAA"} {
		resp, err := client(t, 1).Post(r.url("/"), "application/grpc-web-text", strings.NewReader(bad))
		if err != nil {
			continue // cut, as the answer had begun
		}
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && resp.Header.Get("Grpc-Status") == "" {
			t.Errorf("%q was taken: %s", bad, resp.Status)
		}
	}
}

// decodeParts decodes base64 with padding anywhere.
func decodeParts(t *testing.T, s string) string {
	t.Helper()
	var out []byte
	for ; len(s) >= 4; s = s[4:] {
		b, err := base64.StdEncoding.DecodeString(s[:4])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	if s != "" {
		t.Errorf("%q is left", s)
	}
	return string(out)
}
