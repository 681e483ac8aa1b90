// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	ucli "github.com/urfave/cli/v2"
)

func usageCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "instances", Usage: "count services and their instances",
		Flags: clientFlags(
			&ucli.BoolFlag{Name: "billable", Usage: "only ordinary services, which Consul calls billable"},
			&ucli.BoolFlag{Name: "connect", Usage: "only what is of the mesh: proxies, gateways, services that speak mutual TLS themselves"},
			&ucli.BoolFlag{Name: "all-datacenters", Usage: "of all datacenters, not only the one that is asked"},
		),
		Action: func(c *ucli.Context) error { return usageInstances(c, env) },
	}
}

// usageOf is what a datacenter has.
type usageOf struct {
	Services, ServiceInstances, BillableServiceInstances int
	ConnectServiceInstances                              map[string]int
}

func usageInstances(c *ucli.Context, env Env) error {
	if c.Bool("billable") && c.Bool("connect") {
		return usage("-billable and -connect exclude each other: leave both out to see both")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	ask := []url.Values{nil}
	if c.Bool("all-datacenters") {
		if c.String("datacenter") != "" {
			return usage("-all-datacenters and -datacenter exclude each other")
		}
		var dcs []string
		if _, err := cl.Do(c.Context, http.MethodGet, "/v1/catalog/datacenters", nil, nil, &dcs); err != nil {
			return err
		}
		ask = nil
		for _, dc := range dcs {
			ask = append(ask, url.Values{"dc": {dc}})
		}
	}
	all := map[string]usageOf{}
	for _, q := range ask {
		var answer struct{ Usage map[string]usageOf }
		if _, err := cl.Do(c.Context, http.MethodGet, "/v1/operator/usage", q, nil, &answer); err != nil {
			return fmt.Errorf("Error fetching usage information: %w", err) //nolint:staticcheck // Consul's text
		}
		maps.Copy(all, answer.Usage)
	}
	if !c.Bool("connect") {
		if err := printBillable(env, all); err != nil {
			return err
		}
	}
	if c.Bool("billable") {
		return nil
	}
	if !c.Bool("connect") {
		fmt.Fprintln(env.Stdout)
	}
	return printConnect(env, all)
}

func printBillable(env Env, all map[string]usageOf) error {
	var rows [][]string
	services, instances := 0, 0
	for _, dc := range slices.Sorted(maps.Keys(all)) {
		u := all[dc]
		rows = append(rows, []string{dc, strconv.Itoa(u.Services), strconv.Itoa(u.BillableServiceInstances)})
		services, instances = services+u.Services, instances+u.BillableServiceInstances
	}
	fmt.Fprintf(env.Stdout, "Billable Service Instances Total: %d\n", instances)
	return table(env.Stdout, []string{"Datacenter", "Services", "Service instances"}, append(rows, []string{"Total", strconv.Itoa(services), strconv.Itoa(instances)}))
}

func printConnect(env Env, all map[string]usageOf) error {
	var rows [][]string
	total := 0
	for _, dc := range slices.Sorted(maps.Keys(all)) {
		kinds := all[dc].ConnectServiceInstances
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			rows = append(rows, []string{dc, kind, strconv.Itoa(kinds[kind])})
			total += kinds[kind]
		}
	}
	fmt.Fprintf(env.Stdout, "Connect Service Instances Total: %d\n", total)
	return table(env.Stdout, []string{"Datacenter", "Type", "Service instances"}, append(rows, []string{"Total", "", strconv.Itoa(total)}))
}
