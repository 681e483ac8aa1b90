// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/cli/apiclient"
)

func rttCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "rtt", Usage: "estimate the round trip between two nodes", ArgsUsage: "NODE [NODE]",
		Flags: clientFlags(&ucli.BoolFlag{Name: "wan", Usage: "between servers of datacenters, as NODE.DATACENTER"}),
		Action: func(c *ucli.Context) error {
			if n := c.Args().Len(); n < 1 || n > 2 {
				return usage("One or two node names must be specified")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			nodes := c.Args().Slice()
			if len(nodes) == 1 {
				own, err := ownName(c.Context, cl, c.Bool("wan"))
				if err != nil {
					return err
				}
				nodes = append(nodes, own)
			}
			where, source := lanCoordinates, "LAN"
			if c.Bool("wan") {
				where, source = wanCoordinates, "WAN"
			}
			a, b, err := where(c.Context, cl, nodes[0], nodes[1])
			if err != nil {
				return err
			}
			d, ok := a.Distance(b)
			if !ok {
				return fmt.Errorf("the coordinates of %q and %q don't fit together", nodes[0], nodes[1])
			}
			fmt.Fprintf(env.Stdout, "Estimated %s <-> %s rtt: %.3f ms (using %s coordinates)\n", nodes[0], nodes[1],
				float64(d)/float64(time.Millisecond), source)
			return nil
		},
	}
}

// ownName is what gossip calls the agent's node.
func ownName(ctx context.Context, cl *apiclient.Client, wan bool) (string, error) {
	var self struct {
		Config struct {
			NodeName, Datacenter string
			Server               bool
		}
	}
	if _, err := cl.Do(ctx, http.MethodGet, "/v1/agent/self", nil, nil, &self); err != nil {
		return "", fmt.Errorf("unable to look up agent info: %w", err)
	}
	if !wan {
		return self.Config.NodeName, nil
	}
	if !self.Config.Server {
		return "", usage("The agent isn't a server: with -wan, name two servers as NODE.DATACENTER")
	}
	return self.Config.NodeName + "." + self.Config.Datacenter, nil
}

type coordinateEntry struct {
	Node    string
	Segment string
	Coord   *catalog.Coordinate
}

func lanCoordinates(ctx context.Context, cl *apiclient.Client, one, two string) (a, b *catalog.Coordinate, err error) {
	var list []coordinateEntry
	if _, err := cl.Do(ctx, http.MethodGet, "/v1/coordinate/nodes", nil, nil, &list); err != nil {
		return nil, nil, fmt.Errorf("getting coordinates: %w", err)
	}
	of := func(node, segment string) *catalog.Coordinate {
		for _, e := range list {
			if strings.EqualFold(e.Node, node) && e.Segment == segment {
				return e.Coord
			}
		}
		return nil
	}
	for _, e := range list {
		if a, b := of(one, e.Segment), of(two, e.Segment); a != nil && b != nil {
			return a, b, nil
		}
	}
	missing := one
	for _, e := range list {
		if strings.EqualFold(e.Node, one) {
			missing = two
		}
	}
	return nil, nil, noCoordinate(missing)
}

func noCoordinate(node string) error {
	return fmt.Errorf("could not find a coordinate for node %q; it has one some time after it has joined", node)
}

func wanCoordinates(ctx context.Context, cl *apiclient.Client, one, two string) (a, b *catalog.Coordinate, err error) {
	var list []struct {
		Datacenter  string
		Coordinates []coordinateEntry
	}
	if _, err := cl.Do(ctx, http.MethodGet, "/v1/coordinate/datacenters", nil, nil, &list); err != nil {
		return nil, nil, fmt.Errorf("getting coordinates: %w", err)
	}
	find := func(name string) (*catalog.Coordinate, error) {
		i := strings.LastIndexByte(name, '.')
		if i < 0 {
			return nil, usage("Node names must be specified as NODE.DATACENTER with -wan")
		}
		for _, dc := range list {
			for _, e := range dc.Coordinates {
				if dc.Datacenter == name[i+1:] && strings.EqualFold(e.Node, name[:i]) {
					return e.Coord, nil
				}
			}
		}
		return nil, noCoordinate(name)
	}
	if a, err = find(one); err != nil {
		return nil, nil, err
	}
	b, err = find(two)
	return a, b, err
}
