// SPDX-License-Identifier: Apache-2.0

// Package api is what the two sides of the HTTP API share: the table of routes with the permission that each needs, the
// subject that asks, query options, the one engine for blocking queries, and the one table of errors. Agents and servers
// bind their handlers to the table; this package answers nothing by itself and owns no goroutine.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// Side is who answers a route.
type Side uint8

// The sides: the agent of the host that was asked, or any server.
const (
	Agent Side = iota
	Server
)

// Access is what is done to a resource.
type Access string

// The accesses.
const (
	Read  Access = "read"
	List  Access = "list"
	Write Access = "write"
	// WritePrefix is to write everything below a name, as a recursive delete does.
	WritePrefix Access = "write-prefix"
	// ReadPrefix is to read everything below a name: nothing has to be asked one by one then.
	ReadPrefix Access = "read-prefix"
)

// Permission is what a caller needs: an access to a kind of resource. The zero Permission is "none".
type Permission struct {
	Resource string // "service", "node", "agent", "intentions", "operator", "mesh"
	Access   Access
}

func (p Permission) String() string {
	if p.Resource == "" {
		return "none"
	}
	return p.Resource + ":" + string(p.Access)
}

// Extract says where the name of the resource stands.
type Extract string

// The places. Path, Query and Config are read before the handler runs; InBody, Listed and ByHandler oblige the handler to
// call Request.Authorize, or to filter what it lists.
const (
	Nothing   Extract = ""        // the permission is about no single name
	PathName  Extract = "path"    // path value "name"
	QueryName Extract = "query"   // query parameter "name"
	InBody    Extract = "body"    // the handler reads the body first
	Listed    Extract = "list"    // the answer is a list, filtered by name: see Filter
	ByHandler Extract = "handler" // the handler looks the name up
)

// Route is one row of the table: a method and a path, who answers it, and what it needs.
type Route struct {
	Method  string
	Path    string // of http.ServeMux, as /v1/catalog/service/{name}
	Side    Side
	Need    Permission
	Extract Extract
	Filter  string // which names of a listed answer are checked: "service", "node", "intentions"
	// Blocking says that the route takes index and wait.
	Blocking bool
}

// Name is the route's name: its method and path.
func (r Route) Name() string { return r.Method + " " + r.Path }

// Subject is who asks.
type Subject interface {
	// Allow is nil if the subject has this permission on the resource of this name ("" for all), else an error that wraps
	// ErrDenied and says what is missing.
	Allow(p Permission, name string) error
	// In is the same subject asked about what is in a namespace. As a Resolver gives it, it is asked about the default one.
	In(namespace string) Subject
	// String names the subject for logs, without any secret.
	String() string
}

// Resolver finds the subject that a token stands for; an unknown token is an error that wraps ErrDenied.
type Resolver interface {
	Resolve(ctx context.Context, token string) (Subject, error)
}

// Open is the Resolver and Subject of a cluster whose ACLs are off: everybody may do everything.
type Open struct{}

// Resolve takes any token.
func (Open) Resolve(context.Context, string) (Subject, error) { return Open{}, nil }

// Allow allows.
func (Open) Allow(Permission, string) error { return nil }

// In is the same: everybody may do everything in every namespace.
func (Open) In(string) Subject { return Open{} }

func (Open) String() string { return "anyone (ACLs are off)" }

// Request is an HTTP request whose caller is known.
type Request struct {
	*http.Request
	Subject Subject
	Options Options
	route   Route
	hidden  bool         // something that was asked for wasn't shown
	named   bool         // its query or header names a namespace
	again   func() error // asks anew who asks, and whether they may: a token may be revoked while its request waits
}

// Route is the row of the table.
func (r *Request) Route() Route { return r.route }

// Again asks anew who asks, and whether they may: a token may be revoked, or its rules change, while its request waits or is answered piece by piece.
func (r *Request) Again() error {
	if r.again == nil { // a request that no mux made is asked once
		return nil
	}
	return r.again()
}

