// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/weftmesh/weft/internal/plane"
)

// Consul's ways for agents to come in are join tokens here, or are told which way there is.
func TestAutoConfig(t *testing.T) {
	token := plane.Token{Servers: []string{"10.0.0.1:8300"}, Pin: "p", Secret: "s"}.String()
	const client = "server = false\n"
	for name, c := range map[string]struct{ hcl, joining, fault string }{
		"token":      {client + `auto_config { enabled = true  intro_token = "` + token + `" }`, token, ""},
		"file":       {client + `auto_config { enabled = true  intro_token_file = "/etc/intro" }`, "@/etc/intro", ""},
		"off":        {client + `auto_config { enabled = false  intro_token = "` + token + `" }`, "", ""},
		"nothing":    {client + `auto_config { enabled = true }`, "", "needs intro_token, intro_token_file or CONSUL_INTRO_TOKEN"},
		"a JWT":      {client + `auto_config { enabled = true  intro_token = "eyJh.eyJz.c2ln" }`, "", "weft's servers take no JWTs, but join tokens (weft plane token)"},
		"two":        {client + `join_token = "` + token + `"` + "\n" + `auto_config { enabled = true  intro_token = "x" }`, token, "give one of them"},
		"server":     {`server = true` + "\n" + `auto_config { enabled = true  intro_token = "` + token + `" }`, token, "a server joins by join_token"},
		"an odd key": {client + `auto_config { enabled = true  intro = "x" }`, "", "intro: unknown field"},
	} {
		conf := Default()
		conf.DataDir = "/var/lib/weft"
		_, err := conf.LoadText("a.hcl", "hcl", c.hcl)
		if err == nil {
			err = conf.Validate()
		}
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, want %q", name, err, c.fault)
		}
		if err == nil && conf.Joining() != c.joining {
			t.Errorf("%s: joins by %q", name, conf.Joining())
		}
	}
}

// What has no effect says where the way is; a switch that is off says nothing.
func TestAutoEncrypt(t *testing.T) {
	conf := Default()
	warnings, err := conf.LoadText("a.hcl", "hcl", `auto_encrypt {
  tls = true
  allow_tls = false
  dns_san = ["x"]
}
auto_config {
  authorization {
    enabled = true
  }
}`)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"a.hcl:2: auto_encrypt.tls has no effect: ", "a.hcl:4: auto_encrypt.dns_san has no effect", "a.hcl:7: auto_config.authorization has no effect: "} {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, want) }) {
			t.Errorf("%d: no %q in %q", i, want, warnings)
		}
	}
	if len(warnings) != 3 || !strings.Contains(strings.Join(warnings, ""), "weft plane token") {
		t.Errorf("%q", warnings)
	}
}
