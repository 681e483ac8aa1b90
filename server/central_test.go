// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/weftmesh/weft/catalog"
)

// mesh registers a sidecar of web that calls db and cache, and what config entries say of them.
func (r *running) mesh(as string) {
	r.t.Helper()
	for _, line := range [][2]string{
		{"/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"web1","Service":"web","Port":80}}`},
		{"/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"p1","Service":"web-proxy","Kind":"connect-proxy","Port":82,"Proxy":{
			"DestinationServiceName":"web","Config":{"local_connect_timeout_ms":900,"own":1},"MeshGateway":{"Mode":"none"},"Upstreams":[
			{"DestinationName":"db","LocalBindPort":1,"Config":{"connect_timeout_ms":5}},{"DestinationName":"cache","LocalBindPort":2},
			{"DestinationType":"prepared_query","DestinationName":"q","LocalBindPort":3}]}}}`},
		{"/v1/config", `{"Kind":"proxy-defaults","Name":"global","Config":{"own":2,"other":"x","protocol":"grpc"},"TransparentProxy":{"OutboundListenerPort":15002},"AccessLogs":{"Enabled":true,"Type":"stderr"},"EnvoyExtensions":[{"Name":"builtin/lua","Arguments":{"Script":"x"}}],"MeshGateway":{"Mode":"local"},"Expose":{"Paths":[{"Path":"/g","ListenerPort":9,"LocalPathPort":8}]}}`},
		{"/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http","TransparentProxy":{"DialedDirectly":true},"EnvoyExtensions":[{"Name":"builtin/wasm","Required":true}],"RateLimits":{"InstanceLevel":{"RequestsPerSecond":5}},"MaxInboundConnections":7,"LocalConnectTimeoutMs":1,"Expose":{"Paths":[{"Path":"/s","ListenerPort":9,"LocalPathPort":8}]},
			"UpstreamConfig":{"Defaults":{"ConnectTimeoutMs":100,"Limits":{"MaxConnections":3}},"Overrides":[{"Name":"cache","ConnectTimeoutMs":200,"PassiveHealthCheck":{"Interval":1000000000,"MaxFailures":4},"MeshGateway":{"Mode":"remote"}}]}}`},
		{"/v1/config", `{"Kind":"service-defaults","Name":"db","Protocol":"tcp"}`},
	} {
		r.as(as, "PUT", line[0], line[1], 200, "true")
	}
}

