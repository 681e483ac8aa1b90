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

// mayShare demands the mesh: a set changes who may call services of all names, whatever its own is.
func mayShare(r *api.Request, kind string) error {
	if !catalog.ShareKind(kind) {
		return nil
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
