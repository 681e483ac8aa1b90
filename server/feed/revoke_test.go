// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// revocable lets everybody do everything until it is set; from then on a service's topics are nobody's.
type revocable struct{ revoked atomic.Bool }

func (r *revocable) Resolve(context.Context, string) (api.Subject, error) { return r, nil }
func (r *revocable) In(string) api.Subject                                { return r }
func (r *revocable) String() string                                       { return "somebody" }
func (r *revocable) Allow(p api.Permission, _ string) error {
	if p.Resource == "service" && r.revoked.Load() {
		return fmt.Errorf("%w: revoked", api.ErrDenied)
	}
	return nil
}

// What a token follows ends with the token, on a stream that is open, and comes back with it. A new token changes nothing of
// what others follow.
func TestRevocationEndsTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &revocable{}
		w := newWorld(t, Config{Resolver: who}, 0)
		w.register("web", 80)
		token := func(create bool, description string) catalog.SetACL {
			return catalog.SetACL{Create: create, Objects: []catalog.ACLObject{{Token: &catalog.ACLToken{AccessorID: "a", SecretHash: "h", Description: description}}}}
		}
		s := w.open(topicsOf("web"))
		defer w.end(s)
		w.drain(s)
		if whole, _, _ := w.since(); !slices.Contains(whole, "web") {
			t.Fatalf("sent %v", whole)
		}
		who.revoked.Store(true)
		w.apply(token(true, "new"))
		w.drain(s)
		if _, dropped, _ := w.since(); len(dropped) > 0 {
			t.Errorf("a new token had %v dropped", dropped)
		}
		w.apply(token(false, "changed"))
		w.drain(s)
		if _, dropped, _ := w.since(); !slices.Contains(dropped, "web") {
			t.Errorf("after the revocation only %v is dropped", dropped)
		}
		w.register("web", 81)
		w.drain(s)
		if _, _, items := w.since(); items > 0 {
			t.Error("changes are still sent")
		}
		who.revoked.Store(false)
		w.apply(token(false, "again"))
		w.drain(s)
		if whole, _, _ := w.since(); !slices.Contains(whole, "web") {
			t.Errorf("with the token again: %v", whole)
		}
		w.agrees("web")
	})
}
