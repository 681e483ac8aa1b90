// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

func importCommand(env Env) *ucli.Command {
	return group("import", "bring in what another system holds",
		&ucli.Command{
			Name: "consul", Usage: "copy what a running Consul holds: ACLs, config entries, intentions, keys, queries, external nodes",
			Flags: clientFlags(
				&ucli.StringFlag{Name: "from", Usage: "Consul's HTTP API, as http://10.0.0.5:8500"},
				&ucli.StringFlag{Name: "from-token", Usage: "token to read Consul with: one that manages, to read all"},
				&ucli.StringFlag{Name: "from-token-file", Usage: "file that holds it"},
				&ucli.StringFlag{Name: "from-ca-file", Usage: "certificates to trust over https there, in PEM"},
				&ucli.BoolFlag{Name: "dry-run", Usage: "write nothing; say what would be written"}, formatFlag(),
			),
			Action: func(c *ucli.Context) error { return importConsul(c, env) },
		})
}

type object = map[string]any

// importer copies from one HTTP API to another. What is there already as it should be isn't written again.
type importer struct {
	c        *ucli.Context
	from, to *apiclient.Client
	dry      bool
	rows     []*importedRow
	lost     []importedLoss
}

type importedRow struct {
	What               string
	Written, Same, Not int
}

type importedLoss struct{ What, Why string }

// copied is one sort of things and how it is copied.
type copied struct {
	what, list string
	// key is what tells one from another, "" for those that aren't copied.
	key func(object) string
	// said is what one says, without what each side makes itself.
	said func(object) object
	// write is the request that makes it; old is what is there, nil for nothing.
	write func(said, old object) (method, path string, query url.Values, body any)
}

func importConsul(c *ucli.Context, env Env) error {
	asJSON, err := asJSON(c)
	if err != nil {
		return err
	}
	if c.NArg() > 0 || c.String("from") == "" {
		return usage("say which Consul to read with -from, as -from http://10.0.0.5:8500")
	}
	im := &importer{c: c, dry: c.Bool("dry-run")}
	if im.to, err = client(c, env); err != nil {
		return err
	}
	if im.from, err = apiclient.New(apiclient.Config{
		Address: c.String("from"), Token: c.String("from-token"), TokenFile: c.String("from-token-file"), CAFile: c.String("from-ca-file"),
		Getenv: func(string) string { return "" }, // what is set there is about the other side
	}); err != nil {
		return err
	}
	if err := im.all(); err != nil {
		return err
	}
	if asJSON {
		err = printJSON(env.Stdout, map[string]any{"DryRun": im.dry, "Copied": im.rows, "Lost": im.lost})
	} else {
		err = im.print(env)
	}
	if err == nil && slices.ContainsFunc(im.rows, func(r *importedRow) bool { return r.Not > 0 }) {
		err = &exitError{code: 1, text: "not everything was taken"}
	}
	return err
}

func (im *importer) print(env Env) error {
	written := "Written"
	if im.dry {
		written = "To write"
	}
	var rows [][]string
	for _, r := range im.rows {
		rows = append(rows, []string{r.What, strconv.Itoa(r.Written), strconv.Itoa(r.Same), strconv.Itoa(r.Not)})
	}
	if err := table(env.Stdout, []string{"What", written, "As it was", "Not taken"}, rows); err != nil {
		return err
	}
	for _, l := range im.lost {
		fmt.Fprintf(env.Stdout, "%s: %s\n", l.What, l.Why)
	}
	return nil
}

func (im *importer) get(from *apiclient.Client, path string, out any) error {
	base, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	var raw []byte
	if _, err := from.Do(im.c.Context, http.MethodGet, base, values, nil, &raw); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // flags have 64 bits
	if err := d.Decode(out); err != nil {
		return fmt.Errorf("%s: the answer can't be read: %w", path, err)
	}
	return nil
}

func (im *importer) lose(what, format string, args ...any) {
	im.lost = append(im.lost, importedLoss{what, fmt.Sprintf(format, args...)})
}

// entryKinds are the kinds of config entry, each after those that it refers to.
var entryKinds = []string{
	"proxy-defaults", "mesh", "service-defaults", "jwt-provider", "service-resolver", "service-splitter", "service-router", "service-intentions", "ingress-gateway",
	"terminating-gateway", "inline-certificate", "file-system-certificate", "api-gateway", "http-route", "tcp-route", "exported-services", "sameness-group",
}

func (im *importer) all() error {
	var self struct {
		Config struct{ Datacenter, Version string }
	}
	if err := im.get(im.from, "/v1/agent/self", &self); err != nil {
		return fmt.Errorf("read Consul at %s: %w", im.c.String("from"), err)
	}
	steps := aclSteps()
	for _, kind := range entryKinds {
		steps = append(steps, entryStep(kind))
	}
	for _, s := range append(steps, keyStep(im), queryStep()) {
		if err := im.copy(s); err != nil {
			return err
		}
	}
	return im.externals()
}

