// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// planeCommand looks after who may come into the cluster.
func planeCommand(env Env) *ucli.Command {
	return group("plane", "let nodes into a locked cluster",
		&ucli.Command{
			Name: "token", Usage: "make a join token for an agent, or with -server for a server", Action: func(c *ucli.Context) error { return planeToken(c, env) },
			Flags: clientFlags(formatFlag(),
				&ucli.BoolFlag{Name: "server", Usage: "for a server"},
				&ucli.StringFlag{Name: "node", Usage: "for the node of this name alone"},
				&ucli.IntFlag{Name: "uses", Value: 1, Usage: "how many nodes it lets in"},
				&ucli.DurationFlag{Name: "ttl", Usage: "how long it is good (1h)"}),
		},
		&ucli.Command{Name: "tokens", Usage: "list join tokens", Flags: clientFlags(formatFlag()), Action: func(c *ucli.Context) error { return planeTokens(c, env) }},
		&ucli.Command{Name: "revoke", Usage: "make a join token good for nothing", ArgsUsage: "ID", Flags: clientFlags(), Action: func(c *ucli.Context) error { return planeRevoke(c, env) }},
	)
}

func planeToken(c *ucli.Context, env Env) error {
	body := doc{"Server": c.Bool("server"), "Node": c.String("node"), "Uses": c.Int("uses")}
	if ttl := c.Duration("ttl"); ttl != 0 {
		body["TTL"] = ttl.String()
	}
	var token doc
	if err := ask(c, env, http.MethodPost, "/v1/weft/join/tokens", nil, body, &token); err != nil {
		return err
	}
	return show(c, env, token, func(w io.Writer) { fmt.Fprintln(w, text(token["Token"])) })
}

func planeTokens(c *ucli.Context, env Env) error {
	var list []doc
	if err := ask(c, env, http.MethodGet, "/v1/weft/join/tokens", nil, nil, &list); err != nil {
		return err
	}
	return show(c, env, list, func(w io.Writer) {
		var rows [][]string
		for _, t := range list {
			kind := "agent"
			if server, _ := t["Server"].(bool); server {
				kind = "server"
			}
			uses, _ := t["Uses"].(float64)
			rows = append(rows, []string{text(t["ID"]), kind, text(t["Node"]), strconv.Itoa(int(uses)), text(t["Expires"]), strings.Join(texts(t["Used"]), ", ")})
		}
		_ = table(w, []string{"ID", "For", "Node", "Uses left", "Expires", "Used by"}, rows) // the terminal may be gone
	})
}

func planeRevoke(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("name the join token's ID: see weft plane tokens")
	}
	if err := ask(c, env, http.MethodDelete, "/v1/weft/join/tokens/"+url.PathEscape(c.Args().First()), nil, nil, nil); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, "Join token revoked")
	return nil
}
