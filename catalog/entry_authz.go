// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// ExternalAuthorization has another program decide about a service's requests, after the intentions have allowed them and before the
// service gets them. It is weft's own; Consul's extension builtin/ext-authz says the same: see EnvoyExtension.Authorization.
type ExternalAuthorization struct {
	// Off is for service-defaults: what proxy-defaults says isn't for this service.
	Off bool `json:",omitempty"`
	// Service is who decides, as a service of the mesh; or Address is where that is, as each host reaches it: "127.0.0.1:9191", or the
	// path of a Unix socket. Nothing is encrypted on the way to an Address.
	Service string `json:",omitempty"`
	Address string `json:",omitempty"`
	// Protocol is how it is asked: "grpc" (envoy.service.auth.v3.Authorization, the default), or "http", where 200 allows.
	Protocol string `json:",omitempty"`
	// Timeout bounds the wait for its decision; 1 s.
	Timeout time.Duration `json:",omitempty"`
	// FailOpen lets requests by while nobody decides; otherwise they are answered with StatusOnError (403).
	FailOpen      bool   `json:",omitempty"`
	StatusOnError uint32 `json:",omitempty"`
	// Requests are those that it is asked about, any of them; all if empty. About those of Except it isn't asked, and they pass.
	Requests []IntentionHTTPPermission `json:",omitempty"`
	Except   []IntentionHTTPPermission `json:",omitempty"`
	// SendHeaders are those of the request that it is told: names, or beginnings that end in "*"; all if empty. AddHeaders are told it
	// besides.
	SendHeaders []string          `json:",omitempty"`
	AddHeaders  map[string]string `json:",omitempty"`
	// Certificate says that it is told the caller's certificate too (grpc).
	Certificate bool `json:",omitempty"`
	// MaxBodyBytes of a request's body are told it; none if 0. A larger one is answered with 413, or cut off there with PartialBody.
	MaxBodyBytes uint32 `json:",omitempty"`
	PartialBody  bool   `json:",omitempty"`
	// PathPrefix is put before the path that is asked for (http).
	PathPrefix string `json:",omitempty"`
	// PassHeaders are those of an answer that allows which the service gets, in place of the caller's (http). Of an answer that refuses,
	// DenyHeaders go to the caller; all if empty.
	PassHeaders []string `json:",omitempty"`
	DenyHeaders []string `json:",omitempty"`
}

// The bounds of what is held while somebody decides.
const (
	maxAuthzBody    = 1 << 20
	maxAuthzTimeout = time.Minute
	maxAuthzList    = 64
)

func (a *ExternalAuthorization) normalize() {
	if a == nil || a.Off {
		return
	}
	a.Protocol = cmp.Or(strings.ToLower(a.Protocol), ProtocolGRPC)
	a.Timeout, a.StatusOnError = cmp.Or(a.Timeout, time.Second), cmp.Or(a.StatusOnError, 403)
	for _, list := range [][]IntentionHTTPPermission{a.Requests, a.Except} {
		for i := range list {
			upper(list[i].Methods)
		}
	}
}

func (a *ExternalAuthorization) validate(f string) error {
	switch {
	case a == nil:
		return nil
	case a.Off && (a.Service != "" || a.Address != ""):
		return invalidf("%s: Off and who decides (Service, Address) exclude each other", f)
	case a.Off:
		return nil
	case (a.Service == "") == (a.Address == ""):
		return invalidf("%s must say who decides: exactly one of Service and Address", f)
	case a.Timeout < time.Millisecond || a.Timeout > maxAuthzTimeout:
		return invalidf("%s.Timeout is %s, want 1ms to %s", f, a.Timeout, maxAuthzTimeout)
	case !errorStatus(a.StatusOnError):
		return invalidf("%s.StatusOnError %d: want a status of HTTP from 400 to 511", f, a.StatusOnError)
	case a.MaxBodyBytes > maxAuthzBody:
		return invalidf("%s.MaxBodyBytes is %d, want at most %d: each request holds so much while it waits", f, a.MaxBodyBytes, maxAuthzBody)
	case a.PartialBody && a.MaxBodyBytes == 0:
		return invalidf("%s.PartialBody is for MaxBodyBytes, which isn't set", f)
	case a.PathPrefix != "" && (a.PathPrefix[0] != '/' || strings.ContainsAny(a.PathPrefix, "?# \r\n")):
		return invalidf("%s.PathPrefix %q must begin with '/' and be a path alone", f, a.PathPrefix)
	case a.Protocol != ProtocolHTTP && (a.PathPrefix != "" || len(a.PassHeaders) > 0 || len(a.DenyHeaders) > 0):
		return invalidf("%s: PathPrefix, PassHeaders and DenyHeaders are for Protocol http: with grpc the answer says them", f)
	case a.Protocol == ProtocolHTTP && a.Certificate:
		return invalidf("%s.Certificate is for Protocol grpc: with http add x-forwarded-client-cert to SendHeaders", f)
	}
	if a.Service != "" {
		if err := firstError(checkName(f+".Service", a.Service), wildcard(f+".Service", a.Service)); err != nil {
			return err
		}
		if a.Service == Wildcard {
			return invalidf("%s.Service must be the name of a service, not the wildcard %q", f, Wildcard)
		}
	} else if _, _, err := a.Place(); err != nil {
		return invalidf("%s.Address %q: %v", f, a.Address, err)
	}
	return firstError(oneOf(f+".Protocol", a.Protocol, ProtocolGRPC, ProtocolHTTP), requests(f+".Requests", a.Requests), requests(f+".Except", a.Except),
		headerNames(f+".SendHeaders", a.SendHeaders), headerNames(f+".PassHeaders", a.PassHeaders), headerNames(f+".DenyHeaders", a.DenyHeaders),
		headersToAdd(f+".AddHeaders", a.AddHeaders))
}

