// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

// doc is an ACL object as the API has it. Commands that change one keep the fields that they don't know.
type doc = map[string]any

func aclCommand(env Env) *ucli.Command {
	return group("acl", "tokens, and what they may do",
		&ucli.Command{
			Name: "bootstrap", Usage: "make the first token, which may do everything", ArgsUsage: "[FILE|-]", Flags: clientFlags(formatFlag()),
			Action: func(c *ucli.Context) error { return aclBootstrap(c, env) },
		},
		aclPolicyCommand(env), aclRoleCommand(env), aclTokenCommand(env), aclMethodCommand(env), aclRuleCommand(env), aclTemplateCommand(env), aclExplainCommand(env),
		&ucli.Command{
			Name: "set-agent-token", Usage: "give the agent one of its own tokens", Flags: clientFlags(),
			ArgsUsage: "default|agent|recovery|replication|config_file_service_registration|dns TOKEN|-",
			Action:    func(c *ucli.Context) error { return aclSetAgentToken(c, env) },
		})
}

// ask makes a request and decodes its answer.
func ask(c *ucli.Context, env Env, method, path string, query url.Values, body, answer any) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	_, err = cl.Do(c.Context, method, path, query, body, answer)
	return err
}

// show prints an object in the format that was asked for.
func show(c *ucli.Context, env Env, v any, pretty func(io.Writer)) error {
	js, err := asJSON(c)
	if err != nil {
		return err
	}
	if js {
		return printJSON(env.Stdout, v)
	}
	pretty(env.Stdout)
	return nil
}

// textOf reads a value that may stand in a file (@path) or on standard input (-).
func textOf(env Env, value string) (string, error) {
	switch {
	case value == "-":
		data, err := io.ReadAll(env.Stdin)
		return string(data), err
	case strings.HasPrefix(value, "@"):
		data, err := os.ReadFile(value[1:])
		return string(data), err
	}
	return value, nil
}

func aclBootstrap(c *ucli.Context, env Env) error {
	var body any
	if c.Args().Present() {
		name := c.Args().First()
		if name != "-" {
			name = "@" + name
		}
		secret, err := textOf(env, name)
		if err != nil {
			return err
		}
		body = doc{"BootstrapSecret": strings.TrimSpace(secret)}
	}
	var token doc
	if err := ask(c, env, http.MethodPut, "/v1/acl/bootstrap", nil, body, &token); err != nil {
		return fmt.Errorf("Failed ACL bootstrapping: %w", err) //nolint:staticcheck // Consul's text
	}
	return show(c, env, token, func(w io.Writer) { prettyToken(w, token) })
}

// field prints a line of an object, its label in a column of its own.
func field(w io.Writer, label string, value any) {
	fmt.Fprintf(w, "%-17s %v\n", label+":", value)
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return ""
}

func items(v any) []doc {
	list, _ := v.([]any)
	var out []doc
	for _, x := range list {
		if d, ok := x.(doc); ok {
			out = append(out, d)
		}
	}
	return out
}

func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, x := range list {
		out = append(out, text(x))
	}
	return out
}

// prettyGrants prints what tokens and roles have in common.
func prettyGrants(w io.Writer, o doc) {
	for _, kind := range []string{"Policies", "Roles"} {
		if links := items(o[kind]); len(links) > 0 {
			fmt.Fprintf(w, "%s:\n", kind)
			for _, l := range links {
				fmt.Fprintf(w, "   %s - %s\n", text(l["ID"]), text(l["Name"]))
			}
		}
	}
	identities := func(title, field string, line func(doc) string) {
		if list := items(o[field]); len(list) > 0 {
			fmt.Fprintf(w, "%s:\n", title)
			for _, i := range list {
				fmt.Fprintf(w, "   %s\n", line(i))
			}
		}
	}
	where := func(dcs []string) string {
		if len(dcs) == 0 {
			return "all"
		}
		return strings.Join(dcs, ", ")
	}
	identities("Service Identities", "ServiceIdentities", func(i doc) string {
		return fmt.Sprintf("%s (Datacenters: %s)", text(i["ServiceName"]), where(texts(i["Datacenters"])))
	})
	identities("Node Identities", "NodeIdentities", func(i doc) string {
		return fmt.Sprintf("%s (Datacenter: %s)", text(i["NodeName"]), text(i["Datacenter"]))
	})
	identities("Templated Policies", "TemplatedPolicies", func(i doc) string {
		name := ""
		if vars, ok := i["TemplateVariables"].(doc); ok {
			name = " (name: " + text(vars["Name"]) + ")"
		}
		return text(i["TemplateName"]) + name
	})
}

