// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var matchRows = []Row{
	{Name: "match path", Run: matchPath},
	{Name: "match header", Run: matchHeader},
	{Name: "match query", Run: matchQuery},
	{Name: "match method", Run: matchMethod},
	{Name: "match authority port and scheme", Run: matchAuthority},
	{Name: "match source", Run: matchSource},
	{Name: "match and protect by named sets", Run: matchSets},
	{Name: "match order and alternatives", Run: matchOrder},
	{Name: "match grpc service and method", Run: matchGRPC},
	{Name: "explain a request", Run: explained},
}

func http1(fields object) object { return object{"HTTP": fields} }

// want is a call and the route that must take it; "" is none of the row's.
type want struct {
	route, method, path string
	headers             []string
}

func (l *Lab) wants(all ...want) {
	l.t.Helper()
	l.comes(all[0].method, all[0].path, byRoute(all[0].route), all[0].headers...)
	for _, w := range all[1:] {
		l.is(byRoute(w.route), w.method, w.path, w.headers...)
	}
}

func matchPath(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		marked("exact", http1(object{"PathExact": "/exact"})),
		marked("prefix", http1(object{"PathPrefix": "/pre"})),
		marked("regex", http1(object{"PathRegex": "/re/[0-9]+"})),
		marked("fold", http1(object{"PathExact": "/fold", "CaseInsensitive": true})),
	)
	l.wants(
		want{"exact", "GET", "/exact", nil}, want{"exact", "GET", "/exact?q=1", nil}, want{"", "GET", "/exact/", nil}, want{"", "GET", "/EXACT", nil},
		want{"prefix", "GET", "/prefix/x", nil}, want{"regex", "GET", "/re/12", nil}, want{"", "GET", "/re/12x", nil},
		want{"fold", "GET", "/FoLd", nil}, want{"exact", "GET", "/x/../exact", nil},
	)
}

func matchHeader(t *testing.T, w *World) {
	l := w.traffic(t)
	at := func(name string, fields object) object {
		fields["Name"] = "x-" + name
		return marked(name, http1(object{"Header": []object{fields}}))
	}
	l.routes(
		at("exact", object{"Exact": "a"}), at("prefix", object{"Prefix": "a"}), at("suffix", object{"Suffix": "a"}), at("contains", object{"Contains": "A", "IgnoreCase": true}),
		at("regex", object{"Regex": "a+"}), at("range", object{"Range": object{"From": 1, "To": 10}}), at("present", object{"Present": true}),
		at("inverted", object{"Exact": "a", "Invert": true}),
	)
	h := func(s string) []string { return []string{s} }
	l.wants(
		want{"exact", "GET", "/", h("x-exact: a")}, want{"", "GET", "/", h("x-exact: ab")}, want{"prefix", "GET", "/", h("x-prefix: ab")}, want{"", "GET", "/", h("x-prefix: ba")},
		want{"suffix", "GET", "/", h("x-suffix: ba")}, want{"contains", "GET", "/", h("x-contains: bab")}, want{"regex", "GET", "/", h("x-regex: aa")}, want{"", "GET", "/", h("x-regex: aab")},
		want{"range", "GET", "/", h("x-range: 9")}, want{"", "GET", "/", h("x-range: 10")}, want{"", "GET", "/", h("x-range: x")}, want{"present", "GET", "/", h("x-present: ")},
		want{"inverted", "GET", "/", h("x-inverted: b")}, want{"", "GET", "/", h("x-inverted: a")}, want{"", "GET", "/", nil},
	)
}

func matchQuery(t *testing.T, w *World) {
	l := w.traffic(t)
	at := func(name string, fields object) object {
		fields["Name"] = name
		return marked(name, http1(object{"QueryParam": []object{fields}}))
	}
	l.routes(at("exact", object{"Exact": "a%20b"}), at("regex", object{"Regex": "a+"}), at("present", object{"Present": true}), at("prefix", object{"Prefix": "a"}))
	l.wants(
		want{"exact", "GET", "/?exact=a%20b", nil}, want{"", "GET", "/?exact=a", nil}, want{"regex", "GET", "/?x=1&regex=aa", nil}, want{"", "GET", "/?regex=ab", nil},
		want{"present", "GET", "/?present=", nil}, want{"prefix", "GET", "/?prefix=ab", nil}, want{"", "GET", "/?other=1", nil},
	)
}

func matchMethod(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(marked("write", http1(object{"Methods": []string{"POST", "put"}})))
	l.wants(want{"write", "POST", "/", nil}, want{"write", "PUT", "/", nil}, want{"", "GET", "/", nil}, want{"", "PATCH", "/", nil})
}