// Lost says why who asks may no more, if that is certain: that nobody can tell just now ends no answer.
func (r *Request) Lost() error {
	if err := r.Again(); errors.Is(err, ErrDenied) || errors.Is(err, ErrTokenUnknown) {
		return err
	}
	return nil
}

// AgainEach is how often an answer that goes on and on is asked about anew.
const AgainEach = 500 * time.Millisecond

// Authorize checks the route's permission on a name that the handler found.
func (r *Request) Authorize(name string) error { return r.Subject.Allow(r.route.Need, name) }

// Visible says whether a listed thing of this name may be shown.
func (r *Request) Visible(name string) bool { return r.visibleTo(r.Subject, name) }

func (r *Request) visibleTo(s Subject, name string) bool {
	if s.Allow(Permission{r.route.Filter, Read}, name) != nil && !guard.Off("C99") {
		r.hidden = true
		return false
	}
	return true
}

// Sees says whether something may be shown that an answer holds besides what its route is about: a node's services.
func (r *Request) Sees(resource, name string) bool {
	if r.Subject.Allow(Permission{resource, Read}, name) != nil {
		r.hidden = true
		return false
	}
	return true
}

// SeesAll says whether everything of a resource may be shown, so that Sees is true of each.
func (r *Request) SeesAll(resource string) bool {
	return r.Subject.Allow(Permission{resource, ReadPrefix}, "") == nil
}

// Handler answers a request. An error is turned into an answer by the error table, unless something was written.
type Handler func(w http.ResponseWriter, r *Request) error

// MuxConfig is what a mux is made of.
type MuxConfig struct {
	Side       Side
	Resolver   Resolver
	Datacenter string
	// Node is the agent's: what permissions on the agent, or on its node, are about. A server has none.
	Node string
	// Handlers has exactly the routes of Side, by name.
	Handlers map[string]Handler
	// Before runs before each handler, once the caller is known; nil: nothing does. Its error is the answer.
	Before func(r *Request) error
	// Forward answers the routes of the other side; nil: they are unknown.
	Forward http.Handler
	// DefaultACLPolicy is told in a header of every answer: "allow" or "deny"; "" tells nothing.
	DefaultACLPolicy string
	// MaxBody bounds a request's body, 0 for DefaultMaxBody; a longer one is 413.
	MaxBody int64
	// Pretty indents every JSON answer, as -dev does.
	Pretty bool
	// DefaultWait is how long a blocking query waits that doesn't say, MaxWait how long one may; 0 for those constants.
	DefaultWait, MaxWait time.Duration
	// Audit is told of writes and refusals; nil: nobody is.
	Audit *Audit
	// Compress compresses answers for those who accept gzip.
	Compress bool
	// Loopback refuses requests that a browser was tricked into: over loopback by a name that somebody else may own, or with a
	// foreign Origin. The other routes' answers don't differ.
	Loopback bool
	// Hosts are domains that names of this machine may be in, as nobody else can own them; nil: there are none.
	Hosts func() []string
}

// DefaultMaxBody is the bound of a request's body: what fits into one command.
const DefaultMaxBody = 8 << 20

// Mux routes requests of one side's table.
type Mux struct {
	c   MuxConfig
	mux *http.ServeMux
	zip compressor
	raw []rawPath // looked at first, the longest first
}

// rawPath is a path whose last part, "{name...}", may be any text: the mux would clean it of "//" and "..".
type rawPath struct {
	prefix   string
	handlers byMethod
	ours     bool // this side answers
}

// byMethod are the handlers of one path. The mux itself isn't asked to tell methods apart, since its patterns with methods
// conflict with more exact ones without.
type byMethod map[string]http.Handler

