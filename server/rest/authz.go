// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/intention"
)

// authorizerOf says who else decides about a service's requests, and the entry that says so.
func authorizerOf(t *catalog.Txn, key catalog.Key) (own, all *catalog.ExternalAuthorization, err error) {
	d, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, key)
	if err != nil {
		return nil, nil, err
	}
	p, err := catalog.EntryAs[*catalog.ProxyDefaults](t, catalog.KindProxyDefaults, globalName(key.Scope))
	return catalog.Authorizer(key.Name, d, nil), catalog.Authorizer(key.Name, d, p), err
}

// checkAuthorizer refuses what can't be asked, and an own word for a service whose requests nobody sees.
func checkAuthorizer(t *catalog.Txn, key catalog.Key) error {
	own, a, err := authorizerOf(t, key)
	if err != nil || a == nil {
		return err
	}
	if own != nil {
		protocol, _, err := chain.Declared(t, key)
		if err != nil {
			return err
		}
		if !catalog.HTTPLike(protocol) {
			return fmt.Errorf("ExternalAuthorization of service %q needs a Protocol with requests, not %q", key.Name, cmp.Or(protocol, catalog.ProtocolTCP))
		}
	}
	if a.Service == "" {
		return nil
	}
	c, err := chain.Compile(t, key.Scope.Name(a.Service), chain.Overrides{})
	if err != nil {
		return fmt.Errorf("ExternalAuthorization.Service %q: %w", a.Service, err)
	}
	switch p := c.Protocol; {
	case a.Protocol == catalog.ProtocolHTTP && !catalog.HTTPLike(p):
		return fmt.Errorf("ExternalAuthorization.Service %q has protocol %q, and can't be asked by http: write its service-defaults with Protocol http first", a.Service, p)
	case a.Protocol == catalog.ProtocolGRPC && p != catalog.ProtocolGRPC && p != catalog.ProtocolHTTP2:
		return fmt.Errorf("ExternalAuthorization.Service %q has protocol %q, and can't be asked by grpc: write its service-defaults with Protocol grpc first", a.Service, p)
	}
	return nil
}

// explainAuthorizer says who else decides about a request that the intentions allow, "" for nobody.
func (h *handlers) explainAuthorizer(t *catalog.Txn, key catalog.Key, protocol string, req intention.Request) (string, error) {
	own, a, err := authorizerOf(t, key)
	if err != nil || a == nil {
		return "", err
	}
	where := "proxy-defaults/global"
	if own != nil {
		where = "service-defaults/" + key.Name
	}
	if !catalog.HTTPLike(protocol) {
		if own == nil {
			return "", nil
		}
		return "nobody may call: requests can't be seen (" + where + " ExternalAuthorization)", nil
	}
	who := a.Address
	if a.Service != "" {
		who = "service " + a.Service
	}
	asked, why, err := intention.Asked(a, req)
	if err != nil {
		return "", err
	}
	if !asked {
		return fmt.Sprintf("%s isn't asked about it: %s (%s ExternalAuthorization)", who, why, where), nil
	}
	out := fmt.Sprintf("%s decides by %s within %s (%s ExternalAuthorization%s)", who, a.Protocol, a.Timeout, where, why)
	if a.FailOpen {
		return out + "; it passes while nobody decides", nil
	}
	var others []string
	if a.Service != "" {
		others = append(others, "an intention has to let "+key.Name+" call "+a.Service)
	}
	return strings.Join(append([]string{fmt.Sprintf("%s; %d while nobody decides", out, a.StatusOnError)}, others...), "; "), nil
}
