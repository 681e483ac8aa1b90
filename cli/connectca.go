// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

func connectCA(env Env) *ucli.Command {
	return group("ca", "read and change the certificate authority's configuration",
		&ucli.Command{Name: "get-config", Usage: "print the configuration as JSON", Flags: clientFlags(), Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			var conf json.RawMessage
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/connect/ca/configuration", nil, nil, &conf); err != nil {
				return err
			}
			enc := json.NewEncoder(env.Stdout)
			enc.SetIndent("", "\t")
			return enc.Encode(conf)
		}},
		&ucli.Command{
			Name: "set-config", Usage: "put the configuration that a JSON file holds in force",
			Flags: clientFlags(
				&ucli.StringFlag{Name: "config-file", Usage: "the file", Required: true},
				&ucli.BoolFlag{Name: "force-without-cross-signing", Usage: "change the root even if the old one can't sign the new one: calls fail until every certificate is renewed"},
			),
			Action: func(c *ucli.Context) error {
				data, err := os.ReadFile(c.String("config-file"))
				if err != nil {
					return err
				}
				var conf map[string]any
				if err := json.Unmarshal(data, &conf); err != nil {
					return fmt.Errorf("%s: %w", c.String("config-file"), err)
				}
				if c.Bool("force-without-cross-signing") {
					conf["ForceWithoutCrossSigning"] = true
				}
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				if _, err := cl.Do(c.Context, http.MethodPut, "/v1/connect/ca/configuration", nil, conf, nil); err != nil {
					return err
				}
				fmt.Fprintln(env.Stdout, "Configuration updated!")
				return nil
			},
		})
}

func connectExpose(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "expose", Usage: "let an ingress gateway lead to a service: the gateway's entry and the intention in one",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "ingress-gateway", Usage: "the gateway", Required: true},
			&ucli.StringFlag{Name: "service", Usage: "the service", Required: true},
			&ucli.IntFlag{Name: "port", Usage: "where the gateway listens", Required: true},
			&ucli.StringFlag{Name: "protocol", Value: "tcp", Usage: "tcp, http, http2 or grpc"},
			&ucli.StringSliceFlag{Name: "host", Usage: "names that lead to the service, for other protocols than tcp (repeatable)"},
		),
		Action: func(c *ucli.Context) error { return expose(c, env) },
	}
}

// listener and exposed are the parts of a gateway's entry.
type listener struct {
	Port     int
	Protocol string
	TLS      json.RawMessage `json:",omitempty"`
	Services []exposed
}

type exposed struct {
	Name  string
	Hosts []string `json:",omitempty"`
}

func expose(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	gateway, service := c.String("ingress-gateway"), c.String("service")
	entry := map[string]json.RawMessage{}
	_, err = cl.Do(c.Context, http.MethodGet, "/v1/config/ingress-gateway/"+url.PathEscape(gateway), nil, nil, &entry)
	if err != nil && !apiclient.IsStatus(err, http.StatusNotFound) {
		return err
	}
	var listeners []listener
	if raw := entry["Listeners"]; raw != nil {
		if err := json.Unmarshal(raw, &listeners); err != nil {
			return fmt.Errorf("the entry of gateway %s: %w", gateway, err)
		}
	}
	index := "0"
	if raw := entry["ModifyIndex"]; raw != nil {
		index = string(raw)
	}
	i := slices.IndexFunc(listeners, func(l listener) bool { return l.Port == c.Int("port") })
	if i < 0 {
		listeners = append(listeners, listener{Port: c.Int("port"), Protocol: c.String("protocol")})
		i = len(listeners) - 1
	}
	l := &listeners[i]
	if l.Protocol != c.String("protocol") {
		return usage("gateway %s listens on port %d with protocol %s, not %s: choose another port", gateway, l.Port, l.Protocol, c.String("protocol"))
	}
	if j := slices.IndexFunc(l.Services, func(e exposed) bool { return e.Name == service }); j >= 0 {
		l.Services[j].Hosts = c.StringSlice("host")
	} else {
		l.Services = append(l.Services, exposed{Name: service, Hosts: c.StringSlice("host")})
	}
	all, err := json.Marshal(listeners)
	if err != nil {
		return err
	}
	for _, old := range []string{"CreateIndex", "ModifyIndex", "Hash"} {
		delete(entry, old)
	}
	entry["Kind"], entry["Listeners"] = json.RawMessage(`"ingress-gateway"`), all
	if entry["Name"], err = json.Marshal(gateway); err != nil {
		return err
	}
	var ok bool
	if _, err := cl.Do(c.Context, http.MethodPut, "/v1/config", url.Values{"cas": {index}}, entry, &ok); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("the entry of gateway %s was changed meanwhile: try again", gateway)
	}
	fmt.Fprintf(env.Stdout, "Successfully updated config entry for ingress service %q\n", gateway)
	in := intention{SourceName: gateway, DestinationName: service, SourceType: "consul", Action: "allow"}
	old, err := getIntention(c, cl, gateway, service)
	if err != nil {
		return err
	}
	if old != nil {
		fmt.Fprintf(env.Stdout, "Intention already exists for %q -> %q: %s\n", gateway, service, old.effect())
		return nil
	}
	if _, err := cl.Do(c.Context, http.MethodPost, "/v1/connect/intentions", nil, in, nil); err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "Successfully set up intention for %q -> %q\n", gateway, service)
	return nil
}
