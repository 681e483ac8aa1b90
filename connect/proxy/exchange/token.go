// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that tokens are signed over
	_ "crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// claims are what the verified tokens of a request say, by their provider's key.
type claims map[string]map[string]any

// verify looks for each provider's token and keeps what is said by those that are right. Wrong says that the request is to be refused: of the
// providers that have wrong tokens refused some were shown one, and none a right one. The first of these with a right one counts, as in Envoy.
func verify(all []*config.TokenProvider, req *stream.RequestHead, now time.Time) (out claims, wrong bool) {
	for _, p := range all { // nobody says by a header what only a token can
		if guard.Off("C32") {
			break
		}
		if p.PayloadHeader != "" {
			req.Fields.Del(p.PayloadHeader)
		}
		for _, c := range p.ClaimHeaders {
			req.Fields.Del(c.Header)
		}
	}
	right := false
	for _, p := range all {
		if p.Refuse && right {
			continue
		}
		said, bad := found(p, req, now)
		if said == nil {
			wrong = wrong || bad && p.Refuse
			continue
		}
		right = right || p.Refuse
		if out == nil {
			out = claims{}
		}
		out[p.Key] = said
	}
	return out, wrong && !right
}

// found tries each place where a token may stand. Bad says that one stands there which isn't right.
func found(p *config.TokenProvider, req *stream.RequestHead, now time.Time) (_ map[string]any, bad bool) {
	headers, params := p.Headers, p.Params
	if len(p.Headers)+len(p.Params)+len(p.Cookies) == 0 {
		headers, params = []config.TokenHeader{{Name: "authorization", Prefix: "Bearer "}}, []string{"access_token"}
	}
	for _, h := range headers {
		v, ok := req.Fields.Get(h.Name)
		if ok && differs(&req.Fields, h.Name, v) {
			bad = true // the service may read the other one
			continue
		}
		if token, cut := strings.CutPrefix(v, h.Prefix); ok && cut {
			if said := claimsOf(p, token, req, now); said != nil {
				if !p.Forward {
					req.Fields.Del(h.Name)
				}
				return said, false
			}
			bad = true
		}
	}
	_, query := splitPath(req.Path)
	for _, name := range params {
		if v, ok := queryValue(strings.TrimPrefix(query, "?"), name); ok {
			if again(query, name, v) {
				bad = true
				continue
			}
			if said := claimsOf(p, v, req, now); said != nil {
				return said, false
			}
			bad = true
		}
	}
	for _, name := range p.Cookies {
		all := cookies(&req.Fields, name)
		if len(all) == 0 {
			continue
		}
		if len(slices.Compact(all)) == 1 {
			if said := claimsOf(p, all[0], req, now); said != nil {
				return said, false
			}
		}
		bad = true
	}
	return nil, bad
}

// differs says whether another field of the name says something else than v.
func differs(l *header.List, name, v string) bool {
	for i := l.Index(name, 0); i >= 0; i = l.Index(name, i+1) {
		if l.At(i).Value != v {
			return !guard.Off("C40")
		}
	}
	return false
}

// again says whether a query has a parameter once more, with another value than v.
func again(query, name, v string) bool {
	for pair := range strings.SplitSeq(strings.TrimPrefix(query, "?"), "&") {
		if key, value, _ := strings.Cut(pair, "="); key == name && value != v {
			return true
		}
	}
	return false
}

// cookies are the values of all cookies of a name.
func cookies(l *header.List, name string) (all []string) {
	for i := l.Index("cookie", 0); i >= 0; i = l.Index("cookie", i+1) {
		for pair := range strings.SplitSeq(l.At(i).Value, ";") {
			if v, ok := cookie(pair, name); ok {
				all = append(all, v)
			}
		}
	}
	return all
}

