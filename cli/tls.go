// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/http"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/catalog"
)

func tlsCommand(env Env) *ucli.Command {
	return group("tls", "look after certificates",
		group("ca", "make a certificate authority for agents", tlsCACreate(env)),
		tlsRevoke(env), tlsRevoked(env),
		&ucli.Command{
			Name: "cert", Usage: "show every certificate of this host with its remaining life; make one for an agent", Flags: clientFlags(formatFlag(),
				&ucli.BoolFlag{Name: "check", Usage: "as a health check: name those that are in trouble; status 1 for a warning, 2 for a critical one"}),
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
				if c.Bool("check") {
					return checkCertificates(env, certs)
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

// checkCertificates says which certificates are in trouble, with the status of a script check.
func checkCertificates(env Env, certs []rest.CertificateView) error {
	status, text := rest.Worst(certs)
	fmt.Fprintln(env.Stdout, text)
	switch status {
	case catalog.HealthPassing:
		return nil
	case catalog.HealthWarning:
		return &exitError{code: 1}
	}
	return &exitError{code: 2}
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
