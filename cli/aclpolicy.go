// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

func prettyPolicy(c *ucli.Context, w io.Writer, p doc) {
	field(w, "ID", text(p["ID"]))
	field(w, "Name", text(p["Name"]))
	field(w, "Description", text(p["Description"]))
	field(w, "Datacenters", strings.Join(texts(p["Datacenters"]), ", "))
	prettyMeta(c, w, p)
	if rules := text(p["Rules"]); rules != "" {
		fmt.Fprintf(w, "Rules:\n%s\n", strings.TrimRight(rules, "\n"))
	}
}

func prettyRole(c *ucli.Context, w io.Writer, r doc) {
	field(w, "ID", text(r["ID"]))
	field(w, "Name", text(r["Name"]))
	field(w, "Description", text(r["Description"]))
	prettyMeta(c, w, r)
	prettyGrants(w, r)
}

func metaFlag() ucli.Flag { return &ucli.BoolFlag{Name: "meta", Usage: "with hash and indexes"} }

func nameFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "id", Usage: "by ID, or the beginning of one"}, &ucli.StringFlag{Name: "name", Usage: "by name"}, formatFlag(), metaFlag(),
	}
}

// crudFlags are the flags of such commands: of create and update, and what update and list have beside them. filter are parameters of the list
// by flag.
type crudFlags struct {
	both, update, list []ucli.Flag
	filter             map[string]string
}

// crud are the commands that are alike for policies, roles and binding rules.
func crud(env Env, kind string, pretty func(*ucli.Context, io.Writer, doc), flags crudFlags, take func(*ucli.Context, doc, bool) error) []*ucli.Command {
	path := "/v1/acl/" + kind
	return []*ucli.Command{
		{
			Name: "create", Usage: "make one", Flags: clientFlags(append(slices.Clip(flags.both), formatFlag(), metaFlag())...),
			Action: func(c *ucli.Context) error {
				o, made := doc{}, doc{}
				if err := take(c, o, false); err != nil {
					return err
				}
				if err := ask(c, env, http.MethodPut, path, nil, o, &made); err != nil {
					return fmt.Errorf("Failed to create new %s: %w", strings.ReplaceAll(kind, "-", " "), err) //nolint:staticcheck // Consul's text
				}
				return show(c, env, made, func(w io.Writer) { pretty(c, w, made) })
			},
		},
		{
			Name: "update", Usage: "change one", Flags: clientFlags(append(append(slices.Clip(flags.both), flags.update...), formatFlag(), metaFlag(), &ucli.StringFlag{Name: "id", Usage: "by ID, or the beginning of one"},
				&ucli.BoolFlag{Name: "no-merge", Usage: "replace all of it"})...),
			Action: func(c *ucli.Context) error {
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				o, err := read(c, cl, kind, nil)
				if err != nil {
					return err
				}
				id := text(o["ID"])
				if c.Bool("no-merge") {
					o = doc{"ID": id, "Name": o["Name"]}
				}
				if err := take(c, o, true); err != nil {
					return err
				}
				now := doc{}
				if _, err := cl.Do(c.Context, http.MethodPut, path+"/"+id, nil, o, &now); err != nil {
					return fmt.Errorf("Error updating %s: %w", strings.ReplaceAll(kind, "-", " "), err) //nolint:staticcheck // Consul's text
				}
				return show(c, env, now, func(w io.Writer) { pretty(c, w, now) })
			},
		},
		{
			Name: "read", Usage: "show one", Flags: clientFlags(nameFlags()...),
			Action: func(c *ucli.Context) error {
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				o, err := read(c, cl, kind, nil)
				if err != nil {
					return err
				}
				return show(c, env, o, func(w io.Writer) { pretty(c, w, o) })
			},
		},
		{
			Name: "list", Usage: "list all", Flags: clientFlags(append(slices.Clip(flags.list), formatFlag(), metaFlag())...),
			Action: func(c *ucli.Context) error {
				query := url.Values{}
				for flag, parameter := range flags.filter {
					if c.IsSet(flag) {
						query.Set(parameter, c.String(flag))
					}
				}
				return list(c, env, lists[kind][0], query, func(w io.Writer, o doc) { pretty(c, w, o) })
			},
		},
		{Name: "delete", Usage: "remove one", Flags: clientFlags(nameFlags()...), Action: func(c *ucli.Context) error { return remove(c, env, kind, "ID") }},
	}
}

