// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// Allowed says whether every one of policies lets the peer through; req is nil for a connection, where conditions on
// requests match nothing. Otherwise the string says what refused: the policy that forbids, or the rule that is about
// the caller and doesn't allow it, "default policy" where none is. No policies allow everything. It may be called by any goroutine.
func (e *Engine) Allowed(policies []*config.Policies, peer *config.Peer, req *stream.RequestHead) (bool, string) {
	return allowed(policies, call{peer: peer, req: req})
}

// Audit counts and logs a connection that would be refused if its rules weren't looked at only.
func (e *Engine) Audit(policies []*config.Policies, peer *config.Peer) {
	if rule, refused := audited(policies, call{peer: peer}); refused {
		e.config.Metrics.Inbound(sourceName(peer)).ByProxy(reason.AuditDenied)
		e.config.Log.Info("would be denied", "source", sourceName(peer), "rule", rule)
	}
}

// call is what rules look at; req is nil for a connection.
type call struct {
	peer   *config.Peer
	req    *stream.RequestHead
	claims claims

	path   string // without its query, once a rule has asked; see pathOnly
	parted bool
}

// pathOnly is the request's path without its query. Many rules ask.
func (c *call) pathOnly() string {
	if !c.parted {
		c.path, _ = splitPath(c.req.Path)
		if guard.Off("C8") {
			c.path = c.req.Path
		}
		c.parted = true
	}
	return c.path
}

var noPeer config.Peer

func allowed(policies []*config.Policies, c call) (bool, string) {
	if c.peer == nil {
		c.peer = &noPeer
	}
	for _, list := range policies {
		if ok, by := passes(list, &c); !ok && !list.Audit {
			return false, by
		}
	}
	return true, ""
}

// audited says which rule would have refused if it weren't looked at only.
func audited(policies []*config.Policies, c call) (by string, refused bool) {
	if c.peer == nil {
		c.peer = &noPeer
	}
	for _, list := range policies {
		if list.Audit {
			if ok, by := passes(list, &c); !ok {
				return by, true
			}
		}
	}
	return "", false
}

func passes(list *config.Policies, c *call) (bool, string) {
	matched := -1
	for i := range list.Policies {
		p := &list.Policies[i]
		if matchRule(&p.Permission, c) == yes && matchRule(&p.Principal, c) == yes {
			matched = i
			break
		}
		if !list.Allow && !guard.Off("C33") && matchRule(&p.Permission, c) != no && matchRule(&p.Principal, c) != no {
			matched = i // what can't be decided doesn't pass a list that forbids
			break
		}
	}
	switch {
	case list.Allow && matched < 0:
		return false, decider(list, c)
	case !list.Allow && matched >= 0:
		return false, list.Policies[matched].Name
	}
	return true, ""
}

// decider names the rule that a refusal by a list that allows comes from, without the number that keeps rules in order.
func decider(list *config.Policies, c *call) string {
	for i := range list.Deciders {
		p := &list.Deciders[i]
		if matchRule(&p.Permission, c) == yes && matchRule(&p.Principal, c) == yes {
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

func matchRule(r *config.Rule, c *call) verdict {
	peer, req := c.peer, c.req
	switch r.Kind {
	case config.Any:
		return yes
	case config.And:
		v := verdictOf(len(r.Rules) > 0)
		for i := range r.Rules {
			if v = min(v, matchRule(&r.Rules[i], c)); v == no {
				break
			}
		}
		return v
	case config.Or:
		v := no
		gated := req != nil && len(r.Gates) == len(r.Rules)
		for i := range r.Rules {
			if gated && r.Gates[i].Shut(c.pathOnly()) {
				continue
			}
			if v = max(v, matchRule(&r.Rules[i], c)); v == yes {
				break
			}
		}
		return v
	case config.Not:
		if len(r.Rules) != 1 {
			return unknown
		}
		return yes - matchRule(&r.Rules[0], c)
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
		return verdictOf(matchString(&r.String, c.pathOnly()))
	case config.ClaimIs:
		if req == nil {
			return unknown
		}
		return verdictOf(c.claims.matches(r))
	case config.Undecidable:
		return unknown
	case config.HeaderIs:
		if req == nil || r.Header == nil {
			return unknown
		}
		return verdictOf(matchHeader(r.Header, req))
	}
	return no
}

// Consider says what would be done with a request of a peer to a listener, without doing it: whether it is allowed, and its
// route, nil if none is for it. The request is taken as it is; its path is normal already.
func (e *Engine) Consider(listener string, peer *config.Peer, req *stream.RequestHead) (*config.Route, bool) {
	lv := e.current().listeners[listener]
	if lv == nil || lv.routes == nil {
		return nil, false
	}
	host := lv.routes.host(req.Authority)
	if host == nil {
		return nil, false
	}
	r := route(host, req)
	of := call{peer: peer, req: req}
	if ok, _ := allowed(lv.config.Authorize, of); !ok {
		return r, false
	}
	if !lv.config.HTTP.Authorize {
		return r, true
	}
	ok, _ := allowed(policiesOf(host, r), of)
	return r, ok
}

// policiesOf are the route's policies, or its host's where it has none.
func policiesOf(host *config.VirtualHost, r *config.Route) []*config.Policies {
	if r != nil && r.Authorize != nil {
		return r.Authorize
	}
	return host.Authorize
}
