// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// ExtAuthz is the name of Consul's extension that has another program decide about requests.
const ExtAuthz = "builtin/ext-authz"

// Authorization is the extension ext-authz as weft's own field; nil for another extension. The error names an argument by which something
// is asked for that weft doesn't do: the extension then has no effect.
//
// What only says where Envoy puts the filter and what it calls its statistics changes no decision and isn't looked at (InsertOptions,
// StatPrefix, ClearRouteCache, BootstrapMetadataLabelsKey).
func (e EnvoyExtension) Authorization() (*ExternalAuthorization, error) {
	if e.Name != ExtAuthz {
		return nil, nil
	}
	r := &arguments{}
	top := r.object("Arguments", map[string]any(e.Arguments), "ProxyType ListenerType InsertOptions Config")
	if kind := r.text(top, "ProxyType"); kind != "" && kind != "connect-proxy" {
		r.fail("Arguments.ProxyType %q: sidecars are connect-proxy", kind)
	}
	if way := r.text(top, "ListenerType"); way != "" && way != "inbound" {
		r.fail("Arguments.ListenerType %q: weft asks where requests come in", way)
	}
	const known = "BootstrapMetadataLabelsKey ClearRouteCache GrpcService HttpService IncludePeerCertificate StatusOnError StatPrefix WithRequestBody FailureModeAllow"
	c := r.object("Config", top["config"], known)
	a := &ExternalAuthorization{FailOpen: r.yes(c, "FailureModeAllow"), Certificate: r.yes(c, "IncludePeerCertificate"), StatusOnError: r.count(c, "StatusOnError")}
	body := r.object("WithRequestBody", c["withrequestbody"], "MaxRequestBytes AllowPartialMessage PackAsBytes")
	a.MaxBodyBytes, a.PartialBody = r.count(body, "MaxRequestBytes"), r.yes(body, "AllowPartialMessage")
	if grpc := r.object("GrpcService", c["grpcservice"], "Target Authority InitialMetadata"); grpc != nil {
		r.target(a, grpc)
		a.AddHeaders = r.pairs(grpc, "InitialMetadata")
	} else {
		a.Protocol = ProtocolHTTP
		http := r.object("HttpService", c["httpservice"], "Target PathPrefix AuthorizationRequest AuthorizationResponse")
		r.target(a, http)
		a.PathPrefix = r.text(http, "PathPrefix")
		ask := r.object("AuthorizationRequest", http["authorizationrequest"], "AllowedHeaders HeadersToAdd")
		// Without a word Consul's HTTP form tells of this one alone.
		a.SendHeaders, a.AddHeaders = append([]string{"authorization"}, r.names(ask, "AllowedHeaders")...), r.pairs(ask, "HeadersToAdd")
		answer := r.object("AuthorizationResponse", http["authorizationresponse"], "AllowedUpstreamHeaders AllowedClientHeaders")
		a.PassHeaders, a.DenyHeaders = r.names(answer, "AllowedUpstreamHeaders"), r.names(answer, "AllowedClientHeaders")
	}
	a.normalize()
	if r.err == nil {
		r.err = a.validate("Arguments")
	}
	return a, r.err
}

// arguments reads an extension's, whose names Consul takes in any case. The first fault stays.
type arguments struct{ err error }

func (r *arguments) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func folded(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// object gives what is there by folded names, nil for nothing. An empty value counts as not said.
func (r *arguments) object(name string, v any, known string) map[string]any {
	if list, ok := v.([]any); ok && len(list) == 1 { // as HCL 1 says blocks
		v = list[0]
	}
	if list, ok := v.([]map[string]any); ok && len(list) == 1 {
		v = list[0]
	}
	m, ok := v.(map[string]any)
	if !ok {
		if v != nil {
			r.fail("%s: want an object", name)
		}
		return nil
	}
	out := map[string]any{}
	for _, k := range sortedKeys(m) {
		if blank(m[k]) {
			continue
		}
		if !slices.ContainsFunc(strings.Fields(known), func(s string) bool { return folded(s) == folded(k) }) {
			r.fail("%s.%s: weft doesn't do that", name, k)
		}
		out[folded(k)] = m[k]
	}
	return out
}

func blank(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *arguments) text(m map[string]any, name string) string {
	v, ok := m[folded(name)]
	s, text := v.(string)
	if ok && !text {
		r.fail("%s: want text", name)
	}
	return s
}

func (r *arguments) yes(m map[string]any, name string) bool {
	v, ok := m[folded(name)]
	b, is := v.(bool)
	if ok && !is {
		r.fail("%s: want true or false", name)
	}
	return b
}

func (r *arguments) count(m map[string]any, name string) uint32 {
	v, ok := m[folded(name)]
	if !ok {
		return 0
	}
	var n float64
	switch v := v.(type) {
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	case uint64:
		n = float64(v)
	case float64:
		n = v
	default:
		n = -1
	}
	if n < 0 || n > math.MaxUint32 || n != math.Trunc(n) {
		r.fail("%s: want a whole number", name)
		return 0
	}
	return uint32(n)
}

// list gives each object of a list.
func (r *arguments) list(m map[string]any, name, known string) (out []map[string]any) {
	switch v := m[folded(name)].(type) {
	case nil:
	case []any:
		for _, e := range v {
			out = append(out, r.object(name, e, known))
		}
	case []map[string]any:
		for _, e := range v {
			out = append(out, r.object(name, e, known))
		}
	case map[string]any:
		out = append(out, r.object(name, v, known))
	default:
		r.fail("%s: want a list", name)
	}
	return out
}

func (r *arguments) pairs(m map[string]any, name string) map[string]string {
	var out map[string]string
	for _, p := range r.list(m, name, "Key Value") {
		if out == nil {
			out = map[string]string{}
		}
		out[r.text(p, "Key")] = r.text(p, "Value")
	}
	return out
}

// names are matches of header names, of which weft has the exact and the prefix.
func (r *arguments) names(m map[string]any, name string) (out []string) {
	for _, p := range r.list(m, name, "Exact Prefix IgnoreCase") {
		if prefix := r.text(p, "Prefix"); prefix != "" {
			out = append(out, prefix+"*")
		} else {
			out = append(out, r.text(p, "Exact"))
		}
	}
	return out
}

// target is who decides. A URI can only be of the host itself, as in Consul.
func (r *arguments) target(a *ExternalAuthorization, m map[string]any) {
	t := r.object("Target", m["target"], "Service URI Timeout")
	service := r.object("Target.Service", t["service"], "Name Namespace Partition")
	for _, part := range []string{"Namespace", "Partition"} {
		if v := r.text(service, part); v != "" && v != "default" {
			r.fail("Target.Service.%s %q: weft asks a service of its own %s", part, v, strings.ToLower(part))
		}
	}
	a.Service = r.text(service, "Name")
	a.Address = strings.TrimPrefix(r.text(t, "URI"), "http://")
	if said, ok := t["timeout"]; ok {
		switch v := said.(type) {
		case string:
			d, err := time.ParseDuration(v)
			if err != nil {
				r.fail("Target.Timeout %q: want a time, as 1s", v)
			}
			a.Timeout = d
		default:
			a.Timeout = time.Duration(r.count(t, "Timeout"))
		}
	}
}
