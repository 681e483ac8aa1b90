// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/api"
)

// mayWriteEntry says what writing an entry demands: the service's owner writes what is about it, who may change intentions those of a
// destination, and who may change the mesh what holds for services of all names.
func mayWriteEntry(r *api.Request, t *catalog.Txn, kind string, key catalog.Key) error {
	switch kind {
	case catalog.KindServiceDefaults, catalog.KindServiceRouter, catalog.KindServiceSplitter, catalog.KindServiceResolver,
		catalog.KindIngressEntry, catalog.KindTerminatingEntry, catalog.KindAPIGatewayEntry:
		return r.AuthorizeIn(key.Namespace, key.Name)
	case catalog.KindServiceIntentions:
		return inEach(t, key.Namespace, func(ns string) error {
			return r.In(ns).Allow(api.Permission{Resource: "intentions", Access: api.Write}, key.Name)
		})
	}
	return r.Subject.Allow(api.Permission{Resource: "mesh", Access: api.Write}, "")
}

// checkUnused refuses to delete a set that something refers to.
func checkUnused(t *catalog.Txn, entry catalog.Entry) error {
	if !catalog.ShareKind(entry.EntryKind()) {
		return nil
	}
	users, err := t.SetUsers(entry.EntryKind(), entry.Head().Key())
	if err != nil || len(users) == 0 {
		return err
	}
	var names []string
	for _, e := range users {
		names = append(names, e.EntryKind()+"/"+e.Head().Name)
	}
	slices.Sort(names)
	more := ""
	if len(names) > 8 {
		names, more = names[:8], fmt.Sprintf(" and %d more", len(names)-8)
	}
	return fmt.Errorf("%s %q can't be deleted, it is used by %s%s", entry.EntryKind(), entry.Head().Name, strings.Join(names, ", "), more)
}

// checkRules refuses intentions that refer to what isn't there.
func checkRules(t *catalog.Txn, key catalog.Key) error {
	_, err := intention.Match(t, key)
	return err
}
