// SPDX-License-Identifier: Apache-2.0

package server

import "testing"

// What can't be asked is refused where it is written, also when who is asked changes; explain says who decides.
func TestExternalAuthorization(t *testing.T) {
	r := start(t, "")
	put := func(status int, want, entry string) {
		t.Helper()
		r.do("PUT", "/v1/config", entry, status, want)
	}
	const web = `{"Kind":"service-defaults","Name":"web","Protocol":"http","ExternalAuthorization":{"Service":"authz","Except":[{"PathPrefix":"/open"}]}}`
	put(500, `ExternalAuthorization.Service "authz" has protocol "tcp", and can't be asked by grpc: write its service-defaults with Protocol grpc first`, web)
	put(500, "", `{"Kind":"proxy-defaults","Name":"global","ExternalAuthorization":{"Service":"authz"}}`)
	put(200, "true", `{"Kind":"service-defaults","Name":"authz","Protocol":"grpc"}`)
	put(500, `ExternalAuthorization of service "web" needs a Protocol with requests, not "tcp"`, `{"Kind":"service-defaults","Name":"web","ExternalAuthorization":{"Service":"authz"}}`)
	put(200, "true", web)
	put(500, `has protocol "http", and can't be asked by grpc`, `{"Kind":"service-defaults","Name":"authz","Protocol":"http"}`)
	r.do("DELETE", "/v1/config/service-defaults/authz", "", 500, `can't be asked by grpc`)
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"a","Kind":"connect-proxy","Service":"web-proxy","Port":2000,"Proxy":{"DestinationServiceName":"web","LocalServicePort":80}}}`, 200, "true")
	r.do("PUT", "/v1/connect/intentions/exact?source=api&destination=web", `{"Action":"allow"}`, 200, "")
	ask := "/v1/weft/explain?source=api&destination=web&method=GET&path="
	r.do("GET", ask+"/x", "", 200, `"Authorizer":"service authz decides by grpc within 1s (service-defaults/web ExternalAuthorization); 403 while nobody decides; an intention has to let web call authz"`)
	r.do("GET", ask+"/open", "", 200, `"Authorizer":"service authz isn't asked about it: Except[0] is about it (service-defaults/web ExternalAuthorization)"`)
	put(200, "true", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`)
	put(200, "true", `{"Kind":"proxy-defaults","Name":"global","ExternalAuthorization":{"Address":"/run/authz","FailOpen":true}}`)
	r.do("GET", ask+"/x", "", 200, `"Authorizer":"/run/authz decides by grpc within 1s (proxy-defaults/global ExternalAuthorization); it passes while nobody decides"`)
}
