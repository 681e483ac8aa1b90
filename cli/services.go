// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/cli/apiclient"
)

func servicesCommand(env Env) *ucli.Command {
	return group("services", "register and deregister services of this host, and export them",
		exportCommand(env), exportedCommand(env),
		&ucli.Command{
			Name: "register", Usage: "register a service from files, or from flags", ArgsUsage: "[FILE …]",
			Flags: clientFlags(
				&ucli.StringFlag{Name: "name", Usage: "the service's name (without a file)"},
				&ucli.StringFlag{Name: "id", Usage: "the instance's ID, by default the name"},
				&ucli.StringFlag{Name: "address", Usage: "where it is reached, by default the node's address"},
				&ucli.IntFlag{Name: "port", Usage: "the port that it listens on"},
				&ucli.StringFlag{Name: "socket", Usage: "the Unix socket that it listens on, instead of a port"},
				&ucli.StringFlag{Name: "kind", Usage: "kind, as connect-proxy; empty for an ordinary service"},
				&ucli.StringSliceFlag{Name: "tag", Usage: "a tag (repeatable)"},
				&ucli.StringSliceFlag{Name: "meta", Usage: "key=value (repeatable)"},
				&ucli.StringSliceFlag{Name: "tagged-address", Usage: "name=address[:port] for callers elsewhere, as wan=198.51.100.7:80 (repeatable)"},
			),
			Action: func(c *ucli.Context) error {
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				defs, err := definitions(c, env)
				if err != nil {
					return err
				}
				return registerServices(c.Context, env, cl, defs)
			},
		},
		&ucli.Command{
			Name: "deregister", Usage: "deregister services by ID, or those of files", ArgsUsage: "[FILE …]",
			Flags: clientFlags(&ucli.StringFlag{Name: "id", Usage: "the instance's ID (without a file)"}),
			Action: func(c *ucli.Context) error {
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				ids := []string{c.String("id")}
				if c.String("id") == "" {
					defs, err := definitions(c, env)
					if err != nil {
						return err
					}
					ids = nil
					for _, d := range defs {
						ids = append(ids, idOf(&d))
					}
				}
				for _, id := range ids {
					if _, err := cl.Do(c.Context, http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(id), nil, nil, nil); err != nil {
						return fmt.Errorf("deregister %q: %w", id, err)
					}
					fmt.Fprintf(env.Stdout, "Deregistered service: %s\n", id)
				}
				return nil
			},
		},
	)
}

func idOf(d *local.ServiceDefinition) string {
	if d.ID != "" {
		return d.ID
	}
	return d.Name
}

func taggedAddresses(list []string, port int) (map[string]catalog.ServiceAddress, error) {
	pairs, err := pairsOf("tagged-address", list)
	if len(pairs) == 0 {
		return nil, err
	}
	out := map[string]catalog.ServiceAddress{}
	for name, addr := range pairs {
		a := catalog.ServiceAddress{Address: addr, Port: port}
		if host, p, err := net.SplitHostPort(addr); err == nil {
			n, err := strconv.Atoi(p)
			if err != nil || n < 1 || n > 65535 {
				return nil, usage("-tagged-address %s=%s: want a port from 1 to 65535", name, addr)
			}
			a = catalog.ServiceAddress{Address: host, Port: n}
		}
		out[name] = a
	}
	return out, nil
}

// definitions are what the files, or the flags, name. Nothing is registered unless all files can be read.
func definitions(c *ucli.Context, env Env) ([]local.ServiceDefinition, error) {
	if c.NArg() == 0 {
		if c.String("name") == "" {
			return nil, usage("name the file to read, or give -name (deregister: -id)")
		}
		d := local.ServiceDefinition{
			Name: c.String("name"), ID: c.String("id"), Address: c.String("address"), Port: c.Int("port"),
			SocketPath: c.String("socket"), Kind: c.String("kind"), Tags: c.StringSlice("tag"),
		}
		var err error
		if d.Meta, err = pairsOf("meta", c.StringSlice("meta")); err != nil {
			return nil, err
		}
		if d.TaggedAddresses, err = taggedAddresses(c.StringSlice("tagged-address"), d.Port); err != nil {
			return nil, err
		}
		return []local.ServiceDefinition{d}, nil
	}
	var all []local.ServiceDefinition
	from := map[string]string{}
	for _, path := range c.Args().Slice() {
		doc, err := document(env, path)
		if err != nil {
			return nil, err
		}
		var file struct {
			Services []local.ServiceDefinition `decode:"service"`
		}
		if err := doc.Into(&file); err != nil {
			return nil, err
		}
		if len(file.Services) == 0 {
			return nil, usage("%s: no service in it: want a service block, or a list of services", path)
		}
		for _, d := range file.Services {
			if other, taken := from[idOf(&d)]; taken {
				return nil, usage("%s: service %q has the same ID as one of %s; give one of them another id", path, idOf(&d), other)
			}
			from[idOf(&d)] = path
		}
		all = append(all, file.Services...)
	}
	return all, nil
}

// oneRequest bounds what one request registers: below what a server takes for a body.
const oneRequest = 4 << 20

// registerServices registers ordinary services before proxies. What fits into one request, ten thousand services and more, is
// taken as a whole or not at all. One request for each service cost 8 s for ten thousand of them on an idle machine: an
// fsync, and one more copy of all that was registered before, for each.
func registerServices(ctx context.Context, env Env, cl *apiclient.Client, defs []local.ServiceDefinition) error {
	slices.SortStableFunc(defs, func(a, b local.ServiceDefinition) int { return strings.Compare(a.Kind, b.Kind) })
	for from := 0; from < len(defs); {
		to, body, err := batch(defs, from)
		if err != nil {
			return err
		}
		header, err := put(ctx, cl, defs[from:to], body)
		if err != nil {
			if from > 0 {
				return fmt.Errorf("refused (the %d services before it are registered): %w", from, err)
			}
			return err
		}
		for _, w := range header.Values("X-Weft-Warning") {
			fmt.Fprintln(env.Stderr, "Warning: "+w)
		}
		for _, d := range defs[from:to] {
			fmt.Fprintf(env.Stdout, "Registered service: %s\n", d.Name)
		}
		from = to
	}
	return nil
}

// batch encodes as many definitions as one request takes, at least one.
func batch(defs []local.ServiceDefinition, from int) (to int, body []byte, err error) {
	body = append(body, `{"Services":[`...)
	for to = from; to < len(defs); to++ {
		one, err := json.Marshal(defs[to])
		if err != nil {
			return 0, nil, fmt.Errorf("service %q: %w", idOf(&defs[to]), err)
		}
		if to > from {
			if len(body)+len(one) > oneRequest {
				break
			}
			body = append(body, ',')
		}
		body = append(body, one...)
	}
	return to, append(body, "]}"...), nil
}

// put registers one service as every agent of this API takes it, or several.
func put(ctx context.Context, cl *apiclient.Client, defs []local.ServiceDefinition, body []byte) (http.Header, error) {
	if len(defs) > 1 {
		return cl.Do(ctx, http.MethodPut, "/v1/agent/services/register", nil, body, nil)
	}
	header, err := cl.Do(ctx, http.MethodPut, "/v1/agent/service/register", nil, defs[0], nil)
	if err != nil {
		return nil, fmt.Errorf("service %q was refused: %w", idOf(&defs[0]), err)
	}
	return header, nil
}
