// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/connect/proxy/reason"
)

func explainCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "explain", Usage: "explain a reason that a proxy gave (header x-weft-reason, access log), or where a request goes and why", ArgsUsage: "REASON",
		Action: func(c *ucli.Context) error {
			if c.NArg() != 1 {
				return usage("name a reason, as: weft explain rbac_denied; or ask about a request: weft explain request -from web -to api GET /")
			}
			e, ok := reason.Explanations[reason.Code(c.Args().First())]
			if !ok {
				return usage("no reason is called %q; a proxy's answer has it in the header x-weft-reason", c.Args().First())
			}
			fmt.Fprintf(env.Stdout, "%s: %s.\n\nWhat to do: %s.\n", c.Args().First(), e.Meaning, e.Remedy)
			return nil
		},
		Subcommands: []*ucli.Command{{
			Name: "request", Usage: "each route that is looked at, the instances, the intention, and where each was written", ArgsUsage: "METHOD PATH [-H name:value]...",
			Flags: clientFlags(
				&ucli.StringFlag{Name: "from", Usage: "the service that calls", Required: true},
				&ucli.StringFlag{Name: "to", Usage: "the service that is called", Required: true},
				&ucli.StringSliceFlag{Name: "H", Usage: "a header, as name:value"},
			),
			Action: func(c *ucli.Context) error { return explainRequest(c, env) },
		}},
	}
}

// explainedRequest is the server's answer.
type explainedRequest struct {
	Protocol, Route, Answer, Fallback, Transparent string
	Routes                                         []struct {
		Source, Why string
		Matched     bool
	}
	Ways []struct {
		Percent                   float64
		Source, Target, Intention string
		Authorizer                string
		Outside                   string
		Failover, Warnings        []string
		Allowed                   bool
		Instances                 []struct{ ID, Node, Address, Status, MutualTLS string }
	}
}

func explainRequest(c *ucli.Context, env Env) error {
	q := url.Values{"source": {c.String("from")}, "destination": {c.String("to")}}
	var words []string
	headers := c.StringSlice("H")
	for args := c.Args().Slice(); len(args) > 0; args = args[1:] {
		if (args[0] == "-H" || args[0] == "--H") && len(args) > 1 { // also after the path
			headers, args = append(headers, args[1]), args[1:]
			continue
		}
		words = append(words, args[0])
	}
	if len(words) != 2 {
		return usage("name a method and a path, as: weft explain request -from web -to api GET /x -H user:tester")
	}
	q.Set("method", strings.ToUpper(words[0]))
	q.Set("path", words[1])
	q["header"] = headers
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var e explainedRequest
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/weft/explain", q, nil, &e); err != nil {
		return err
	}
	e.print(env.Stdout, c.String("from"), c.String("to"), words)
	return nil
}

func (e *explainedRequest) print(w io.Writer, from, to string, words []string) {
	fmt.Fprintf(w, "%s -> %s  %s  (protocol %s)\n", from, to, strings.Join(words, " "), e.Protocol)
	if e.Transparent != "" {
		fmt.Fprintf(w, "  transparently  %s\n", e.Transparent)
	}
	for _, r := range e.Routes {
		if r.Matched {
			fmt.Fprintf(w, "  route taken    %s\n", r.Source)
		} else {
			fmt.Fprintf(w, "  route not for  %s: %s\n", r.Source, r.Why)
		}
	}
	if e.Answer != "" {
		fmt.Fprintf(w, "The caller's proxy answers by itself: %s\n", e.Answer)
	}
	for _, way := range e.Ways {
		fmt.Fprintf(w, "\n%g%% to %s", way.Percent, way.Target)
		if way.Source != "" {
			fmt.Fprintf(w, "  by %s", way.Source)
		}
		fmt.Fprintln(w)
		for _, i := range way.Instances {
			fmt.Fprintf(w, "  instance  %s on %s, %s, %s, mutual TLS %s\n", i.ID, i.Node, i.Address, i.Status, i.MutualTLS)
		}
		if way.Outside != "" {
			fmt.Fprintf(w, "  outside   %s: in the clear, and the caller's sidecar decides\n", way.Outside)
		} else if len(way.Instances) == 0 {
			fmt.Fprintln(w, "  instance  none: the call fails with no_healthy_upstream, or goes on to the next")
		}
		for _, next := range way.Failover {
			fmt.Fprintf(w, "  then      %s\n", next)
		}
		for _, warning := range way.Warnings {
			fmt.Fprintf(w, "  warning   %s\n", warning)
		}
		verdict := "denied"
		if way.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(w, "  %s by %s\n", verdict, way.Intention)
		if way.Authorizer != "" {
			fmt.Fprintf(w, "  and then  %s\n", way.Authorizer)
		}
	}
	if e.Fallback != "" {
		fmt.Fprintf(w, "\nWhere no instance answers, the caller gets %s\n", e.Fallback)
	}
}