// copy copies one sort of things.
func (im *importer) copy(s copied) error {
	var theirs, ours []object
	err := im.get(im.from, s.list, &theirs)
	switch {
	case apiclient.IsStatus(err, http.StatusUnauthorized), apiclient.IsStatus(err, http.StatusNotFound), apiclient.IsStatus(err, http.StatusBadRequest):
		return nil // ACLs are off there, there is no key, or the kind isn't known
	case err != nil:
		return fmt.Errorf("read Consul's %s: %w", s.what, err)
	case len(theirs) == 0:
		return nil
	}
	row := &importedRow{What: s.what}
	im.rows = append(im.rows, row)
	err = im.get(im.to, s.list, &ours)
	if apiclient.IsStatus(err, http.StatusUnauthorized) {
		row.Not = len(theirs)
		im.lose(s.what, "ACLs are off here: set acl.enabled, and ask again")
		return nil
	}
	if err != nil && !apiclient.IsStatus(err, http.StatusNotFound) {
		return fmt.Errorf("read this side's %s: %w", s.what, err)
	}
	have := map[string]object{}
	for _, o := range ours {
		have[s.key(o)] = o
	}
	for _, o := range theirs {
		key := s.key(o)
		if key == "" {
			continue
		}
		said, old := s.said(o), have[key]
		if old != nil && reflect.DeepEqual(comparable(said), comparable(s.said(old))) {
			row.Same++
			continue
		}
		method, path, query, body := s.write(said, old)
		if !im.dry {
			if _, err := im.to.Do(im.c.Context, method, path, query, body, nil); err != nil {
				row.Not++
				im.lose(strings.TrimSuffix(s.what, "s")+" "+key, "%v", err)
				continue
			}
		}
		row.Written++
	}
	return nil
}

// comparable is what a thing says in a form that is the same on both sides: nothing that is empty, and no secret, which isn't shown again.
func comparable(o object) any {
	var shrink func(v any) any
	shrink = func(v any) any {
		switch t := v.(type) {
		case object:
			out := object{}
			for name, value := range t {
				if value = shrink(value); value != nil && name != "SecretID" {
					out[name] = value
				}
			}
			if len(out) == 0 {
				return nil
			}
			return out
		case []any:
			var out []any
			for _, item := range t {
				out = append(out, shrink(item))
			}
			if len(out) == 0 {
				return nil
			}
			return out
		case string:
			if t == "" {
				return nil
			}
		case bool:
			if !t {
				return nil
			}
		case json.Number:
			if t == "0" {
				return nil
			}
		}
		return v
	}
	return shrink(o)
}

// only keeps some fields of an object.
func only(o object, names ...string) object {
	out := object{}
	for _, n := range names {
		if v, ok := o[n]; ok && v != nil {
			out[n] = v
		}
	}
	return out
}

func without(o object, names ...string) object {
	out := maps.Clone(o)
	for _, n := range names {
		delete(out, n)
	}
	return out
}

func named(field string) func(object) string {
	return func(o object) string { s, _ := o[field].(string); return s }
}

// byName has links to policies and roles go by name: they have other IDs on the other side.
func byName(o object) object {
	for _, field := range []string{"Policies", "Roles"} {
		links, _ := o[field].([]any)
		var out []any
		for _, l := range links {
			if link, ok := l.(object); ok {
				out = append(out, only(link, "Name"))
			}
		}
		delete(o, field)
		if out != nil {
			o[field] = out
		}
	}
	return o
}

// reserved begins the IDs of what is built in.
const reserved = "00000000-0000-0000-0000-0000000000"

func aclSteps() []copied {
	// at is the request that makes an ACL object, or changes the one that is there.
	at := func(kind, id string) func(object, object) (string, string, url.Values, any) {
		return func(said, old object) (string, string, url.Values, any) {
			path := "/v1/acl/" + kind
			if old != nil {
				path += "/" + url.PathEscape(fmt.Sprint(old[id]))
			}
			return http.MethodPut, path, nil, said
		}
	}
	grants := []string{"Policies", "ServiceIdentities", "NodeIdentities", "TemplatedPolicies"}
	return []copied{
		{
			what: "ACL policies", list: "/v1/acl/policies", write: at("policy", "ID"),
			key: func(o object) string {
				if strings.HasPrefix(named("ID")(o), reserved) {
					return ""
				}
				return named("Name")(o)
			},
			said: func(o object) object { return only(o, "Name", "Description", "Rules", "Datacenters") },
		},
		{
			what: "ACL roles", list: "/v1/acl/roles", write: at("role", "ID"), key: named("Name"),
			said: func(o object) object { return byName(only(o, append(grants, "Name", "Description")...)) },
		},
		{
			what: "ACL auth methods", list: "/v1/acl/auth-methods", write: at("auth-method", "Name"), key: named("Name"),
			said: func(o object) object {
				return only(o, "Name", "Type", "DisplayName", "Description", "MaxTokenTTL", "TokenLocality", "Config")
			},
		},
		{
			what: "ACL binding rules", list: "/v1/acl/binding-rules", write: at("binding-rule", "ID"),
			key: func(o object) string {
				return strings.Join([]string{named("AuthMethod")(o), named("BindType")(o), named("BindName")(o), named("Selector")(o)}, " ")
			},
			said: func(o object) object {
				return only(o, "AuthMethod", "BindType", "BindName", "BindVars", "Selector", "Description")
			},
		},
		{
			what: "ACL tokens", list: "/v1/acl/tokens", write: at("token", "AccessorID"),
			key: func(o object) string {
				if named("AuthMethod")(o) != "" { // who logged in there logs in here
					return ""
				}
				return named("AccessorID")(o)
			},
			said: func(o object) object {
				said := byName(only(o, append(grants, "AccessorID", "SecretID", "Description", "Roles", "Local", "ExpirationTime")...))
				if strings.HasPrefix(named("AccessorID")(o), reserved) {
					delete(said, "SecretID") // the anonymous token's is its name
				}
				return said
			},
		},
	}
}

