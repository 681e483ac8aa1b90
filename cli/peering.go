// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// peering is the API's form of a peering, as far as the commands use it.
type peering struct {
	ID                  string
	Name                string
	State               string
	Meta                map[string]string
	PeerID              string
	PeerServerName      string
	PeerServerAddresses []string
	StreamStatus        struct{ ImportedServices, ExportedServices []string }
	CreateIndex         uint64
	ModifyIndex         uint64
}

func peeringCommand(env Env) *ucli.Command {
	name := &ucli.StringFlag{Name: "name", Usage: "what the other cluster is called here", Required: true}
	meta := &ucli.StringSliceFlag{Name: "meta", Usage: "key=value (repeatable)"}
	return group("peering", "join this cluster with others",
		&ucli.Command{
			Name: "generate-token", Usage: "make the token with which another cluster becomes a peer of this one",
			Flags: clientFlags(name, meta, formatFlag(),
				&ucli.StringSliceFlag{Name: "server-external-addresses", Usage: "where the other cluster reaches this one's servers: host:port, separated by commas"}),
			Action: func(c *ucli.Context) error { return peeringToken(c, env) },
		},
		&ucli.Command{
			Name: "establish", Usage: "become a peer of the cluster that made a token",
			Flags:  clientFlags(name, meta, &ucli.StringFlag{Name: "peering-token", Usage: "the token", Required: true}),
			Action: func(c *ucli.Context) error { return peeringEstablish(c, env) },
		},
		&ucli.Command{Name: "list", Usage: "list the peers", Flags: clientFlags(formatFlag()), Action: func(c *ucli.Context) error { return peeringList(c, env) }},
		&ucli.Command{Name: "read", Usage: "show a peer", Flags: clientFlags(name, formatFlag()), Action: func(c *ucli.Context) error { return peeringRead(c, env, false) }},
		&ucli.Command{
			Name: "exported-services", Usage: "list what is exported to a peer", Flags: clientFlags(name, formatFlag()),
			Action: func(c *ucli.Context) error { return peeringRead(c, env, true) },
		},
		&ucli.Command{
			Name: "delete", Usage: "end a peering", Flags: clientFlags(name),
			Action: func(c *ucli.Context) error {
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				if _, err := cl.Do(c.Context, http.MethodDelete, "/v1/peering/"+url.PathEscape(c.String("name")), nil, nil, nil); err != nil {
					return fmt.Errorf("Error deleting peering for %s: %w", c.String("name"), err) //nolint:staticcheck // Consul's text
				}
				fmt.Fprintf(env.Stdout, "Successfully submitted peering connection, %s, for deletion\n", c.String("name"))
				return nil
			},
		})
}

// pairsOf reads flags of the form key=value.
func pairsOf(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, m := range list {
		k, v, ok := strings.Cut(m, "=")
		if !ok {
			return nil, usage("-%s %q: want key=value", flag, m)
		}
		out[k] = v
	}
	return out, nil
}

func peeringToken(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	meta, err := pairsOf("meta", c.StringSlice("meta"))
	if err != nil {
		return err
	}
	js, err := asJSON(c)
	if err != nil {
		return err
	}
	var answer struct{ PeeringToken string }
	body := map[string]any{"PeerName": c.String("name"), "Meta": meta, "ServerExternalAddresses": commaSeparated(c.StringSlice("server-external-addresses"))}
	if _, err := cl.Do(c.Context, http.MethodPost, "/v1/peering/token", nil, body, &answer); err != nil {
		return fmt.Errorf("Error generating peering token for %s: %w", c.String("name"), err) //nolint:staticcheck // Consul's text
	}
	if js {
		return printJSON(env.Stdout, answer)
	}
	fmt.Fprintln(env.Stdout, answer.PeeringToken)
	return nil
}

func peeringEstablish(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	meta, err := pairsOf("meta", c.StringSlice("meta"))
	if err != nil {
		return err
	}
	body := map[string]any{"PeerName": c.String("name"), "PeeringToken": c.String("peering-token"), "Meta": meta}
	if _, err := cl.Do(c.Context, http.MethodPost, "/v1/peering/establish", nil, body, nil); err != nil {
		return fmt.Errorf("Error establishing peering for %s: %w", c.String("name"), err) //nolint:staticcheck // Consul's text
	}
	fmt.Fprintf(env.Stdout, "Successfully established peering connection with %s\n", c.String("name"))
	return nil
}

func peeringList(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	js, err := asJSON(c)
	if err != nil {
		return err
	}
	var list []peering
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/peerings", nil, nil, &list); err != nil {
		return err
	}
	if js {
		return printJSON(env.Stdout, list)
	}
	if len(list) == 0 {
		fmt.Fprintln(env.Stdout, "There are no peering connections.")
		return nil
	}
	var rows [][]string
	for _, p := range list {
		var meta []string
		for k, v := range p.Meta {
			meta = append(meta, k+"="+v)
		}
		rows = append(rows, []string{
			p.Name, p.State, strconv.Itoa(len(p.StreamStatus.ImportedServices)), strconv.Itoa(len(p.StreamStatus.ExportedServices)), strings.Join(meta, ","),
		})
	}
	return table(env.Stdout, []string{"Name", "State", "Imported Svcs", "Exported Svcs", "Meta"}, rows)
}

func peeringRead(c *ucli.Context, env Env, exported bool) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	js, err := asJSON(c)
	if err != nil {
		return err
	}
	var p *peering
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/peering/"+url.PathEscape(c.String("name")), nil, nil, &p); err != nil {
		return err
	}
	if p == nil {
		return errors.New("No peering with name " + c.String("name") + " found.") //nolint:staticcheck // Consul's text
	}
	if exported {
		if js {
			return printJSON(env.Stdout, p.StreamStatus.ExportedServices)
		}
		for _, s := range p.StreamStatus.ExportedServices {
			fmt.Fprintln(env.Stdout, s)
		}
		return nil
	}
	if js {
		return printJSON(env.Stdout, p)
	}
	for _, l := range [][2]string{
		{"Name", p.Name},
		{"ID", p.ID},
		{"State", p.State},
		{"Peer ID", p.PeerID},
		{"Peer Server Name", p.PeerServerName},
		{"Peer Server Addresses", strings.Join(p.PeerServerAddresses, ", ")},
		{"Imported Services", strconv.Itoa(len(p.StreamStatus.ImportedServices))},
		{"Exported Services", strconv.Itoa(len(p.StreamStatus.ExportedServices))},
		{"Create Index", strconv.FormatUint(p.CreateIndex, 10)},
		{"Modify Index", strconv.FormatUint(p.ModifyIndex, 10)},
	} {
		fmt.Fprintf(env.Stdout, "%-23s %s\n", l[0]+":", l[1])
	}
	return nil
}

// commaSeparated are the parts of values that may each be several, with commas between them.
func commaSeparated(values []string) []string {
	out := []string{}
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}
