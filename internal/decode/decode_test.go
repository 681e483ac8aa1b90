// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftmesh/weft/internal/stormtest"
)

type base struct {
	Kind string
	Meta map[string]string
}

type check struct {
	HTTP     string
	Interval time.Duration
	Header   map[string][]string
}

type service struct {
	base
	Name    string
	ID      string `decode:"service_id"`
	Port    int
	Tags    []string
	Checks  []check `decode:"check"`
	Weights *struct{ Passing, Warning int }
	Config  map[string]any
	Enabled bool
	Ratio   float64
}

type document struct {
	Services []service `decode:"service"`
	Secret   string    `decode:"-"`
}

func want() document {
	return document{Services: []service{{
		base: base{Kind: "k", Meta: map[string]string{"a": "b"}}, Name: "web", ID: "web1", Port: 8080, Tags: []string{"x", "y"},
		Checks:  []check{{HTTP: "http://h/", Interval: 10 * time.Second, Header: map[string][]string{"X": {"1"}}}},
		Weights: &struct{ Passing, Warning int }{2, 1},
		Config:  map[string]any{"protocol": "http", "ms": int64(5000), "ratio": 0.5, "deep": map[string]any{"list": []any{"a", true}}},
		Enabled: true, Ratio: 99.5,
	}}}
}

var forms = map[string]string{
	"a.json": `{"Services": [{"Kind":"k","Meta":{"a":"b"},"Name":"web","ServiceID":"web1","Port":"8080","Tags":["x","y"],
 "Checks":[{"HTTP":"http://h/","Interval":"10s","Header":{"X":["1"]}}],"Weights":{"Passing":2,"Warning":1},
 "Config":{"protocol":"http","ms":5000,"ratio":0.5,"deep":{"list":["a",true]}},"Enabled":true,"Ratio":99.5}]}`,
	"a.hcl": `service {
  kind = "k"
  meta { a = "b" }
  "name" = "web"
  service_id = "web1"
  port = 8080
  tags = ["x", "y"]
  check { http = "http://h/" interval = "10s" header { X = ["1"] } }
  weights = { passing = 2, warning = 1 }
  config { protocol = "http" ms = 5000 ratio = 0.5 deep { list = ["a", true] } }
  enabled = true
  ratio = 99.5
}`,
	"a.yaml": `services:
- kind: k
  meta: {a: b}
  name: web
  id: web1
  port: 8080
  tags: [x, y]
  checks:
  - {http: "http://h/", interval: 10s, header: {X: ["1"]}}
  weights: {passing: 2, warning: 1}
  config: {protocol: http, ms: 5000, ratio: 0.5, deep: {list: [a, true]}}
  enabled: true
  ratio: 99.5
`,
}

