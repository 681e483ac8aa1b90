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

// Of a caller whose proxy is transparent it tells by which address it reaches the service, and why or why not.
func TestExplainTransparent(t *testing.T) {
	r := start(t, "")
	for _, body := range []string{
		`{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"a","Kind":"connect-proxy","Service":"web-proxy","Port":2000,"Proxy":{"DestinationServiceName":"web","LocalServicePort":80}}}`,
		`{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"b","Kind":"connect-proxy","Service":"api-proxy","Port":2001,"Proxy":{"DestinationServiceName":"api","LocalServicePort":81,"Upstreams":[{"DestinationName":"web","LocalBindPort":9}]}}}`,
	} {
		r.do("PUT", "/v1/catalog/register", body, 200, "true")
	}
	ask := func(src, dst, want string) {
		t.Helper()
		r.do("GET", "/v1/weft/explain?source="+src+"&destination="+dst+"&method=GET&path=/", "", 200, want)
	}
	ask("web", "api", `"Protocol":"tcp","Routes":`)
	r.do("PUT", "/v1/config", `{"Kind":"proxy-defaults","Name":"global","Mode":"transparent"}`, 200, "true")
	r.do("PUT", "/v1/connect/intentions/exact?source=web&destination=api", `{"Action":"allow"}`, 200, "")
	ask("web", "api", `"Transparent":"240.0.0.2, as intentions let web call it"`)
	ask("web", "db", `"Transparent":"db has no virtual address: it has no instance in the mesh"`)
	r.do("PUT", "/v1/connect/intentions/exact?source=web&destination=api", `{"Action":"deny"}`, 200, "")
	ask("web", "api", `"Transparent":"240.0.0.2 is refused: no intention lets web call it, and it is no upstream"`)
	r.do("PUT", "/v1/connect/intentions/exact?source=api&destination=web", `{"Action":"deny"}`, 200, "")
	ask("api", "web", `"Transparent":"240.0.0.1, as it is an upstream"`)
}

// What is outside the mesh has no instances: it is told where it is, and what decides; and its intentions are about connections alone.
func TestExplainOutside(t *testing.T) {
	r := start(t, "")
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"a","Kind":"connect-proxy","Service":"web-proxy","Port":2000,`+
		`"Proxy":{"DestinationServiceName":"web","LocalServicePort":80,"Mode":"transparent"}}}`, 200, "true")
	r.do("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"net","Protocol":"http","Destination":{"Addresses":["10.9.0.0/16"],"Except":["10.9.0.1"],"Ports":[80,443]}}`, 200, "true")
	ask := func(want string) {
		t.Helper()
		r.do("GET", "/v1/weft/explain?source=web&destination=net&method=GET&path=/", "", 200, want)
	}
	r.do("PUT", "/v1/connect/intentions/exact?source=web&destination=net", `{"Action":"deny"}`, 200, "")
	ask(`"Transparent":"10.9.0.0/16 but for 10.9.0.1 at port 80, 443 is refused: it is outside the mesh, and no intention lets web call it"`)
	r.do("PUT", "/v1/connect/intentions/exact?source=web&destination=net", `{"Action":"allow"}`, 200, "")
	ask(`"Transparent":"10.9.0.0/16 but for 10.9.0.1 at port 80, 443, where it was going, in the clear"`)
	ask(`"Outside":"10.9.0.0/16 but for 10.9.0.1 at port 80, 443","Allowed":true,"Intention":"service-intentions/net source web"`)
	r.do("PUT", "/v1/config", `{"Kind":"service-intentions","Name":"net","Sources":[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`, 500,
		`service "net" is outside the mesh (service-defaults Destination)`)
}
