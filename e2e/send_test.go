// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

var sendRows = []Row{
	{Name: "send header changes", Run: sendHeaders},
	{Name: "send rewrite", Run: sendRewrite},
	{Name: "send redirect and direct response", Run: sendAnswers},
	{Name: "send mirror", Run: sendMirror},
	{Name: "send cors", Run: sendCORS},
	{Name: "send sticky split", Run: sendSticky},
	{Name: "send tcp split", Run: sendTCP},
	{Name: "send failover", Run: sendFailover},
}

// to is a route with a path prefix and a destination, which says its name.
func to(name, prefix string, destination object) object {
	if destination["ResponseHeaders"] == nil {
		destination["ResponseHeaders"] = object{"Set": object{route: name}}
	}
	return object{"Match": http1(object{"PathPrefix": prefix}), "Destination": destination}
}

func sendHeaders(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(nil)
	l.entry("service-splitter", "api", object{"Splits": []object{{
		"Weight": 100, "ServiceSubset": "v1", "RequestHeaders": object{"Set": object{"x-leg": "v1"}}, "ResponseHeaders": object{"Set": object{"x-answer-leg": "v1"}},
	}}})
	l.routes(object{"Match": http1(object{"PathPrefix": "/"}), "Destination": object{
		"RequestHeaders":  object{"Set": object{"x-set": "new"}, "Add": object{"x-add": "2"}, "Remove": []string{"x-gone"}},
		"ResponseHeaders": object{"Set": object{route: "headers"}, "Remove": []string{"x-backend"}},
	}})
	l.comes("GET", "/", byRoute("headers"))
	g, err := l.call("GET", "/", "x-set: old", "x-add: 1", "x-gone: 1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"X-Set":["new"]`, `"X-Add":["1","2"]`, `"X-Leg":["v1"]`} {
		if !strings.Contains(g.Body, want) {
			t.Errorf("the application doesn't see %s: %s", want, g.Body)
		}
	}
	if strings.Contains(g.Body, "X-Gone") || g.Header.Get("X-Backend") != "" || g.Header.Get("X-Answer-Leg") != "v1" {
		t.Errorf("what was to be taken out is there, or the leg's is not: %s %v", g.Body, g.Header)
	}
}

func sendRewrite(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		to("prefix", "/old/", object{"PrefixRewrite": "/new/"}),
		to("whole", "/any", object{"PathRewrite": "/one"}),
		to("regex", "/user/", object{"RegexRewrite": object{"Regex": "^/user/([^/]+)/(.*)$", "Substitution": `/\2/of/\1`}}),
		to("host", "/host", object{"HostRewrite": "inner.example"}),
	)
	l.comes("GET", "/host", byRoute("host"))
	for path, want := range map[string]string{
		"/old/x?y=1": "/new/x?y=1", "/any/thing?y=1": "/one?y=1", "/user/ann/cart": "/cart/of/ann",
	} {
		l.is(func(g got) error {
			if g.Seen.URI != want {
				return fmt.Errorf("the application sees %s, want %s", g.Seen.URI, want)
			}
			return nil
		}, "GET", path)
	}
	l.is(func(g got) error {
		if g.Seen.Host != "inner.example" || g.Seen.Header.Get("X-Forwarded-Host") != "api.shop" {
			return fmt.Errorf("the application sees host %s, x-forwarded-host %s", g.Seen.Host, g.Seen.Header.Get("X-Forwarded-Host"))
		}
		return nil
	}, "GET", "/host")
}

func sendAnswers(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		object{"Match": http1(object{"PathExact": "/gone"}), "Response": object{"Status": 410, "Body": "gone for good"}},
		object{"Match": http1(object{"PathPrefix": "/a/"}), "Redirect": object{"PrefixRewrite": "/b/", "Host": "new.example", "Status": 307}},
		object{"Match": http1(object{"PathPrefix": "/s"}), "Redirect": object{"Scheme": "https", "Port": 8443, "StripQuery": true}},
	)
	l.comes("GET", "/gone", statusIs(410))
	l.is(func(g got) error {
		if g.Body != "gone for good" {
			return fmt.Errorf("body %q", g.Body)
		}
		return nil
	}, "GET", "/gone")
	for path, want := range map[string]string{"/a/x?y=1": "307 http://new.example/b/x?y=1", "/s?y=1": "301 https://api.shop:8443/s"} {
		l.is(func(g got) error {
			if have := fmt.Sprint(g.Status, " ", g.Header.Get("Location")); have != want {
				return fmt.Errorf("%s, want %s", have, want)
			}
			return nil
		}, "GET", path)
	}
}

func sendMirror(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		to("all", "/all", object{"Mirror": []object{{"Service": l.name("spare")}}}),
		to("half", "/half", object{"Mirror": []object{{"Service": l.name("spare"), "Percent": 50}}}),
		to("none", "/none", object{"Mirror": []object{{"Service": l.name("spare"), "Percent": 0}}}),
	)
	l.comes("GET", "/none", byRoute("none"))
	mirrored := func(n int, path string) int {
		before := l.spare.requests.Load()
		for range n {
			g, err := callAt(l.api, "POST", path, "body")
			if err != nil || g.Seen.Backend == "spare" {
				t.Fatal(g, err)
			}
		}
		last, quiet := int64(-1), 0
		until(t, callWithin, func() error { // until no more come
			if now := l.spare.requests.Load(); now != last {
				last, quiet = now, 0
			} else if quiet++; quiet > 10 {
				return nil
			}
			return errors.New("still coming")
		})
		return int(l.spare.requests.Load() - before)
	}
	if n := mirrored(20, "/all"); n != 20 {
		t.Errorf("%d copies of 20", n)
	}
	if n := mirrored(200, "/half"); n < 70 || n > 130 {
		t.Errorf("%d copies of 200, want about half", n)
	}
	if n := mirrored(20, "/none"); n != 0 {
		t.Errorf("%d copies, want none", n)
	}
}

