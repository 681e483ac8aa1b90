// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

func part(t *testing.T, v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func TestTokens(t *testing.T)             { tokens(t, "") }
func TestC37_HeadsOfTokens(t *testing.T)  { tokens(t, "C37") }
func TestC38_ClaimsOfTokens(t *testing.T) { tokens(t, "C38") }
func TestC41_BombsInTokens(t *testing.T)  { tokens(t, "C41") }

// tokens are those of a number, beside one that is right, or all others.
func tokens(t *testing.T, id string) {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	p := &config.TokenProvider{Key: "k", Issuer: "me", Audiences: []string{"shop"}, Skew: time.Minute, Ends: true, Keys: []config.TokenKey{
		{ID: "ec", Public: &ec.PublicKey}, {ID: "rsa", Algorithm: "RS256", Public: &rsaKey.PublicKey}, {ID: "ed", Public: edPublic},
	}}
	signHead := func(head, claims map[string]any) string {
		text, kid := part(t, head)+"."+part(t, claims), head["kid"]
		sum := sha256.Sum256([]byte(text))
		var sig []byte
		switch kid {
		case "ec", "../../dev/null":
			r, s, err := ecdsa.Sign(rand.Reader, ec, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			sig = make([]byte, 64)
			r.FillBytes(sig[:32])
			s.FillBytes(sig[32:])
		case "rsa":
			if sig, err = rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:]); err != nil {
				t.Fatal(err)
			}
		case "ed":
			sig = ed25519.Sign(ed, []byte(text))
		}
		return text + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	sign := func(alg, kid string, claims map[string]any) string {
		return signHead(map[string]any{"alg": alg, "kid": kid}, claims)
	}
	good := func() map[string]any {
		return map[string]any{"iss": "me", "aud": []string{"x", "shop"}, "exp": now.Add(time.Hour).Unix(), "nbf": now.Unix(), "role": "admin"}
	}
	with := func(k string, v any) map[string]any { c := good(); c[k] = v; return c }
	without := func(k string) map[string]any { c := good(); delete(c, k); return c }
	ok := sign("ES256", "ec", good())
	for name, c := range map[string]struct {
		token string
		want  bool
	}{
		"EC": {ok, true}, "RSA": {sign("RS256", "rsa", good()), true}, "Ed25519": {sign("EdDSA", "ed", good()), true},
		"C37 none": {part(t, map[string]any{"alg": "none"}) + "." + part(t, good()) + ".", false}, "changed": {ok[:len(ok)-4] + "AAAA", false},
		"another algorithm than the key's": {sign("PS256", "rsa", good()), false}, "past": {sign("ES256", "ec", with("exp", now.Add(-2*time.Minute).Unix())), false},
		"past within the skew": {sign("ES256", "ec", with("exp", now.Add(-30*time.Second).Unix())), true},
		"early":                {sign("ES256", "ec", with("nbf", now.Add(time.Hour).Unix())), false}, "issuer": {sign("ES256", "ec", with("iss", "you")), false},
		"C37 critical":       {signHead(map[string]any{"alg": "ES256", "kid": "ec", "crit": []string{"b64"}, "b64": false}, good()), false},
		"C37 empty critical": {signHead(map[string]any{"alg": "ES256", "kid": "ec", "crit": nil}, good()), false},
		"C37 shared secret":  {sign("HS256", "rsa", good()), false}, "C37 key by path": {signHead(map[string]any{"alg": "ES256", "kid": "../../dev/null"}, good()), false},
		"C37 control":     {signHead(map[string]any{"alg": "ES256", "kid": "ec", "typ": "JWT"}, good()), true},
		"C38 no audience": {sign("ES256", "ec", with("aud", nil)), false}, "C38 no issuer": {sign("ES256", "ec", with("iss", nil)), false},
		"C38 no end": {sign("ES256", "ec", without("exp")), false}, "C38 an end that is null": {sign("ES256", "ec", with("exp", nil)), false},
		"C38 no beginning": {sign("ES256", "ec", without("nbf")), true},
		"C41 dots":         {strings.Repeat(".", 1<<20), false}, "C41 encrypted": {ok + ".a.b", false},
		"audience": {sign("ES256", "ec", with("aud", "bank")), false}, "no parts": {"x", false}, "wrong time": {sign("ES256", "ec", with("exp", "soon")), false},
	} {
		if n, _, _ := strings.Cut(name, " "); name != "EC" && n != id && (id != "" || strings.HasPrefix(n, "C")) {
			continue
		}
		req := &stream.RequestHead{Path: "/"}
		req.Fields.Add("Authorization", "Bearer "+c.token)
		before := allocated()
		got, _ := verify([]*config.TokenProvider{p}, req, now)
		if (got != nil) != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if n := allocated() - before; n > 1<<20 {
			t.Errorf("%s: %d bytes for a token of %d", name, n, len(c.token))
		}
		role := config.Rule{Kind: config.ClaimIs, Path: []string{"k", "role"}, String: config.StringMatch{Kind: config.MatchExact, Text: "admin"}}
		if got.matches(&role) != c.want {
			t.Errorf("%s: the claim matches: %t", name, !c.want)
		}
		if _, there := req.Fields.Get("authorization"); there == c.want {
			t.Errorf("%s: the token is passed on: %t", name, there)
		}
	}
}

// allocated is how many bytes were ever.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// What a policy asks of one provider's token isn't met by another's, however much that says, also where both have the same issuer.
func TestC40_TokenOfAnotherProvider(t *testing.T) {
	key := func() (ed25519.PublicKey, ed25519.PrivateKey) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return public, private
	}
	a, signer := key()
	b, _ := key()
	all := []*config.TokenProvider{
		{Key: "a", Issuer: "me", Keys: []config.TokenKey{{ID: "k", Public: a}}, Forward: true}, {Key: "b", Issuer: "me", Keys: []config.TokenKey{{ID: "k", Public: b}}},
	}
	text := part(t, map[string]any{"alg": "EdDSA", "kid": "k"}) + "." + part(t, map[string]any{"iss": "me", "role": "admin"})
	req := &stream.RequestHead{Path: "/"}
	req.Fields.Add("Authorization", "Bearer "+text+"."+base64.RawURLEncoding.EncodeToString(ed25519.Sign(signer, []byte(text))))
	got, _ := verify(all, req, time.Now())
	for provider, want := range map[string]bool{"a": true, "b": false} {
		role := config.Rule{Kind: config.ClaimIs, Path: []string{provider, "role"}, String: config.StringMatch{Kind: config.MatchExact, Text: "admin"}}
		if got.matches(&role) != want {
			t.Errorf("the role by %s's word: %v", provider, !want)
		}
	}
}

