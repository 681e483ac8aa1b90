// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// DefaultNamespace is the namespace of a request that names none.
const DefaultNamespace = catalog.DefaultNamespace

// NamespaceHeader names the namespace that a request is about, where its query doesn't.
const NamespaceHeader = "X-Consul-Namespace"

// ValidNamespace says whether a namespace may have this name.
func ValidNamespace(name string) bool { return catalog.ValidNamespace(name) }

// namespaced are the routes that know namespaces; every other one refuses a request that names another than the default. It is true for
// those that take "*" too: they answer for all namespaces that the caller may read.
var namespaced = map[string]bool{
	"GET /v1/agent/services":                   true,
	"GET /v1/agent/service/{name}":             false,
	"GET /v1/agent/checks":                     true,
	"GET /v1/agent/health/service/id/{name}":   false,
	"GET /v1/agent/health/service/name/{name}": false,
	"PUT /v1/agent/service/register":           false,
	"PUT /v1/agent/services/register":          false,
	"PUT /v1/agent/service/deregister/{name}":  false,
	"PUT /v1/agent/service/maintenance/{name}": false,
	"PUT /v1/agent/check/register":             false,
	"PUT /v1/agent/check/deregister/{name}":    false,
	"PUT /v1/agent/check/pass/{name}":          false,
	"PUT /v1/agent/check/warn/{name}":          false,
	"PUT /v1/agent/check/fail/{name}":          false,
	"PUT /v1/agent/check/update/{name}":        false,
	"GET /v1/agent/connect/ca/leaf/{name}":     false,
	"POST /v1/agent/connect/authorize":         false,
	"GET /v1/agent/connect/proxy/{name}":       false,
	"GET /v1/agent/connect/proxies":            true,

	"PUT /v1/catalog/register":             false,
	"PUT /v1/catalog/deregister":           false,
	"GET /v1/catalog/nodes":                false,
	"GET /v1/catalog/services":             false,
	"GET /v1/catalog/service/{name}":       false,
	"GET /v1/catalog/connect/{name}":       false,
	"GET /v1/catalog/node/{name}":          false,
	"GET /v1/catalog/node-services/{name}": true,
	"GET /v1/health/node/{name}":           true,
	"GET /v1/health/checks/{name}":         false,
	"GET /v1/health/service/{name}":        false,
	"GET /v1/health/connect/{name}":        false,
	"GET /v1/health/state/{name}":          true,
	"PUT /v1/config":                       false,
	"GET /v1/config/{kind}":                true,
	"GET /v1/config/{kind}/{name}":         true, // of the one that is for all
	"DELETE /v1/config/{kind}/{name}":      true,
	"GET /v1/connect/intentions":           true,
	"POST /v1/connect/intentions":          false,
	"GET /v1/connect/intentions/exact":     false,
	"PUT /v1/connect/intentions/exact":     false,
	"DELETE /v1/connect/intentions/exact":  false,
	"GET /v1/connect/intentions/match":     false,
	"GET /v1/connect/intentions/check":     false,
	"GET /v1/connect/intentions/{id}":      false,
	"PUT /v1/connect/intentions/{id}":      false,
	"DELETE /v1/connect/intentions/{id}":   false,
	"GET /v1/discovery-chain/{name}":       false,
	"POST /v1/discovery-chain/{name}":      false,
	"GET /v1/kv/{name...}":                 false,
	"PUT /v1/kv/{name...}":                 false,
	"DELETE /v1/kv/{name...}":              false,
	"PUT /v1/txn":                          false,
	"PUT /v1/session/create":               false,
	"PUT /v1/session/destroy/{id}":         false,
	"PUT /v1/session/renew/{id}":           false,
	"GET /v1/session/info/{id}":            false,
	"GET /v1/session/list":                 false,
	"GET /v1/session/node/{name}":          false,
	"GET /v1/query/{id}/execute":           false,
	"GET /v1/weft/explain":                 false,
	"GET /v1/weft/proxies":                 true,
}

