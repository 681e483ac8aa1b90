// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"testing"
)

// Kinds of config entry that are only kept say so, are served, and can be listed; what gateways and exports name is resolved.
func TestGatewaysAndUI(t *testing.T) {
	r := start(t, "")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PUT", "/v1/catalog/register", strings.Replace(web, `"Node":"n1"`, `"ID":"0f2b1c3d-0000-4000-8000-000000000001","Node":"n1"`, 1), 200, `true`},
		{"PUT", "/v1/catalog/register", `{"Node":"n2","Address":"10.0.0.2","NodeMeta":{"rack":"r2"},"Service":{"Service":"gw","Kind":"ingress-gateway","Port":80}}`, 200, `true`},
		{"PUT", "/v1/catalog/register", `{"Node":"n2","Address":"10.0.0.2","NodeMeta":{"rack":"r2"},"Service":{"Service":"db","Port":81,"Tags":["b"]}}`, 200, `true`},
		{"PUT", "/v1/catalog/register", `{"Node":"n1","SkipNodeUpdate":true,"Service":{"Service":"web-proxy","Kind":"connect-proxy","Port":82,"Proxy":{"DestinationServiceName":"web","Upstreams":[{"DestinationName":"db"}]}}}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"ingress-gateway","Name":"gw","Listeners":[{"Port":8080,"Protocol":"http","Services":[{"Name":"*"}]},{"Port":9000,"Services":[{"Name":"db"}]}]}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"ingress-gateway","Name":"bad","Listeners":[{"Port":1,"Services":[{"Name":"a"},{"Name":"b"}]}]}`, 500, `Multiple services per listener`},
		{"PUT", "/v1/config", `{"Kind":"terminating-gateway","Name":"gw","Services":[{"Name":"db"}]}`, 500, `cannot create a "terminating-gateway" config entry with name "gw", a "ingress-gateway" config entry with that name already exists`},
		{"PUT", "/v1/config", `{"kind":"terminating-gateway","name":"out","services":[{"name":"db","ca_file":"/ca"},{"name":"*"}]}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"exported-services","Name":"default","Services":[{"Name":"*","Consumers":[{"Peer":"east"}]},{"Name":"db","Consumers":[{"SamenessGroup":"all"}]}]}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"sameness-group","Name":"all","Members":[{"Peer":"west"},{"Partition":"p1"}]}`, 200, `true`},
		{"PUT", "/v1/config", `{"Kind":"bound-api-gateway","Name":"x"}`, 500, `written by servers alone`},
		{"GET", "/v1/config/ingress-gateway/gw", "", 200, `"Kind":"ingress-gateway"`},
		{"GET", "/v1/config/terminating-gateway", "", 200, `"CAFile":"/ca"`},
		{"GET", "/v1/catalog/gateway-services/gw", "", 200, `[{"Gateway":{"Name":"gw"},"Service":{"Name":"db"},"GatewayKind":"ingress-gateway","Port":8080,"Protocol":"http","FromWildcard":true`},
		{"GET", "/v1/catalog/gateway-services/out?filter=Service.Name==web", "", 200, `[{"Gateway":{"Name":"out"},"Service":{"Name":"web"},"GatewayKind":"terminating-gateway","FromWildcard":true`},
		{"GET", "/v1/catalog/gateway-services/none", "", 200, `[]`},
		{"GET", "/v1/health/ingress/db", "", 200, `"Service":"gw"`},
		{"GET", "/v1/health/ingress/none", "", 200, `[]`},
		{"GET", "/v1/exported-services", "", 200, `[{"Service":"db","Consumers":{"Peers":["east","west"],"Partitions":["p1"]}},{"Service":"web","Consumers":{"Peers":["east"]}}]`},
		{"GET", "/v1/internal/ui/exported-services", "", 200, `"Service":"web"`},
		{"GET", "/v1/operator/usage", "", 200, `{"Usage":{"dc1":{"Nodes":2,"Services":4,"ServiceInstances":4,"ConnectServiceInstances":{"api-gateway":0,"connect-native":0,"connect-proxy":1,"ingress-gateway":1,`},
		{"GET", "/v1/internal/ui/nodes?filter=Node==n2", "", 200, `"Services":[{"ID":"db"`},
		{"GET", "/v1/internal/ui/node/n1", "", 200, `"Checks":[{"Node":"n1"`},
		{"GET", "/v1/internal/ui/node/none", "", 200, `null`},
		{"GET", "/v1/internal/ui/services", "", 200, `"Name":"db","Datacenter":"dc1","Tags":["b"],"Nodes":["n2"],"ExternalSources":[],"InstanceCount":1`},
		{"GET", "/v1/internal/ui/catalog-overview", "", 200, `"Checks":[{"Total":1,"Passing":1,"Warning":0,"Critical":0}]`},
		{"GET", "/v1/internal/ui/service-topology/web", "", 200, `"Upstreams":[{"Name":"db"`},
		{"GET", "/v1/internal/ui/service-topology/db", "", 200, `"Downstreams":[{"Name":"web"`},
		{"GET", "/v1/internal/ui/gateway-services-nodes/gw", "", 200, `"Name":"db"`},
		{"PUT", "/v1/connect/intentions/exact?source=web&destination=db", `{"Action":"allow"}`, 200, `true`},
		{"GET", "/v1/internal/ui/gateway-intentions/gw", "", 200, `"DestinationName":"db"`},
		{"GET", "/v1/internal/federation-states", "", 200, `[]`},
		{"GET", "/v1/internal/federation-states/mesh-gateways", "", 200, `{}`},
		{"POST", "/v1/discovery-chain/web", `{"OverrideProtocol":"http","OverrideConnectTimeout":"7s"}`, 200, `"ConnectTimeout":"7s"`},
		{"POST", "/v1/discovery-chain/web", `{"OverrideMeshGateway":{"Mode":"x"}}`, 400, `Invalid OverrideMeshGateway.Mode parameter`},
		{"GET", "/v1/catalog/services?node-meta=rack:r2", "", 200, `{"db":["b"],"gw":[]}`},
		{"GET", "/v1/catalog/services?filter=ServiceName==web", "", 200, `{"web":["a"]}`},
		{"GET", "/v1/catalog/node/0f2b1c3d", "", 200, `"Node":"n1"`},
		{"GET", "/v1/catalog/nodes?near=n2", "", 200, `[{"ID":"","Node":"n2"`},
		{"GET", "/v1/health/checks/web?node-meta=rack:r2", "", 200, `[]`},
	} {
		h := r.do(c.method, c.path, c.body, c.status, c.want)
		if warning := h.Get("X-Weft-Warning"); c.method == "PUT" && c.status == 200 && strings.HasPrefix(c.path, "/v1/config") && !strings.Contains(warning, "no effect yet") {
			t.Errorf("%s: warning %q", c.body, warning)
		}
	}
}
