// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/http"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/rest"
)

func tlsCommand(env Env) *ucli.Command {
	return group("tls", "look after certificates",
		group("ca", "make a certificate authority for agents", tlsCACreate(env)),
		tlsRevoke(env), tlsRevoked(env),
		&ucli.Command{
			Name: "cert", Usage: "show every certificate of this host with its remaining life; make one for an agent", Flags: clientFlags(formatFlag()),
			Subcommands: []*ucli.Command{tlsCertCreate(env)},
			Action: func(c *ucli.Context) error {
				if c.Args().Present() {
					return &exitError{code: exitUnknownCommand, text: fmt.Sprintf("weft tls cert: unknown command %q", c.Args().First())}
				}
				cl, err := client(c, env)
				if err != nil {
					return err
				}
				var certs []rest.CertificateView
				if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/connect/certificates", nil, nil, &certs); err != nil {
					return err
				}
				if js, err := asJSON(c); err != nil || js {
					return orElse(err, func() error { return printJSON(env.Stdout, certs) })
				}
				var rows [][]string
				for _, v := range certs {
					state := fmt.Sprintf("%.0f %%", 100*v.Left)
					if v.Error != "" {
						state += ", can't be renewed: " + v.Error
					}
					rows = append(rows, []string{v.Kind, v.Name, v.ValidBefore.Local().Format(time.DateTime), lifetime(time.Until(v.ValidBefore)), state})
				}
				return table(env.Stdout, []string{"Kind", "Name", "Ends", "In", "Life left"}, rows)
			},
		})
}

// lifetime is a duration in the two largest units that it has.
func lifetime(d time.Duration) string {
	switch {
	case d < 0:
		return "ended"
	case d > 48*time.Hour:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	case d > time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return d.Round(time.Second).String()
}
