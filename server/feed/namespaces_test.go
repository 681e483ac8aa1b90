// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// within is a subject that may do everything in one namespace, and nothing in others.
type within struct{ may, asked string }

func (w within) Resolve(context.Context, string) (api.Subject, error) { return w, nil }
func (w within) In(namespace string) api.Subject                      { return within{w.may, namespace} }
func (w within) String() string                                       { return "of " + w.may }
func (w within) Allow(p api.Permission, name string) error {
	if p.Resource == "node" || p.Resource == "" || w.asked == w.may {
		return nil
	}
	return fmt.Errorf("%w: %s on %q in %q", api.ErrDenied, p, name, w.asked)
}

// A proxy gets what is in its own namespace and what is for all, and of another namespace only what its token may read there: the rest it
// does without, and is told why.
func TestOtherNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(ns, name string) catalog.Key { return catalog.Scope{Namespace: ns}.Default("dc1").Name(name) }
		closure := func(t *catalog.Txn, _ *catalog.Service) error {
			var errs error
			for _, k := range []catalog.Key{in("red", "api"), in("blue", "api"), in("default", "api")} {
				_, err := t.ConnectInstances(k)
				errs = errors.Join(errs, err)
			}
			_, err := t.Entry(catalog.KindProxyDefaults, in("default", catalog.ProxyDefaultsName))
			_, err2 := t.Entry(catalog.KindServiceIntentions, in("*", "*"))
			return errors.Join(errs, err, err2)
		}
		w := newWorld(t, Config{Resolver: within{may: "red"}, Closure: closure}, 0)
		covered, why := w.told(catalog.Scope{Namespace: "red"}.Default("dc1"), "web")
		if got, want := strings.Join(covered, ", "), "ca /, connect red/api, entry */*, entry default/global"; got != want {
			t.Errorf("the proxy gets %s, want %s", got, want)
		}
		for _, ns := range []string{"blue", "default"} {
			if !strings.Contains(why, `"api" in "`+ns+`"`) {
				t.Errorf("nothing is said of %s: %s", ns, why)
			}
		}
	})
}

// writer is a subject that may write one service, and read what is named.
type writer struct{ writes, reads string }

func (w writer) Resolve(context.Context, string) (api.Subject, error) { return w, nil }
func (w writer) In(string) api.Subject                                { return w }
func (w writer) String() string                                       { return "writer of " + w.writes }
func (w writer) Allow(p api.Permission, name string) error {
	if p.Resource != "service" || name == w.writes || p.Access == serviceRead.Access && name == w.reads {
		return nil
	}
	return fmt.Errorf("%w: %s on %q", api.ErrDenied, p, name)
}

// Who may write a service gets the addresses of another only if he may read that, as from the health API; its config entries are no secret to its callers.
func TestAnothersInstances(t *testing.T) {
	for reads, want := range map[string]string{
		"api": "ca /, connect default/api, connect default/web, entry default/api, service default/api",
		"":    "ca /, connect default/web, entry default/api",
	} {
		synctest.Test(t, func(t *testing.T) {
			key := func(name string) catalog.Key { return catalog.Scope{}.Default("dc1").Name(name) }
			closure := func(t *catalog.Txn, _ *catalog.Service) error {
				_, err := t.ConnectInstances(key("API"))
				_, err2 := t.Instances(key("api"))
				_, err3 := t.ConnectInstances(key("web"))
				_, err4 := t.Entry(catalog.KindServiceResolver, key("api"))
				return errors.Join(err, err2, err3, err4)
			}
			w := newWorld(t, Config{Resolver: writer{writes: "Web", reads: reads}, Closure: closure}, 0)
			covered, why := w.told(catalog.Scope{}.Default("dc1"), "Web")
			if got := strings.Join(covered, ", "); got != want {
				t.Errorf("the proxy gets %s, want %s", got, want)
			}
			if (reads == "") != strings.Contains(why, `service:read on "api"`) {
				t.Errorf("it is told %q", why)
			}
		})
	}
}

// told is what is covered for a service's proxy, as "kind namespace/name", in order, and what the last error says.
func (w *world) told(scope catalog.Scope, service string) (covered []string, why string) {
	w.t.Helper()
	proxy, err := catalog.Canonical(catalog.Service{
		Scope: scope, ID: "p", Kind: catalog.KindConnectProxy, Proxy: &catalog.Proxy{DestinationServiceName: service},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s := w.open(&weftv1.Interest{Id: "p", Proxy: proxy})
	defer w.end(s)
	w.drain(s)
	for _, m := range w.got {
		for _, c := range m.GetCovered() {
			covered = append(covered, c.GetKind()+" "+c.GetNamespace()+"/"+c.GetName())
		}
		for _, e := range m.GetErrors() {
			why = e.GetMessage()
		}
	}
	slices.Sort(covered)
	return covered, why
}
