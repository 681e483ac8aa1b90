// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/weftmesh/weft/server/consul/consultest"
)

// Consul's snapshot becomes the state of a running cluster, tokens and all; one that can't be taken touches nothing.
func TestRestoreFromConsul(t *testing.T) {
	const consuls, limited = "bbbbbbbb-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
	r := startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}})
	r.as(rootSecret, "PUT", "/v1/kv/own", "mine", 200, "true")

	var cut, whole bytes.Buffer
	state := consultest.Whole()
	if err := consultest.Archive(&cut, 1000, state[:len(state)-1]); err != nil {
		t.Fatal(err)
	}
	if err := consultest.Archive(&whole, 1000, state); err != nil {
		t.Fatal(err)
	}
	r.as(rootSecret, "PUT", "/v1/snapshot", cut.String(), 400, "nothing was restored: Consul's snapshot can't be taken: record 22 (config entries)")
	r.as(rootSecret, "GET", "/v1/kv/own?raw", "", 200, "mine")

	report := r.as(rootSecret, "PUT", "/v1/snapshot", whole.String(), 200, `{"Index":1000,"Taken":[{"What":"ACL policies","Count":2}`)
	if !strings.Contains(report, `{"What":"node \"far\"","Why":"it is imported from the peer east"}`) {
		t.Error(report)
	}
	r.as(rootSecret, "GET", "/v1/kv/own", "", http.StatusForbidden, "ACL not found") // the tokens are Consul's now
	r.as(consuls, "GET", "/v1/kv/own", "", 404, "")
	r.as(consuls, "GET", "/v1/kv/app/a?raw", "", 200, "one\x00two")
	r.as(limited, "GET", "/v1/kv/app/a?raw", "", 200, "one\x00two")
	r.as(limited, "PUT", "/v1/kv/app/a", "x", 403, "lacks permission 'key:write'")
	r.as("", "PUT", "/v1/acl/bootstrap", "", 403, "no longer allowed")
	r.as(consuls, "PUT", "/v1/kv/app/lock?acquire=5d7c1c2e-0000-4000-8000-000000000001", "x", 200, "true")
	r.as(consuls, "GET", "/v1/health/service/web", "", 200, `"Output":"Agent alive and reachable"`)
	r.as(consuls, "GET", "/v1/config/service-resolver/web", "", 200, `"ConnectTimeout":"3s"`)
	r.as(consuls, "GET", "/v1/connect/intentions/check?source=shop&destination=web", "", 200, `{"Allowed":true}`)
	r.as(consuls, "GET", "/v1/connect/intentions/check?source=other&destination=web", "", 200, `{"Allowed":false}`)
	r.as(consuls, "GET", "/v1/query/q/execute", "", 200, `"ID":"web1"`)
	r.as(consuls, "GET", "/v1/connect/ca/roots", "", 200, `"TrustDomain":"eeeeeeee-0000-4000-8000-000000000001.consul"`)
	r.as(consuls, "GET", "/v1/operator/autopilot/configuration", "", 200, `"LastContactThreshold":"300ms","MaxTrailingLogs":99`)
	r.as(consuls, "PUT", "/v1/kv/after", "x", 200, "true")
}
