// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

func catalogCommand(env Env) *ucli.Command {
	nodeMeta := &ucli.StringSliceFlag{Name: "node-meta", Usage: "key=value that the node must have (repeatable)"}
	return group("catalog", "list what the mesh knows",
		&ucli.Command{
			Name: "services", Usage: "names of services",
			Flags: clientFlags(nodeMeta,
				&ucli.BoolFlag{Name: "tags", Usage: "with their tags"},
				&ucli.StringFlag{Name: "node", Usage: "only those on this node, by name or ID"},
			),
			Action: func(c *ucli.Context) error { return catalogServices(c, env) },
		},
		&ucli.Command{
			Name: "nodes", Usage: "nodes",
			Flags: clientFlags(nodeMeta,
				&ucli.BoolFlag{Name: "detailed", Usage: "with the whole ID, tagged addresses and metadata"},
				&ucli.StringFlag{Name: "near", Usage: "sort by the distance from this node; _agent is the agent's own"},
				&ucli.StringFlag{Name: "service", Usage: "only those with an instance of this service"},
				&ucli.StringFlag{Name: "filter", Usage: "filter expression"},
			),
			Action: func(c *ucli.Context) error { return catalogNodes(c, env) },
		},
		&ucli.Command{
			Name: "datacenters", Usage: "datacenters", Flags: clientFlags(),
			Action: func(c *ucli.Context) error {
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				var names []string
				if _, err := cl.Do(c.Context, http.MethodGet, "/v1/catalog/datacenters", nil, nil, &names); err != nil {
					return err
				}
				for _, n := range names {
					fmt.Fprintln(env.Stdout, n)
				}
				return nil
			},
		},
	)
}

// nodeMetaQuery reads -node-meta key=value.
func nodeMetaQuery(c *ucli.Context) (url.Values, error) {
	pairs, err := pairsOf("node-meta", c.StringSlice("node-meta"))
	q := url.Values{}
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		q.Add("node-meta", k+":"+pairs[k])
	}
	return q, err
}

func catalogServices(c *ucli.Context, env Env) error {
	q, err := nodeMetaQuery(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	names := map[string][]string{}
	if node := c.String("node"); node != "" {
		var found *struct {
			Services map[string]struct {
				Service string
				Tags    []string
			}
		}
		if _, err := cl.Do(c.Context, http.MethodGet, "/v1/catalog/node/"+url.PathEscape(node), nil, nil, &found); err != nil {
			return err
		}
		if found != nil {
			for _, s := range found.Services {
				names[s.Service] = slices.Compact(slices.Sorted(slices.Values(append(names[s.Service], s.Tags...))))
			}
		}
	} else if _, err := cl.Do(c.Context, http.MethodGet, "/v1/catalog/services", q, nil, &names); err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if c.Bool("tags") {
			fmt.Fprintf(env.Stdout, "%s  %s\n", n, strings.Join(names[n], ","))
			continue
		}
		fmt.Fprintln(env.Stdout, n)
	}
	return nil
}

// listedNode is a node, or an instance on it with the same fields.
type listedNode struct {
	Node, ID, Address, Datacenter   string
	TaggedAddresses, Meta, NodeMeta map[string]string
}

func catalogNodes(c *ucli.Context, env Env) error {
	q, err := nodeMetaQuery(c)
	if err != nil {
		return err
	}
	for _, name := range []string{"near", "filter"} {
		if v := c.String(name); v != "" {
			q.Set(name, v)
		}
	}
	path := "/v1/catalog/nodes"
	if s := c.String("service"); s != "" {
		path = "/v1/catalog/service/" + url.PathEscape(s)
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var nodes []listedNode
	if _, err := cl.Do(c.Context, http.MethodGet, path, q, nil, &nodes); err != nil {
		return err
	}
	var rows [][]string
	seen := map[string]bool{}
	for _, n := range nodes {
		if seen[n.Node] {
			continue // several instances on one node
		}
		seen[n.Node] = true
		id := n.ID[:min(8, len(n.ID))]
		row := []string{n.Node, id, n.Address, n.Datacenter}
		if c.Bool("detailed") {
			if n.Meta == nil {
				n.Meta = n.NodeMeta
			}
			row = []string{n.Node, n.ID, n.Address, n.Datacenter, spelled(n.TaggedAddresses), spelled(n.Meta)}
		}
		rows = append(rows, row)
	}
	header := []string{"Node", "ID", "Address", "DC"}
	if c.Bool("detailed") {
		header = append(header, "TaggedAddresses", "Meta")
	}
	return table(env.Stdout, header, rows)
}

// spelled is a map as key=value, sorted.
func spelled(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ", ")
}
