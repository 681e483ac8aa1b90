// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestExternalAuthorization(t *testing.T) {
	for want, a := range map[string]*ExternalAuthorization{
		"":   {Service: "authz"},
		" ":  {Address: "[::1]:9", Protocol: "HTTP", PathPrefix: "/check", PassHeaders: []string{"x-user", "x-a-*"}, DenyHeaders: []string{"location"}, Requests: []IntentionHTTPPermission{{Methods: []string{"post"}}}},
		"  ": {Off: true},
		"must say who decides: exactly one of Service and Address":      {},
		"ExternalAuthorization must say who decides":                    {Service: "a", Address: "127.0.0.1:1"},
		"Off and who decides":                                           {Off: true, Service: "a"},
		"Service must be the name of a service":                         {Service: "*"},
		"is the service itself":                                         {Service: "Web"},
		"Address \"authz:80\": want IP:PORT":                            {Address: "authz:80"},
		"Address \"127.0.0.1:0\": want IP:PORT":                         {Address: "127.0.0.1:0"},
		"Address \"/a/../b\": want a plain path":                        {Address: "/a/../b"},
		"Timeout is 1h0m0s, want 1ms to 1m0s":                           {Service: "a", Timeout: time.Hour},
		"StatusOnError 200":                                             {Service: "a", StatusOnError: 200},
		"Protocol \"tcp\" is none of grpc, http":                        {Service: "a", Protocol: "tcp"},
		"MaxBodyBytes is 2000000":                                       {Service: "a", MaxBodyBytes: 2_000_000},
		"PartialBody is for MaxBodyBytes":                               {Service: "a", PartialBody: true},
		"PathPrefix, PassHeaders and DenyHeaders are for Protocol http": {Service: "a", PathPrefix: "/x"},
		"Certificate is for Protocol grpc":                              {Service: "a", Protocol: "http", Certificate: true},
		"SendHeaders[1] \"a*b\"":                                        {Service: "a", SendHeaders: []string{"x-*", "a*b"}},
		"AddHeaders: \"grpc-timeout\"":                                  {Service: "a", AddHeaders: map[string]string{"grpc-timeout": "1"}},
		"'%' can't be sent":                                             {Service: "a", AddHeaders: map[string]string{"x": "%REQ(a)%"}},
		"Requests[0] should not be empty":                               {Service: "a", Requests: []IntentionHTTPPermission{{}}},
		"Except[0].PathRegex":                                           {Service: "a", Except: []IntentionHTTPPermission{{PathRegex: "("}}},
	} {
		e := &ServiceDefaults{EntryHead: EntryHead{Name: "web"}, Protocol: "http", ExternalAuthorization: a}
		e.Normalize()
		err := e.Validate()
		if strings.TrimSpace(want) == "" {
			if err != nil {
				t.Errorf("%+v: %v", a, err)
			}
			continue
		}
		if err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ExternalAuthorization") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	tcp := &ServiceDefaults{EntryHead: EntryHead{Name: "web"}, Protocol: "tcp", ExternalAuthorization: &ExternalAuthorization{Service: "a"}}
	off := &ProxyDefaults{ExternalAuthorization: &ExternalAuthorization{Off: true}}
	for _, e := range []Entry{tcp, off} {
		e.Normalize()
		if err := e.Validate(); err == nil {
			t.Errorf("%s was taken", e.EntryKind())
		}
	}
}

// What a service says counts before what holds for all, and who decides isn't asked about the requests that ask it.
func TestAuthorizer(t *testing.T) {
	own, all := &ExternalAuthorization{Service: "own"}, &ExternalAuthorization{Service: "all"}
	extension := []EnvoyExtension{{Name: "builtin/lua"}, {Name: ExtAuthz, Arguments: Opaque{"Config": map[string]any{"GrpcService": map[string]any{"Target": map[string]any{"URI": "localhost:9"}}}}}}
	for _, c := range []struct {
		d      *ServiceDefaults
		global *ProxyDefaults
		want   string
	}{
		{nil, nil, ""},
		{&ServiceDefaults{ExternalAuthorization: own}, &ProxyDefaults{ExternalAuthorization: all}, "own"},
		{&ServiceDefaults{}, &ProxyDefaults{ExternalAuthorization: all}, "all"},
		{&ServiceDefaults{ExternalAuthorization: &ExternalAuthorization{Off: true}}, &ProxyDefaults{ExternalAuthorization: all}, ""},
		{&ServiceDefaults{EnvoyExtensions: extension}, &ProxyDefaults{ExternalAuthorization: all}, "localhost:9"},
		{&ServiceDefaults{EnvoyExtensions: extension, ExternalAuthorization: own}, nil, "own"},
		{nil, &ProxyDefaults{EnvoyExtensions: extension}, "localhost:9"},
		{nil, &ProxyDefaults{ExternalAuthorization: &ExternalAuthorization{Service: "WEB"}}, ""},
	} {
		a, got := Authorizer("web", c.d, c.global), ""
		if a != nil {
			got = a.Service + a.Address
		}
		if got != c.want {
			t.Errorf("%+v, %+v: %q, want %q", c.d, c.global, got, c.want)
		}
	}
}

