// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weftmesh/weft/connect/xds"
)

// A bootstrap with everything is one, by Envoy's own message and rules.
func TestBootstrapIsEnvoys(t *testing.T) {
	for name, c := range map[string]xds.BootstrapConfig{
		"least": {},
		"all": {
			Token: "t", ADSCA: "-----BEGIN CERTIFICATE-----", ADSName: "agent.dc1.consul", ReadyAddress: "127.0.0.1:21101", OmitDeprecatedTags: true,
			Prometheus: xds.PrometheusListener{Address: "127.0.0.1:9102", ScrapePath: "/m", Backend: "127.0.0.1:20100", TLS: &xds.ListenerTLS{CertFile: "/c", KeyFile: "/k", ClientCA: "x"}},
		},
	} {
		c.ProxyID, c.Service, c.ADSAddress, c.AdminAddress, c.Secret = "p", "web", "127.0.0.1:8502", "127.0.0.1:19000", "s"
		data, err := xds.Bootstrap(c)
		if err != nil {
			t.Fatal(err)
		}
		var b bootstrapv3.Bootstrap
		if err := protojson.Unmarshal(data, &b); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, data)
		}
		if err := b.ValidateAll(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := len(b.GetStaticResources().GetListeners()); (name == "all") != (got == 2) {
			t.Errorf("%s: %d listeners", name, got)
		}
	}
}