// What config entries say of a proxy is shown as a registration's words, in the order in which they count, where it is asked for.
func TestMergeCentralConfig(t *testing.T) {
	r := locked(t)
	r.mesh(rootSecret)
	const all = "service_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\n"
	_, everything := r.token(all)
	_, notDB := r.token(all + `service "db" { policy = "deny" }`)
	for _, path := range []string{"/v1/health/service/web-proxy", "/v1/health/connect/web", "/v1/catalog/service/web-proxy", "/v1/catalog/connect/web", "/v1/catalog/node-services/n1"} {
		got := r.proxyAt(path+"?merge-central-config", everything)
		if want := (catalog.Opaque{"local_connect_timeout_ms": 900.0, "own": 1.0, "other": "x", "protocol": "http", "max_inbound_connections": 7.0}); !reflect.DeepEqual(got.Config, want) {
			t.Errorf("%s: %v", path, got.Config)
		}
		if got.MeshGateway.Mode != "none" || len(got.Expose.Paths) != 1 || got.Expose.Paths[0].Path != "/s" || len(got.Upstreams) != 3 {
			t.Fatalf("%s: %+v", path, got)
		}
		extensions := []catalog.EnvoyExtension{{Name: "builtin/lua", Arguments: catalog.Opaque{"Script": "x"}}, {Name: "builtin/wasm", Required: true}}
		if !reflect.DeepEqual(got.EnvoyExtensions, extensions) || !reflect.DeepEqual(got.AccessLogs, &catalog.AccessLogs{Enabled: true, Type: "stderr"}) ||
			!reflect.DeepEqual(got.TransparentProxy, &catalog.TransparentProxy{OutboundListenerPort: 15002, DialedDirectly: true}) || got.RateLimits == nil {
			t.Errorf("%s: extensions %+v, logs %+v, %+v, limits %+v", path, got.EnvoyExtensions, got.AccessLogs, got.TransparentProxy, got.RateLimits)
		}
		for i, want := range []catalog.Upstream{
			{MeshGateway: catalog.MeshGatewayMode{Mode: "none"}, Config: catalog.Opaque{"protocol": "tcp", "connect_timeout_ms": 5.0, "limits": map[string]any{"max_connections": 3.0}}},
			{MeshGateway: catalog.MeshGatewayMode{Mode: "remote"}, Config: catalog.Opaque{"protocol": "grpc", "connect_timeout_ms": 200.0, "limits": map[string]any{"max_connections": 3.0},
				"passive_health_check": map[string]any{"interval": "1s", "max_failures": 4.0}}},
			{},
		} {
			if u := got.Upstreams[i]; u.MeshGateway != want.MeshGateway || !reflect.DeepEqual(u.Config, want.Config) {
				t.Errorf("%s: upstream %d: %v %v", path, i, u.MeshGateway, u.Config)
			}
		}
		if plain := r.proxyAt(path, everything); len(plain.Config) != 2 {
			t.Errorf("%s: without being asked for: %v", path, plain.Config)
		}
		if hidden := r.proxyAt(path+"?merge-central-config", notDB); hidden.Upstreams[0].Config["protocol"] != nil {
			t.Errorf("%s: shows what db speaks to who may not read it: %v", path, hidden.Upstreams[0].Config)
		}
	}
}

// proxyAt is the proxy in an answer.
func (r *running) proxyAt(path, token string) catalog.Proxy {
	r.t.Helper()
	_, body, _ := r.ask("GET", path, token, "")
	type service struct {
		Kind  string
		Proxy catalog.Proxy
	}
	var list []struct {
		Service      service
		ServiceProxy *catalog.Proxy
	}
	if json.Unmarshal([]byte(body), &list) == nil && len(list) == 1 {
		if p := list[0].ServiceProxy; p != nil {
			return *p
		}
		return list[0].Service.Proxy
	}
	var node struct{ Services []service }
	if err := json.Unmarshal([]byte(body), &node); err != nil {
		r.t.Fatalf("%s: %v: %s", path, err, body)
	}
	for _, s := range node.Services {
		if s.Kind != "" {
			return s.Proxy
		}
	}
	r.t.Fatalf("%s: no proxy: %s", path, body)
	return catalog.Proxy{}
}

// Who waits for a merged answer is woken by the entries that are in it, and not by others.
func TestMergeCentralConfigWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := locked(t)
		r.mesh(rootSecret)
		_, _, header := r.ask("GET", "/v1/health/service/web-proxy?merge-central-config", rootSecret, "")
		answered := make(chan string, 1)
		go func() {
			_, body, _ := r.ask("GET", "/v1/health/service/web-proxy?merge-central-config&wait=60s&index="+header.Get("X-Consul-Index"), rootSecret, "")
			answered <- body
		}()
		synctest.Wait()
		r.as(rootSecret, "PUT", "/v1/config", `{"Kind":"service-defaults","Name":"odd","Protocol":"http"}`, 200, "true")
		synctest.Wait()
		select {
		case body := <-answered:
			t.Fatalf("woken by an entry that isn't in the answer: %s", body)
		default:
		}
		r.as(rootSecret, "PUT", "/v1/config", `{"Kind":"service-defaults","Name":"db","Protocol":"http2"}`, 200, "true")
		var got []struct{ Service struct{ Proxy catalog.Proxy } }
		if err := json.Unmarshal([]byte(<-answered), &got); err != nil || got[0].Service.Proxy.Upstreams[0].Config["protocol"] != "http2" {
			t.Errorf("%+v %v", got, err)
		}
	})
}