func entryStep(kind string) copied {
	return copied{
		what: kind + " entries", list: "/v1/config/" + kind, key: named("Name"),
		said: func(o object) object { return without(o, "CreateIndex", "ModifyIndex", "Hash", "Status") },
		write: func(said, _ object) (string, string, url.Values, any) {
			return http.MethodPut, "/v1/config", nil, said
		},
	}
}

func keyStep(im *importer) copied {
	return copied{
		what: "keys", list: "/v1/kv/?recurse", key: named("Key"),
		said: func(o object) object { return only(o, "Key", "Flags", "Value") },
		write: func(said, _ object) (string, string, url.Values, any) {
			var pair struct {
				Key   string
				Flags uint64
				Value []byte
			}
			if err := recode(said, &pair); err != nil {
				im.lose("key "+named("Key")(said), "%v", err)
			}
			return http.MethodPut, "/v1/kv/" + url.PathEscape(pair.Key), url.Values{"flags": {strconv.FormatUint(pair.Flags, 10)}}, pair.Value
		},
	}
}

// recode puts plain values into a struct.
func recode(v, dst any) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, dst)
	}
	return err
}

func queryStep() copied {
	return copied{
		what: "prepared queries", list: "/v1/query", key: named("Name"),
		said: func(o object) object { return only(o, "Name", "Token", "Template", "Service", "DNS") },
		write: func(said, old object) (string, string, url.Values, any) {
			if old != nil {
				return http.MethodPut, "/v1/query/" + url.PathEscape(named("ID")(old)), nil, said
			}
			return http.MethodPost, "/v1/query", nil, said
		},
	}
}

// externals copies the nodes that have no agent: the others register themselves. Written again, they are as they were.
func (im *importer) externals() error {
	var nodes []object
	if err := im.get(im.from, "/v1/catalog/nodes", &nodes); err != nil {
		return fmt.Errorf("read Consul's nodes: %w", err)
	}
	row := &importedRow{What: "external nodes"}
	for _, n := range nodes {
		name := named("Node")(n)
		var checks []object
		var on struct{ Services []object }
		if err := errors.Join(
			im.get(im.from, "/v1/health/node/"+url.PathEscape(name), &checks), im.get(im.from, "/v1/catalog/node-services/"+url.PathEscape(name), &on),
		); err != nil {
			return fmt.Errorf("read Consul's node %s: %w", name, err)
		}
		if slices.ContainsFunc(checks, func(c object) bool { return named("CheckID")(c) == "serfHealth" }) {
			continue
		}
		if err := im.external(n, on.Services, checks); err != nil {
			row.Not++
			im.lose("node "+name, "%v", err)
			continue
		}
		row.Written++
	}
	if *row != (importedRow{What: row.What}) {
		im.rows = append(im.rows, row)
	}
	return nil
}

func (im *importer) external(n object, services, checks []object) error {
	body := object{"Node": n["Node"], "Address": n["Address"], "ID": n["ID"], "TaggedAddresses": n["TaggedAddresses"], "NodeMeta": n["Meta"]}
	bodies := []object{body}
	for _, s := range services {
		bodies = append(bodies, object{"Node": n["Node"], "SkipNodeUpdate": true, "Service": without(s, "CreateIndex", "ModifyIndex", "PeerName", "Datacenter")})
	}
	for _, c := range checks {
		bodies = append(bodies, object{"Node": n["Node"], "SkipNodeUpdate": true, "Check": without(c, "CreateIndex", "ModifyIndex", "PeerName")})
	}
	if im.dry {
		return nil
	}
	for _, b := range bodies {
		if _, err := im.to.Do(im.c.Context, http.MethodPut, "/v1/catalog/register", nil, b, nil); err != nil {
			return err
		}
	}
	return nil
}
