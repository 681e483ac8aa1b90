// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/decode"
)

// grantFlags are those by which tokens and roles are given something.
func grantFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringSliceFlag{Name: "policy-id", Usage: "policy by ID, or the beginning of one (repeatable)"},
		&ucli.StringSliceFlag{Name: "policy-name", Usage: "policy by name (repeatable)"},
		&ucli.StringSliceFlag{Name: "service-identity", Usage: "service, or service:dc1,dc2 (repeatable)"},
		&ucli.StringSliceFlag{Name: "node-identity", Usage: "node:dc (repeatable)"},
		&ucli.StringFlag{Name: "templated-policy", Usage: "templated policy by name"},
		&ucli.StringFlag{Name: "templated-policy-file", Usage: "file of templated policies and their variables"},
		&ucli.StringSliceFlag{Name: "var", Usage: "variable of the templated policy: name:value (repeatable)"},
	}
}

// templateFlags are those by which an object that is there gets templated policies; how is "append-" or "replace-".
func templateFlags(how, what string) []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: how + "templated-policy", Usage: "templated policy by name, " + what},
		&ucli.StringFlag{Name: how + "templated-policy-file", Usage: "file of templated policies, " + what},
	}
}

// takeGrants puts what flags grant into an object: in place of what its list has, or, where beside says so of the list, beside
// it. Flags that begin with append- always add, those that begin with replace- never.
func takeGrants(c *ucli.Context, cl *apiclient.Client, o doc, beside func(list string) bool) error {
	if len(c.StringSlice("var")) > 0 && c.String("templated-policy")+c.String("append-templated-policy")+c.String("replace-templated-policy") == "" {
		return usage("Cannot specify -var without -templated-policy")
	}
	always := func(yes bool) func(string) bool { return func(string) bool { return yes } }
	for _, way := range []struct {
		prefix string
		beside func(string) bool
	}{{"", beside}, {"replace-", always(false)}, {"append-", always(true)}} {
		granted, err := grantsOf(c, cl, way.prefix)
		if err != nil {
			return err
		}
		for name, list := range granted {
			if old, ok := o[name].([]any); ok && way.beside(name) {
				list = append(slices.Clip(old), list...)
			}
			o[name] = list
		}
	}
	return nil
}

// grantsOf are the lists that flags of a prefix fill.
func grantsOf(c *ucli.Context, cl *apiclient.Client, prefix string) (map[string][]any, error) {
	granted := map[string][]any{}
	add := func(list string, v ...any) {
		if len(v) > 0 {
			granted[list] = append(granted[list], v...)
		}
	}
	for kind, list := range map[string]string{"policy": "Policies", "role": "Roles"} {
		found, err := links(c, cl, prefix, kind)
		if err != nil {
			return nil, err
		}
		add(list, found...)
	}
	for _, s := range c.StringSlice(prefix + "service-identity") {
		name, dcs, _ := strings.Cut(s, ":")
		id := doc{"ServiceName": name}
		if dcs != "" {
			id["Datacenters"] = strings.Split(dcs, ",")
		}
		add("ServiceIdentities", id)
	}
	for _, s := range c.StringSlice(prefix + "node-identity") {
		name, dc, ok := strings.Cut(s, ":")
		if !ok || dc == "" {
			return nil, usage("-%snode-identity %q: want node:datacenter", prefix, s)
		}
		add("NodeIdentities", doc{"NodeName": name, "Datacenter": dc})
	}
	if name := c.String(prefix + "templated-policy"); name != "" {
		vars, err := variables(c.StringSlice("var"))
		if err != nil {
			return nil, err
		}
		add("TemplatedPolicies", templated(name, vars))
	}
	if path := c.String(prefix + "templated-policy-file"); path != "" {
		all, err := templatesIn(path)
		if err != nil {
			return nil, err
		}
		add("TemplatedPolicies", all...)
	}
	return granted, nil
}

func templated(name string, vars doc) doc {
	p := doc{"TemplateName": name}
	if vars != nil {
		p["TemplateVariables"] = vars
	}
	return p
}

func variables(list []string) (doc, error) {
	var out doc
	for _, v := range list {
		name, value, ok := strings.Cut(v, ":")
		if !ok || !strings.EqualFold(name, "name") {
			return nil, usage("-var %q: want name:value", v)
		}
		out = doc{"Name": value}
	}
	return out, nil
}

// templatesIn reads a file of templated policies: blocks TemplatedPolicy "builtin/service" { Name = "web" }, as many as are wanted,
// or the same as JSON or YAML: {"TemplatedPolicies": {"builtin/service": [{"Name": "web"}, …]}}.
func templatesIn(path string) ([]any, error) {
	d, err := document(Env{}, path)
	if err != nil {
		return nil, err
	}
	var out []any
	for _, f := range d.Root.Fields {
		switch strings.ToLower(strings.ReplaceAll(f.Name, "_", "")) {
		case "templatedpolicy", "templatedpolicies":
		default:
			return nil, fmt.Errorf("%s:%d: %s: want TemplatedPolicy \"NAME\" { Name = … }", path, f.Line, f.Name)
		}
		for _, group := range listed(decode.Any(f.Value)) {
			byName, ok := group.(doc)
			if !ok {
				return nil, fmt.Errorf("%s:%d: %s: want a template's name, as builtin/service, and its variables", path, f.Line, f.Name)
			}
			for _, name := range sortedKeys(byName) {
				for _, v := range listed(byName[name]) {
					vars, ok := v.(doc)
					if !ok {
						return nil, fmt.Errorf("%s:%d: %s: want its variables, as { Name = \"web\" }", path, f.Line, name)
					}
					if len(vars) == 0 {
						vars = nil
					}
					out = append(out, templated(name, vars))
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no templated policy in it: want TemplatedPolicy \"builtin/service\" { Name = \"web\" }", path)
	}
	return out, nil
}

// listed is a list as it is, and anything else as the only item of one.
func listed(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// links are policies or roles by -KIND-id and -KIND-name.
func links(c *ucli.Context, cl *apiclient.Client, prefix, kind string) ([]any, error) {
	var out []any
	for _, id := range c.StringSlice(prefix + kind + "-id") {
		whole, err := wholeID(c, cl, kind, id)
		if err != nil {
			return nil, err
		}
		out = append(out, doc{"ID": whole})
	}
	for _, name := range c.StringSlice(prefix + kind + "-name") {
		out = append(out, doc{"Name": name})
	}
	return out, nil
}
