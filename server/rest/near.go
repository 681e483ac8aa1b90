// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// nearIP is the value of near for the node that has the client's own address.
const nearIP = "_ip"

// nearFirst sorts a list by how near its nodes are to the one that near names; the others stay in their order behind. near "" sorts
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
	away := func(v T) int {
		if strings.EqualFold(node(v), near) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(away(a), away(b)) })
	return nil
}
