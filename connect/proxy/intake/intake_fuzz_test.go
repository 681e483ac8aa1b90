// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weftmesh/weft/internal/stormtest"
)

// FuzzIntake takes any bytes as a resource: it is refused, and nothing has changed, or it is taken, and again with the same outcome,
// whatever else there is.
func FuzzIntake(f *testing.F) {
	seed := func(kind uint8, m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, b)
	}
	seed(0, &clusterv3.Cluster{Name: "r", ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}})
	seed(1, &endpointv3.ClusterLoadAssignment{ClusterName: "r", Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at(1)}},
	}}}}})
	t := &testing.T{}
	seed(2, tcpListener(t))
	seed(2, httpListener(t, &httprbacv3.RBAC{}))
	seed(3, &routev3.RouteConfiguration{Name: "r", VirtualHosts: []*routev3.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "r"}}},
	}}}}})
	seed(4, &tlsv3.Secret{Name: "r"})
	stormtest.Fuzz(f, func(t *testing.T, kind uint8, value []byte) {
		w := newWorld(time.Now)
		url := types[int(kind)%len(types)]
		take := func() error {
			return w.update(url, map[string]named{"r": {"1", &anypb.Any{TypeUrl: url, Value: value}}}, nil)
		}
		err := take()
		if has := w.version[url]["r"] != ""; has != (err == nil) {
			t.Fatalf("%s: %v, and yet it is there: %v", url, err, has)
		}
		again := take()
		if (err == nil) != (again == nil) {
			t.Fatalf("%s: %v, then %v", url, err, again)
		}
		_ = w.needed()
		_ = w.assemble()
	})
}
