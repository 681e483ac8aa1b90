// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// Request is what routes look at.
type Request struct {
	Method, Path      string // Path with its query
	Authority, Scheme string
	Header            http.Header
}

// Step is a route that was looked at.
type Step struct {
	Source  string
	Matched bool
	Why     string `json:",omitempty"` // it didn't match
}

// Way is where a request can go, and with which share.
type Way struct {
	Percent  float64
	Source   string // where the share was written
	Target   string // key in Chain.Targets
	Failover []string
}

// Walk is a request's way through a chain. It ends with an answer of the proxy's own, or with ways.
type Walk struct {
	Steps  []Step
	Route  string
	Answer string
	Ways   []Way
	// Path is the one that the target's side sees.
	Path string
}

// Walk follows a request of a caller through the chain, route by route. The error is a pattern that isn't valid RE2, which
// validation keeps out of the catalog.
func (c *Chain) Walk(from Caller, req Request) (*Walk, error) {
	w := &Walk{Path: req.Path}
	next := c.StartNode
	if n := c.Nodes[next]; n != nil && n.Type == TypeRouter {
		r, err := w.route(n, from, req)
		if err != nil {
			return nil, err
		}
		if next = r.NextNode; next == "" {
			return w, nil
		}
	}
	w.lead(c, next, 100, "")
	return w, nil
}

// route finds the first that matches; the last one always does.
func (w *Walk) route(n *Node, from Caller, req Request) (*Route, error) {
	for _, r := range n.Routes {
		step := Step{Source: r.Source}
		var err error
		if !r.About(from) {
			step.Why = "it isn't for this caller"
		} else if r.Definition.Match != nil {
			step.Why, err = Differs(r.Definition.Match.HTTP, req)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Source, err)
		}
		step.Matched = step.Why == ""
		w.Steps = append(w.Steps, step)
		if !step.Matched {
			continue
		}
		w.Route = r.Source
		w.take(r.Definition, req.Path)
		return r, nil
	}
	return &Route{}, nil
}

// take notes what a route does by itself, or makes of the path.
func (w *Walk) take(r *catalog.ServiceRoute, path string) {
	switch {
	case r.Redirect != nil:
		w.Answer = "a redirect to " + r.Redirect.Scheme + " " + r.Redirect.Host + r.Redirect.Path + r.Redirect.PrefixRewrite
	case r.Response != nil:
		w.Answer = "status " + strconv.Itoa(r.Response.Status)
	}
	d := r.Destination
	if d == nil {
		return
	}
	bare, query, asked := strings.Cut(path, "?")
	switch {
	case d.PathRewrite != "":
		bare = d.PathRewrite
	case d.RegexRewrite != nil:
		if re, err := regexp.Compile(d.RegexRewrite.Regex); err == nil {
			bare = re.ReplaceAllString(bare, regexp.MustCompile(`\\(\d)`).ReplaceAllString(d.RegexRewrite.Substitution, "$${$1}"))
		}
	case d.PrefixRewrite != "" && r.Match != nil && r.Match.HTTP != nil:
		h := r.Match.HTTP
		bare = d.PrefixRewrite + bare[min(len(bare), max(len(h.PathPrefix), len(h.PathExact))):]
	}
	if w.Path = bare; asked {
		w.Path += "?" + query
	}
}

// lead follows splitters to targets.
func (w *Walk) lead(c *Chain, node string, percent float64, source string) {
	n := c.Nodes[node]
	switch {
	case n == nil:
	case n.Type == TypeSplitter:
		name, _, _ := strings.Cut(n.Name, ".")
		for _, s := range n.Splits {
			w.lead(c, s.NextNode, percent*s.Weight/100, catalog.KindServiceSplitter+"/"+name)
		}
	case n.Resolver != nil:
		way := Way{Percent: percent, Source: source, Target: n.Resolver.Target}
		if !n.Resolver.Default {
			own := catalog.KindServiceResolver + "/" + c.Targets[n.Resolver.Target].Service
			way.Source = strings.TrimPrefix(source+", "+own, ", ")
		}
		if n.Resolver.Failover != nil {
			way.Failover = n.Resolver.Failover.Targets
		}
		w.Ways = append(w.Ways, way)
	}
}

// Differs says why a match isn't about a request; "" is that it is.
func Differs(m *catalog.ServiceRouteHTTPMatch, req Request) (string, error) {
	if m == nil {
		return "", nil
	}
	for _, look := range []func(*catalog.ServiceRouteHTTPMatch, Request) (string, error){path, headers, parameters, where} {
		if why, err := look(m, req); why != "" || err != nil {
			return why, err
		}
	}
	return "", nil
}

