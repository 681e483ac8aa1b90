// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// Keys are fetched while the proxy runs, and again when their time is over; where that fails those that were stay.
func TestC39_KeysAreFetched(t *testing.T) {
	keys, tokens := map[string]ed25519.PublicKey{}, map[string]string{}
	for _, name := range []string{"one", "two"} {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text := part(t, map[string]any{"alg": "EdDSA"}) + "." + part(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
		keys[name], tokens[name] = public, text+"."+base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(text)))
	}
	var serves atomic.Value
	var asked atomic.Int32
	serves.Store("")
	issuer := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if serves.Load() == "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, serves.Load().(string))
	}))
	r := newRig(t, func(s *config.Snapshot) {
		h := s.Listeners["l"].HTTP
		h.Authorize = true
		h.Tokens = []*config.TokenProvider{{Key: "k", Remote: &config.RemoteKeys{
			URI: "http://" + issuer + "/keys", Timeout: 5 * time.Second, CacheFor: time.Millisecond, Parse: func(data []byte) ([]config.TokenKey, error) {
				if keys[string(data)] == nil {
					return nil, errors.New("no keys")
				}
				return []config.TokenKey{{Public: keys[string(data)]}}, nil
			},
		}}}
		claims := config.Rule{Kind: config.ClaimIs, Path: []string{"k"}, String: config.StringMatch{Kind: config.MatchAny}}
		routeOf(s).Authorize = []*config.Policies{{Allow: true, Policies: []config.Policy{{Permission: claims, Principal: config.Rule{Kind: config.Any}}}}}
	}, upstream(t, echo))
	c := client(t, 1)
	status := func(token string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tokens[token])
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = body(t, resp)
		return resp.StatusCode
	}
	becomes := func(token string, want int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); status(token) != want; {
			if time.Now().After(end) {
				t.Fatalf("the token of %q isn't answered with %d", token, want)
			}
		}
	}
	for n := asked.Load(); asked.Load() < n+2; { // a second at least: what has failed is tried again then
		if got := status("one"); got != 403 {
			t.Fatalf("%d while no keys were ever there", got)
		}
	}
	serves.Store("one")
	becomes("one", 200)
	if got := status("two"); got != 403 {
		t.Fatalf("%d for the token of a key that isn't there", got)
	}
	serves.Store("two")
	becomes("two", 200)
	becomes("one", 403)
	serves.Store("")
	for n := asked.Load(); asked.Load() < n+2; { // a second at least: what has failed is tried again then
		if got := status("two"); got != 200 {
			t.Fatalf("%d while the keys can't be fetched, want those that were to stay", got)
		}
	}
}
