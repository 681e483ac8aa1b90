// SPDX-License-Identifier: Apache-2.0

// Package sync brings the catalog in line with what a host wants. The difference is a plain function; the loop sends it as
// one command with a result per item, at each change and at intervals. It touches only records that the agent owns. The
// loop's goroutine is its caller's.
package sync

import (
	"reflect"
	"slices"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
)

// Host is what the catalog has of this host: services and checks by their key, see inNamespace.
type Host struct {
	Node     *catalog.Node // nil: unknown
	Services map[string]*catalog.Service
	Checks   map[string]*catalog.Check
}

// inNamespace is an ID as the catalog tells it apart from the same one in another namespace: in the default one it is the ID itself. A host's
// own IDs are the same over all namespaces.
func inNamespace(namespace, id string) string {
	if namespace == "" || namespace == catalog.DefaultNamespace {
		return id
	}
	return id + "\x00" + namespace
}

// away is the namespace of a removal, "" for the default one.
func away(namespace string) string {
	if namespace == catalog.DefaultNamespace {
		return ""
	}
	return namespace
}

// Item is one part of a difference, and the token that it is sent with.
type Item struct {
	catalog.SyncItem
	Token string
	Label string // for logs, as "service web"
}

// Diff is what makes have equal to wanted: services before their checks, removals last. With outputs false, a check that
// changed nothing but its output is left as it is. Records of other owners stay.
func Diff(wanted *local.Wanted, have *Host, outputs bool) []Item {
	var items []Item
	for _, id := range picked(wanted.Services, func(id string, w *local.Service) bool {
		h, ok := have.Services[inNamespace(w.Record.Namespace, id)]
		return !ok || !sameService(w.Record, h)
	}) {
		w := wanted.Services[id]
		items = append(items, Item{catalog.SyncItem{Service: w.Record}, w.Token, "service " + id})
	}
	for _, id := range picked(wanted.Checks, func(id string, w *local.Check) bool {
		h, ok := have.Checks[inNamespace(w.Record.Namespace, id)]
		return !ok || !sameCheck(w.Record, h, outputs)
	}) {
		w := wanted.Checks[id]
		items = append(items, Item{catalog.SyncItem{Check: w.Record}, w.Token, "check " + id})
	}
	for _, key := range picked(have.Checks, func(_ string, h *catalog.Check) bool {
		w, ok := wanted.Checks[h.CheckID]
		keep := ok && inNamespace(w.Record.Namespace, "") == inNamespace(h.Namespace, "")
		return !keep && h.Owner == local.Owner && !removed(wanted, have, h)
	}) {
		h := have.Checks[key]
		items = append(items, Item{catalog.SyncItem{DeleteCheck: h.CheckID, Namespace: away(h.Namespace)}, "", "removal of check " + h.CheckID})
	}
	for _, key := range picked(have.Services, func(_ string, h *catalog.Service) bool { return !kept(wanted, h) && h.Owner == local.Owner }) {
		h := have.Services[key]
		items = append(items, Item{catalog.SyncItem{DeleteService: h.ID, Namespace: away(h.Namespace)}, "", "removal of service " + h.ID})
	}
	return items
}

// kept says whether a service is still wanted where the catalog has it.
func kept(wanted *local.Wanted, h *catalog.Service) bool {
	w, ok := wanted.Services[h.ID]
	return ok && inNamespace(w.Record.Namespace, "") == inNamespace(h.Namespace, "")
}

// picked are the IDs of what a condition holds for, sorted: a few of very many as a rule, so that sorting them all was most of what a
// difference cost.
func picked[T any](of map[string]T, holds func(id string, v T) bool) []string {
	var ids []string
	for id, v := range of {
		if holds(id, v) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// removed says whether a check's service is one that the difference removes: its checks go with it.
func removed(wanted *local.Wanted, have *Host, c *catalog.Check) bool {
	h, ok := have.Services[inNamespace(c.Namespace, c.ServiceID)]
	return ok && !kept(wanted, h) && h.Owner == local.Owner
}

// NodeDiffers says whether the node's own record has to be sent.
func NodeDiffers(wanted, have *catalog.Node) bool {
	if have == nil {
		return true
	}
	w, h := *wanted, *have
	w.Indexes, h.Indexes = catalog.Indexes{}, catalog.Indexes{}
	return !same(w, h)
}

// What was sent is remembered as it is, so that on a host with very many services an unchanged one costs a comparison of
// two pointers.

func sameService(w, h *catalog.Service) bool {
	if w == h {
		return true
	}
	a, b := *w, *h
	a.Indexes, b.Indexes = catalog.Indexes{}, catalog.Indexes{}
	b.VirtualIP = a.VirtualIP // the catalog's affair
	if b.EnableTagOverride {
		a.Tags = b.Tags // others may change the tags in the catalog
	}
	return same(a, b)
}

func sameCheck(w, h *catalog.Check, outputs bool) bool {
	if w == h {
		return true
	}
	a, b := *w, *h
	a.Indexes, b.Indexes = catalog.Indexes{}, catalog.Indexes{}
	if !outputs {
		a.Output = b.Output
	}
	return same(a, b)
}

// same compares records as the catalog would store them, so that an empty list equals none.
func same[T any](a, b T) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, xerr := catalog.Canonical(a)
	y, yerr := catalog.Canonical(b)
	return xerr == nil && yerr == nil && string(x) == string(y)
}
