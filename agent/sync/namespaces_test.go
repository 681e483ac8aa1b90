// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"testing"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
)

// A service that moves to another namespace is written there, and removed where it was; then there is nothing to do.
func TestDiffNamespaces(t *testing.T) {
	moved, beat := *service("s", local.Owner, 1), *check("c", "s", local.Owner, catalog.HealthPassing, "")
	moved.Namespace, beat.Namespace = "red", "red"
	wanted := &local.Wanted{
		Services: map[string]*local.Service{"s": {Record: &moved}}, Checks: map[string]*local.Check{"c": {Record: &beat}},
	}
	have := &Host{
		Services: map[string]*catalog.Service{"s": service("s", local.Owner, 1)},
		Checks:   map[string]*catalog.Check{"c": check("c", "s", local.Owner, catalog.HealthPassing, "")},
	}
	items := Diff(wanted, have, true)
	if len(items) != 3 || items[0].Service != &moved || items[1].Check != &beat || items[2].DeleteService != "s" || items[2].Namespace != "" {
		t.Fatalf("%+v", items)
	}
	for _, i := range items {
		have.take(i.SyncItem)
	}
	if again := Diff(wanted, have, true); len(again) != 0 {
		t.Errorf("a second difference: %+v", again)
	}
	items = Diff(&local.Wanted{}, have, true)
	if len(items) != 1 || items[0].DeleteService != "s" || items[0].Namespace != "red" {
		t.Fatalf("%+v", items)
	}
	have.take(items[0].SyncItem)
	if len(have.Services)+len(have.Checks) != 0 {
		t.Errorf("what is left: %+v", have)
	}
}