// NewMux binds handlers to routes. A route without a handler, or a handler without a route, is an error: what isn't in the
// table can't be reached, and what is in the table is answered.
func NewMux(c MuxConfig) (*Mux, error) {
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	m := &Mux{c: c, mux: http.NewServeMux()}
	bound, paths, ours := map[string]bool{}, map[string]byMethod{}, map[string]bool{}
	for _, r := range Routes {
		if r.Side != c.Side && c.Forward == nil {
			continue
		}
		if paths[r.Path] == nil {
			paths[r.Path] = byMethod{}
		}
		if r.Side != c.Side {
			paths[r.Path][r.Method] = c.Forward
			continue
		}
		h, ok := c.Handlers[r.Name()]
		if !ok {
			return nil, fmt.Errorf("api: no handler for %s", r.Name())
		}
		bound[r.Name()], ours[r.Path] = true, true
		paths[r.Path][r.Method] = m.serve(r, h)
	}
	for name := range c.Handlers {
		if !bound[name] {
			return nil, fmt.Errorf("api: the handler %q has no route in the table", name)
		}
	}
	for path, handlers := range paths {
		// The last part may hold slashes: IDs do, and clients don't escape them.
		if open, ok := strings.CutSuffix(path, "}"); ok && !strings.HasSuffix(path, "...}") {
			if last := path[strings.LastIndex(path, "/")+1:]; last == "{name}" || last == "{id}" {
				m.mux.Handle(open+"...}", handlers)
				continue
			}
		}
		if prefix, ok := strings.CutSuffix(path, "{name...}"); ok {
			m.raw = append(m.raw, rawPath{prefix, handlers, ours[path]})
			continue
		}
		m.mux.Handle(path, handlers)
	}
	slices.SortFunc(m.raw, func(a, b rawPath) int { return len(b.prefix) - len(a.prefix) })
	m.mux.HandleFunc("/", unknownPath)
	return m, nil
}

// ServeHTTP routes a request.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	noSniff(w)
	if i := strings.IndexFunc(r.URL.Path, unprintable); i >= 0 && !guard.Off("C102") {
		http.Error(w, "the path has a character that can't be printed", http.StatusBadRequest)
		return
	}
	if strings.ContainsAny(r.URL.RawQuery, "%;") {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			http.Error(w, "the query string can't be read: "+err.Error(), http.StatusBadRequest)
			return
		}
	}
	if m.c.Loopback && m.tricked(r) {
		http.Error(w, "refused: this API answers no request that another site's page makes; use the address, or add the name to http_config.allow_hosts; and no Origin",
			http.StatusForbidden)
		m.c.Audit.request("refused before its route: another site's page", "", r, nil, http.StatusForbidden, nil)
		return
	}
	if m.c.Compress {
		var end func()
		w, end = m.zip.wrap(w, r)
		defer end()
	}
	escaped := r.URL.EscapedPath()
	for _, p := range m.raw {
		if strings.HasPrefix(escaped, p.prefix) {
			if p.ours { // else the other side does it
				r.SetPathValue("name", r.URL.Path[len(p.prefix):]) // nothing in the prefix is ever escaped
			}
			p.handlers.ServeHTTP(w, r)
			return
		}
	}
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path && r.URL.Query().Has("token") {
		http.Error(w, "the path has empty parts or dots: ask for "+clean+" itself, since a redirect would have the token in it", http.StatusBadRequest)
		return
	}
	m.mux.ServeHTTP(w, r)
}

func unprintable(r rune) bool { return r < 0x20 || r == 0x7f }

func (m *Mux) serve(route Route, h Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		aw := &answer{ResponseWriter: w, pretty: m.c.Pretty || QueryOf(r).Has("pretty")}
		if m.c.DefaultACLPolicy != "" {
			w.Header().Set("X-Consul-Default-ACL-Policy", m.c.DefaultACLPolicy)
		}
		if BodyLimit(r) >= 0 && r.Body != http.NoBody {
			if r.ContentLength > m.c.MaxBody {
				writeError(aw, &http.MaxBytesError{Limit: m.c.MaxBody})
				return
			}
			if r.ContentLength <= 0 { // else nobody gets to see more of it than it says
				r.Body = http.MaxBytesReader(w, r.Body, m.c.MaxBody)
			}
		}
		req, err := m.request(route, r)
		if err == nil && m.c.Before != nil {
			err = m.c.Before(req)
		}
		if err == nil {
			aw.of = req
			err = h(aw, req)
		}
		if err != nil && !aw.wrote {
			writeError(aw, err)
		}
		if m.c.Audit != nil {
			var who Subject
			namespace := ""
			if req != nil {
				who, namespace = req.Subject, req.Options.Scope.Namespace
			}
			m.c.Audit.request(route.Name(), namespace, r, who, cmp.Or(aw.code, http.StatusOK), err)
		}
	}
}