// What a token claims is handed on in headers, and nobody else says it there; a wrong token is refused where that is asked for.
func TestC32_ClaimsInHeaders(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := func(claims map[string]any) string {
		text := part(t, map[string]any{"alg": "EdDSA", "kid": "k"}) + "." + part(t, claims)
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(text)))
	}
	keys := []config.TokenKey{{ID: "k", Public: public}}
	p := &config.TokenProvider{Key: "a", Issuer: "me", Keys: keys, Refuse: true, PayloadHeader: "x-payload", Lists: []string{"scope"}, ClaimHeaders: []config.ClaimHeader{
		{Path: []string{"sub"}, Header: "x-user"}, {Path: []string{"org", "id"}, Header: "x-org"}, {Path: []string{"ok"}, Header: "x-ok"},
		{Path: []string{"list"}, Header: "x-list"}, {Path: []string{"none"}, Header: "x-none"}, {Path: []string{"evil"}, Header: "x-evil"},
	}}
	good := token(map[string]any{
		"iss": "me", "sub": "anna", "org": map[string]any{"id": 7}, "ok": true, "list": []string{"a", "b"}, "scope": "read  write", "evil": "a\r\nb: c",
	})
	for name, c := range map[string]struct {
		token  string
		wrong  bool
		header map[string]string // "": not there
	}{
		"right":            {good, false, map[string]string{"x-user": "anna", "x-org": "7", "x-ok": "true", "x-list": "WyJhIiwiYiJd", "x-none": "", "x-evil": ""}},
		"none":             {"", false, map[string]string{"x-user": "", "x-payload": "", "x-none": ""}},
		"wrong":            {good[:len(good)-4] + "AAAA", true, map[string]string{"x-user": "", "x-payload": ""}},
		"no token at all":  {"abc", true, map[string]string{"x-user": ""}},
		"another issuer's": {token(map[string]any{"iss": "you"}), true, map[string]string{"x-user": ""}},
	} {
		req := &stream.RequestHead{Path: "/"}
		for h := range c.header {
			req.Fields.Add(h, "forged")
		}
		if c.token != "" {
			req.Fields.Add("authorization", "Bearer "+c.token)
		}
		said, wrong := verify([]*config.TokenProvider{p}, req, time.Now())
		if wrong != c.wrong {
			t.Errorf("%s: refused: %t", name, wrong)
		}
		for h, want := range c.header {
			if got, there := req.Fields.Get(h); got != want || there != (want != "") {
				t.Errorf("%s: %s is %q, want %q", name, h, got, want)
			}
		}
		scope := config.Rule{Kind: config.ClaimIs, Path: []string{"a", "scope"}, String: config.StringMatch{Kind: config.MatchExact, Text: "write"}}
		if got := said.matches(&scope); got != (name == "right") {
			t.Errorf("%s: claims the scope: %t", name, got)
		}
	}
	// One issuer with keys of two origins, or several issuers: one that takes the token is enough.
	other := &config.TokenProvider{Key: "a", Issuer: "me", Refuse: true}
	req := &stream.RequestHead{Path: "/"}
	req.Fields.Add("authorization", "Bearer "+good)
	if _, wrong := verify([]*config.TokenProvider{other, p}, req, time.Now()); wrong {
		t.Error("refused though one of the issuer's keys is right")
	}
}

