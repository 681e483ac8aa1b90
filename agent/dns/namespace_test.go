// SPDX-License-Identifier: Apache-2.0

package dns

import "testing"

// Names in namespaces, in each form; what one could take for something else is what it was before there were any.
func TestNamesInNamespaces(t *testing.T) {
	for name, want := range map[string]asked{
		"web.service.red.ns":                   {kind: kindService, name: "web", place: place{namespace: "red"}},
		"web.service.red.ns.default.ap.dc1.dc": {kind: kindService, name: "web", place: place{namespace: "red", partition: "default", dc: "dc1"}},
		"v1.web.service.red.ns.dc1.dc":         {kind: kindService, name: "web", tag: "v1", place: place{namespace: "red", dc: "dc1"}},
		"web.connect.red.ns":                   {kind: kindConnect, name: "web", place: place{namespace: "red"}},
		"web.virtual.red.ns":                   {kind: kindVirtual, name: "web", place: place{namespace: "red"}},
		"_web._tcp.service.red.ns":             {kind: kindService, name: "web", place: place{namespace: "red"}},
		"_web._tcp.service.red.dc1":            {kind: kindService, name: "web", place: place{namespace: "red", dc: "dc1"}},
		"n1.node.red.ns":                       {kind: kindNode, name: "n1", place: place{namespace: "red"}},
		"web.service.red.dc1":                  {kind: kindService, name: "web", place: place{namespace: "red", dc: "dc1"}},
		"v1.web.service.red.dc1":               {kind: kindService, name: "web", tag: "v1", place: place{namespace: "red", dc: "dc1"}},
		"web.service.red":                      {kind: kindService, name: "web", place: place{dc: "red"}},
		"web.service.a.service.dc1":            {kind: kindService, name: "a", tag: "web.service", place: place{dc: "dc1"}},
		"gw.ingress.default.ns":                {kind: kindIngress, name: "gw", place: place{namespace: "default"}},
		"gw.ingress.red.ns":                    {},
		"web.service.*.ns":                     {},
		"web.service.a_b.ns":                   {},
		"web.service.a_b.dc1":                  {},
		"_web._tcp.service.-x.ns":              {},
		"web.service.red.ns.blue.ns":           {},
		"n1.node.red.dc1":                      {},
	} {
		if got := parseName(name + "."); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}