func sendCORS(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(to("cors", "/", object{"CORS": object{
		"AllowOrigins": []object{{"Suffix": ".shop"}}, "AllowMethods": []string{"get", "PUT"}, "AllowHeaders": []string{"x-own"},
		"ExposeHeaders": []string{"x-backend"}, "MaxAge": "1h", "AllowCredentials": true,
	}}))
	l.comes("GET", "/", byRoute("cors"))
	before := l.v1.requests.Load() + l.v1b.requests.Load() + l.v2.requests.Load()
	g, err := l.call("OPTIONS", "/", "Origin: https://a.shop", "Access-Control-Request-Method: PUT")
	if err != nil || g.Status != 200 || g.Header.Get("Access-Control-Allow-Origin") != "https://a.shop" || g.Header.Get("Access-Control-Allow-Methods") != "GET,PUT" ||
		g.Header.Get("Access-Control-Allow-Headers") != "x-own" || g.Header.Get("Access-Control-Max-Age") != "3600" || g.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("beforehand: %+v, %v", g, err)
	}
	if after := l.v1.requests.Load() + l.v1b.requests.Load() + l.v2.requests.Load(); after != before {
		t.Error("the question came to the application")
	}
	g, err = l.call("GET", "/", "Origin: https://a.shop")
	if err != nil || g.Header.Get("Access-Control-Allow-Origin") != "https://a.shop" || g.Header.Get("Access-Control-Expose-Headers") != "x-backend" {
		t.Errorf("an allowed origin: %+v, %v", g, err)
	}
	g, err = l.call("GET", "/", "Origin: https://evil.example")
	if err != nil || g.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin: %+v, %v", g, err)
	}
}

func sendSticky(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(nil)
	l.entry("service-splitter", "api", object{
		"Sticky": []object{{"Field": "header", "FieldValue": "x-user"}},
		"Splits": []object{{"Weight": 50, "ServiceSubset": "v1"}, {"Weight": 50, "ServiceSubset": "v2"}},
	})
	l.routes(to("sticky", "/", object{}))
	l.comes("GET", "/", byRoute("sticky"))
	v2 := 0
	for user := range 60 {
		leg := ""
		for range 4 {
			g, err := l.call("GET", "/", fmt.Sprint("x-user: user-", user))
			if err != nil || g.Status != http.StatusOK {
				t.Fatal(g, err)
			}
			now := strings.TrimSuffix(g.Seen.Backend, "b")
			if leg != "" && leg != now {
				t.Fatalf("user %d came to %s and then to %s", user, leg, now)
			}
			leg = now
		}
		if leg == "v2" {
			v2++
		}
	}
	if v2 < 15 || v2 > 45 {
		t.Errorf("%d of 60 users at v2, want about half", v2)
	}
}

func sendTCP(t *testing.T, w *World) {
	l := w.traffic(t)
	l.entry("service-resolver", "raw", object{"Subsets": object{"v1": object{"Filter": `Service.Meta.version == "1"`}, "v2": object{"Filter": `Service.Meta.version == "2"`}}})
	l.entry("service-splitter", "raw", object{"Splits": []object{{"Weight": 75, "ServiceSubset": "v1"}, {"Weight": 25, "ServiceSubset": "v2"}}})
	count := map[string]int{}
	take := func(n int) error {
		clear(count)
		for range n {
			conn, err := dialTCP(l.rawAddr)
			if err != nil {
				return err
			}
			var name [1]byte
			_, err = io.ReadFull(conn, name[:])
			_ = conn.Close()
			if err != nil {
				return err
			}
			count[string(name[:])]++
		}
		return nil
	}
	until(t, callWithin, func() error { // the two instances have half each before
		if err := take(200); err != nil {
			return err
		}
		if count["2"] < 30 || count["2"] > 75 {
			return fmt.Errorf("%v, want a quarter at 2", count)
		}
		return nil
	})
}

func sendFailover(t *testing.T, w *World) {
	l := w.traffic(t)
	l.entry("service-resolver", "api", object{
		"Subsets":  object{"none": object{"Filter": `Service.Meta.version == "9"`}, "v2": object{"Filter": `Service.Meta.version == "2"`}},
		"Failover": object{"none": object{"Targets": []object{{"ServiceSubset": "v2"}, {"Service": l.name("spare")}}}},
	})
	l.routes(to("none", "/", object{"ServiceSubset": "none"}))
	l.comes("GET", "/", byRoute("none"))
	for range 20 {
		l.is(func(g got) error {
			if g.Seen.Backend != "v2" {
				return fmt.Errorf("%d from %q, want v2", g.Status, g.Seen.Backend)
			}
			return nil
		}, "GET", "/")
	}
}