func TestFormsAgree(t *testing.T) {
	for name, text := range forms {
		d, err := Parse(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var got document
		if err := d.Into(&got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want(), got, cmp.AllowUnexported(service{}, base{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// An empty duration is one that isn't given: that is how Consul shows it.
func TestEmptyDuration(t *testing.T) {
	d, err := Parse("a.json", []byte(`{"Interval":"","Timeout":"2s"}`))
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Interval, Timeout time.Duration }
	if err := d.Into(&got); err != nil || got.Interval != 0 || got.Timeout != 2*time.Second {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFaultsAreNamed(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"a.hcl", "service {\n  nme = \"x\"\n}", "a.hcl:2: service[0].nme: unknown field; did you mean name?"},
		{"a.hcl", "service {\n  port = \"x\"\n}", `a.hcl:2: service[0].port: want a whole number, got a string "x"`},
		{"a.hcl", "service {\n  port = [1]\n}", `a.hcl:2: service[0].port: want a whole number, got a list`},
		{"a.hcl", "service {\n  name = \"a\"\n  name = \"b\"\n}", `a.hcl: not HCL: The argument "name" at 3:3 was already set. Each argument can only be defined once`},
		{"a.hcl", "service {", "a.hcl:1: not HCL: object expected closing RBRACE got: EOF"},
		{"a.hcl", "service {\n  name = \"wri\\6355te\"\n}", `a.hcl:2: not HCL: a string with an escape that is none, or a here-document without an end: "wri\6355te"`},
		{"a.hcl", "\n\"ser\\6355vice\" {\n}", `a.hcl:2: not HCL: a string with an escape that is none, or a here-document without an end: "ser\6355vice"`},
		{"a.hcl", "secret = \"x\"", "a.hcl:1: secret: unknown field"},
		{"a.json", "{\"service\": [{\"Name\": 1,\n \"Port\": 1.5}]}", `a.json:2: service[0].Port: want a whole number, got a number "1.5"`},
		{"a.json", "{\"service\": {\"service_id\": \"a\",\n \"ID\": \"b\"}}", `a.json:2: service[0].ID: given twice, also as "service_id"`},
		{"a.json", "{\n\"a\": }", "a.json:2: not JSON: invalid character '}' looking for beginning of value"},
		{"a.json", "{\"a\": 1} x", "a.json:1: there is more after the end of the document"},
		{"a.json", "[]", "a.json:1: the document must be an object, not a list"},
		{"a.json", "", "a.json: the document is empty"},
		{"a.yaml", "services:\n- port: 99999999999999999999\n", `a.yaml:2: services[0].port: want a whole number, got a number "99999999999999999999"`},
		{"a.yaml", "services:\n- check: {interval: soon}\n", `a.yaml:2: services[0].check[0].interval: invalid duration "soon": want one as "10s" or "1m30s"`},
		{"a.toml", "", "a.toml: unknown format: the name must end in .hcl, .json, .yaml or .yml"},
		{"a.json", "{\"a\": \"\n\xff\"}", "a.json:2: invalid UTF-8 at byte 8"},
		{"a.json", strings.Repeat("{\"a\":", 80), "a.json:1: nested deeper than 64 levels"},
	} {
		d, err := Parse(c.file, []byte(c.text))
		if err == nil {
			var got document
			err = d.Into(&got)
		}
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %q:\n got %v\nwant %s", c.file, c.text, err, c.want)
			continue
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%v is not an *Error", err)
		}
	}
}

// However deep a document nests, it is refused at once: some parsers' time grows with more than the square of the depth.
func TestC74_Nesting(t *testing.T) {
	const deep = 20_000
	for _, c := range []struct{ file, open, shut string }{
		{"a.hcl", "[", "]"}, {"a.hcl", "{a = ", "}"}, {"a.hcl", "{\na = ", "\n}"}, {"a.json", "[", "]"}, {"a.json", `{"a":`, "}"}, {"a.yaml", "[", "]"}, {"a.yaml", "{a: ", "}"},
	} {
		text := func(n int) []byte {
			before, value := "a = ", "1"
			switch c.file {
			case "a.json":
				before, value = `{"a":`, "1}"
			case "a.yaml":
				before = "a: "
			}
			shut := strings.Repeat(c.shut, n)
			if c.file == "a.json" {
				return []byte(before + strings.Repeat(c.open, n) + "1" + shut + "}")
			}
			return []byte(before + strings.Repeat(c.open, n) + value + shut)
		}
		ended := make(chan error, 1)
		go func() {
			deepest, _, _ := strings.Cut(string(text(deep)), "1") // without an end, where parsers take longest
			_, err := Parse(c.file, []byte(deepest))
			ended <- err
		}()
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s: %d times %q is taken", c.file, deep, c.open)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: %d times %q isn't refused in 5 seconds", c.file, deep, c.open)
		}
		if _, err := Parse(c.file, text(20)); err != nil {
			t.Errorf("%s: the control: %v", c.file, err)
		}
	}
}

func TestEveryFaultIsReported(t *testing.T) {
	d, err := Parse("a.hcl", []byte("service { port = \"x\" nope = 1 }\nother = 2"))
	if err != nil {
		t.Fatal(err)
	}
	var got document
	if n := strings.Count(d.Into(&got).Error(), "\n") + 1; n != 3 {
		t.Errorf("%d faults reported, want 3", n)
	}
}

func FuzzParse(f *testing.F) {
	for name, text := range forms {
		f.Add(name, []byte(text))
	}
	stormtest.Fuzz(f, func(t *testing.T, name string, data []byte) {
		d, err := Parse(name, data)
		if err != nil {
			return
		}
		var got document
		_ = d.Into(&got)
	})
}

// The short way and the long one read the same.
func FuzzQuick(f *testing.F) {
	for _, s := range []string{`{"a":[1,-2.5e+3,"x\"y\\",true,false,null,{}],"ü":"\u00e9",` + "\n" + ` "b" : {"c":[ ]} }`, `{"a":1,"a":2}`, `[[]]`, ` "x" `, `1`, `{}`, `null`} {
		f.Add([]byte(s))
	}
	stormtest.Fuzz(f, func(t *testing.T, data []byte) {
		if !json.Valid(data) || invalidUTF8(data) >= 0 {
			return
		}
		got, err := parseJSON(data)
		want, wantErr := explainJSON(data)
		if (err == nil) != (wantErr == nil) || err == nil && !cmp.Equal(got, want, cmp.AllowUnexported(Node{})) {
			t.Errorf("%q: %v, %v; the long way %v, %v", data, got, err, want, wantErr)
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	type check struct{ Name, CheckID, ServiceID, Status, Notes, Output string }
	type service struct {
		ID, Service, Address, Kind string
		Port                       int
		Tags                       []string
		Meta                       map[string]string
		A, B, C, D, E, F, G, H     string
	}
	type register struct {
		Node, Address, ID, Datacenter string
		SkipNodeUpdate                bool
		NodeMeta, TaggedAddresses     map[string]string
		Service                       *service
		Check                         *check
		Checks                        []check
	}
	body := []byte(`{"Node":"r1","Address":"10.1.0.1","SkipNodeUpdate":false,"Service":{"ID":"s1","Service":"s1","Port":80,"Tags":["a","b"]},"Check":{"Name":"c","CheckID":"c1","ServiceID":"s1","Status":"passing"}}`)
	b.ReportAllocs()
	for b.Loop() {
		var r register
		if err := JSON(body, &r); err != nil {
			b.Fatal(err)
		}
	}
}
