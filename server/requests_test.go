// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"
)

// Over their bounds, reads and writes are refused by themselves, or only told of; what agents need to authorise isn't bounded.
func TestRequestLimits(t *testing.T) {
	limits := &RequestLimits{}
	r := startWith(t, Config{Requests: limits})
	const refused = "rate limit exceeded, try again later or against a different server"
	limits.Set("enforcing", 0.1, 0) // one at once
	r.do("GET", "/v1/catalog/nodes", "", 200, "")
	r.do("GET", "/v1/catalog/nodes", "", 429, refused)
	r.do("GET", "/v1/weft/acl/changed", "", 401, "ACL support disabled")
	r.do("GET", "/v1/status/leader", "", 200, "")
	r.do("PUT", "/v1/kv/a", "x", 200, "true")
	r.do("PUT", "/v1/kv/a", "x", 429, refused)
	limits.Set("permissive", 0.1, 0)
	r.do("PUT", "/v1/kv/a", "y", 200, "true")
	limits.Set("enforcing", -1, -1)
	for range 20 {
		r.do("GET", "/v1/catalog/nodes", "", 200, "")
	}
	limits.Set("disabled", 0.1, 0.1)
	r.do("GET", "/v1/catalog/nodes", "", 200, "")
	r.do("GET", "/v1/catalog/nodes", "", 200, "")
}