func setText(c *ucli.Context, o doc, flags map[string]string) {
	for flag, name := range flags {
		if c.IsSet(flag) {
			o[name] = c.String(flag)
		}
	}
}

func aclPolicyCommand(env Env) *ucli.Command {
	flags := []ucli.Flag{
		&ucli.StringFlag{Name: "name", Usage: "its name"}, &ucli.StringFlag{Name: "description", Usage: "what it is for"},
		&ucli.StringFlag{Name: "rules", Usage: "its rules, @FILE, or - for standard input"},
		&ucli.StringSliceFlag{Name: "valid-datacenter", Usage: "datacenter in which it holds, by default all (repeatable)"},
	}
	return group("policy", "rules with a name", crud(env, "policy", prettyPolicy, crudFlags{both: flags}, func(c *ucli.Context, o doc, update bool) error {
		if !update && c.String("name") == "" {
			return usage("Missing require '-name' flag")
		}
		setText(c, o, map[string]string{"name": "Name", "description": "Description"})
		if c.IsSet("rules") {
			rules, err := textOf(env, c.String("rules"))
			if err != nil {
				return err
			}
			o["Rules"] = rules
		}
		if dcs := c.StringSlice("valid-datacenter"); len(dcs) > 0 {
			o["Datacenters"] = dcs
		}
		return nil
	})...)
}

func aclRoleCommand(env Env) *ucli.Command {
	flags := append([]ucli.Flag{
		&ucli.StringFlag{Name: "name", Usage: "its name"}, &ucli.StringFlag{Name: "description", Usage: "what it is for"},
	}, grantFlags()...)
	update := append(templateFlags("append-", "beside the role's"), templateFlags("replace-", "instead of the role's")...)
	return group("role", "policies and identities with a name", crud(env, "role", prettyRole, crudFlags{both: flags, update: update}, func(c *ucli.Context, o doc, update bool) error {
		if !update && c.String("name") == "" {
			return usage("Missing require '-name' flag")
		}
		cl, err := client(c, env)
		if err != nil {
			return err
		}
		setText(c, o, map[string]string{"name": "Name", "description": "Description"})
		return takeGrants(c, cl, o, func(string) bool { return update })
	})...)
}

func aclRuleCommand(env Env) *ucli.Command {
	flags := []ucli.Flag{
		&ucli.StringFlag{Name: "method", Usage: "the auth method's name"}, &ucli.StringFlag{Name: "description", Usage: "what it is for"},
		&ucli.StringFlag{Name: "selector", Usage: "whom it is for: an expression over what the auth method knows"},
		&ucli.StringFlag{Name: "bind-type", Value: "service", Usage: "service, node, role, policy or templated-policy"},
		&ucli.StringFlag{Name: "bind-name", Usage: "name of it, with ${…}"}, &ucli.StringSliceFlag{Name: "bind-vars", Usage: "name=value for a templated policy"},
	}
	pretty := func(c *ucli.Context, w io.Writer, r doc) {
		for _, f := range [][2]string{{"ID", "ID"}, {"AuthMethod", "AuthMethod"}, {"Description", "Description"}, {"BindType", "BindType"}, {"BindName", "BindName"}, {"Selector", "Selector"}} {
			field(w, f[0], text(r[f[1]]))
		}
		prettyMeta(c, w, r)
	}
	return group("binding-rule", "what who logs in gets", crud(env, "binding-rule", pretty, crudFlags{
		both: flags, list: []ucli.Flag{&ucli.StringFlag{Name: "method", Usage: "only those of an auth method"}}, filter: map[string]string{"method": "authmethod"},
	}, func(c *ucli.Context, o doc, update bool) error {
		setText(c, o, map[string]string{"method": "AuthMethod", "description": "Description", "selector": "Selector", "bind-name": "BindName"})
		if !update || c.IsSet("bind-type") {
			o["BindType"] = c.String("bind-type")
		}
		vars, err := pairsOf("bind-vars", c.StringSlice("bind-vars"))
		if err == nil && vars != nil {
			o["BindVars"] = doc{"Name": vars["name"]}
		}
		return err
	})...)
}

