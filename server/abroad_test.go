// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/memnet"
)

// eventually waits for something of the server's catalog: want is asked again after each change of what it reads.
func (r *running) eventually(what string, want func(*catalog.Txn) bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for {
		txn := r.store.Read().Record()
		if want(txn) {
			return
		}
		if err := r.store.WaitChange(ctx, txn); err != nil {
			r.t.Fatalf("%s: %v", what, err)
		}
	}
}

// abroad are the instances of a service of another datacenter that r knows, as "node address status".
func abroadOf(txn *catalog.Txn, dc, service string) string {
	list, err := txn.ConnectInstances(catalog.Scope{}.Default(dc).Name(service))
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, i := range list {
		host, port := i.Address()
		out = append(out, fmt.Sprintf("%s %s:%d %s", i.Service.Node, host, port, i.Status()))
	}
	return strings.Join(out, ", ")
}

const sidecarAway = `{"Node":"far","Address":"10.9.0.1","TaggedAddresses":{"wan":"192.0.2.9"},"Service":{"ID":"api-sidecar-proxy","Service":"api-sidecar-proxy",
	"Kind":"connect-proxy","Port":21009,"Proxy":{"DestinationServiceName":"api","LocalServicePort":80,"Upstreams":[{"DestinationName":"x","LocalBindPort":1,"Datacenter":"dc1"}]}},
	"Checks":[{"Name":"up","Status":"%s","ServiceID":"api-sidecar-proxy"}]}`

// What is called in another datacenter is known here as it changes there, stays as it was known while the way there is cut, marked, and
// goes when nobody calls it any more.
func TestServicesOfAnotherDatacenter(t *testing.T) {
	w := &world{t: t, net: memnet.New()}
	one, two := w.server("dc1", "10.0.0.1"), w.server("dc2", "10.0.0.2")
	two.do("PUT", "/v1/catalog/register", fmt.Sprintf(sidecarAway, "passing"), 200, "true")
	h := one.do("PUT", "/v1/config", `{"Kind":"service-resolver","Name":"api","Failover":{"*":{"Datacenters":["dc2"]}}}`, 200, "true")
	if got := h.Get("X-Weft-Warning"); !strings.Contains(got, `Failover["*"].Datacenters[0]`) || !strings.Contains(got, `"dc2" is known`) {
		t.Errorf("warning %q", got)
	}
	explain := "/v1/weft/explain?source=web&destination=api&method=GET&path=/"
	fault := func(want bool) func(*catalog.Txn) bool {
		return func(txn *catalog.Txn) bool {
			i, err := txn.Import(catalog.Scope{}.Default("dc2").Name("api"))
			return err == nil && i != nil && (i.Fault != "") == want
		}
	}
	one.eventually("it says that there is no way", fault(true))
	one.do("GET", explain, "", 200, `no server of datacenter \"dc2\" is known`)
	w.meet(one, two)
	one.eventually("it is imported", func(txn *catalog.Txn) bool {
		return abroadOf(txn, "dc2", "api") == "far 192.0.2.9:21009 passing" && fault(false)(txn)
	})
	list, _ := one.store.Read().ConnectInstances(catalog.Scope{}.Default("dc2").Name("api"))
	if p := list[0].Service.Proxy; len(p.Upstreams) > 0 || p.LocalServicePort != 80 {
		t.Errorf("what only its own proxy needs is here: %+v", p)
	}
	two.do("PUT", "/v1/catalog/register", fmt.Sprintf(sidecarAway, "critical"), 200, "true")
	one.eventually("its health is followed", func(txn *catalog.Txn) bool {
		return abroadOf(txn, "dc2", "api") == "far 192.0.2.9:21009 critical"
	})
	one.do("GET", "/v1/catalog/nodes", "", 200, "[]")
	one.do("GET", "/v1/discovery-chain/api?compile-dc=dc2", "", 200, `"Datacenter":"dc2"`)
	_ = w.webs["dc2"].Close()
	one.eventually("the cut is noted", fault(true))
	if got := abroadOf(one.store.Read(), "dc2", "api"); got != "far 192.0.2.9:21009 critical" {
		t.Errorf("after the cut: %s", got)
	}
	one.do("GET", explain, "", 200, "nothing was heard of it since")
	one.do("DELETE", "/v1/config/service-resolver/api", "", 200, "")
	one.eventually("it goes", func(txn *catalog.Txn) bool { return abroadOf(txn, "dc2", "api") == "" })
}
