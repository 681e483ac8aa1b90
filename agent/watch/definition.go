// SPDX-License-Identifier: Apache-2.0

// Package watch runs the watches of an agent's configuration: it follows a part of the API by blocking reads, and hands what
// it has become to a program or a URL. Runner.Run owns a goroutine per watch.
package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Definition is one watch: what is followed, and what is done with it.
type Definition struct {
	Type        string // a key of paths
	Key         string
	Prefix      string
	Service     string
	ServiceID   string
	Tag         []string
	PassingOnly bool
	State       string
	Name        string
	Filter      string
	Datacenter  string
	Token       string
	Stale       bool

	HandlerType       string   // "script" (default) or "http"
	Args              []string // the program and its arguments
	Handler           string   // or a line for the shell
	HTTPHandlerConfig HTTPHandler
}

// HTTPHandler is a URL that is told.
type HTTPHandler struct {
	Path          string
	Method        string
	Timeout       time.Duration
	Header        map[string][]string
	TLSSkipVerify bool
}

// defaultTimeout is how long a URL may take to answer.
const defaultTimeout = 10 * time.Second

// types are the types of watch, with what each must have.
var types = map[string][]string{
	"key": {"key"}, "keyprefix": {"prefix"}, "services": nil, "nodes": nil, "service": {"service"}, "checks": nil, "event": nil,
	"connect_roots": nil, "connect_leaf": {"service"}, "agent_service": {"service_id"},
}

// Validate finds what is missing or too much.
func (d *Definition) Validate() error {
	if err := d.ValidateType(); err != nil {
		return err
	}
	switch d.HandlerType {
	case "", "script":
		if (len(d.Args) == 0) == (d.Handler == "") {
			return errors.New("want args (a program and its arguments), or handler (a line for the shell)")
		}
	case "http":
		u, err := url.Parse(d.HTTPHandlerConfig.Path)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("http_handler_config.path: %q: want a URL", d.HTTPHandlerConfig.Path)
		}
	default:
		return fmt.Errorf("handler_type: %q: want \"script\" or \"http\"", d.HandlerType)
	}
	return nil
}

// ValidateType is Validate without the handler.
func (d *Definition) ValidateType() error {
	needs, ok := types[d.Type]
	if !ok {
		return fmt.Errorf("type: %q: want one of key, keyprefix, services, nodes, service, checks, event, connect_roots, connect_leaf, agent_service", d.Type)
	}
	for _, n := range needs {
		if map[string]string{"key": d.Key, "prefix": d.Prefix, "service": d.Service, "service_id": d.ServiceID}[n] == "" {
			return fmt.Errorf("a watch of type %s needs %s", d.Type, n)
		}
	}
	if d.Type == "checks" && d.Service != "" && d.State != "" {
		return errors.New("a watch of type checks takes service or state, not both")
	}
	if d.State != "" && !slices.Contains([]string{"any", "passing", "warning", "critical"}, d.State) {
		return fmt.Errorf("state: %q: want any, passing, warning or critical", d.State)
	}
	return nil
}

// Request is what is read again and again.
func (d *Definition) Request() (path string, q url.Values) {
	q = url.Values{}
	for name, v := range map[string]string{"dc": d.Datacenter, "filter": d.Filter} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if d.Stale {
		q.Set("stale", "")
	}
	switch d.Type {
	case "key":
		path = "/v1/kv/" + escaped(d.Key)
	case "keyprefix":
		path = "/v1/kv/" + escaped(d.Prefix)
		q.Set("recurse", "")
	case "services", "nodes":
		path = "/v1/catalog/" + d.Type
	case "service":
		path = "/v1/health/service/" + url.PathEscape(d.Service)
		for _, t := range d.Tag {
			q.Add("tag", t)
		}
		if d.PassingOnly {
			q.Set("passing", "1")
		}
	case "checks":
		path = "/v1/health/state/any"
		if d.Service != "" {
			path = "/v1/health/checks/" + url.PathEscape(d.Service)
		} else if d.State != "" {
			path = "/v1/health/state/" + d.State
		}
	case "event":
		path = "/v1/event/list"
		if d.Name != "" {
			q.Set("name", d.Name)
		}
	case "connect_roots":
		path = "/v1/agent/connect/ca/roots"
	case "connect_leaf":
		path = "/v1/agent/connect/ca/leaf/" + url.PathEscape(d.Service)
	case "agent_service":
		path = "/v1/agent/service/" + url.PathEscape(d.ServiceID)
	}
	return path, q
}

// escaped is a key as a path: slashes stay.
func escaped(key string) string {
	parts := strings.Split(strings.TrimPrefix(key, "/"), "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// Document is what a handler is given of an answer: its body, but a key alone and not in a list, and null for what isn't there.
func (d *Definition) Document(status int, body []byte) ([]byte, error) {
	switch {
	case status == http.StatusNotFound && d.Type == "keyprefix":
		return []byte("[]"), nil
	case status == http.StatusNotFound && (d.Type == "key" || d.Type == "agent_service"):
		return []byte("null"), nil
	case status != http.StatusOK:
		return nil, fmt.Errorf("%d %s", status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	case d.Type != "key":
		return body, nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return []byte("null"), nil
	}
	return list[0], nil
}
