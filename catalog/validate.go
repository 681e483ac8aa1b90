// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
)

func oneOf(field, v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	var named []string
	for _, a := range allowed {
		if a != "" {
			named = append(named, a)
		}
	}
	return invalidf("%s %q is none of %s", field, v, strings.Join(named, ", "))
}

func notNegative(field string, n int) error {
	if n < 0 {
		return invalidf("%s must not be negative, got %d", field, n)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *EntryHead) validate() error {
	if err := checkName("Name", h.Name); err != nil {
		return err
	}
	if err := checkScope(h.Scope); err != nil {
		return err
	}
	if len(h.Meta) > 64 {
		return invalidf("Meta has %d pairs, more than 64", len(h.Meta))
	}
	for k, v := range h.Meta {
		switch {
		case k == "":
			return invalidf("Meta has an empty key")
		case len(k) > 128:
			return invalidf("Meta key %.20q… has %d bytes, more than 128", k, len(k))
		case len(v) > 512:
			return invalidf("Meta[%q] has %d bytes, more than 512", k, len(v))
		}
	}
	return nil
}

func (h *EntryHead) exactName() error {
	if h.Name == Wildcard {
		return invalidf("Name must be the name of a service, not the wildcard %q", Wildcard)
	}
	return nil
}

func (m MeshGatewayMode) validate(field string) error {
	return oneOf(field+".Mode", m.Mode, "", "none", "local", "remote")
}

func (e *Expose) validate() error {
	seen := map[int]bool{}
	for i, p := range e.Paths {
		f := fmt.Sprintf("Expose.Paths[%d]", i)
		err := firstError(port(f+".ListenerPort", p.ListenerPort), port(f+".LocalPathPort", p.LocalPathPort),
			oneOf(f+".Protocol", p.Protocol, "", ProtocolHTTP, ProtocolHTTP2))
		if err == nil && !strings.HasPrefix(p.Path, "/") {
			err = invalidf("%s.Path %q must begin with '/'", f, p.Path)
		}
		if err == nil && seen[p.ListenerPort] {
			err = invalidf("%s.ListenerPort %d is used twice", f, p.ListenerPort)
		}
		if err != nil {
			return err
		}
		seen[p.ListenerPort] = true
	}
	return nil
}

func port(field string, n int) error {
	if n < 1 || n > 65535 {
		return invalidf("%s %d is no port; it must be from 1 to 65535", field, n)
	}
	return nil
}

func protocol(field, v string) error {
	return oneOf(field, v, "", ProtocolTCP, ProtocolHTTP, ProtocolHTTP2, ProtocolGRPC)
}

func proxyMode(v string) error { return oneOf("Mode", v, "", "direct", "transparent") }

func balance(field, v string) error { return oneOf(field, v, "", "exact_balance") }

// Validate checks protocol, modes and limits.
func (e *ServiceDefaults) Validate() error {
	err := firstError(e.validate(), e.exactName(), protocol("Protocol", e.Protocol), proxyMode(e.Mode), mutualTLS(e.MutualTLSMode),
		mutualTLSPorts(e.MutualTLSPorts), e.MeshGateway.validate("MeshGateway"), e.Expose.validate(),
		notNegative("MaxInboundConnections", e.MaxInboundConnections),
		notNegative("LocalConnectTimeoutMs", e.LocalConnectTimeoutMs),
		notNegative("LocalRequestTimeoutMs", e.LocalRequestTimeoutMs),
		balance("BalanceInboundConnections", e.BalanceInboundConnections), e.RateLimits.validate("RateLimits"),
		e.AdaptiveConcurrency.validate("AdaptiveConcurrency"), e.TransparentProxy.validate(), validExtensions(e.EnvoyExtensions))
	err = firstError(err, e.validateInbound(), e.Destination.validate())
	if err == nil && e.Destination != nil && e.UpstreamConfig != nil {
		err = invalidf("UpstreamConfig and Destination are mutually exclusive: what is outside the mesh calls nobody through it")
	}
	if err == nil && e.RateLimits != nil && e.Protocol == ProtocolTCP {
		err = invalidf("RateLimits needs a Protocol with requests, not %q", e.Protocol)
	}
	if err = firstError(err, e.ExternalAuthorization.validate("ExternalAuthorization")); err == nil {
		a := Authorizer(e.Name, e, nil)
		if a != nil && e.Protocol == ProtocolTCP {
			err = invalidf("ExternalAuthorization needs a Protocol with requests, not %q", e.Protocol)
		} else if a != nil && strings.EqualFold(a.Service, e.Name) {
			err = invalidf("ExternalAuthorization.Service %q is the service itself, which would be asked about each request that asks it", a.Service)
		}
	}
	if err == nil && e.AdaptiveConcurrency != nil && e.Protocol == ProtocolTCP {
		err = invalidf("AdaptiveConcurrency needs a Protocol with requests, not %q", e.Protocol)
	}
	if err != nil || e.UpstreamConfig == nil {
		return err
	}
	if d := e.UpstreamConfig.Defaults; d != nil {
		if d.Name != "" || d.Peer != "" || d.Namespace != "" {
			return invalidf("UpstreamConfig.Defaults must have no Name, Namespace or Peer")
		}
		if err := d.validate("UpstreamConfig.Defaults"); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for i := range e.UpstreamConfig.Overrides {
		o := &e.UpstreamConfig.Overrides[i]
		f := fmt.Sprintf("UpstreamConfig.Overrides[%d]", i)
		if o.Name == "" {
			return invalidf("%s.Name must not be empty", f)
		}
		key := join(o.Name, o.Peer, cmp.Or(o.Namespace, cmp.Or(e.Namespace, DefaultNamespace)))
		if o.Namespace != "" && !ValidNamespace(o.Namespace) {
			return invalidf("%s.Namespace %q: want lower-case letters, digits and - within, at most 63", f, o.Namespace)
		}
		if seen[key] {
			return invalidf("%s: there are two overrides for upstream %q", f, o.Name)
		}
		seen[key] = true
		if err := o.validate(f); err != nil {
			return err
		}
	}
	return nil
}

func (u *UpstreamConfig) validate(f string) error {
	err := firstError(protocol(f+".Protocol", u.Protocol), notNegative(f+".ConnectTimeoutMs", u.ConnectTimeoutMs),
		u.MeshGateway.validate(f+".MeshGateway"), balance(f+".BalanceOutboundConnections", u.BalanceOutboundConnections))
	return firstError(err, u.Limits.validate(f+".Limits"), u.PassiveHealthCheck.validate(f+".PassiveHealthCheck"), u.Connections.validate(f+".Connections"))
}

// Validate checks the name, modes and access logs.
func (e *ProxyDefaults) Validate() error {
	if err := e.validate(); err != nil {
		return err
	}
	if e.Name != ProxyDefaultsName {
		return invalidf("invalid name (%q), only %q is supported", e.Name, ProxyDefaultsName)
	}
	if _, err := plain(map[string]any(e.Config), 0); err != nil {
		return fmt.Errorf("Config: %w", err)
	}
	if v, ok := e.Config["protocol"]; ok {
		s, ok := v.(string)
		if !ok {
			return invalidf("Config[\"protocol\"] must be text")
		}
		if err := protocol("Config[\"protocol\"]", strings.ToLower(s)); err != nil {
			return err
		}
	}
	return firstError(e.Tracing.validate(), proxyMode(e.Mode), mutualTLS(e.MutualTLSMode), e.MeshGateway.validate("MeshGateway"), e.Expose.validate(),
		e.AccessLogs.validate(), e.TransparentProxy.validate(), validExtensions(e.EnvoyExtensions), e.ExternalAuthorization.validateGlobal())
}

func (t *Tracing) validate() error {
	if t == nil {
		return nil
	}
	u, err := url.Parse(t.Collector)
	switch {
	case err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "":
		return invalidf("Tracing.Collector %q: want the URL of OTLP over HTTP, as http://127.0.0.1:4318; a collector that wants TLS is reached through one on the host, or as an upstream", t.Collector)
	case !(t.Share() >= 0 && t.Share() <= 100):
		return invalidf("Tracing.Sampling %v: want a percentage, 0 to 100", t.Share())
	}
	return nil
}

// Validate checks the TLS versions.
func (e *Mesh) Validate() error {
	if err := e.validate(); err != nil || e.TLS == nil {
		return err
	}
	return firstError(e.TLS.Incoming.validate("TLS.Incoming"), e.TLS.Outgoing.validate("TLS.Outgoing"))
}

func (r *TLSRange) validate(f string) error {
	if r == nil {
		return nil
	}
	versions := []string{"", "TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"}
	err := firstError(oneOf(f+".TLSMinVersion", r.TLSMinVersion, versions...), oneOf(f+".TLSMaxVersion", r.TLSMaxVersion, versions...))
	lo, hi := slices.Index(versions, r.TLSMinVersion), slices.Index(versions, r.TLSMaxVersion)
	if err == nil && lo > 1 && hi > 1 && lo > hi {
		err = invalidf("%s: TLSMinVersion %s is above TLSMaxVersion %s", f, r.TLSMinVersion, r.TLSMaxVersion)
	}
	return err
}

// Validate checks that there are splits, that none is there twice, and that all make 100.
func (e *ServiceSplitter) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	if len(e.Splits) == 0 {
		return invalidf("no splits configured")
	}
	sum, seen := 0.0, map[string]bool{}
	for i, s := range e.Splits {
		if math.IsNaN(s.Weight) || s.Weight < 0 || s.Weight > 100 {
			return invalidf("Splits[%d].Weight must be from 0 to 100, got %g", i, s.Weight)
		}
		to := join(cmp.Or(s.Service, e.Name), s.ServiceSubset, cmp.Or(s.Namespace, e.Namespace), cmp.Or(s.Partition, e.Partition))
		if seen[to] {
			return invalidf("Splits[%d]: split destination occurs more than once: service=%q, subset=%q", i,
				cmp.Or(s.Service, e.Name), s.ServiceSubset)
		}
		seen[to] = true
		sum += math.Round(s.Weight * 100)
	}
	if sum != 10000 {
		return invalidf("the sum of all split weights must be 100, not %f", sum/100)
	}
	return hashPolicies("Sticky", e.Sticky)
}