func aclMethodCommand(env Env) *ucli.Command {
	flags := []ucli.Flag{
		&ucli.StringFlag{Name: "name", Usage: "its name"}, &ucli.StringFlag{Name: "type", Usage: "jwt, oidc or kubernetes"},
		&ucli.StringFlag{Name: "display-name", Usage: "its name for people"}, &ucli.StringFlag{Name: "description", Usage: "what it is for"},
		&ucli.DurationFlag{Name: "max-token-ttl", Usage: "how long its tokens are good"}, &ucli.StringFlag{Name: "token-locality", Usage: "local or global"},
		&ucli.StringFlag{Name: "token-name-format", Usage: "what its tokens are named, such as ${auth_method_name}-${value.user}"},
		&ucli.StringFlag{Name: "config", Usage: "its configuration as JSON, @FILE, or - for standard input"},
		&ucli.StringFlag{Name: "kubernetes-host", Usage: "URL of the API server"}, &ucli.StringFlag{Name: "kubernetes-ca-cert", Usage: "its CA certificate, or @FILE"},
		&ucli.StringFlag{Name: "kubernetes-service-account-jwt", Usage: "who may review tokens, or @FILE"}, formatFlag(), metaFlag(),
	}
	pretty := func(c *ucli.Context, w io.Writer, m doc) {
		for _, f := range [][2]string{{"Name", "Name"}, {"Type", "Type"}, {"DisplayName", "DisplayName"}, {"Description", "Description"}, {"MaxTokenTTL", "MaxTokenTTL"}, {"TokenLocality", "TokenLocality"}, {"TokenNameFormat", "TokenNameFormat"}} {
			if v := text(m[f[1]]); v != "" {
				field(w, f[0], v)
			}
		}
		if config, ok := m["Config"].(doc); ok {
			fmt.Fprintln(w, "Config:")
			for _, k := range sortedKeys(config) {
				fmt.Fprintf(w, "   %s: %s\n", k, compact(config[k]))
			}
		}
		prettyMeta(c, w, m)
	}
	path := func(c *ucli.Context) (string, error) {
		if c.String("name") == "" {
			return "", usage("Must specify the -name parameter")
		}
		return "/v1/acl/auth-method/" + url.PathEscape(c.String("name")), nil
	}
	name := []ucli.Flag{&ucli.StringFlag{Name: "name", Usage: "by name"}, formatFlag(), metaFlag()}
	write := func(c *ucli.Context, to string, m doc) error {
		if err := takeMethod(c, env, m); err != nil {
			return err
		}
		var now doc
		if err := ask(c, env, http.MethodPut, to, nil, m, &now); err != nil {
			return fmt.Errorf("Failed to write the auth method: %w", err) //nolint:staticcheck // as the others
		}
		return show(c, env, now, func(w io.Writer) { pretty(c, w, now) })
	}
	return group("auth-method", "where people and programs log in from",
		&ucli.Command{Name: "create", Usage: "make one", Flags: clientFlags(flags...), Action: func(c *ucli.Context) error {
			if c.String("name") == "" || c.String("type") == "" {
				return usage("Missing required '-name' and '-type' flags")
			}
			return write(c, "/v1/acl/auth-method", doc{})
		}},
		&ucli.Command{Name: "update", Usage: "change one", Flags: clientFlags(append(flags, &ucli.BoolFlag{Name: "no-merge", Usage: "replace all of it"})...), Action: func(c *ucli.Context) error {
			p, err := path(c)
			if err != nil {
				return err
			}
			m := doc{}
			if !c.Bool("no-merge") {
				if err := ask(c, env, http.MethodGet, p, nil, nil, &m); err != nil {
					return err
				}
			}
			return write(c, p, m)
		}},
		&ucli.Command{Name: "read", Usage: "show one", Flags: clientFlags(name...), Action: func(c *ucli.Context) error {
			p, err := path(c)
			if err != nil {
				return err
			}
			var m doc
			if err := ask(c, env, http.MethodGet, p, nil, nil, &m); err != nil {
				return err
			}
			return show(c, env, m, func(w io.Writer) { pretty(c, w, m) })
		}},
		&ucli.Command{Name: "list", Usage: "list all", Flags: clientFlags(formatFlag(), metaFlag()), Action: func(c *ucli.Context) error {
			return list(c, env, "/v1/acl/auth-methods", nil, func(w io.Writer, m doc) { pretty(c, w, m) })
		}},
		&ucli.Command{Name: "delete", Usage: "remove one, with its tokens and binding rules", Flags: clientFlags(name...), Action: func(c *ucli.Context) error {
			p, err := path(c)
			if err != nil {
				return err
			}
			if err := ask(c, env, http.MethodDelete, p, nil, nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(env.Stdout, "Auth method %q deleted successfully\n", c.String("name"))
			return nil
		}})
}

// takeMethod puts what flags say into an auth method.
func takeMethod(c *ucli.Context, env Env, m doc) error {
	setText(c, m, map[string]string{"name": "Name", "type": "Type", "display-name": "DisplayName", "description": "Description", "token-locality": "TokenLocality", "token-name-format": "TokenNameFormat"})
	if d := c.Duration("max-token-ttl"); d != 0 {
		m["MaxTokenTTL"] = d.String()
	}
	if c.IsSet("config") {
		data, err := textOf(env, c.String("config"))
		if err != nil {
			return err
		}
		config := doc{}
		if err := json.Unmarshal([]byte(data), &config); err != nil {
			return fmt.Errorf("-config isn't a JSON object: %w", err)
		}
		m["Config"] = config
	}
	for flag, name := range map[string]string{"kubernetes-host": "Host", "kubernetes-ca-cert": "CACert", "kubernetes-service-account-jwt": "ServiceAccountJWT"} {
		if !c.IsSet(flag) {
			continue
		}
		value, err := textOf(env, c.String(flag))
		if err != nil {
			return err
		}
		config, _ := m["Config"].(doc)
		if config == nil {
			config = doc{}
		}
		config[name] = strings.TrimSpace(value)
		m["Config"] = config
	}
	return nil
}

func aclTemplateCommand(env Env) *ucli.Command {
	name := &ucli.StringFlag{Name: "name", Usage: "by name, as builtin/service", Required: true}
	pretty := func(w io.Writer, t doc) {
		field(w, "Name", text(t["TemplateName"]))
		field(w, "Description", text(t["Description"]))
		if s := text(t["Schema"]); s != "" {
			field(w, "Variables", "name")
		}
		fmt.Fprintf(w, "Raw Template:\n%s\n", strings.TrimRight(text(t["Template"]), "\n"))
	}
	return group("templated-policy", "policies made of a template",
		&ucli.Command{Name: "list", Usage: "list all", Flags: clientFlags(formatFlag()), Action: func(c *ucli.Context) error {
			all := doc{}
			if err := ask(c, env, http.MethodGet, "/v1/acl/templated-policies", nil, nil, &all); err != nil {
				return err
			}
			return show(c, env, all, func(w io.Writer) {
				for _, n := range sortedKeys(all) {
					fmt.Fprintln(w, n)
				}
			})
		}},
		&ucli.Command{Name: "read", Usage: "show one", Flags: clientFlags(name, formatFlag()), Action: func(c *ucli.Context) error {
			var t doc
			if err := ask(c, env, http.MethodGet, "/v1/acl/templated-policy/name/"+c.String("name"), nil, nil, &t); err != nil {
				return err
			}
			return show(c, env, t, func(w io.Writer) { pretty(w, t) })
		}},
		&ucli.Command{
			Name: "preview", Usage: "show the rules that it makes", Action: func(c *ucli.Context) error { return previewTemplate(c, env) },
			Flags: clientFlags(&ucli.StringFlag{Name: "name", Usage: "by name, as builtin/service"}, formatFlag(), &ucli.StringSliceFlag{Name: "var", Usage: "name:value"},
				&ucli.StringFlag{Name: "file", Usage: "file of one templated policy with its variables, instead of -name and -var"}),
		})
}

func previewTemplate(c *ucli.Context, env Env) error {
	name, path := c.String("name"), c.String("file")
	if (name == "") == (path == "") {
		return usage("Cannot preview a templated policy without specifying exactly one of -name and -file")
	}
	vars, err := variables(c.StringSlice("var"))
	if err != nil {
		return err
	}
	if path != "" {
		all, err := templatesIn(path)
		if err != nil {
			return err
		}
		if len(all) != 1 || vars != nil {
			return usage("%s has %d templated policies: want one, with its variables, and no -var", path, len(all))
		}
		p, _ := all[0].(doc)
		vars, _ = p["TemplateVariables"].(doc)
		name = text(p["TemplateName"])
	}
	var p doc
	if err := ask(c, env, http.MethodPost, "/v1/acl/templated-policy/preview/"+name, nil, vars, &p); err != nil {
		return err
	}
	return show(c, env, p, func(w io.Writer) { prettyPolicy(c, w, p) })
}
