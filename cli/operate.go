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

func infoCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "info", Usage: "figures about the agent, for a person who looks for a fault", Flags: clientFlags(),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			var self struct {
				Stats map[string]map[string]string
			}
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/self", nil, nil, &self); err != nil {
				return err
			}
			for _, part := range slices.Sorted(maps.Keys(self.Stats)) {
				fmt.Fprintln(env.Stdout, part+":")
				for _, name := range slices.Sorted(maps.Keys(self.Stats[part])) {
					fmt.Fprintf(env.Stdout, "\t%s = %s\n", name, self.Stats[part][name])
				}
			}
			return nil
		},
	}
}

func monitorCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "monitor", Usage: "show the agent's log as it is written, until interrupted",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "log-level", Usage: "trace, debug, info, warn or error, whatever the agent itself writes", Value: "info"},
			&ucli.BoolFlag{Name: "log-json", Usage: "as JSON"},
		),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			q := url.Values{"loglevel": {c.String("log-level")}}
			if c.Bool("log-json") {
				q.Set("logjson", "true")
			}
			_, err = cl.Do(c.Context, http.MethodGet, "/v1/agent/monitor", q, nil, env.Stdout)
			if c.Context.Err() != nil {
				return nil // interrupted, as it should be
			}
			return err
		},
	}
}

func maintCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "maint", Usage: "take this node, or a service of it, out of use and back; without a flag, list what is out",
		Flags: clientFlags(
			&ucli.BoolFlag{Name: "enable", Usage: "take it out of use"},
			&ucli.BoolFlag{Name: "disable", Usage: "take it back in"},
			&ucli.StringFlag{Name: "reason", Usage: "why, for those who look"},
			&ucli.StringFlag{Name: "service", Usage: "ID of a service, instead of the whole node"},
		),
		Action: func(c *ucli.Context) error {
			enable, disable, service := c.Bool("enable"), c.Bool("disable"), c.String("service")
			switch {
			case enable && disable:
				return usage("Only one of -enable or -disable may be provided")
			case !enable && !disable && (service != "" || c.String("reason") != ""):
				return usage("Either -enable or -disable is required with -service or -reason")
			case !enable && c.String("reason") != "":
				return usage("Reason may only be provided with -enable")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			if !enable && !disable {
				var checks map[string]struct{ CheckID, Node, Notes, ServiceID string }
				if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/checks", nil, nil, &checks); err != nil {
					return err
				}
				for _, id := range slices.Sorted(maps.Keys(checks)) {
					switch v := checks[id]; {
					case id == "_node_maintenance":
						fmt.Fprintf(env.Stdout, "Node:\n  Name:   %s\n  Reason: %s\n\n", v.Node, v.Notes)
					case strings.HasPrefix(id, "_service_maintenance:"):
						fmt.Fprintf(env.Stdout, "Service:\n  ID:     %s\n  Reason: %s\n\n", v.ServiceID, v.Notes)
					}
				}
				return nil
			}
			path, what := "/v1/agent/maintenance", "Node"
			if service != "" {
				path, what = "/v1/agent/service/maintenance/"+url.PathEscape(service), fmt.Sprintf("Service %q", service)
			}
			q := url.Values{"enable": {fmt.Sprint(enable)}}
			if reason := c.String("reason"); reason != "" {
				q.Set("reason", reason)
			}
			if _, err := cl.Do(c.Context, http.MethodPut, path, q, nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(env.Stdout, "%s maintenance is now %s\n", what, map[bool]string{true: "enabled", false: "disabled"}[enable])
			return nil
		},
	}
}
