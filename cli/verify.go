// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server/verify"
)

// exitDiffers is the exit code of commands that did what they were told, and found proxies that don't have what they should.
const exitDiffers = 2

func verifyCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "verify", Usage: "compare what every proxy has with what it should have",
		Description: "Exits with 2 if a proxy differs. Each one is listed with the records that it lacks.",
		Flags: clientFlags(formatFlag(),
			&ucli.StringFlag{Name: "service", Usage: "only the sidecars of this service"},
			&ucli.StringFlag{Name: "node", Usage: "only those on this node"},
		),
		Action: func(c *ucli.Context) error {
			json, err := asJSON(c)
			if err != nil {
				return err
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			q := url.Values{}
			for _, f := range []string{"service", "node"} {
				if c.String(f) != "" {
					q.Set(f, c.String(f))
				}
			}
			var all []verify.Proxy
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/weft/proxies", q, nil, &all); err != nil {
				return err
			}
			if json {
				if err := printJSON(env.Stdout, all); err != nil {
					return err
				}
			} else if err := printProxies(env.Stdout, all); err != nil {
				return err
			}
			return differing(env.Stdout, all, json)
		},
	}
}

func printProxies(w io.Writer, all []verify.Proxy) error {
	rows := make([][]string, 0, len(all))
	for _, p := range all {
		rows = append(rows, []string{p.Node, p.ProxyID, p.Service, p.State, p.Version})
	}
	return table(w, []string{"Node", "Proxy", "Service", "State", "Version"}, rows)
}

// differing explains each proxy that isn't in sync; it is an error with exitDiffers if there is one.
func differing(w io.Writer, all []verify.Proxy, quiet bool) error {
	n := 0
	for _, p := range all {
		if p.State == verify.InSync {
			continue
		}
		n++
		if quiet {
			continue
		}
		fmt.Fprintf(w, "\n%s on %s: %s\n  %s\n", p.ProxyID, p.Node, p.State, p.Why)
		for _, r := range p.Records {
			fmt.Fprintf(w, "  it lacks: %s, changed at index %d\n", r.What, r.Index)
		}
		for _, t := range p.Types {
			fmt.Fprintf(w, "  what differs: %s\n", t[strings.LastIndexByte(t, '.')+1:])
		}
	}
	switch {
	case n > 0:
		return &exitError{code: exitDiffers, text: fmt.Sprintf("%d of %d proxies don't have what they should have", n, len(all))}
	case !quiet:
		fmt.Fprintf(w, "\nAll %d proxies have what they should have.\n", len(all))
	}
	return nil
}

// waitFlag makes a write wait for the proxies that it concerns.
func waitFlag() ucli.Flag {
	return &ucli.DurationFlag{Name: "wait", Usage: "wait up to this long until every proxy that this concerns has it, as 10s; exits with 2 if one hasn't"}
}

// awaitProxies waits as -wait says, and tells each proxy's answer.
func awaitProxies(c *ucli.Context, env Env, cl *apiclient.Client, header http.Header) error {
	within := c.Duration("wait")
	if within == 0 {
		return nil
	}
	if within < 0 || within > 10*time.Minute {
		return usage("-wait %s: want a time up to 10m", within)
	}
	index := header.Get(api.IndexHeader)
	if index == "" {
		return errors.New("it is written, but the server doesn't say at which index, so that proxies can't be waited for: is it an older version?")
	}
	var all []verify.Proxy
	q := url.Values{"write": {index}, "within": {within.String()}}
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/weft/proxies", q, nil, &all); err != nil {
		return fmt.Errorf("it is written, but the proxies can't be asked for: %w", err)
	}
	missing := 0
	for _, p := range all {
		word := p.State
		if word == verify.InSync {
			word = "applied"
		} else {
			missing++
			word += ": " + p.Why
		}
		fmt.Fprintf(env.Stdout, "  %s on %s: %s\n", p.ProxyID, p.Node, word)
	}
	if missing > 0 {
		return &exitError{code: exitDiffers, text: fmt.Sprintf("written, but %d of %d proxies don't have it", missing, len(all))}
	}
	fmt.Fprintf(env.Stdout, "All %d proxies that this concerns have it.\n", len(all))
	return nil
}
