// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"slices"
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// What lets nodes in is kept beside the ACL objects, as two kinds more.
const (
	JoinTokens = "join-token"
	PlaneCAs   = "plane-ca"
)

// JoinToken lets nodes into the cluster: so many, until its time is over. The secret itself isn't kept: SecretHash is the hex
// form of its SHA-256.
type JoinToken struct {
	ID         string
	SecretHash string
	Server     bool      `json:",omitempty"` // for servers; else for agents
	Node       string    `json:",omitempty"` // for this node alone
	Uses       int       // how many nodes it lets in yet
	Expires    time.Time // from then on it is good for nothing
	CreateTime time.Time
	Used       []JoinUse `json:",omitempty"`
	Indexes
}

// JoinUse is a node that a token let in, and the SHA-256 of its public key in hex.
type JoinUse struct{ Node, Key string }

// PlaneCA is the authority of the nodes' own certificates, as PEM; the key is sealed by the servers. There is one, PlaneCAID.
type PlaneCA struct {
	Cert, Key string
	Indexes
}

// PlaneCAID is the ID of the one authority.
const PlaneCAID = "plane"

// UseJoin uses a token up for a node with a public key. The same node with the same key may use it again, for an answer may be
// lost. A token that isn't there is ErrNotFound; one whose time is over, that is used up, or that is for others, ErrConflict. The
// result's value is the *JoinToken.
type UseJoin struct {
	SecretHash string
	Node, Key  string
	Server     bool `json:",omitempty"`
}

func (UseJoin) commandType() string { return "use-join" }

func (u *unit) useJoin(c *UseJoin) (any, error) {
	if c.Node == "" || c.Key == "" || c.SecretHash == "" {
		return nil, invalidf("a join without a node, its key or a token")
	}
	var found *aclRow
	each(u.w.txn, tableACL, "unique", join(JoinTokens, c.SecretHash), func(r *aclRow) { found = r })
	if found == nil {
		return nil, faultf(ErrNotFound, "there is no such join token: make one with \"weft plane token\"")
	}
	s := u.acl.put(found.key(), found)
	t := *found.JoinToken
	use := JoinUse{c.Node, c.Key}
	switch {
	case u.w.at >= t.Expires.UnixMilli():
		return nil, faultf(ErrConflict, "the join token's time is over since %s: make another one", t.Expires.UTC().Format(time.RFC3339))
	case t.Server != c.Server:
		return nil, faultf(ErrConflict, "the join token is for %s", map[bool]string{true: "servers: start this node with -server", false: "agents, not for servers: make one with \"weft plane token -server\""}[t.Server])
	case t.Node != "" && t.Node != c.Node:
		return nil, faultf(ErrConflict, "the join token is for the node %q", t.Node)
	case slices.Contains(t.Used, use):
		return &t, nil
	case t.Uses <= 0 && !guard.Off("C109"):
		return nil, faultf(ErrConflict, "the join token was used up: make another one")
	}
	t.Uses--
	t.Used = append(slices.Clone(t.Used), use)
	u.stamp(&t.Indexes, t.CreateIndex)
	s.new = &aclRow{ACLObject{JoinToken: &t}}
	return &t, nil
}
