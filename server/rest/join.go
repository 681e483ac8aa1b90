// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/uuid"
)

// Join is what new nodes get besides a certificate.
type Join struct {
	Datacenter, Domain string
	// Servers are the addresses of the servers' port, RetryJoin those of their gossip.
	Servers, RetryJoin func() []string
	// GossipKeys are in base64, the one that encrypts first.
	GossipKeys func() []string
	ACL        plane.ACL
	// Authority is the CA of the nodes' certificates; nil where the cluster has none.
	Authority func(context.Context) (*plane.Authority, error)
	// Another says whether a node of this name is there, or was, and isn't this one's to take.
	Another func(node string) bool
}

// The bounds of join tokens.
const (
	joinTTL     = time.Hour
	maxJoinTTL  = 90 * 24 * time.Hour
	maxJoinUses = 10000
)

func (h *handlers) joinHandlers() map[string]api.Handler {
	return map[string]api.Handler{
		"POST /v1/weft/join":               h.join,
		"POST /v1/weft/join/tokens":        h.createJoinToken,
		"GET /v1/weft/join/tokens":         h.joinTokens,
		"DELETE /v1/weft/join/tokens/{id}": h.deleteJoinToken,
	}
}

// PlaneAuthority is the CA of the nodes' certificates, whose key is unsealed; nil where the cluster has none.
func PlaneAuthority(t *catalog.Txn, unseal func(key string) (string, error)) (*plane.Authority, error) {
	o, err := t.ACL(catalog.PlaneCAs, catalog.PlaneCAID)
	if err != nil || o.PlaneCA == nil {
		return nil, err
	}
	key, err := unseal(o.PlaneCA.Key)
	if err != nil {
		return nil, err
	}
	return plane.ParseAuthority(o.PlaneCA.Cert, key)
}

var errNoAuthority = &api.StatusError{
	Code: http.StatusConflict, Text: "this cluster has no CA for its nodes: its first server has to be started with -locked", Err: catalog.ErrNotFound,
}

func (h *handlers) planeAuthority(ctx context.Context) (*plane.Authority, error) {
	if h.c.Join == nil {
		return nil, errNoAuthority
	}
	a, err := h.c.Join.Authority(ctx)
	if err == nil && a == nil {
		return nil, errNoAuthority
	}
	return a, err
}

// joinTokenView is a token as it is shown. Token is there once, when it was made.
type joinTokenView struct {
	ID          string
	Token       string `json:",omitempty"`
	Server      bool
	Node        string `json:",omitempty"`
	Uses        int
	Expires     time.Time
	Used        []string
	CreateIndex uint64
	ModifyIndex uint64
}

func viewJoin(t *catalog.JoinToken) joinTokenView {
	v := joinTokenView{
		ID: t.ID, Server: t.Server, Node: t.Node, Uses: t.Uses, Expires: t.Expires, Used: []string{}, CreateIndex: t.CreateIndex, ModifyIndex: t.ModifyIndex,
	}
	for _, u := range t.Used {
		v.Used = append(v.Used, u.Node)
	}
	return v
}

// JoinSpec is what a new token is to be good for; Uses 0 is 1, TTL 0 an hour.
type JoinSpec struct {
	Server bool
	Node   string
	Uses   int
	TTL    time.Duration
}

func (h *handlers) createJoinToken(w http.ResponseWriter, r *api.Request) error {
	var spec JoinSpec
	if err := api.ReadJSON(r, &spec); err != nil {
		return err
	}
	authority, err := h.planeAuthority(r.Context())
	if err != nil {
		return err
	}
	t, text, err := h.c.Join.NewToken(r.Context(), h.c.Cluster.Propose, authority, h.c.Rand, h.c.Now(), spec)
	if err != nil {
		return err
	}
	o, err := h.c.Store.Read().ACL(catalog.JoinTokens, t.ID)
	if err != nil || o.JoinToken == nil {
		return errors.Join(err, errors.New("the join token was made, and is gone again"))
	}
	v := viewJoin(o.JoinToken)
	v.Token = text
	return api.WriteJSON(w, v)
}

func (s *JoinSpec) complete() error {
	switch {
	case s.Uses == 0:
		s.Uses = 1
	case s.Uses < 0 || s.Uses > maxJoinUses:
		return badRequest("Uses: want 1 to %d", maxJoinUses)
	case s.Node != "" && s.Uses > 1:
		return badRequest("Node: a token for one node is used once")
	}
	if s.TTL == 0 {
		s.TTL = joinTTL
	}
	if s.TTL < time.Minute || s.TTL > maxJoinTTL {
		return badRequest("TTL: want 1m to %s", maxJoinTTL)
	}
	return nil
}

// NewToken makes a token, and gives it with the text that is carried to the nodes.
func (j *Join) NewToken(ctx context.Context, propose func(context.Context, catalog.Body) (catalog.Result, error), authority *plane.Authority,
	random io.Reader, now time.Time, spec JoinSpec) (*catalog.JoinToken, string, error) {
	if err := spec.complete(); err != nil {
		return nil, "", err
	}
	id, err := uuid.New(random)
	if err != nil {
		return nil, "", err
	}
	raw := make([]byte, 20)
	if _, err := io.ReadFull(random, raw); err != nil {
		return nil, "", err
	}
	secret := hex.EncodeToString(raw)
	t := &catalog.JoinToken{
		ID: id, SecretHash: hashJoin(secret), Server: spec.Server, Node: spec.Node, Uses: spec.Uses, Expires: now.UTC().Add(spec.TTL), CreateTime: now.UTC(),
	}
	_, err = propose(ctx, catalog.SetACL{Create: true, Objects: []catalog.ACLObject{{JoinToken: t}}})
	return t, plane.Token{Servers: j.Servers(), Pin: authority.Pin(), Secret: secret}.String(), err
}

