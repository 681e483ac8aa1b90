// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// itself is the membership of a node that nobody else is with.
type itself Member

func (m itself) Members() []Member        { return []Member{Member(m)} }
func (m itself) Changed() <-chan struct{} { return nil }
func (m itself) ForceLeave(string) error  { return nil }

// TestAlone: a server that is alone (-dev) is in its catalog as every server is, with serfHealth, which sessions hang on, and the service
// consul; and autopilot's routes say that it is well.
func TestAlone(t *testing.T) {
	r := startWith(t, Config{
		DataDir: t.TempDir(), NodeID: "id1", Address: "127.0.0.1:8300", Alone: true,
		Members: itself{Name: "s1", ID: "id1", Datacenter: "dc1", Address: "127.0.0.1", Status: Alive, Server: true, ServerPort: 8300, Expect: 1},
	})
	r.eventually("the service consul", func(t *catalog.Txn) bool {
		services, err := t.NodeServices(catalog.Scope{}.Default("dc1").Name("s1"))
		return err == nil && len(services) == 1 && services[0].Service == "consul" && services[0].Port == 8300
	})
	r.do("GET", "/v1/health/node/s1", "", 200, `"CheckID":"serfHealth","Name":"Serf Health Status","Status":"passing"`)
	r.session(`{"Node":"s1"}`)
	r.do("GET", "/v1/session/list", "", 200, `"NodeChecks":["serfHealth"]`)
	r.do("GET", "/v1/operator/autopilot/health", "", 200, `"Healthy":true`)
	r.do("GET", "/v1/operator/autopilot/state", "", 200, `"Leader":"id1"`)
}
