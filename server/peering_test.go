// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPeering(t *testing.T) {
	here, there := start(t, ""), start(t, "")
	var made struct{ PeeringToken string }
	resp := here.request("POST", "/v1/peering/token", strings.NewReader(`{"PeerName":"west","Meta":{"a":"b"},"ServerExternalAddresses":["gw:8443"]}`))
	if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || made.PeeringToken == "" || resp.Header.Get("X-Weft-Warning") == "" {
		t.Fatalf("%v %+v", err, resp)
	}
	here.do("GET", "/v1/peering/west", "", 200, `"Name":"west","Meta":{"a":"b"},"State":"PENDING"`)
	here.do("PUT", "/v1/config", `{"Kind":"exported-services","Name":"default","Services":[{"Name":"db","Consumers":[{"Peer":"west"}]}]}`, 200, "true")
	there.do("POST", "/v1/peering/establish", `{"PeerName":"east","PeeringToken":"`+made.PeeringToken+`"}`, 200, `{}`)
	there.do("GET", "/v1/peerings", "", 200, `"Name":"east","State":"ESTABLISHING"`)
	there.do("GET", "/v1/peerings", "", 200, `"PeerServerAddresses":["gw:8443"]`)
	for _, c := range []struct {
		r                  *running
		method, path, body string
		status             int
		want               string
	}{
		{here, "GET", "/v1/peerings", "", 200, `"StreamStatus":{"ImportedServices":[],"ExportedServices":["db"]`},
		{here, "GET", "/v1/peering/none", "", 404, `Peering not found for "none"`},
		{here, "POST", "/v1/peering/token", `{}`, 400, `PeerName is required`},
		{here, "POST", "/v1/peering/establish", `{"PeerName":"x"}`, 400, `PeeringToken is required`},
		{here, "POST", "/v1/peering/establish", `{"PeerName":"x","PeeringToken":"!"}`, 500, `failed to decode peering token`},
		{here, "POST", "/v1/peering/establish", `{"PeerName":"x","PeeringToken":"eyJDQSI6WyJ4Il19"}`, 500, `peering token CA value is invalid`},
		{here, "POST", "/v1/peering/establish", `{"PeerName":"x","PeeringToken":"e30="}`, 500, `peering token server addresses value is empty`},
		{here, "POST", "/v1/peering/establish", `{"PeerName":"x","PeeringToken":"` + made.PeeringToken + `"}`, 400, `within the same cluster`},
		{there, "POST", "/v1/peering/token", `{"PeerName":"east"}`, 500, `cannot create peering with name: "east"; there is already an established peering`},
		{here, "POST", "/v1/peering/token", `{"PeerName":"west"}`, 200, `PeeringToken`},
		{here, "DELETE", "/v1/peering/west", "", 200, ``},
		{here, "DELETE", "/v1/peering/west", "", 200, ``},
		{here, "GET", "/v1/peerings", "", 200, `[]`},
		{here, "PUT", "/v1/peerings", "", 405, `method PUT not allowed`},
	} {
		c.r.do(c.method, c.path, c.body, c.status, c.want)
	}
}