func TestExtensionThatAuthorizes(t *testing.T) {
	type m = map[string]any
	grpc := Opaque{"ProxyType": "connect-proxy", "listener_type": "inbound", "Config": m{
		"GrpcService":     m{"Target": m{"Service": m{"Name": "authz", "Namespace": "default"}, "Timeout": "3s"}, "InitialMetadata": []any{m{"Key": "a", "Value": "b"}}},
		"WithRequestBody": m{"MaxRequestBytes": 10, "AllowPartialMessage": true}, "FailureModeAllow": true, "StatusOnError": int64(503), "IncludePeerCertificate": true,
	}}
	http := Opaque{"Config": m{"HttpService": []any{m{"Target": m{"URI": "http://127.0.0.1:80"}, "PathPrefix": "/p",
		"AuthorizationRequest":  m{"AllowedHeaders": []any{m{"Exact": "x"}, m{"Prefix": "y-", "IgnoreCase": true}}},
		"AuthorizationResponse": m{"AllowedUpstreamHeaders": []any{m{"Exact": "u"}}, "AllowedClientHeaders": []any{m{"Exact": "c"}}}}}}}
	for _, c := range []struct {
		args Opaque
		want ExternalAuthorization
	}{
		{grpc, ExternalAuthorization{Service: "authz", Protocol: "grpc", Timeout: 3 * time.Second, FailOpen: true, StatusOnError: 503, Certificate: true,
			MaxBodyBytes: 10, PartialBody: true, AddHeaders: map[string]string{"a": "b"}}},
		{http, ExternalAuthorization{Address: "127.0.0.1:80", Protocol: "http", Timeout: time.Second, StatusOnError: 403, PathPrefix: "/p",
			SendHeaders: []string{"authorization", "x", "y-*"}, PassHeaders: []string{"u"}, DenyHeaders: []string{"c"}}},
	} {
		got, err := EnvoyExtension{Name: ExtAuthz, Arguments: c.args}.Authorization()
		if err != nil || !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%+v %v, want %+v", got, err, c.want)
		}
	}
	for want, args := range map[string]Opaque{
		"exactly one of Service and Address": {},
		"ProxyType":                          {"ProxyType": "api-gateway"},
		"ListenerType":                       {"ListenerType": "outbound"},
		"Arguments.Other":                    {"Other": "x"},
		"Config.MetadataContextNamespaces":   {"Config": m{"MetadataContextNamespaces": []any{"a"}}},
		"AllowedHeaders.SafeRegex":           {"Config": m{"HttpService": m{"Target": m{"URI": "127.0.0.1:80"}, "AuthorizationRequest": m{"AllowedHeaders": []any{m{"SafeRegex": "x"}}}}}},
		"want a whole number":                {"Config": m{"StatusOnError": "x"}},
		"want true or false":                 {"Config": m{"FailureModeAllow": "yes"}},
		"want a time":                        {"Config": m{"GrpcService": m{"Target": m{"URI": "127.0.0.1:80", "Timeout": "soon"}}}},
		"Address":                            {"Config": m{"GrpcService": m{"Target": m{"URI": "authz.example:80"}}}},
		"Namespace":                          {"Config": m{"GrpcService": m{"Target": m{"Service": m{"Name": "a", "Namespace": "x"}}}}},
	} {
		e := EnvoyExtension{Name: ExtAuthz, Arguments: args}
		if _, err := e.Authorization(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		d := &ServiceDefaults{EnvoyExtensions: []EnvoyExtension{e}}
		if f := IneffectiveFields(d); len(f) != 1 || !strings.Contains(f[0], ExtAuthz) || Authorizer("web", d, nil) != nil {
			t.Errorf("%q", f)
		}
	}
	good := EnvoyExtension{Name: ExtAuthz, Arguments: grpc}
	if f := IneffectiveFields(&ServiceDefaults{EnvoyExtensions: []EnvoyExtension{good}}); f != nil {
		t.Error(f)
	}
	if f := IneffectiveFields(&ServiceDefaults{EnvoyExtensions: []EnvoyExtension{good, {Name: "builtin/lua"}}}); len(f) != 1 {
		t.Error(f)
	}
}
