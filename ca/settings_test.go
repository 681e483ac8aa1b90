// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weftmesh/weft/ca"
)

func TestProviderConfig(t *testing.T) {
	good := ca.VaultConfig{Address: "https://vault:8200", Token: "canary", RootPKIPath: "pki", IntermediatePKIPath: "pki_int/"}
	login := func(kind string, params map[string]ca.Secret) func(*ca.VaultConfig) {
		return func(v *ca.VaultConfig) { v.Token, v.AuthMethod = "", ca.VaultAuth{Type: kind, Params: params} }
	}
	for name, tc := range map[string]struct {
		change func(*ca.VaultConfig)
		field  string // "" where it is good
	}{
		"good":          {func(*ca.VaultConfig) {}, ""},
		"no address":    {func(v *ca.VaultConfig) { v.Address = "" }, "Address"},
		"a scheme":      {func(v *ca.VaultConfig) { v.Address = "ftp://vault" }, "Address"},
		"no path":       {func(v *ca.VaultConfig) { v.RootPKIPath = "" }, "RootPKIPath"},
		"a path up":     {func(v *ca.VaultConfig) { v.IntermediatePKIPath = "a/../sys" }, "IntermediatePKIPath"},
		"one path":      {func(v *ca.VaultConfig) { v.IntermediatePKIPath = "pki" }, "IntermediatePKIPath"},
		"no token":      {func(v *ca.VaultConfig) { v.Token = "" }, "Token or AuthMethod"},
		"both":          {func(v *ca.VaultConfig) { v.AuthMethod.Type = "approle" }, "exclude"},
		"half a pair":   {func(v *ca.VaultConfig) { v.CertFile = "/c" }, "CertFile"},
		"other login":   {login("ldap", nil), "AuthMethod.Type"},
		"other param":   {login("kubernetes", map[string]ca.Secret{"rolle": "x"}), "rolle"},
		"no role":       {login("kubernetes", nil), "role"},
		"kubernetes":    {login("kubernetes", map[string]ca.Secret{"role": "r"}), ""},
		"approle":       {login("approle", map[string]ca.Secret{"role_id": "r", "secret_id": "s"}), ""},
		"two secrets":   {login("approle", map[string]ca.Secret{"role_id": "r", "secret_id": "s", "secret_id_file_path": "/s"}), "exclude"},
		"nobody's role": {login("approle", map[string]ca.Secret{"secret_id": "s"}), "role_id"},
	} {
		v := good
		tc.change(&v)
		err := ca.Config{Provider: ca.VaultName, Vault: v}.Validate()
		if (err == nil) != (tc.field == "") || err != nil && (!errors.Is(err, ca.ErrConfig) || !strings.Contains(err.Error(), tc.field)) {
			t.Errorf("%s: %v", name, err)
		}
		if shown := fmt.Sprintf("%v %+v %#v %v", v, v, v, err); strings.Contains(shown, "canary") {
			t.Errorf("%s: the token shows", name)
		}
	}
	for _, c := range []ca.Config{{Provider: "acme"}, {Provider: ca.CommandName}, {Provider: ca.CommandName, Command: ca.CommandConfig{Argv: []string{"sign"}}}, {Provider: ca.VaultName, Vault: good, RootCert: "x", PrivateKey: "y"}} {
		if err := c.Validate(); !errors.Is(err, ca.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestC116_FilesAndCommandsAreTheServers: a configuration that comes by the API may name no file and no program, unless the server's own
// names it for the same purpose and the same Vault.
func TestC116_FilesAndCommandsAreTheServers(t *testing.T) {
	vault := func(address string, change func(*ca.VaultConfig)) ca.Config {
		v := ca.VaultConfig{Address: address, RootPKIPath: "pki", IntermediatePKIPath: "int"}
		change(&v)
		return ca.Config{Provider: ca.VaultName, Vault: v}
	}
	const ours, theirs = "https://vault:8200", "https://evil:8200"
	approle := func(file ca.Secret) func(*ca.VaultConfig) {
		return func(v *ca.VaultConfig) {
			v.AuthMethod = ca.VaultAuth{Type: "approle", Params: map[string]ca.Secret{"role_id": "r", "secret_id_file_path": file}}
		}
	}
	kubernetes := func(v *ca.VaultConfig) {
		v.AuthMethod = ca.VaultAuth{Type: "kubernetes", Params: map[string]ca.Secret{"role": "r"}}
	}
	token := func(v *ca.VaultConfig) { v.Token = "t" }
	run := func(argv ...string) ca.Config {
		return ca.Config{Provider: ca.CommandName, Command: ca.CommandConfig{Argv: argv}}
	}
	for name, tc := range map[string]struct {
		asked, own ca.Config
		ok         bool
	}{
		"a token":                 {vault(theirs, token), ca.Config{}, true},
		"a file":                  {vault(ours, approle("/etc/shadow")), ca.Config{}, false},
		"another file":            {vault(ours, approle("/etc/shadow")), vault(ours, approle("/run/secret")), false},
		"the file":                {vault(ours, approle("/run/secret")), vault(ours, approle("/run/secret")), true},
		"the file, elsewhere":     {vault(theirs, approle("/run/secret")), vault(ours, approle("/run/secret")), false},
		"the pod's token":         {vault(theirs, kubernetes), ca.Config{}, false},
		"the pod's token, ours":   {vault(ours, kubernetes), vault(ours, kubernetes), true},
		"a CA file":               {vault(ours, func(v *ca.VaultConfig) { token(v); v.CAFile = "/etc/shadow" }), vault(ours, token), false},
		"a program":               {run("/bin/sh", "-c", "id"), ca.Config{}, false},
		"the program, other args": {run("/bin/sign", "x"), run("/bin/sign"), false},
		"the program":             {run("/bin/sign", "x"), run("/bin/sign", "x"), true},
	} {
		err := tc.asked.AllowedBy(tc.own)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ca.ErrLocal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
