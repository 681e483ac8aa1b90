// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strings"
)

// NotTaken is the header of an answer that says: there was no leader to do this, and nothing was done, so that it may be asked again.
const NotTaken = "X-Weft-Not-Taken"

// IndexHeader of the answer to a write says at which index it was agreed: see /v1/weft/proxies?write=.
const IndexHeader = "X-Weft-Index"

// Ungated are the server's reads that every server answers at once from what it has: they are about that server, or about the
// finding of a leader.
var Ungated = map[string]bool{
	"GET /v1/status/leader":       true,
	"GET /v1/status/peers":        true,
	"GET /v1/catalog/datacenters": true,
}

// leaders are the server's reads that only the leader can answer: what they are about is in no catalog.
var leaders = map[string]bool{
	"/v1/weft/proxies":              true,
	"/v1/connect/ca/configuration":  true,
	"/v1/operator/autopilot/health": true,
	"/v1/operator/autopilot/state":  true,
}

// AtLeader says whether the leader has to answer a request to a server: every write, and some reads.
func AtLeader(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		switch path := r.URL.Path; path {
		case "/v1/snapshot", "/v1/operator/raft/configuration":
			return !QueryOf(r).Has("stale")
		default:
			return leaders[path]
		}
	}
	return true
}

// AtPrimary says whether a request changes what is written in the primary datacenter alone: config entries and intentions.
func AtPrimary(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	path := r.URL.Path
	return path == "/v1/config" || strings.HasPrefix(path, "/v1/config/") ||
		path == "/v1/connect/intentions" || strings.HasPrefix(path, "/v1/connect/intentions/")
}

// BodyLimit is how long a request's body may be: a snapshot has no bound but its own checks; 0 is the usual one.
func BodyLimit(r *http.Request) int64 {
	if r.Method == http.MethodPut && r.URL.Path == "/v1/snapshot" {
		return -1
	}
	return 0
}

// Brief says whether a request is answered soon, and nothing is lost when that is done for a caller who has gone: a write that is answered
// as soon as it is known, or a read that waits for no change, but for a leader at most.
func Brief(r *http.Request) bool {
	path := r.URL.Path
	switch r.Method {
	case http.MethodPut:
		return r.ContentLength > 0 && r.ContentLength <= believed &&
			(strings.HasPrefix(path, "/v1/kv/") || path == "/v1/catalog/register" || path == "/v1/catalog/deregister" ||
				path == "/v1/agent/service/register" || path == "/v1/agent/check/register" || path == "/v1/txn")
	case http.MethodGet:
		// To take the query apart would be more work than it is worth: what only might wait isn't brief either, as for another datacenter.
		q := r.URL.RawQuery
		return r.ContentLength == 0 && !strings.Contains(q, "index") && !strings.Contains(q, "hash") && !strings.Contains(q, "dc=") && !strings.Contains(q, "%") &&
			(strings.HasPrefix(path, "/v1/kv/") || strings.HasPrefix(path, "/v1/health/") || strings.HasPrefix(path, "/v1/catalog/"))
	}
	return false
}

// Bulk says whether a request may wait long or move much, so that it needs a connection apart from the others'.
func Bulk(r *http.Request) bool {
	switch strings.TrimSuffix(r.URL.Path, "/") {
	case "/v1/snapshot", "/v1/agent/monitor":
		return true
	}
	q := QueryOf(r)
	return q.Get("index") != "" || q.Get("hash") != ""
}
