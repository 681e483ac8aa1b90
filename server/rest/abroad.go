// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// unknownDatacenters warns of datacenters that a resolver names and nobody knows: they may be there later.
func unknownDatacenters(entry catalog.Entry, known []string) (warnings []string) {
	r, ok := entry.(*catalog.ServiceResolver)
	if !ok {
		return nil
	}
	look := func(field, dc string) {
		if dc != "" && !slices.Contains(known, dc) {
			warnings = append(warnings, fmt.Sprintf("%s: no server of datacenter %q is known: nobody can be called there until one is (known are %s)",
				field, dc, strings.Join(known, ", ")))
		}
	}
	if r.Redirect != nil {
		look("Redirect.Datacenter", r.Redirect.Datacenter)
	}
	for _, subset := range slices.Sorted(maps.Keys(r.Failover)) {
		f := r.Failover[subset]
		for i, dc := range f.Datacenters {
			look(fmt.Sprintf("Failover[%q].Datacenters[%d]", subset, i), dc)
		}
		for i, t := range f.Targets {
			look(fmt.Sprintf("Failover[%q].Targets[%d].Datacenter", subset, i), t.Datacenter)
		}
	}
	return warnings
}

// abroad says what is to be known of a target in another datacenter, "" for nothing.
func (h *handlers) abroad(t *catalog.Txn, target *chain.Target) (string, error) {
	if target.Peer != "" || target.Datacenter == t.Datacenter() {
		return "", nil
	}
	imported, err := t.Import(target.Key())
	switch {
	case err != nil:
		return "", err
	case !slices.Contains(h.c.Cluster.Datacenters(), target.Datacenter):
		return fmt.Sprintf("%s: no server of datacenter %q is known, so that nobody can be called there", target.ID, target.Datacenter), nil
	case imported == nil:
		return fmt.Sprintf("%s: the servers of datacenter %q haven't been asked for it yet", target.ID, target.Datacenter), nil
	case imported.Fault != "":
		return fmt.Sprintf("%s: nothing was heard of it since %s, its instances are those of then: %s", target.ID,
			imported.Since.UTC().Format(time.RFC3339), imported.Fault), nil
	}
	return "", nil
}
