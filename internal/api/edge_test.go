// SPDX-License-Identifier: Apache-2.0

package api

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/stormtest"
)

func serverMux(t *testing.T, c MuxConfig, h Handler) *Mux {
	t.Helper()
	c.Side, c.Resolver, c.Datacenter, c.Handlers = Server, Open{}, "dc1", answering(Server, h)
	m, err := NewMux(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCompression(t *testing.T) {
	long := strings.Repeat("weft ", 1000)
	m := serverMux(t, MuxConfig{Compress: true}, func(w http.ResponseWriter, r *Request) error {
		switch r.URL.Query().Get("what") {
		case "short":
			return WriteJSON(w, "x")
		case "error":
			return errors.New(long)
		case "zipped":
			w.Header().Set("Content-Type", "application/x-gzip")
		case "flush":
			_, _ = io.WriteString(w, "one")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "two")
			return nil
		case "nothing":
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		_, _ = io.WriteString(w, long)
		return nil
	})
	for _, c := range []struct {
		what, accept string
		code         int
		zipped       bool
		body         string
	}{
		{"long", "gzip", 200, true, long},
		{"long", "br, gzip;q=0.5", 200, true, long},
		{"long", "*", 200, true, long},
		{"long", "gzip;q=0", 200, false, long},
		{"long", "", 200, false, long},
		{"short", "gzip", 200, false, `"x"`},
		{"error", "gzip", 500, true, long},
		{"zipped", "gzip", 200, false, long},
		{"flush", "gzip", 200, false, "onetwo"},
		{"nothing", "gzip", 204, false, ""},
	} {
		r := httptest.NewRequest("GET", "/v1/catalog/nodes?what="+c.what, nil)
		r.Header.Set("Accept-Encoding", c.accept)
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		got := w.Result()
		body := io.Reader(got.Body)
		if zipped := got.Header.Get("Content-Encoding") == "gzip"; zipped != c.zipped || got.StatusCode != c.code {
			t.Errorf("%+v: %d, compressed %v", c.what, got.StatusCode, zipped)
			continue
		} else if zipped {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Fatal(err)
			}
			body = z
		}
		if data, err := io.ReadAll(body); err != nil || string(data) != c.body {
			t.Errorf("%s: %q, %v", c.what, data, err)
		}
	}
}

// What a filter may cost is bounded, and what it keeps is right.
func TestFilters(t *testing.T) {
	type row struct {
		Node string
		Meta map[string]string
	}
	rows := []row{{"a", map[string]string{"x": "1"}}, {"b", nil}}
	for _, c := range []struct {
		expr string
		want int
		code int
	}{
		{`Node == a`, 1, 0}, {`Meta.x == 1`, 1, 0}, {`Meta.x != 1`, 1, 0}, {`"a" in Node or Node matches "^b$"`, 2, 0}, {`not Node == a`, 1, 0},
		{``, 2, 0}, {`Node ==`, 0, 500}, {`Nope == 1`, 0, 500}, {`Node matches "("`, 0, 500},
		{strings.Repeat("(", 40) + "Node==a" + strings.Repeat(")", 40), 0, 500},
		{strings.Repeat("not ", 5000) + "Node==a", 0, 400},
		{"Node==a" + strings.Repeat(" or Node==b", 600), 2, 0},
	} {
		got, err := FilterList(c.expr, rows)
		if len(c.expr) > 60 {
			c.expr = c.expr[:60]
		}
		if c.code == 0 && (err != nil || len(got) != c.want) || c.code != 0 && (err == nil || HTTPStatus(err) != c.code) {
			t.Errorf("%s: %v, %v", c.expr, got, err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{`Node == a`, `Meta["x"] is not empty and not (Node != "b")`, `((((Node==a))))`, `Node matches "^(a|b)*$"`} {
		f.Add(s)
	}
	stormtest.Fuzz(f, func(_ *testing.T, expr string) {
		_, _ = FilterList(expr, []struct {
			Node string
			Meta map[string]string
			Tags []string
		}{{Node: "a"}}) // whatever comes: an answer, and soon
	})
}

// A change of something that was read, but that the answer doesn't show, wakes nobody.
func TestNoWakeWithoutAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := catalog.New(catalog.Config{Datacenter: "dc1"})
		if err != nil {
			t.Fatal(err)
		}
		apply := func(body catalog.Body) {
			t.Helper()
			data, err := catalog.Encode(body)
			if err != nil {
				t.Error(err)
			}
			if r := store.Apply([]catalog.LogEntry{{Index: store.Position().Index + 1, Data: data}})[0]; r.Err != nil {
				t.Error(r.Err)
			}
		}
		node := func(name, address string) catalog.Register {
			return catalog.Register{Node: catalog.Node{Node: name, Address: address}}
		}
		apply(node("a", "1"))
		m := serverMux(t, MuxConfig{}, func(w http.ResponseWriter, r *Request) error {
			return Answer(w, r, store, func(t *catalog.Txn) ([]*catalog.Node, error) {
				all, err := t.Nodes(r.Options.Scope)
				if err != nil {
					return nil, err
				}
				return FilterList(r.Options.Filter, all)
			})
		})
		done := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			w := httptest.NewRecorder()
			m.ServeHTTP(w, httptest.NewRequest("GET", "/v1/catalog/nodes?index=1&wait=60s&filter=Node==a", nil))
			if w.Code != 200 || w.Header().Get("X-Consul-Index") != "3" {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
			done <- time.Since(began)
		}()
		time.Sleep(time.Second)
		apply(node("b", "1"))
		time.Sleep(time.Second)
		select {
		case <-done:
			t.Error("a node that the filter leaves out woke it")
		default:
		}
		apply(node("a", "2"))
		if d := <-done; d > 3*time.Second {
			t.Errorf("woken after %v", d)
		}
		// The time is over: the same answer.
		w := httptest.NewRecorder()
		go func() {
			time.Sleep(time.Second)
			apply(node("b", "3"))
		}()
		m.ServeHTTP(w, httptest.NewRequest("HEAD", "/v1/catalog/nodes?index=3&wait=10s&filter=Node==a", nil))
		if w.Code != 200 || time.Since(began) < 10*time.Second {
			t.Errorf("%d after %v", w.Code, time.Since(began))
		}
	})
}

// The description has every route once, with its path's parameters, and names no route that isn't there.
func TestOpenAPI(t *testing.T) {
	doc := OpenAPI("1.2.3")
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Parameters  []struct{ Name, In string }
			Responses   map[string]any
		}
	}
	if err := json.Unmarshal(data, &back); err != nil || back.OpenAPI != "3.1.0" {
		t.Fatal(err, back.OpenAPI)
	}
	ids, named := map[string]bool{}, map[string]bool{}
	for _, r := range Routes {
		named[r.Name()] = true
		op, ok := back.Paths[strings.ReplaceAll(r.Path, "...", "")][strings.ToLower(r.Method)]
		if !ok || ids[op.OperationID] || op.Responses["200"] == nil {
			t.Errorf("%s: %+v", r.Name(), op)
		}
		ids[op.OperationID] = true
		inPath := 0
		for _, p := range op.Parameters {
			if p.In == "path" {
				inPath++
			}
		}
		if inPath != strings.Count(r.Path, "{") {
			t.Errorf("%s: %d parameters in its path", r.Name(), inPath)
		}
	}
	for name := range told {
		if !named[name] {
			t.Errorf("%s is described and isn't a route", name)
		}
	}
	for name := range special {
		if !named[name] {
			t.Errorf("%s is described and isn't a route", name)
		}
	}
}
