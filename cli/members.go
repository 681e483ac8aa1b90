// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/internal/gossip"
)

// exitNone is how members ends where none matches.
const exitNone = 2

func membersCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "members", Usage: "list the nodes that gossip knows",
		Flags: clientFlags(
			&ucli.BoolFlag{Name: "detailed", Usage: "show all tags"},
			&ucli.BoolFlag{Name: "wan", Usage: "the servers of all datacenters (ask a server)"},
			&ucli.StringFlag{Name: "status", Value: ".*", Usage: "regular expression that the status must match"},
			&ucli.StringFlag{Name: "segment", Value: "_all", Usage: "network segment"},
			&ucli.StringFlag{Name: "filter", Usage: "expression that a member must satisfy"},
		),
		Action: func(c *ucli.Context) error {
			status, err := regexp.Compile(c.String("status"))
			if err != nil {
				return usage("Failed to compile status regexp: %v", err)
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			q := url.Values{"segment": {c.String("segment")}}
			if c.Bool("wan") {
				q.Set("wan", "1")
			}
			if f := c.String("filter"); f != "" {
				q.Set("filter", f)
			}
			var list []rest.Member
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/members", q, nil, &list); err != nil {
				return fmt.Errorf("retrieving members: %w", err)
			}
			list = slices.DeleteFunc(list, func(m rest.Member) bool { return !status.MatchString(gossip.Status(m.Status).String()) })
			if len(list) == 0 {
				return &exitError{code: exitNone}
			}
			return printMembers(env, list, c.Bool("detailed"))
		},
	}
}

func printMembers(env Env, list []rest.Member, detailed bool) error {
	server := func(m rest.Member) bool { return m.Tags["role"] == "consul" }
	slices.SortFunc(list, func(a, b rest.Member) int { // servers first
		if server(a) != server(b) {
			if server(a) {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Tags["segment"], b.Tags["segment"]), cmp.Compare(a.Name, b.Name))
	})
	header := []string{"Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Partition", "Segment"}
	if detailed {
		header = []string{"Node", "Address", "Status", "Tags"}
	}
	var rows [][]string
	for _, m := range list {
		row := []string{m.Name, net.JoinHostPort(m.Addr, strconv.Itoa(int(m.Port))), gossip.Status(m.Status).String()}
		if detailed {
			var tags []string
			for _, k := range slices.Sorted(maps.Keys(m.Tags)) {
				tags = append(tags, k+"="+m.Tags[k])
			}
			rows = append(rows, append(row, strings.Join(tags, ",")))
			continue
		}
		kind, segment := "client", m.Tags["segment"]
		if segment == "" {
			segment = "<default>"
		}
		if server(m) {
			kind, segment = "server", "<all>"
		}
		build, _, _ := strings.Cut(m.Tags["build"], ":")
		rows = append(rows, append(row, kind, build, m.Tags["vsn"], m.Tags["dc"], "default", segment))
	}
	return table(env.Stdout, header, rows)
}

func joinCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "join", Usage: "have the agent join other nodes", ArgsUsage: "ADDRESS …",
		Flags: clientFlags(&ucli.BoolFlag{Name: "wan", Usage: "join a server of another datacenter"}),
		Action: func(c *ucli.Context) error {
			if !c.Args().Present() {
				return usage("At least one address to join must be specified.")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			q := url.Values{}
			if c.Bool("wan") {
				q.Set("wan", "1")
			}
			joined := 0
			for _, a := range c.Args().Slice() {
				if _, err := cl.Do(c.Context, http.MethodPut, "/v1/agent/join/"+url.PathEscape(a), q, nil, nil); err != nil {
					fmt.Fprintf(env.Stderr, "Error joining address '%s': %v\n", a, err)
					continue
				}
				joined++
			}
			if joined == 0 {
				return usage("Failed to join any nodes.")
			}
			fmt.Fprintf(env.Stdout, "Successfully joined cluster by contacting %d nodes.\n", joined)
			return nil
		},
	}
}

func leaveCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "leave", Usage: "have the agent leave gracefully and end", Flags: clientFlags(),
		Action: func(c *ucli.Context) error {
			if c.Args().Present() {
				return usage("leave takes no arguments; to make another node leave that failed, use force-leave")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			if _, err := cl.Do(c.Context, http.MethodPut, "/v1/agent/leave", nil, nil, nil); err != nil {
				return fmt.Errorf("leaving: %w", err)
			}
			fmt.Fprintln(env.Stdout, "Graceful leave complete")
			return nil
		},
	}
}

func reloadCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "reload", Usage: "have the agent read its configuration files again, as SIGHUP does", Flags: clientFlags(),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			if _, err := cl.Do(c.Context, http.MethodPut, "/v1/agent/reload", nil, nil, nil); err != nil {
				return fmt.Errorf("Error reloading: %w", err) //nolint:staticcheck // Consul's text
			}
			fmt.Fprintln(env.Stdout, "Configuration reload triggered")
			return nil
		},
	}
}

func forceLeaveCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "force-leave", Usage: "make a failed node one that left", ArgsUsage: "NODE",
		Flags: clientFlags(
			&ucli.BoolFlag{Name: "prune", Usage: "forget it altogether"},
			&ucli.BoolFlag{Name: "wan", Usage: "of the WAN, as NODE.DATACENTER"},
		),
		Action: func(c *ucli.Context) error {
			if c.Args().Len() != 1 {
				return usage("A single node name must be specified to force leave.")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			q := url.Values{}
			for _, name := range []string{"prune", "wan"} {
				if c.Bool(name) {
					q.Set(name, "1")
				}
			}
			_, err = cl.Do(c.Context, http.MethodPut, "/v1/agent/force-leave/"+url.PathEscape(c.Args().First()), q, nil, nil)
			if err != nil {
				return fmt.Errorf("force leaving: %w", err)
			}
			return nil
		},
	}
}

func eventCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "event", Usage: "fire a user event", ArgsUsage: "[PAYLOAD]",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "name", Usage: "the event's name (required)"},
			&ucli.StringFlag{Name: "node", Usage: "regular expression of the nodes that it is for"},
			&ucli.StringFlag{Name: "service", Usage: "regular expression of the services whose nodes it is for"},
			&ucli.StringFlag{Name: "tag", Usage: "regular expression of a tag of the service (needs -service)"},
		),
		Action: func(c *ucli.Context) error {
			if c.String("name") == "" {
				return usage("Event name must be specified")
			}
			if c.String("tag") != "" && c.String("service") == "" {
				return usage("Cannot provide tag filter without service filter.")
			}
			if c.Args().Len() > 1 {
				return usage("Too many command line arguments: want at most a payload")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			q := url.Values{}
			for _, name := range []string{"node", "service", "tag"} {
				if v := c.String(name); v != "" {
					q.Set(name, v)
				}
			}
			var out struct{ ID string }
			_, err = cl.Do(c.Context, http.MethodPut, "/v1/event/fire/"+url.PathEscape(c.String("name")), q, []byte(c.Args().First()), &out)
			if err != nil {
				return fmt.Errorf("firing event: %w", err)
			}
			fmt.Fprintf(env.Stdout, "Event ID: %s\n", out.ID)
			return nil
		},
	}
}