func (m *Mux) request(route Route, r *http.Request) (*Request, error) {
	subject, err := m.c.Resolver.Resolve(r.Context(), TokenOf(r))
	if err != nil {
		return nil, err
	}
	req := &Request{Request: r, Subject: subject, route: route}
	req.again = func() error {
		subject, err := m.c.Resolver.Resolve(r.Context(), TokenOf(r))
		if err != nil {
			return err
		}
		req.Subject, req.hidden = bound(subject, req.Options.Scope.Namespace), false
		return m.allow(req)
	}
	if req.Options, err = parseOptions(r, m.c.Datacenter); err != nil {
		return req, err
	}
	req.Options.bound(m.c.DefaultWait, m.c.MaxWait)
	req.named = namesNamespace(r)
	if err := req.Within(""); err != nil {
		return req, err
	}
	if what := missing(route, r); what != "" {
		return req, bad("Missing %s", what)
	}
	return req, m.allow(req)
}

// allow checks what the route asks for of a name that is known before its handler runs.
func (m *Mux) allow(r *Request) error {
	if guard.Off("C98") || guard.Off("C112") {
		return nil
	}
	switch r.route.Extract {
	case Nothing:
		about := ""
		if r.route.Need.Resource == "agent" || r.route.Need.Resource == "node" {
			about = m.c.Node
		}
		return r.Subject.Allow(r.route.Need, about)
	case PathName:
		return r.Subject.Allow(r.route.Need, r.PathValue("name"))
	case QueryName:
		return r.Subject.Allow(r.route.Need, r.URL.Query().Get("name"))
	}
	return nil
}

// missing is what a path that ends in a name says nothing of; "" if all is there.
func missing(route Route, r *http.Request) string {
	switch {
	case strings.HasSuffix(route.Path, "/{name}") && r.PathValue("name") == "":
		if strings.HasPrefix(route.Path, "/v1/health/state/") {
			return "check state"
		}
		if route.Need.Resource == "node" || strings.HasPrefix(route.Path, "/v1/session/") {
			return "node name"
		}
		return "service name"
	case strings.HasSuffix(route.Path, "/{id}") && r.PathValue("id") == "":
		if route.Need.Resource == "session" {
			return "session"
		}
		return "ID"
	}
	return ""
}

func (b byMethod) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if h, ok := b[method]; ok {
		h.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Allow", strings.Join(append([]string{http.MethodOptions}, slices.Sorted(maps.Keys(b))...), ","))
	if r.Method != http.MethodOptions {
		http.Error(w, fmt.Sprintf("method %s not allowed", r.Method), http.StatusMethodNotAllowed)
	}
}

func unknownPath(w http.ResponseWriter, r *http.Request) {
	text := "Invalid URL path: not a recognized HTTP API endpoint"
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		text += "; the API's paths begin with /v1/"
	}
	http.Error(w, text, http.StatusNotFound)
}

// TokenOf is the token that a request carries, "" for none.
func TokenOf(r *http.Request) string {
	if t := QueryOf(r).Get("token"); t != "" {
		return t
	}
	if t := r.Header.Get("X-Consul-Token"); t != "" {
		return t
	}
	if scheme, t, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(t)
	}
	return ""
}

// ErrTokenUnknown marks a token that nobody has, or whose time is over.
var ErrTokenUnknown = errors.New("ACL not found") //nolint:staticcheck // Consul's text

// ErrDenied marks a request that its subject may not make.
var ErrDenied = errors.New("Permission denied") //nolint:staticcheck // Consul's text
