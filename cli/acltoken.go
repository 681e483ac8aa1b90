// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/internal/durable"
)

func prettyToken(w io.Writer, t doc) {
	field(w, "AccessorID", text(t["AccessorID"]))
	field(w, "SecretID", text(t["SecretID"]))
	if name := text(t["Name"]); name != "" {
		field(w, "Name", name)
	}
	field(w, "Description", text(t["Description"]))
	field(w, "Local", t["Local"])
	if m := text(t["AuthMethod"]); m != "" {
		field(w, "Auth Method", m)
	}
	field(w, "Create Time", text(t["CreateTime"]))
	if e := text(t["ExpirationTime"]); e != "" {
		field(w, "Expiration Time", e)
	}
	prettyGrants(w, t)
	for _, p := range items(t["ExpandedPolicies"]) {
		fmt.Fprintf(w, "=== Rules of policy %s ===\n%s\n", text(p["Name"]), strings.TrimRight(text(p["Rules"]), "\n"))
	}
}

func aclTokenCommand(env Env) *ucli.Command {
	accessor := []ucli.Flag{
		&ucli.StringFlag{Name: "accessor-id", Usage: "the token's accessor ID, or the beginning of one"},
		&ucli.StringFlag{Name: "id", Usage: "the same, by its old name"},
	}
	grants := append(grantFlags(),
		&ucli.StringSliceFlag{Name: "role-id", Usage: "role by ID (repeatable)"}, &ucli.StringSliceFlag{Name: "role-name", Usage: "role by name (repeatable)"},
		&ucli.StringFlag{Name: "description", Usage: "what the token is for"}, formatFlag(), metaFlag())
	update := append(templateFlags("append-", "beside the token's"), templateFlags("replace-", "instead of the token's")...)
	update = append(update,
		&ucli.BoolFlag{Name: "append-policies", Usage: "keep the policies that the token has"},
		&ucli.BoolFlag{Name: "merge-policies", Usage: "the same, by its old name"}, &ucli.BoolFlag{Name: "merge-roles", Usage: "keep the roles that the token has"},
		&ucli.BoolFlag{Name: "merge-service-identities", Usage: "keep the service identities"}, &ucli.BoolFlag{Name: "merge-node-identities", Usage: "keep the node identities"},
		&ucli.StringSliceFlag{Name: "append-policy-id", Usage: "one more policy by ID"}, &ucli.StringSliceFlag{Name: "append-policy-name", Usage: "one more policy by name"},
		&ucli.StringSliceFlag{Name: "append-role-id", Usage: "one more role by ID"}, &ucli.StringSliceFlag{Name: "append-role-name", Usage: "one more role by name"},
		&ucli.StringSliceFlag{Name: "append-service-identity", Usage: "one more service, or service:dc1,dc2"}, &ucli.StringSliceFlag{Name: "append-node-identity", Usage: "one more node:dc"})
	update = append(update, grants...)
	return group("token", "tokens",
		&ucli.Command{
			Name: "create", Usage: "make a token", Flags: clientFlags(append([]ucli.Flag{
				&ucli.StringFlag{Name: "accessor", Usage: "its accessor ID, by default a new UUID"}, &ucli.StringFlag{Name: "secret", Usage: "its secret, by default a new UUID"},
				&ucli.BoolFlag{Name: "local", Usage: "of this datacenter only"}, &ucli.DurationFlag{Name: "expires-ttl", Usage: "how long it is good"},
			}, grants...)...),
			Action: func(c *ucli.Context) error { return tokenCreate(c, env) },
		},
		&ucli.Command{Name: "update", Usage: "change a token", Flags: clientFlags(append(accessor, update...)...), Action: func(c *ucli.Context) error { return tokenUpdate(c, env) }},
		&ucli.Command{
			Name: "read", Usage: "show a token", Action: func(c *ucli.Context) error { return tokenRead(c, env) },
			Flags: clientFlags(append(accessor, formatFlag(), metaFlag(), &ucli.BoolFlag{Name: "self", Usage: "the token that is acted with"}, &ucli.BoolFlag{Name: "expanded", Usage: "with the rules of its policies"})...),
		},
		&ucli.Command{
			Name: "list", Usage: "list the tokens", Flags: clientFlags(formatFlag(), metaFlag()),
			Action: func(c *ucli.Context) error {
				return list(c, env, "/v1/acl/tokens", nil, func(w io.Writer, t doc) { tokenAndMeta(c, w, t) })
			},
		},
		&ucli.Command{
			Name: "clone", Usage: "make a token that grants what another does", Action: func(c *ucli.Context) error { return tokenClone(c, env) },
			Flags: clientFlags(append(accessor, formatFlag(), metaFlag(), &ucli.StringFlag{Name: "description", Usage: "what the new token is for"})...),
		},
		&ucli.Command{Name: "delete", Usage: "remove a token", Flags: clientFlags(accessor...), Action: func(c *ucli.Context) error { return remove(c, env, "token", "AccessorID") }})
}