func (a *ExternalAuthorization) validateGlobal() error {
	if a != nil && a.Off {
		return invalidf("ExternalAuthorization.Off is for service-defaults: leave the field out of proxy-defaults")
	}
	return a.validate("ExternalAuthorization")
}

// Place is where Address is: "tcp" with host:port, or "unix" with a path.
func (a *ExternalAuthorization) Place() (network, address string, err error) {
	if strings.HasPrefix(a.Address, "/") {
		if path.Clean(a.Address) != a.Address || len(a.Address) > 100 {
			return "", "", fmt.Errorf("want a plain path of at most 100 bytes")
		}
		return "unix", a.Address, nil
	}
	host, port, err := net.SplitHostPort(a.Address)
	if err != nil {
		return "", "", fmt.Errorf("want IP:PORT, or the path of a Unix socket")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
		return "", "", fmt.Errorf("want IP:PORT, or the path of a Unix socket; who has a name is registered as a service, and named by Service")
	}
	return "tcp", at.String(), nil
}

// errorStatus says whether a status is an error that is registered; an Envoy takes no other.
func errorStatus(n uint32) bool {
	return n >= 400 && n <= 417 || n >= 500 && n <= 508 || slices.Contains([]uint32{421, 422, 423, 424, 426, 428, 429, 431, 510, 511}, n)
}

func requests(f string, list []IntentionHTTPPermission) error {
	if len(list) > maxAuthzList {
		return invalidf("%s has %d matches, more than %d", f, len(list), maxAuthzList)
	}
	for i := range list {
		if err := list[i].validate(fmt.Sprintf("%s[%d]", f, i)); err != nil {
			return err
		}
	}
	return nil
}

func headerNames(f string, list []string) error {
	if len(list) > maxAuthzList {
		return invalidf("%s has %d names, more than %d", f, len(list), maxAuthzList)
	}
	for i, name := range list {
		if n := strings.TrimSuffix(name, "*"); !headerName(n) || strings.Contains(n, "*") {
			return invalidf("%s[%d] %q is no name of a header, nor the beginning of one with a '*'", f, i, name)
		}
	}
	return nil
}

func headersToAdd(f string, m map[string]string) error {
	if len(m) > maxAuthzList {
		return invalidf("%s has %d headers, more than %d", f, len(m), maxAuthzList)
	}
	for name, v := range m {
		if lower := strings.ToLower(name); !headerName(name) || strings.HasPrefix(lower, "grpc-") || lower == "content-type" {
			return invalidf("%s: %q is no name of a header that can be added", f, name)
		}
		if strings.Contains(v, "%") { // an Envoy would put something else in its place
			return invalidf("%s[%q] %q: '%%' can't be sent", f, name, v)
		}
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return invalidf("%s[%q] has characters that can't be in a header", f, name)
		}
	}
	return nil
}

// Authorizer says who decides about the requests of a service, by the service's own word or else that for all; nil: nobody does. Both
// entries may be nil. Whoever decides isn't asked about the requests that ask it.
func Authorizer(service string, d *ServiceDefaults, global *ProxyDefaults) *ExternalAuthorization {
	var a *ExternalAuthorization
	if d != nil {
		a = authorization(d.ExternalAuthorization, d.EnvoyExtensions)
	}
	if a == nil && global != nil {
		if a = authorization(global.ExternalAuthorization, global.EnvoyExtensions); a != nil && strings.EqualFold(a.Service, service) {
			return nil
		}
	}
	if a == nil || a.Off {
		return nil
	}
	return a
}

// authorization is an entry's own word: its field, or else the first extension that can be taken for it.
func authorization(field *ExternalAuthorization, extensions []EnvoyExtension) *ExternalAuthorization {
	if field != nil {
		return field
	}
	for _, e := range extensions {
		if a, err := e.Authorization(); a != nil && err == nil {
			return a
		}
	}
	return nil
}
