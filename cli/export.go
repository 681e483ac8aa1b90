// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/cli/apiclient"
)

func exportCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "export", Usage: "let other clusters or partitions see a service",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "name", Usage: "the service, * for all"},
			&ucli.StringFlag{Name: "consumer-peers", Usage: "peers that may see it, separated by commas"},
			&ucli.StringFlag{Name: "consumer-partitions", Usage: "partitions that may see it, separated by commas"},
		),
		Action: func(c *ucli.Context) error { return exportService(c, env) },
	}
}

// exportService adds consumers to the service in the entry exported-services/default.
func exportService(c *ucli.Context, env Env) error {
	var consumers []catalog.ServiceConsumer
	for _, p := range split(c.String("consumer-peers")) {
		consumers = append(consumers, catalog.ServiceConsumer{Peer: p})
	}
	for _, p := range split(c.String("consumer-partitions")) {
		consumers = append(consumers, catalog.ServiceConsumer{Partition: p})
	}
	name := c.String("name")
	switch {
	case name == "":
		return usage("Missing the required -name flag")
	case len(consumers) == 0:
		return usage("Missing the required -consumer-peers or -consumer-partitions flag")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	const path = "/v1/config/exported-services/default"
	for {
		var entry struct {
			Services    []catalog.ExportedService
			Meta        map[string]string
			ModifyIndex uint64
		}
		_, err := cl.Do(c.Context, http.MethodGet, path, nil, nil, &entry)
		if err != nil && !apiclient.IsStatus(err, http.StatusNotFound) {
			return err
		}
		entry.Services = withConsumers(entry.Services, name, consumers)
		body := map[string]any{"Kind": catalog.KindExportedServices, "Name": "default", "Services": entry.Services, "Meta": entry.Meta}
		var done bool
		q := url.Values{"cas": {strconv.FormatUint(entry.ModifyIndex, 10)}}
		header, err := cl.Do(c.Context, http.MethodPut, "/v1/config", q, body, &done)
		if err != nil {
			return err
		}
		if !done {
			continue // another was faster
		}
		for _, w := range header.Values("X-Weft-Warning") {
			fmt.Fprintln(env.Stderr, "Warning: "+w)
		}
		var to []string
		for _, c := range consumers {
			to = append(to, c.Peer+c.Partition)
		}
		fmt.Fprintf(env.Stdout, "Successfully exported service %q to %s\n", name, strings.Join(to, ", "))
		return nil
	}
}

// withConsumers is the list with a service's consumers added.
func withConsumers(services []catalog.ExportedService, name string, consumers []catalog.ServiceConsumer) []catalog.ExportedService {
	at := slices.IndexFunc(services, func(s catalog.ExportedService) bool { return s.Name == name })
	if at < 0 {
		return append(services, catalog.ExportedService{Name: name, Consumers: consumers})
	}
	for _, c := range consumers {
		if !slices.Contains(services[at].Consumers, c) {
			services[at].Consumers = append(services[at].Consumers, c)
		}
	}
	return services
}

func split(list string) []string {
	var out []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func exportedCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "exported-services", Usage: "list what is exported, and to whom",
		Flags: clientFlags(formatFlag(), &ucli.StringFlag{Name: "filter", Usage: "filter expression"}),
		Action: func(c *ucli.Context) error {
			raw, err := asJSON(c)
			if err != nil {
				return err
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			var list []struct {
				Service   string
				Consumers struct {
					Peers      []string `json:",omitempty"`
					Partitions []string `json:",omitempty"`
				}
			}
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/exported-services", filterQuery(c), nil, &list); err != nil {
				return err
			}
			if raw {
				return printJSON(env.Stdout, list)
			}
			var rows [][]string
			for _, s := range list {
				rows = append(rows, []string{s.Service, strings.Join(s.Consumers.Peers, ", ")})
			}
			return table(env.Stdout, []string{"Service", "Consumer Peers"}, rows)
		},
	}
}