func tokenAndMeta(c *ucli.Context, w io.Writer, t doc) {
	prettyToken(w, t)
	prettyMeta(c, w, t)
}

func prettyMeta(c *ucli.Context, w io.Writer, o doc) {
	if c.Bool("meta") {
		field(w, "Hash", text(o["Hash"]))
		field(w, "Create Index", compact(o["CreateIndex"]))
		field(w, "Modify Index", compact(o["ModifyIndex"]))
	}
}

func tokenCreate(c *ucli.Context, env Env) error {
	t := doc{"Description": c.String("description"), "Local": c.Bool("local")}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	if err := takeGrants(c, cl, t, func(string) bool { return false }); err != nil {
		return err
	}
	if t["Policies"] == nil && t["Roles"] == nil && t["ServiceIdentities"] == nil && t["NodeIdentities"] == nil && t["TemplatedPolicies"] == nil {
		return usage("Cannot create a token without specifying -policy-name, -policy-id, -role-name, -role-id, -service-identity, -node-identity, -templated-policy, or -templated-policy-file at least once")
	}
	for flag, name := range map[string]string{"accessor": "AccessorID", "secret": "SecretID"} {
		if v := c.String(flag); v != "" {
			t[name] = v
		}
	}
	if d := c.Duration("expires-ttl"); d != 0 {
		t["ExpirationTTL"] = d.String()
	}
	var made doc
	if err := ask(c, env, http.MethodPut, "/v1/acl/token", nil, t, &made); err != nil {
		return fmt.Errorf("Failed to create new token: %w", err) //nolint:staticcheck // Consul's text
	}
	return show(c, env, made, func(w io.Writer) { tokenAndMeta(c, w, made) })
}

func tokenUpdate(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	t, err := read(c, cl, "token", nil)
	if err != nil {
		return err
	}
	kept := map[string]bool{
		"Policies": c.Bool("append-policies") || c.Bool("merge-policies"), "Roles": c.Bool("merge-roles"),
		"ServiceIdentities": c.Bool("merge-service-identities"), "NodeIdentities": c.Bool("merge-node-identities"),
	}
	if err := takeGrants(c, cl, t, func(list string) bool { return kept[list] }); err != nil {
		return err
	}
	if c.IsSet("description") {
		t["Description"] = c.String("description")
	}
	var now doc
	if _, err := cl.Do(c.Context, http.MethodPut, "/v1/acl/token/"+text(t["AccessorID"]), nil, t, &now); err != nil {
		return fmt.Errorf("Failed to update token %s: %w", text(t["AccessorID"]), err) //nolint:staticcheck // Consul's text
	}
	return show(c, env, now, func(w io.Writer) { tokenAndMeta(c, w, now) })
}