func hashJoin(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func (h *handlers) joinTokens(w http.ResponseWriter, r *api.Request) error {
	all, err := h.c.Store.Read().ACLList(catalog.JoinTokens)
	if err != nil {
		return err
	}
	out := []joinTokenView{}
	for _, o := range all {
		if h.c.Now().Before(o.JoinToken.Expires) {
			out = append(out, viewJoin(o.JoinToken))
		}
	}
	return api.WriteJSON(w, out)
}

func (h *handlers) deleteJoinToken(w http.ResponseWriter, r *api.Request) error {
	id := r.PathValue("id")
	o, err := h.c.Store.Read().ACL(catalog.JoinTokens, id)
	if err != nil {
		return err
	}
	if o.JoinToken == nil {
		return nothingToDelete("join token")
	}
	return h.deleteACL(w, r, catalog.JoinTokens, id)
}

// join lets a node in: it gets a certificate, the gossip keys, and its agent's token.
func (h *handlers) join(w http.ResponseWriter, r *api.Request) error {
	var b plane.JoinRequest
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	authority, err := h.planeAuthority(r.Context())
	if err != nil {
		return err
	}
	key, err := plane.KeyOf(b.CSR)
	if err != nil {
		return badRequest("%v", err)
	}
	if err := h.mayJoin(r, &b, key); err != nil {
		return err
	}
	who := plane.Peer{Server: b.Server, Datacenter: h.c.Join.Datacenter, Node: b.Node}
	cert, err := authority.Sign(b.CSR, who, h.c.Join.Domain, h.c.Rand, h.c.Now())
	if err != nil {
		return badRequest("%v", err)
	}
	caPEM, _, err := authority.PEM()
	if err != nil {
		return err
	}
	answer := plane.JoinAnswer{
		Datacenter: who.Datacenter, CA: caPEM, Certificate: cert, GossipKeys: h.c.Join.GossipKeys(), RetryJoin: h.c.Join.RetryJoin(), ACL: h.c.Join.ACL,
	}
	if h.c.ACL != nil {
		if answer.AgentToken, err = h.nodeToken(r, b.Node); err != nil {
			return err
		}
	}
	return api.WriteJSON(w, answer)
}

// mayJoin says whether what the node shows lets it in.
func (h *handlers) mayJoin(r *api.Request, b *plane.JoinRequest, key string) error {
	if !nodeNameOK(b.Node) {
		return badRequest("%q is no name for a node: letters, digits, '-', '_' and '.'", b.Node)
	}
	if h.c.ACL != nil { // before a use of the token is spent
		if err := agentTokenFor(b.Node); err != nil {
			return err
		}
	}
	use := catalog.UseJoin{SecretHash: hashJoin(b.Secret), Node: b.Node, Key: key, Server: b.Server}
	if !h.joinedBefore(use) && h.c.Join.Another(b.Node) {
		return &api.StatusError{Code: http.StatusForbidden, Text: "there is another node called " + b.Node + ": give this one its own name, or remove that one first (weft force-leave -prune)"}
	}
	_, err := h.c.Cluster.Propose(r.Context(), use)
	if errors.Is(err, catalog.ErrNotFound) || errors.Is(err, catalog.ErrConflict) {
		return &api.StatusError{Code: http.StatusForbidden, Text: err.Error(), Err: err}
	}
	return err
}

// joinedBefore says whether the node asks again, since the answer was lost.
func (h *handlers) joinedBefore(use catalog.UseJoin) bool {
	o, err := h.c.Store.Read().ACLUnique(catalog.JoinTokens, use.SecretHash)
	return err == nil && o.JoinToken != nil && slices.Contains(o.JoinToken.Used, catalog.JoinUse{Node: use.Node, Key: use.Key})
}

func nodeNameOK(name string) bool {
	return name != "" && len(name) <= 128 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
}

// nodeToken makes the token of a node's agent.
func (h *handlers) nodeToken(r *api.Request, node string) (string, error) {
	k, secret, err := h.newToken("agent of "+node+", made when it joined", "")
	if err != nil {
		return "", err
	}
	if err := NodeToken(h.c.Store.Read(), k, node, h.c.Join.Datacenter); err != nil {
		return "", err
	}
	_, err = h.writeACL(r.Context(), true, catalog.ACLObject{Token: k})
	return secret, err
}

// agentTokenFor refuses the names of nodes that no node identity can have.
func agentTokenFor(node string) error {
	if acl.ValidIdentity(node) {
		return nil
	}
	return badRequest("the name %q can't have an agent's token, which takes lower-case letters, digits, '-' and '_' only: give the node another (-node)", node)
}

// NodeToken has a token grant what a node's agent needs.
func NodeToken(t *catalog.Txn, k *catalog.ACLToken, node, datacenter string) error {
	k.Local = true
	if err := agentTokenFor(node); err != nil {
		return err
	}
	g := grants{NodeIdentities: []catalog.ACLNodeIdentity{{NodeName: node, Datacenter: datacenter}}}
	if err := g.complete(t); err != nil {
		return err
	}
	k.NodeIdentities = g.NodeIdentities
	k.Hash = hashOf(k.NodeIdentities)
	return nil
}

// KeyTexts are gossip keys in base64.
func KeyTexts(keys [][]byte) []string {
	var out []string
	for _, k := range keys {
		out = append(out, base64.StdEncoding.EncodeToString(k))
	}
	return out
}