func aclSetAgentToken(c *ucli.Context, env Env) error {
	if c.NArg() != 2 {
		return usage("name the kind of token, and the token: weft acl set-agent-token agent TOKEN")
	}
	kind, secret := c.Args().Get(0), c.Args().Get(1)
	path, ok := map[string]string{
		"default": "default", "agent": "agent", "recovery": "agent_recovery", "replication": "replication", "dns": "dns",
		"config_file_service_registration": "config_file_service_registration",
	}[kind]
	if !ok {
		return usage("Unknown token type %q: want default, agent, recovery, replication, config_file_service_registration or dns", kind)
	}
	secret, err := textOf(env, secret)
	if err != nil {
		return err
	}
	if err := ask(c, env, http.MethodPut, "/v1/agent/token/"+path, nil, doc{"Token": strings.TrimSpace(secret)}, nil); err != nil {
		return fmt.Errorf("Failed to set the agent's token: %w", err) //nolint:staticcheck // Consul's text
	}
	fmt.Fprintf(env.Stdout, "ACL token %q set successfully\n", kind)
	return nil
}

// lists are the paths that list the objects of a kind, and what their IDs are called.
var lists = map[string][2]string{
	"policy": {"/v1/acl/policies", "ID"}, "role": {"/v1/acl/roles", "ID"}, "token": {"/v1/acl/tokens", "AccessorID"},
	"binding-rule": {"/v1/acl/binding-rules", "ID"},
}

// wholeID finds the one ID that begins as given.
func wholeID(c *ucli.Context, cl *apiclient.Client, kind, id string) (string, error) {
	if len(id) == 36 {
		return id, nil
	}
	var all []doc
	if _, err := cl.Do(c.Context, http.MethodGet, lists[kind][0], nil, nil, &all); err != nil {
		return "", err
	}
	found := ""
	for _, o := range all {
		if whole := text(o[lists[kind][1]]); strings.HasPrefix(whole, strings.ToLower(id)) {
			if found != "" {
				return "", fmt.Errorf("several %s IDs begin with %q: give more of it", kind, id)
			}
			found = whole
		}
	}
	if found == "" {
		return "", fmt.Errorf("No such %s ID with prefix: %s", kind, id) //nolint:staticcheck // Consul's text
	}
	return found, nil
}

// wanted finds the path of the object that -id (or -accessor-id) or -name names.
func wanted(c *ucli.Context, cl *apiclient.Client, kind string) (path string, err error) {
	for _, flag := range []string{"accessor-id", "id"} {
		if id := c.String(flag); id != "" {
			whole, err := wholeID(c, cl, kind, id)
			return "/v1/acl/" + kind + "/" + url.PathEscape(whole), err
		}
	}
	if name := c.String("name"); name != "" && (kind == "policy" || kind == "role") {
		return "/v1/acl/" + kind + "/name/" + url.PathEscape(name), nil
	}
	return "", usage("Must specify the %s: -id%s", kind, map[bool]string{true: " or -name"}[kind == "policy" || kind == "role"])
}

// read fetches the object that the flags name.
func read(c *ucli.Context, cl *apiclient.Client, kind string, query url.Values) (doc, error) {
	path, err := wanted(c, cl, kind)
	if err != nil {
		return nil, err
	}
	var o doc
	_, err = cl.Do(c.Context, http.MethodGet, path, query, nil, &o)
	return o, err
}

// remove deletes the object that the flags name.
func remove(c *ucli.Context, env Env, kind, idField string) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	path, err := wanted(c, cl, kind)
	if err != nil {
		return err
	}
	id := path[strings.LastIndex(path, "/")+1:]
	if strings.Contains(path, "/name/") {
		o, err := read(c, cl, kind, nil)
		if err != nil {
			return err
		}
		id = text(o[idField])
	}
	if _, err := cl.Do(c.Context, http.MethodDelete, "/v1/acl/"+kind+"/"+id, nil, nil, nil); err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "%s %q deleted successfully\n", titles[kind], id)
	return nil
}

var titles = map[string]string{"policy": "Policy", "role": "Role", "token": "Token", "binding-rule": "Binding rule", "auth-method": "Auth method"}

// list prints all objects of a kind.
func list(c *ucli.Context, env Env, path string, query url.Values, pretty func(io.Writer, doc)) error {
	all := []doc{}
	if err := ask(c, env, http.MethodGet, path, query, nil, &all); err != nil {
		return err
	}
	return show(c, env, all, func(w io.Writer) {
		for _, o := range all {
			pretty(w, o)
			fmt.Fprintln(w)
		}
	})
}

// compact is a value as JSON in one line.
func compact(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

func sortedKeys(m doc) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
