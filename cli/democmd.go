// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"

	ucli "github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/weftmesh/weft/cli/demo"
)

func demoCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "demo", Usage: "run a small mesh on this machine, with traffic, and show what to try",
		Flags: []ucli.Flag{
			&ucli.IntFlag{Name: "port-offset", Usage: "move every port by this much"},
			&ucli.IntFlag{Name: "rate", Value: 20, Usage: "requests per second"},
		},
		Action: func(c *ucli.Context) error {
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			out, isFile := env.Stdout.(*os.File)
			d, err := demo.New(demo.Config{
				Binary: binary, Offset: c.Int("port-offset"), Rate: c.Int("rate"), Out: env.Stdout,
				Terminal: isFile && term.IsTerminal(int(out.Fd())),
			})
			if err != nil {
				return err
			}
			return d.Run(c.Context)
		},
		Subcommands: []*ucli.Command{{
			Name: "service", Usage: "one of the demo's services", Hidden: true,
			Flags: []ucli.Flag{
				&ucli.StringFlag{Name: "name"}, &ucli.StringFlag{Name: "instance-version"}, &ucli.StringFlag{Name: "listen"}, &ucli.StringFlag{Name: "upstream"},
			},
			Action: func(c *ucli.Context) error {
				return demo.Service{
					Name: c.String("name"), Version: c.String("instance-version"), Listen: c.String("listen"), Upstream: c.String("upstream"),
				}.Run(c.Context)
			},
		}},
	}
}
