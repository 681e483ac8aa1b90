// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// Reach is whom a service may call, as far as that is known before a request is.
type Reach struct {
	byDefault bool
	every     *bool           // what is said of all destinations
	said      map[string]bool // of one, by its name in lower case
}

// ReachOf reads what the intentions of its scope say of a source. Who isn't spoken of is reached as byDefault says. A rule that looks at
// requests counts as one that allows if any of its permissions does, and a destination whose rules are only audited is reached.
func ReachOf(t *catalog.Txn, src catalog.Key, byDefault bool) (Reach, error) {
	reach := Reach{byDefault: byDefault, said: map[string]bool{}}
	rules, err := MatchSource(t, src)
	if err != nil {
		return reach, err
	}
	for i := range rules { // the rule that is asked first is first
		r, yes := &rules[i], rules[i].mayAllow()
		if r.Destination.Name == catalog.Wildcard {
			if reach.every == nil {
				reach.every = &yes
			}
			continue
		}
		name := strings.ToLower(r.Destination.Name)
		if _, known := reach.said[name]; !known {
			reach.said[name] = yes
		}
	}
	entries, err := t.Entries(catalog.KindServiceIntentions, src.Scope)
	for _, e := range entries {
		if own, ok := e.(*catalog.ServiceIntentions); ok && own.Mode == catalog.ModeAudit {
			reach.said[strings.ToLower(own.Name)] = true
		}
	}
	return reach, err
}

// To says whether a service of the source's scope is reached.
func (r *Reach) To(service string) bool {
	if yes, ok := r.said[strings.ToLower(service)]; ok {
		return yes
	}
	if r.every != nil {
		return *r.every
	}
	return r.byDefault
}

func (r *Rule) mayAllow() bool {
	for _, p := range r.Permissions {
		if p.Action == catalog.ActionAllow {
			return true
		}
	}
	return len(r.Permissions) == 0 && r.Allow
}
