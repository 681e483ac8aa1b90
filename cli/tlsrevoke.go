// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"net/http"

	ucli "github.com/urfave/cli/v2"
)

func tlsRevoke(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "revoke", Usage: "have a certificate of a service refused from now on, or all that a service has got until now",
		Flags: clientFlags(formatFlag(),
			&ucli.StringFlag{Name: "serial", Usage: "the certificate's serial number, in hexadecimal"},
			&ucli.StringFlag{Name: "service", Usage: "the service whose certificates are refused"},
			&ucli.StringFlag{Name: "uri", Usage: "the same by SPIFFE ID"},
			&ucli.StringFlag{Name: "reason", Usage: "kept with it"}),
		Action: func(c *ucli.Context) error {
			body := doc{}
			named := 0
			for flag, field := range map[string]string{"serial": "Serial", "service": "Service", "uri": "URI"} {
				if v := c.String(flag); v != "" {
					body[field] = v
					named++
				}
			}
			if named != 1 || c.NArg() > 0 {
				return usage("name the certificate by one of -serial, -service and -uri")
			}
			body["Reason"] = c.String("reason")
			var done doc
			if err := ask(c, env, http.MethodPut, "/v1/weft/ca/revoke", nil, body, &done); err != nil {
				return err
			}
			for _, w := range texts(done["Warnings"]) {
				fmt.Fprintln(env.Stderr, "Warning: "+w)
			}
			return show(c, env, done, func(w io.Writer) {
				fmt.Fprintf(w, "Refused until %s, when it would have ended\n", text(done["Until"]))
			})
		},
	}
}

func tlsRevoked(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "revoked", Usage: "list the certificates that are refused", Flags: clientFlags(formatFlag()),
		Action: func(c *ucli.Context) error {
			var list []doc
			if err := ask(c, env, http.MethodGet, "/v1/weft/ca/revoked", nil, nil, &list); err != nil {
				return err
			}
			return show(c, env, list, func(w io.Writer) {
				var rows [][]string
				for _, r := range list {
					which := text(r["Serial"])
					if which == "" {
						which = "all of " + text(r["URI"])
					}
					rows = append(rows, []string{which, text(r["Time"]), text(r["Until"]), text(r["Reason"])})
				}
				_ = table(w, []string{"Certificate", "Revoked", "Until", "Reason"}, rows) // the terminal may be gone
			})
		},
	}
}
