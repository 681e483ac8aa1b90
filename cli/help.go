// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// sections are the first page's, each with the commands that it shows; what stands in none comes last.
var sections = []struct {
	title    string
	commands []string
}{
	{"Start here", []string{"demo", "agent", "validate", "version"}},
	{"Services and who may call whom", []string{"services", "catalog", "intention", "config", "connect", "explain", "verify"}},
	{"Keys, locks, events", []string{"kv", "lock", "watch", "event", "snapshot", "import"}},
	{"The cluster", []string{"members", "join", "leave", "force-leave", "operator", "keygen", "keyring", "rtt", "peering"}},
	{"This host's agent", []string{"info", "monitor", "reload", "maint", "debug", "troubleshoot"}},
	{"Identity and access", []string{"tls", "acl", "login", "logout"}},
}

func firstPage(w io.Writer, called string, commands []*ucli.Command) {
	fmt.Fprint(w, firstPageText(called, commands))
}

// firstPageText is what weft says when it is called alone.
func firstPageText(called string, commands []*ucli.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, `weft: a service mesh in one binary. Services find each other by name, talk over mutual TLS, and are allowed or denied by name.

  %[1]s demo          runs a small mesh on this machine, with traffic and three things to try
  %[1]s agent -dev    runs an agent that keeps nothing; try "%[1]s catalog services" beside it

`, called)
	shown := map[string]bool{}
	section := func(title string, list []*ucli.Command) {
		if len(list) == 0 {
			return
		}
		fmt.Fprintln(&b, title)
		for _, c := range list {
			shown[c.Name] = true
			fmt.Fprintf(&b, "  %-14s %s\n", c.Name, c.Usage)
		}
		fmt.Fprintln(&b)
	}
	for _, s := range sections {
		var list []*ucli.Command
		for _, name := range s.commands {
			for _, c := range commands {
				if c.Name == name && !c.Hidden {
					list = append(list, c)
				}
			}
		}
		section(s.title, list)
	}
	var rest []*ucli.Command
	for _, c := range commands {
		if !shown[c.Name] && !c.Hidden && c.Name != "help" {
			rest = append(rest, c)
		}
	}
	section("More", rest)
	fmt.Fprintf(&b, `"%[1]s COMMAND -h" says more. Commands ask the agent at 127.0.0.1:8500 unless -http-addr or WEFT_HTTP_ADDR says otherwise
(CONSUL_HTTP_ADDR is taken too). Completion for your shell: %[1]s completion bash|zsh|fish.
`, called)
	return b.String()
}

// refused is a command of Consul's that weft answers with a reason.
func refused(name, usageText, reason string) *ucli.Command {
	return &ucli.Command{
		Name: name, Usage: usageText, Hidden: true, SkipFlagParsing: true,
		Action: func(*ucli.Context) error { return usage("%s", reason) },
	}
}

const (
	execRefused = "weft doesn't run commands on other hosts: a mesh that can is a way into every host. " +
		"Use what your hosts are managed with (ssh, your orchestrator)."
	tenancyRefused = "Partitions need no looking after: one is there as soon as something is registered in it. " +
		"Name it with -partition; without it everything is in the one called default. Namespaces are made: weft namespace create."
)