// claimsOf verifies one token (RFC 7519, §7.2) and gives its claims, nil if anything of it is wrong.
func claimsOf(p *config.TokenProvider, token string, req *stream.RequestHead, now time.Time) map[string]any {
	most := 4
	if guard.Off("C41") {
		most = -1
	}
	parts := strings.SplitN(token, ".", most)
	if len(parts) != 3 {
		return nil
	}
	var head struct {
		Alg, Kid string
		Crit     json.RawMessage // what must be understood (RFC 7515, §4.1.11); nothing of it is
	}
	if !unpack(parts[0], &head) || head.Crit != nil && !guard.Off("C37") {
		return nil
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	verifies := func(k config.TokenKey) bool {
		return (k.ID == "" || head.Kid == "" || k.ID == head.Kid) && (k.Algorithm == "" || k.Algorithm == head.Alg) &&
			signed(head.Alg, k.Public, parts[0]+"."+parts[1], signature)
	}
	if err != nil || !slices.ContainsFunc(p.Keys, verifies) && (p.Remote == nil || !slices.ContainsFunc(p.Remote.Keys(), verifies)) && !guard.Off("C39") {
		return nil
	}
	var said map[string]any
	if !unpack(parts[1], &said) || said == nil {
		return nil
	}
	if p.Issuer != "" && said["iss"] != any(p.Issuer) || !audience(p.Audiences, said["aud"]) {
		return nil
	}
	if exp, ok := said["exp"]; ok {
		n, number := exp.(float64)
		if !number || now.After(time.Unix(int64(n), 0).Add(p.Skew)) {
			return nil
		}
	} else if p.Ends && !guard.Off("C38") {
		return nil
	}
	if nbf, ok := said["nbf"]; ok {
		n, number := nbf.(float64)
		if !number || now.Before(time.Unix(int64(n), 0).Add(-p.Skew)) {
			return nil
		}
	}
	if p.PayloadHeader != "" {
		text := parts[1]
		if p.Pad {
			text += strings.Repeat("=", (4-len(text)%4)%4)
		}
		req.Fields.Set(p.PayloadHeader, text)
	}
	for _, c := range p.ClaimHeaders {
		if v, ok := claimText(said, c.Path); ok {
			req.Fields.Set(c.Header, v)
		}
	}
	for _, name := range p.Lists {
		if text, ok := said[name].(string); ok {
			list := []any{}
			for part := range strings.SplitSeq(text, " ") {
				if part != "" {
					list = append(list, part)
				}
			}
			said[name] = list
		}
	}
	return said
}

// claimText is a claim as a header says it.
func claimText(said map[string]any, path []string) (string, bool) {
	var at any = said
	for _, key := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return "", false
		}
		at = m[key]
	}
	switch v := at.(type) {
	case nil:
		return "", false
	case string:
		return v, !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return strconv.FormatInt(int64(v), 10), true
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	}
	data, err := json.Marshal(at)
	return base64.RawURLEncoding.EncodeToString(data), err == nil
}

func unpack(part string, into any) bool {
	data, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(data, into) == nil
}

func audience(want []string, have any) bool {
	if len(want) == 0 {
		return true
	}
	switch have := have.(type) {
	case string:
		return slices.Contains(want, have)
	case []any:
		return slices.ContainsFunc(have, func(a any) bool {
			s, ok := a.(string)
			return ok && slices.Contains(want, s)
		})
	}
	return false
}

// signed verifies a signature by the algorithm's name (RFC 7518, §3.1). "none" and those with a shared secret are none of ours.
func signed(alg string, key crypto.PublicKey, text string, signature []byte) bool {
	if alg == "EdDSA" {
		k, ok := key.(ed25519.PublicKey)
		return ok && ed25519.Verify(k, []byte(text), signature)
	}
	if len(alg) != 5 {
		return false
	}
	hash, ok := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	if !ok {
		return false
	}
	h := hash.New()
	_, _ = h.Write([]byte(text))
	sum := h.Sum(nil)
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch alg[:2] {
		case "RS":
			return rsa.VerifyPKCS1v15(k, hash, sum, signature) == nil
		case "PS":
			return rsa.VerifyPSS(k, hash, sum, signature, nil) == nil
		}
	case *ecdsa.PublicKey:
		size := (k.Params().BitSize + 7) / 8
		if alg[:2] != "ES" || len(signature) != 2*size || hash.Size() > size && k.Params().BitSize != 521 {
			return false
		}
		return ecdsa.Verify(k, sum, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
	return false
}

// matches follows a claim's path; of a list one has to match.
func (c claims) matches(r *config.Rule) bool {
	if len(r.Path) == 0 {
		return false
	}
	said, ok := c[r.Path[0]]
	if !ok {
		return false
	}
	var at any = said
	for _, key := range r.Path[1:] {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = m[key]; !ok {
			return false
		}
	}
	if r.String.Kind == config.MatchAny {
		return true
	}
	if list, ok := at.([]any); ok {
		return slices.ContainsFunc(list, func(e any) bool {
			s, ok := e.(string)
			return ok && matchString(&r.String, s)
		})
	}
	s, ok := at.(string)
	return ok && matchString(&r.String, s)
}