func tokenRead(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.Bool("expanded") {
		query.Set("expanded", "true")
	}
	var t doc
	if c.Bool("self") {
		_, err = cl.Do(c.Context, http.MethodGet, "/v1/acl/token/self", query, nil, &t)
	} else {
		t, err = read(c, cl, "token", query)
	}
	if err != nil {
		return err
	}
	return show(c, env, t, func(w io.Writer) { tokenAndMeta(c, w, t) })
}

func tokenClone(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	path, err := wanted(c, cl, "token")
	if err != nil {
		return err
	}
	var t doc
	if _, err := cl.Do(c.Context, http.MethodPut, path+"/clone", nil, doc{"Description": c.String("description")}, &t); err != nil {
		return err
	}
	return show(c, env, t, func(w io.Writer) { tokenAndMeta(c, w, t) })
}

func loginCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "login", Usage: "get a token for a bearer token of an auth method, or by a login in the browser", Action: func(c *ucli.Context) error { return login(c, env) },
		Flags: clientFlags(
			&ucli.StringFlag{Name: "method", Usage: "the auth method's name", Required: true},
			&ucli.StringFlag{Name: "type", Usage: "the auth method's type: jwt, kubernetes, or oidc for a login in the browser"},
			&ucli.StringFlag{Name: "bearer-token-file", Usage: "file that holds the bearer token; not with -type oidc"},
			&ucli.StringFlag{Name: "token-sink-file", Usage: "file to write the new token's secret to", Required: true},
			&ucli.StringFlag{Name: "oidc-callback-listen-addr", Usage: "port on this machine that the browser comes back to, with -type oidc", Value: "localhost:8550"},
			&ucli.StringSliceFlag{Name: "meta", Usage: "key=value, for the new token's description (repeatable)"}),
	}
}

func login(c *ucli.Context, env Env) error {
	kind, file := c.String("type"), c.String("bearer-token-file")
	switch {
	case kind != "" && kind != "jwt" && kind != "kubernetes" && kind != "oidc":
		return usage("-type %q: weft's auth methods are of type jwt, oidc or kubernetes", kind)
	case kind == "oidc" && file != "":
		return usage("-bearer-token-file isn't for -type oidc: the provider gives the token")
	case kind != "oidc" && file == "":
		return usage("Missing required '-bearer-token-file' flag (to log in in a browser: -type oidc)")
	case kind != "oidc" && c.IsSet("oidc-callback-listen-addr"):
		return usage("-oidc-callback-listen-addr is for -type oidc")
	}
	meta, err := pairsOf("meta", c.StringSlice("meta"))
	if err != nil {
		return err
	}
	secret := ""
	if kind == "oidc" {
		secret, err = loginInBrowser(c, env, c.String("method"), meta)
	} else {
		secret, err = loginWith(c, env, file, meta)
	}
	if err != nil {
		return err
	}
	return durable.Replace(c.String("token-sink-file"), []byte(secret))
}

// loginWith gives the token's secret for the bearer token in a file.
func loginWith(c *ucli.Context, env Env, file string, meta map[string]string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	bearer := strings.TrimSpace(string(data))
	if bearer == "" {
		return "", fmt.Errorf("No bearer token found in %s", file) //nolint:staticcheck // Consul's text
	}
	var t doc
	if err := ask(c, env, http.MethodPost, "/v1/acl/login", nil, doc{"AuthMethod": c.String("method"), "BearerToken": bearer, "Meta": meta}, &t); err != nil {
		return "", fmt.Errorf("Error logging in: %w", err) //nolint:staticcheck // Consul's text
	}
	return text(t["SecretID"]), nil
}

func logoutCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "logout", Usage: "end the token that came of a login", Flags: clientFlags(),
		Action: func(c *ucli.Context) error {
			if err := ask(c, env, http.MethodPost, "/v1/acl/logout", nil, nil, nil); err != nil {
				return fmt.Errorf("Error destroying token: %w", err) //nolint:staticcheck // Consul's text
			}
			return nil
		},
	}
}