// Namespaced says whether the route knows namespaces, and whether it takes "*" for all of them.
func (r Route) Namespaced() (knows, all bool) {
	all, knows = namespaced[r.Name()]
	return knows, all
}

// NamespacedRoutes is how many routes are listed as knowing namespaces.
func NamespacedRoutes() int { return len(namespaced) }

// Within has the request be about a namespace from here on, which its query, header or body names, "" for what it is about already: whatever
// is authorised after it is authorised there. A route that doesn't know namespaces refuses another one than the default. So does one whose
// query or header names a namespace and whose body another.
func (r *Request) Within(namespace string) error {
	if namespace == "" {
		namespace = r.Options.Scope.Namespace
	}
	if r.named && namespace != r.Options.Scope.Namespace {
		return bad("Invalid namespace: the request is about %q, and its body names %q", r.Options.Scope.Namespace, namespace)
	}
	knows, all := r.route.Namespaced()
	switch {
	case namespace == DefaultNamespace:
	case !knows:
		return bad("Invalid namespace %q: %s knows the default namespace alone", namespace, r.route.Name())
	case namespace == catalog.Wildcard && !all:
		return bad("Invalid namespace %q: %s is about one namespace: name it", namespace, r.route.Name())
	case namespace != catalog.Wildcard && !ValidNamespace(namespace):
		return bad("Invalid namespace %q: want lower-case letters, digits and - within, at most 63", namespace)
	}
	r.Options.Scope.Namespace = namespace
	r.Subject = bound(r.Subject, namespace)
	return nil
}

// bound is a subject asked about a namespace. About all of them is decided one by one: see Request.In.
func bound(s Subject, namespace string) Subject {
	if namespace == catalog.Wildcard {
		return s
	}
	return s.In(namespace)
}

// NamespaceIn is the namespace of one of several things that a body holds: its own word, else the request's. It is refused as Within refuses it.
func (r *Request) NamespaceIn(given string) (string, error) {
	alone := &Request{Request: r.Request, Subject: r.Subject, Options: r.Options, route: r.route, named: r.named}
	err := alone.Within(given)
	return alone.Options.Scope.Namespace, err
}

// namesNamespace says whether a request's query or header names a namespace.
func namesNamespace(r *http.Request) bool {
	q := QueryOf(r)
	return q.Get("ns") != "" || q.Get("namespace") != "" || r.Header.Get(NamespaceHeader) != ""
}

// Elsewhere says whether the request names a namespace in which something isn't.
func (r *Request) Elsewhere(namespace string) bool { return r.named && !r.Asks(namespace) }

// In is who asks, asked about a namespace: for what a request names, or its answer holds, of another one than it is about.
func (r *Request) In(namespace string) Subject { return r.Subject.In(namespace) }

// Asks says whether what is in a namespace belongs in the answer: it is the one that the request is about, or it is about all.
func (r *Request) Asks(namespace string) bool {
	about := r.Options.Scope.Namespace
	return about == catalog.Wildcard || about == namespace
}

// AuthorizeIn checks the route's permission on a name in a namespace that the handler found.
func (r *Request) AuthorizeIn(namespace, name string) error {
	return r.In(namespace).Allow(r.route.Need, name)
}

// VisibleIn says whether a listed thing of this name in a namespace may be shown.
func (r *Request) VisibleIn(namespace, name string) bool { return r.visibleTo(r.In(namespace), name) }

// SeesIn is Sees for what is in a namespace.
func (r *Request) SeesIn(namespace, resource, name string) bool {
	if r.In(namespace).Allow(Permission{resource, Read}, name) != nil {
		r.hidden = true
		return false
	}
	return true
}

// Shown is a namespace as answers have it: none for the default one, so that who names none sees what it always saw.
func Shown(namespace string) string {
	if strings.EqualFold(namespace, DefaultNamespace) {
		return ""
	}
	return namespace
}
