// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"slices"
	"strings"
)

// told are the failures whose answer is JSON, by route and status: they tell a state.
var told = map[string][]string{
	"GET /v1/agent/health/service/id/{name}":   {"429", "503"},
	"GET /v1/agent/health/service/name/{name}": {"404", "429", "503"},
	"GET /v1/operator/autopilot/health":        {"429"},
	"PUT /v1/txn":                              {"409"},
}

// parameter describes a query parameter.
type parameter struct {
	name, kind, text string // kind: string, integer, boolean (present or not), or array (repeatable)
}

// What every route takes, what those take that read, and what those take that can wait.
var (
	everywhere = []parameter{
		{"dc", "string", "the datacenter to ask, by default the agent's"},
		{"ns", "string", "namespace"},
		{"partition", "string", "partition"},
		{"pretty", "boolean", "indent the answer"},
	}
	reading = []parameter{
		{"stale", "boolean", "any server may answer"},
		{"consistent", "boolean", "the leader makes sure that it still leads"},
		{"max_stale", "string", "a stale answer may be so old, as 10s"},
		{"filter", "string", "go-bexpr expression that keeps some of a list"},
		{"near", "string", "node to sort a list by the distance from; _agent is the agent's own"},
		{"node-meta", "array", "key:value that a node must have"},
		{"peer", "string", "peer"},
	}
	waiting = []parameter{
		{"index", "integer", "answer when what is read has changed after this index (X-Consul-Index of the answer before)"},
		{"wait", "string", "at most so long, as 60s; 5 minutes if not given, 10 at most"},
		{"cached", "boolean", "the agent may answer from its cache"},
	}
	central = parameter{"merge-central-config", "boolean", "a proxy shows what service-defaults and proxy-defaults say of it, as if it were registered with that"}
	// special are parameters of single routes, by name without method.
	special = map[string][]parameter{
		"GET /v1/kv/{name...}": {
			{"recurse", "boolean", "all keys that begin with this one"}, {"keys", "boolean", "names only"},
			{"separator", "string", "with keys: cut names behind the first one after the prefix"}, {"raw", "boolean", "the value alone"},
		},
		"PUT /v1/kv/{name...}": {
			{"flags", "integer", "a number kept with the key"}, {"cas", "integer", "only if ModifyIndex is this; 0: only if there is none"},
			{"acquire", "string", "session that takes the lock"}, {"release", "string", "session that gives it up"},
		},
		"DELETE /v1/kv/{name...}": {
			{"recurse", "boolean", "all keys that begin with this one"}, {"cas", "integer", "only if ModifyIndex is this"},
		},
		"PUT /v1/config":                           {{"cas", "integer", "only if ModifyIndex is this; 0: only if there is none"}},
		"DELETE /v1/config/{kind}/{name}":          {{"cas", "integer", "only if ModifyIndex is this"}},
		"GET /v1/health/service/{name}":            {{"passing", "boolean", "only those whose checks pass"}, {"tag", "array", "a tag that must be there"}, central},
		"GET /v1/health/connect/{name}":            {{"passing", "boolean", "only those whose checks pass"}, {"tag", "array", "a tag that must be there"}, central},
		"GET /v1/health/ingress/{name}":            {{"passing", "boolean", "only those whose checks pass"}},
		"GET /v1/catalog/service/{name}":           {{"tag", "array", "a tag that must be there"}, central},
		"GET /v1/catalog/connect/{name}":           {{"tag", "array", "a tag that must be there"}, central},
		"GET /v1/catalog/node-services/{name}":     {central},
		"GET /v1/query/{id}/execute":               {{"limit", "integer", "at most so many instances"}, {"connect", "boolean", "instances that can be dialled over mutual TLS"}},
		"GET /v1/agent/connect/certificates":       {{"health", "boolean", "judge them: 429 for a warning, 503 for a critical one"}},
		"PUT /v1/snapshot":                         {{"discard-sealed", "boolean", "without keys that are sealed by a key that isn't here: a new root is made"}},
		"GET /v1/connect/ca/roots":                 {{"pem", "boolean", "certificates in PEM"}},
		"GET /v1/connect/intentions/exact":         {{"source", "string", "who calls"}, {"destination", "string", "who is called"}},
		"PUT /v1/connect/intentions/exact":         {{"source", "string", "who calls"}, {"destination", "string", "who is called"}},
		"DELETE /v1/connect/intentions/exact":      {{"source", "string", "who calls"}, {"destination", "string", "who is called"}},
		"GET /v1/connect/intentions/check":         {{"source", "string", "who calls"}, {"destination", "string", "who is called"}},
		"GET /v1/connect/intentions/match":         {{"by", "string", "source or destination"}, {"name", "array", "service"}},
		"PUT /v1/agent/maintenance":                {{"enable", "string", "true or false"}, {"reason", "string", "why"}},
		"PUT /v1/agent/service/maintenance/{name}": {{"enable", "string", "true or false"}, {"reason", "string", "why"}},
	}
)

