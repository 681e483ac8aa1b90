// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"slices"
	"strings"
	"testing"

	ucli "github.com/urfave/cli/v2"
)

// each visits all commands with their words.
func each(commands []*ucli.Command, before []string, visit func(words []string, c *ucli.Command)) {
	for _, c := range commands {
		words := append(slices.Clip(before), c.Name)
		visit(words, c)
		each(c.Subcommands, words, visit)
	}
}

// Every command answers -h with its help and 0, a flag that it hasn't with 1 (two of intention's: 2); every group alone prints its help and
// is 1, and a command that it hasn't is 127.
func TestExitCodesOfAll(t *testing.T) {
	app := newApp(Env{Stdout: io.Discard, Stderr: io.Discard, Stdin: strings.NewReader(""), Getenv: func(string) string { return "" }}, "consul")
	each(app.Commands, nil, func(words []string, c *ucli.Command) {
		name := strings.Join(words, " ")
		run := func(more ...string) result { return weft(t, nil, "", nil, append(slices.Clip(words), more...)...) }
		if c.SkipFlagParsing {
			if r := run("-anything"); r.code != 1 || r.errout == "" {
				t.Errorf("%s, which is refused: %+v", name, r)
			}
			return
		}
		for _, help := range []string{"-h", "--help"} {
			if r := run(help); r.code != 0 || !strings.Contains(r.out, words[len(words)-1]) {
				t.Errorf("%s %s: %d, %q, %q", name, help, r.code, r.out, r.errout)
			}
		}
		if name == "demo" || name == "explain" || name == "tls cert" {
			return // they do something alone: each has tests of its own
		}
		if len(c.Subcommands) > 0 {
			if r := run(); r.code != 1 || !strings.Contains(r.out, c.Subcommands[0].Name) {
				t.Errorf("%s alone: %d, %q", name, r.code, r.out)
			}
			if r := run("no-such-command"); r.code != 127 || !strings.Contains(r.errout, "no-such-command") {
				t.Errorf("%s no-such-command: %d, %q", name, r.code, r.errout)
			}
			return
		}
		want := 1
		if name == "intention check" || name == "intention match" {
			want = 2
		}
		for _, flag := range []string{"-no-such-flag", "--no-such-flag=1"} {
			if r := run(flag); r.code != want || !strings.Contains(r.errout, "no-such-flag") {
				t.Errorf("%s %s: %d, want %d, %q", name, flag, r.code, want, r.errout)
			}
		}
	})
}

// What scripts decide by.
func TestExitCodes(t *testing.T) {
	const intentions, check = "GET /v1/connect/intentions", "GET /v1/connect/intentions/check"
	good := write(t, "good.hcl", "data_dir = \"/x\"\n")
	for _, c := range []struct {
		args    string
		answers map[string]string
		want    int
	}{
		{"", nil, 0},
		{"-v", nil, 0},
		{"--version", nil, 0},
		{"version", nil, 0},
		{"version -format=xml", nil, 1},
		{"-h", nil, 0},
		{"nonsense", nil, 127},
		{"nonsense -h", nil, 127},
		{"members", map[string]string{"GET /v1/agent/members": membersJSON}, 0},
		{"members -status=none", map[string]string{"GET /v1/agent/members": membersJSON}, 2},
		{"members", nil, 1},
		{"join 10.0.0.1 10.0.0.2", map[string]string{"PUT /v1/agent/join/10.0.0.2": ""}, 0},
		{"join 10.0.0.1", nil, 1},
		{"validate -quiet " + good, nil, 0},
		{"validate /none", nil, 1},
		{"validate", nil, 1},
		{"keyring -list", nil, 1},
		{"event", nil, 1},
		{"keygen", nil, 0},
		{"intention check web api", map[string]string{check: `{"Allowed":true}`}, 0},
		{"intention check web api", map[string]string{check: `{"Allowed":false}`}, 1},
		{"intention check web api", map[string]string{check: "!500 boom"}, 2},
		{"intention check web", nil, 2},
		{"intention match", nil, 2},
		{"intention match -source -destination api", nil, 2},
		{"intention match api", map[string]string{"GET /v1/connect/intentions/match": `{"api":[]}`}, 0},
		{"intention list", map[string]string{intentions: "[]"}, 2},
		{"intention list", map[string]string{intentions: "[" + webAllowed + "]"}, 0},
		{"intention list", nil, 1},
		{"config delete -kind service-defaults -name x", map[string]string{"DELETE /v1/config/service-defaults/x": "{}"}, 0},
		{"config read -kind service-defaults -name x", nil, 1},
		{"peering list", map[string]string{"GET /v1/peerings": "[]"}, 0},
		{"kv get none", nil, 1},
		{"kv delete none", map[string]string{"DELETE /v1/kv/none": "true"}, 0},
		{"kv put -cas -modify-index=3 a b", map[string]string{"PUT /v1/kv/a": "false"}, 1},
		{"exec ls", nil, 1},
		{"agent", nil, 1},
		{"agent -dev -config-file /none", nil, 1},
		{"connect envoy", nil, 1},
		{"connect proxy", nil, 1},
		{"troubleshoot ports -ports 1", nil, 1},
		{"snapshot restore /none", nil, 1},
		{"login -method m", nil, 1},
		{"logout", nil, 1},
	} {
		if r := weft(t, &fake{answers: c.answers}, "", nil, strings.Fields(c.args)...); r.code != c.want {
			t.Errorf("weft %s: %d, want %d\n%s%s", c.args, r.code, c.want, r.out, r.errout)
		}
	}
}
