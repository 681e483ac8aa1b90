// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"fmt"
	"net"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// exposed renders what is reachable in the clear and without an identity: a listener for each such path, beside the public one at host
// and port, from which that path alone leads to the application.
func (r *renderer) exposed(host string, port int) error {
	expose := r.in.Proxy.Proxy.Expose.Over(r.defaults().Expose)
	if r.g.Global != nil {
		expose = expose.Over(r.g.Global.Expose)
	}
	taken, clusters := map[int]string{port: "the public listener"}, map[string]bool{}
	for _, p := range expose.Paths {
		p.Protocol = cmp.Or(p.Protocol, catalog.ProtocolHTTP)
		if by := taken[p.ListenerPort]; by != "" {
			r.warn("proxy %s: path %s can't be exposed at port %d: it is that of %s", r.in.Proxy.ID, p.Path, p.ListenerPort, by)
			continue
		}
		taken[p.ListenerPort] = "path " + p.Path
		cluster := fmt.Sprintf("exposed_cluster_%d", p.LocalPathPort)
		if p.Protocol == catalog.ProtocolHTTP2 {
			cluster += "_http2"
		}
		if !clusters[cluster] {
			clusters[cluster] = true
			if err := r.exposedCluster(cluster, p); err != nil {
				return err
			}
		}
		if err := r.exposedPath(host, cluster, p); err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) exposedPath(host, cluster string, p catalog.ExposePath) error {
	name := "exposed_path:" + net.JoinHostPort(host, strconv.Itoa(p.ListenerPort))
	meta, err := r.metadata(routeInfoKey, &proxyv1.RouteInfo{Source: "exposed path " + p.Path, Service: ref(r.g.Service, "")})
	if err != nil {
		return err
	}
	timeout := millis(0, r.setting("local_request_timeout_ms", r.defaults().LocalRequestTimeoutMs))
	route := &routev3.Route{
		Match:    &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: p.Path}},
		Metadata: meta,
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}, Timeout: durationpb.New(timeout),
		}},
	}
	err = r.add(RouteType, name, &routev3.RouteConfiguration{
		Name: name, ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: []*routev3.Route{route}}},
	})
	if err != nil {
		return err
	}
	log, err := r.accessLogs()
	if err != nil {
		return err
	}
	f, err := r.manager("exposed_path", name, p.Protocol, false, false, log, nil)
	if err != nil {
		return err
	}
	return r.listener(name, socket(host, p.ListenerPort), corev3.TrafficDirection_UNSPECIFIED, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{f}}, "")
}

// exposedCluster is the application at the port of an exposed path.
func (r *renderer) exposedCluster(name string, p catalog.ExposePath) error {
	c, err := r.application(name, p.Protocol, false, socket(r.localHost(), p.LocalPathPort))
	if err != nil {
		return err
	}
	return r.add(ClusterType, name, c)
}
