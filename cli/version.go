// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"runtime/debug"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// consulVersion is the version of Consul whose interfaces these are: programs that ask `consul version` compare it.
const consulVersion = "1.21.4"

func versionCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "version", Usage: "print the version", Flags: []ucli.Flag{formatFlag()},
		Action: func(c *ucli.Context) error {
			js, err := asJSON(c)
			if err != nil {
				return err
			}
			return printVersion(env, c.App.Name, js)
		},
	}
}

// versionView is the form that Consul's users parse, and one field of weft's.
type versionView struct {
	Version    string
	Revision   string
	Prerelease string
	BuildDate  string
	RPC        struct{ Default, Min, Max int }
	Weft       string
	Go         string
}

func printVersion(env Env, called string, js bool) error {
	v := versionView{Version: Version, BuildDate: "1970-01-01T00:00:00Z", Weft: Version}
	v.RPC.Default, v.RPC.Min, v.RPC.Max = 2, 2, 3
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Go = info.GoVersion
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value[:min(len(s.Value), 8)]
			case "vcs.time":
				v.BuildDate = s.Value
			}
		}
	}
	if called == "consul" {
		v.Version = consulVersion
	}
	if base, pre, ok := strings.Cut(v.Version, "-"); ok {
		v.Version, v.Prerelease = base, pre
	}
	if js {
		return printJSON(env.Stdout, v)
	}
	if called == "consul" {
		fmt.Fprintf(env.Stdout, "Consul v%s\nThis is weft v%s, which serves Consul's interfaces of that version.\n", consulVersion, Version)
	} else {
		fmt.Fprintf(env.Stdout, "weft v%s\n", Version)
	}
	if v.Revision != "" {
		fmt.Fprintf(env.Stdout, "Revision %s\nBuild Date %s\n", v.Revision, v.BuildDate)
	}
	fmt.Fprintf(env.Stdout, "Protocol %d spoken by default, understands %d to %d\n", v.RPC.Default, v.RPC.Min, v.RPC.Max)
	fmt.Fprintf(env.Stdout, "built with %s\n", v.Go)
	return nil
}
