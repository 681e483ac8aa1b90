// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// nearIP is the value of near for the node that has the client's own address.
const nearIP = "_ip"

// nearFirst sorts a list by how near its nodes are to the one that near names, by network coordinates: that node itself first, and
// those last, in their order, that have no coordinate. near "" sorts
// nothing.
func nearFirst[T any](t *catalog.Txn, r *api.Request, near string, list []T, node func(T) string) error {
	if near == nearIP {
		nodes, err := t.Nodes(r.Options.Scope)
		if err != nil {
			return err
		}
		client, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
		for _, n := range nodes {
			if n.Address == strings.TrimSpace(client) {
				near = n.Node
			}
		}
	}
	if near == "" || near == nearIP {
		return nil
	}
	distance := t.DistanceFrom(r.Options.Scope, near)
	known := map[string]time.Duration{}
	away := func(v T) time.Duration {
		name := node(v)
		if strings.EqualFold(name, near) {
			return -1 // itself
		}
		d, ok := known[name]
		if !ok {
			if d, ok = distance(name); !ok {
				d = math.MaxInt64 // nobody knows where it is
			}
			known[name] = d
		}
		return d
	}
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(away(a), away(b)) })
	return nil
}
