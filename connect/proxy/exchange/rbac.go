// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// Allowed says whether every one of policies lets the peer through; req is nil for a connection, where conditions on
// requests match nothing. Otherwise the string says what refused: the policy that forbids, or the rule that is about
// the caller and doesn't allow it, "default policy" where none is. No policies allow everything. It may be called by any goroutine.
func (e *Engine) Allowed(policies []*config.Policies, peer *config.Peer, req *stream.RequestHead) (bool, string) {
	return allowed(policies, peer, req)
}

var noPeer config.Peer

func allowed(policies []*config.Policies, peer *config.Peer, req *stream.RequestHead) (bool, string) {
	if peer == nil {
		peer = &noPeer
	}
	for _, list := range policies {
		matched := -1
		for i := range list.Policies {
			p := &list.Policies[i]
			if matchRule(&p.Permission, peer, req) == yes && matchRule(&p.Principal, peer, req) == yes {
				matched = i
				break
			}
			if !list.Allow && matchRule(&p.Permission, peer, req) != no && matchRule(&p.Principal, peer, req) != no {
				matched = i // what can't be decided doesn't pass a list that forbids
				break
			}
		}
		switch {
		case list.Allow && matched < 0:
			return false, decider(list, peer, req)
		case !list.Allow && matched >= 0:
			return false, list.Policies[matched].Name
		}
	}
	return true, ""
}

// decider names the rule that a refusal by a list that allows comes from, without the number that keeps rules in order.
func decider(list *config.Policies, peer *config.Peer, req *stream.RequestHead) string {
	for i := range list.Deciders {
		p := &list.Deciders[i]
		if matchRule(&p.Permission, peer, req) == yes && matchRule(&p.Principal, peer, req) == yes {
			_, name, _ := strings.Cut(p.Name, " ")
			return name
		}
	}
	return "default policy"
}

// verdict is what a rule gives. A rule about requests, asked of a connection, can't be decided, and neither can its
// negation: it must not let anybody through, nor fail to keep anybody out.
type verdict uint8

const (
	no verdict = iota
	unknown
	yes
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

func matchRule(r *config.Rule, peer *config.Peer, req *stream.RequestHead) verdict {
	switch r.Kind {
	case config.Any:
		return yes
	case config.And:
		v := verdictOf(len(r.Rules) > 0)
		for i := range r.Rules {
			if v = min(v, matchRule(&r.Rules[i], peer, req)); v == no {
				break
			}
		}
		return v
	case config.Or:
		v := no
		for i := range r.Rules {
			if v = max(v, matchRule(&r.Rules[i], peer, req)); v == yes {
				break
			}
		}
		return v
	case config.Not:
		if len(r.Rules) != 1 {
			return unknown
		}
		return yes - matchRule(&r.Rules[0], peer, req)
	case config.Authenticated:
		return verdictOf(peer.URI != "" && matchString(&r.String, peer.URI))
	case config.RemoteIP:
		return verdictOf(r.Prefix.IsValid() && r.Prefix.Contains(peer.Remote.Addr().Unmap()))
	case config.DestinationPort:
		return verdictOf(uint32(peer.Local.Port()) == r.Port)
	case config.ServerName:
		return verdictOf(matchString(&r.String, peer.SNI))
	case config.PathIs:
		if req == nil {
			return unknown
		}
		path, _ := splitPath(req.Path)
		return verdictOf(matchString(&r.String, path))
	case config.HeaderIs:
		if req == nil || r.Header == nil {
			return unknown
		}
		return verdictOf(matchHeader(r.Header, req))
	}
	return no
}