// Of two tokens in one place the service may read the one that nobody verified: neither counts. The same one twice does.
func TestC40_TwoTokensInOnePlace(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := part(t, map[string]any{"alg": "EdDSA", "kid": "k"}) + "." + part(t, map[string]any{"iss": "me"})
	good := text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(text)))
	const forged = "e30.e30.AAAA"
	p := &config.TokenProvider{
		Key: "a", Issuer: "me", Keys: []config.TokenKey{{ID: "k", Public: public}}, Forward: true, Refuse: true,
		Headers: []config.TokenHeader{{Name: "x-token"}}, Params: []string{"token"}, Cookies: []string{"token"},
	}
	for _, c := range []struct {
		path   string
		fields []string
		right  bool
	}{
		{"/", []string{"x-token", good}, true},
		{"/", []string{"x-token", good, "X-Token", good}, true},
		{"/", []string{"x-token", good, "X-Token", forged}, false},
		{"/", []string{"x-token", forged, "x-token", good}, false},
		{"/?token=" + good, nil, true},
		{"/?token=" + good + "&token=" + forged, nil, false},
		{"/?token=" + forged + "&token=" + good, nil, false},
		{"/", []string{"cookie", "a=b; token=" + good}, true},
		{"/", []string{"cookie", "token=" + good + "; token=" + forged}, false},
		{"/", []string{"cookie", "token=" + forged, "cookie", "token=" + good}, false},
		{"/", []string{"cookie", "token=" + good, "cookie", "x=" + forged}, true},
	} {
		req := &stream.RequestHead{Path: c.path}
		for i := 0; i < len(c.fields); i += 2 {
			req.Fields.Add(c.fields[i], c.fields[i+1])
		}
		if said, wrong := verify([]*config.TokenProvider{p}, req, time.Now()); (said != nil) != c.right || wrong == c.right {
			t.Errorf("%s %.40q: verified %t, refused %t", c.path, c.fields, said != nil, wrong)
		}
	}
}