func (p parameter) schema() map[string]any {
	switch p.kind {
	case "integer":
		return map[string]any{"type": "integer", "minimum": 0}
	case "array":
		return map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
	}
	return map[string]any{"type": "string"}
}

// OpenAPI describes every route of the table in OpenAPI 3.1.
func OpenAPI(version string) map[string]any {
	paths := map[string]map[string]any{}
	for _, r := range Routes {
		path := strings.ReplaceAll(r.Path, "...}", "}")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(r.Method)] = operation(r)
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "weft HTTP API", "version": version, "license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "Made from the table by which weft routes and authorises requests. Errors are plain text.",
		},
		"paths": paths,
		"components": map[string]any{
			"securitySchemes": map[string]any{
				"token":  map[string]any{"type": "apiKey", "in": "header", "name": "X-Consul-Token"},
				"bearer": map[string]any{"type": "http", "scheme": "bearer"},
			},
			"headers": map[string]any{
				"Index": map[string]any{"description": "what ?index waits for a change after", "schema": map[string]any{"type": "integer", "minimum": 1}},
			},
			"responses": map[string]any{
				"Told": map[string]any{
					"description": "what the state is, or what was wrong",
					"content":     map[string]any{"application/json": map[string]any{}, "text/plain": map[string]any{"schema": map[string]any{"type": "string"}}},
				},
				"Error": map[string]any{
					"description": "what was wrong, as text",
					"content":     map[string]any{"text/plain": map[string]any{"schema": map[string]any{"type": "string"}}},
				},
			},
		},
		"security": []any{map[string]any{}, map[string]any{"token": []string{}}, map[string]any{"bearer": []string{}}},
	}
}

func operation(r Route) map[string]any {
	var params []any
	for segment := range strings.SplitSeq(r.Path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			name = strings.TrimSuffix(strings.TrimSuffix(name, "}"), "...")
			params = append(params, map[string]any{
				"name": name, "in": "path", "required": true, "schema": map[string]any{"type": "string", "minLength": 1},
			})
		}
	}
	list := slices.Clone(everywhere)
	if r.Method == http.MethodGet {
		list = append(list, reading...)
	}
	if r.Blocking {
		list = append(list, waiting...)
	}
	for _, p := range append(list, special[r.Name()]...) {
		params = append(params, map[string]any{
			"name": p.name, "in": "query", "description": p.text, "schema": p.schema(), "allowEmptyValue": p.kind == "boolean",
		})
	}
	success := map[string]any{"description": "the answer"}
	if r.Method == http.MethodGet { // some writes answer with nothing
		success["content"] = map[string]any{"application/json": map[string]any{}, "*/*": map[string]any{}}
	}
	if r.Blocking {
		success["headers"] = map[string]any{"X-Consul-Index": map[string]any{"$ref": "#/components/headers/Index"}}
	}
	failure := map[string]any{"$ref": "#/components/responses/Error"}
	responses := map[string]any{"200": success, "default": failure}
	for _, code := range []string{"400", "403", "404", "405", "413", "429", "500", "503"} {
		responses[code] = failure
	}
	for _, code := range told[r.Name()] {
		responses[code] = map[string]any{"$ref": "#/components/responses/Told"}
	}
	op := map[string]any{
		"operationId": operationID(r), "tags": []string{tagOf(r.Path)}, "parameters": params, "responses": responses,
		"x-weft-permission": r.Need.String(),
	}
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		op["requestBody"] = map[string]any{"content": map[string]any{"application/json": map[string]any{}, "*/*": map[string]any{}}}
	}
	return op
}

// operationID is a name that no other route has.
func operationID(r Route) string {
	parts := strings.FieldsFunc(strings.ToLower(r.Method)+strings.TrimPrefix(r.Path, "/v1"), func(c rune) bool {
		return c == '/' || c == '{' || c == '}' || c == '-' || c == '.'
	})
	return strings.Join(parts, "-")
}

// tagOf is the part of the API that a path is in.
func tagOf(path string) string {
	part, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
	return part
}