func matchAuthority(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		marked("port", http1(object{"Port": 8443})),
		marked("authority", http1(object{"Authority": object{"Suffix": ".example"}})),
		marked("https", http1(object{"Scheme": "https", "PathPrefix": "/s"})),
		marked("http", http1(object{"Scheme": "http", "PathPrefix": "/s"})),
	)
	h := func(s string) []string { return []string{":authority: " + s} }
	l.wants(want{"port", "GET", "/", h("any:8443")}, want{"authority", "GET", "/", h("a.example")}, want{"", "GET", "/", h("a.example:80")}, want{"http", "GET", "/s", nil}, want{"", "GET", "/", nil})
}

func matchSource(t *testing.T, w *World) {
	l := w.traffic(t)
	from := func(name string, fields object) object { return marked(name, object{"Source": fields}) }
	at := func(path string, r object) object {
		r["Match"].(object)["HTTP"] = object{"PathPrefix": path}
		return r
	}
	l.routes(
		at("/service", from("service", object{"Services": []string{l.name("web")}})),
		at("/other", from("other", object{"Services": []string{l.name("spare")}})),
		at("/not", from("not", object{"NotServices": []string{l.name("web")}})),
		at("/meta", from("meta", object{"Meta": object{"tier": "gold"}})),
		at("/id", from("id", object{"Identities": []string{"spiffe://*"}})),
		at("/noid", from("noid", object{"Identities": []string{"spiffe://elsewhere/*"}})),
	)
	l.wants(want{"service", "GET", "/service", nil}, want{"", "GET", "/other", nil}, want{"", "GET", "/not", nil}, want{"meta", "GET", "/meta", nil},
		want{"id", "GET", "/id", nil}, want{"", "GET", "/noid", nil})
}

func matchOrder(t *testing.T, w *World) {
	l := w.traffic(t)
	later := marked("later", http1(object{"PathPrefix": "/"}))
	later["Priority"] = 5
	either := object{
		"MatchAny":    []object{http1(object{"PathPrefix": "/a"}), http1(object{"Methods": []string{"PUT"}})},
		"Destination": object{"ResponseHeaders": object{"Set": object{route: "either"}}},
	}
	l.routes(later, either, marked("second", http1(object{"PathPrefix": "/a/b"})))
	l.wants(want{"either", "GET", "/a/b", nil}, want{"either", "PUT", "/", nil}, want{"later", "GET", "/", nil})
}

func matchGRPC(t *testing.T, w *World) {
	l := w.traffic(t)
	at := func(name string, m object) object { return marked(name, http1(object{"GRPC": m})) }
	l.entry("service-router", "calls", object{"Routes": []object{
		at("method", object{"Service": "weft.e2e.Echo", "Method": "Unary"}), at("service", object{"Service": "weft.e2e.Echo"}),
	}})
	conn, err := dialGRPC(l.calls)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := func(method, want string) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(t.Context(), callWithin)
			defer cancel()
			header, trailer := metadata.MD{}, metadata.MD{}
			err := conn.Invoke(ctx, "/weft.e2e.Echo/"+method, wrapperspb.String("x"), &wrapperspb.StringValue{}, grpc.Header(&header), grpc.Trailer(&trailer))
			if got := append(header.Get(route), trailer.Get(route)...); len(got) != 1 || got[0] != want {
				return fmt.Errorf("by route %q (%w), want %q", got, err, want)
			}
			return nil
		}
	}
	until(t, callWithin, call("Unary", "method"))
	until(t, callWithin, call("None", "service")) // the application doesn't know it, and says so
}

// explained asks the command line where requests go, and wants what the proxy does.
func explained(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(nil)
	l.routes(
		object{"Name": "testers", "Match": http1(object{"Header": []object{{"Name": "user", "Exact": "tester"}}}), "Destination": object{"ServiceSubset": "v2"}},
		object{"Match": http1(object{"PathExact": "/gone"}), "Response": object{"Status": 410}},
	)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"GET", "/", "-H", "user:tester"}, []string{"route taken    service-router/" + l.name("api") + " route 1 (testers)", "100% to v2." + l.name("api"), l.name("api-2"), "allowed by service-intentions/" + l.name("api") + " source " + l.name("web")}},
		{[]string{"GET", "/gone"}, []string{"route not for  service-router/" + l.name("api") + " route 1 (testers): there is no header user", "answers by itself: status 410"}},
	} {
		args := append([]string{"explain", "request", "-http-addr", loopback(w.http), "-from", l.name("web"), "-to", l.name("api")}, c.args...)
		out, errs, err := weft(nil, "", args...)
		if err != nil {
			t.Fatal(err, errs)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: it doesn't say %q:\n%s", c.args, want, out)
			}
		}
	}
}