func path(m *catalog.ServiceRouteHTTPMatch, req Request) (string, error) {
	p, _, _ := strings.Cut(req.Path, "?")
	fold := func(s string) string { return s }
	if m.CaseInsensitive {
		fold = strings.ToLower
	}
	switch {
	case m.PathExact != "" && fold(p) != fold(m.PathExact):
		return fmt.Sprintf("the path isn't %s", m.PathExact), nil
	case m.PathPrefix != "" && !strings.HasPrefix(fold(p), fold(m.PathPrefix)):
		return fmt.Sprintf("the path doesn't begin with %s", m.PathPrefix), nil
	case m.PathRegex != "":
		expr := m.PathRegex
		if m.CaseInsensitive {
			expr = "(?i:" + expr + ")"
		}
		ok, err := matches(catalog.StringMatch{Regex: expr}, p)
		if !ok {
			return fmt.Sprintf("the path doesn't match %s", m.PathRegex), err
		}
	case m.GRPC != nil:
		service, method, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		if !strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
			return "it isn't a gRPC call", nil
		}
		if m.GRPC.Service != "" && service != m.GRPC.Service || m.GRPC.Method != "" && method != m.GRPC.Method || !strings.HasPrefix(p, "/") {
			return fmt.Sprintf("the call isn't of %s/%s", m.GRPC.Service, m.GRPC.Method), nil
		}
	}
	return "", nil
}

func headers(m *catalog.ServiceRouteHTTPMatch, req Request) (string, error) {
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, req.Method) {
		return fmt.Sprintf("the method is none of %s", strings.Join(m.Methods, ", ")), nil
	}
	for _, h := range m.Header {
		values, present := req.Header[http.CanonicalHeaderKey(h.Name)]
		if h.Present {
			if present == h.Invert {
				return fmt.Sprintf("header %s: present is %t", h.Name, present), nil
			}
			continue
		}
		if !present {
			return fmt.Sprintf("there is no header %s", h.Name), nil
		}
		ok, err := false, error(nil)
		for _, v := range values { // one that matches is enough
			if ok = within(h.Range, v); h.Range == nil {
				ok, err = matches(catalog.StringMatch{
					Exact: h.Exact, Prefix: h.Prefix, Suffix: h.Suffix, Contains: h.Contains, Regex: h.Regex, IgnoreCase: h.IgnoreCase,
				}, v)
			}
			if ok || err != nil {
				break
			}
		}
		if ok == h.Invert || err != nil {
			return fmt.Sprintf("header %s is %q", h.Name, strings.Join(values, ", ")), err
		}
	}
	return "", nil
}

func within(r *catalog.Range, v string) bool {
	n, err := strconv.ParseInt(v, 10, 64)
	return r != nil && err == nil && n >= r.From && n < r.To
}

func parameters(m *catalog.ServiceRouteHTTPMatch, req Request) (string, error) {
	_, query, _ := strings.Cut(req.Path, "?")
	for _, q := range m.QueryParam {
		value, present := "", false
		for pair := range strings.SplitSeq(query, "&") {
			k, v, _ := strings.Cut(pair, "=")
			if k == q.Name && query != "" {
				value, present = v, true
				break
			}
		}
		if !present {
			return fmt.Sprintf("there is no parameter %s", q.Name), nil
		}
		if q.Present {
			continue
		}
		ok, err := matches(catalog.StringMatch{
			Exact: q.Exact, Prefix: q.Prefix, Suffix: q.Suffix, Contains: q.Contains, Regex: q.Regex, IgnoreCase: q.IgnoreCase,
		}, value)
		if !ok || err != nil {
			return fmt.Sprintf("parameter %s is %q", q.Name, value), err
		}
	}
	return "", nil
}

// where looks at where the caller says the request goes.
func where(m *catalog.ServiceRouteHTTPMatch, req Request) (string, error) {
	if m.Authority != nil {
		if ok, err := matches(*m.Authority, req.Authority); !ok || err != nil {
			return fmt.Sprintf("the authority is %q", req.Authority), err
		}
	}
	if m.Scheme != "" && m.Scheme != req.Scheme {
		return fmt.Sprintf("the scheme is %q", req.Scheme), nil
	}
	if m.Port == 0 {
		return "", nil
	}
	port := ""
	if i := strings.LastIndexByte(req.Authority, ':'); i > strings.LastIndexByte(req.Authority, ']') {
		port = req.Authority[i+1:]
	}
	if port == "" && (m.Port == 80 && m.Scheme != "https" || m.Port == 443 && m.Scheme == "https") {
		return "", nil
	}
	if port != strconv.Itoa(m.Port) {
		return fmt.Sprintf("the authority %q is of another port", req.Authority), nil
	}
	return "", nil
}

func matches(m catalog.StringMatch, s string) (bool, error) {
	fold := func(s string) string { return s }
	if m.IgnoreCase {
		fold = strings.ToLower
	}
	switch {
	case m.Exact != "":
		return fold(s) == fold(m.Exact), nil
	case m.Prefix != "":
		return strings.HasPrefix(fold(s), fold(m.Prefix)), nil
	case m.Suffix != "":
		return strings.HasSuffix(fold(s), fold(m.Suffix)), nil
	case m.Contains != "":
		return strings.Contains(fold(s), fold(m.Contains)), nil
	}
	re, err := regexp.Compile(`^(?s:` + m.Regex + `)$`)
	if err != nil {
		return false, err
	}
	return re.MatchString(s), nil
}
