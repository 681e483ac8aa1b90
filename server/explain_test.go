// SPDX-License-Identifier: Apache-2.0

package server

import "testing"

// What becomes of a request also tells in which mode of mutual TLS each instance is called, and what the caller gets where none answers.
func TestExplainModeAndFallback(t *testing.T) {
	r := start(t, "")
	for _, entry := range []string{
		`{"Kind":"mesh","AllowEnablingPermissiveMutualTLS":true}`,
		`{"Kind":"service-defaults","Name":"web","Protocol":"http","MutualTLSPorts":[{"Port":81,"Mode":"permissive"}]}`,
		`{"Kind":"service-resolver","Name":"web","Fallback":{"Status":521}}`,
	} {
		r.do("PUT", "/v1/config", entry, 200, "true")
	}
	for _, body := range []string{
		`{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"a","Kind":"connect-proxy","Service":"web-proxy","Port":2000,"Proxy":{"DestinationServiceName":"web","LocalServicePort":80}}}`,
		`{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"b","Kind":"connect-proxy","Service":"web-proxy","Port":2001,"Proxy":{"DestinationServiceName":"web","LocalServicePort":81}}}`,
	} {
		r.do("PUT", "/v1/catalog/register", body, 200, "true")
	}
	ask := "/v1/weft/explain?source=api&destination=web&method=GET&path=/"
	r.do("GET", ask, "", 200, `"Fallback":"status 521, by service-resolver/web"`)
	r.do("GET", ask, "", 200, `{"ID":"a","Node":"n1","Address":"10.0.0.1:2000","Status":"passing","MutualTLS":"strict"}`)
	r.do("GET", ask, "", 200, `"MutualTLS":"permissive"}`)
}
