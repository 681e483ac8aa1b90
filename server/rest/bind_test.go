// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
)

// TestC110_ClaimsWriteNoRules: what a bearer's claims put into a binding rule is a name, or grants nothing: neither identities nor templates
// take quotes, braces or rules.
func TestC110_ClaimsWriteNoRules(t *testing.T) {
	store, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	object := func(o catalog.ACLObject) {
		t.Helper()
		data, err := catalog.Encode(catalog.SetACL{Create: true, Objects: []catalog.ACLObject{o}})
		if err != nil {
			t.Fatal(err)
		}
		if r := store.Apply([]catalog.LogEntry{{Index: store.Position().Index + 1, Data: data}}); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
	}
	object(catalog.ACLObject{AuthMethod: &catalog.ACLAuthMethod{Name: "m", Type: "jwt"}})
	for i, rule := range []catalog.ACLBindingRule{
		{BindType: "service", BindName: "${claims.team}"},
		{BindType: "node", BindName: "${claims.team}"},
		{BindType: "templated-policy", BindName: "builtin/service", BindVars: &catalog.ACLTemplateVariables{Name: "${claims.team}"}},
	} {
		rule.ID, rule.AuthMethod = "00000000-0000-0000-0000-00000000000"+string(rune('a'+i)), "m"
		object(catalog.ACLObject{BindingRule: &rule})
	}
	grants := func(claim string) (*catalog.ACLToken, error) {
		k := &catalog.ACLToken{}
		return k, bind(store.Read(), "m", &Bearer{Vars: map[string]string{"claims.team": claim}}, k)
	}
	for _, claim := range []string{
		`web" { policy = "write" } service_prefix "`, "web}", "web\" or true", "web\nservice_prefix \"\" { policy = \"write\" }", "we b", "${claims.team}", "a/b", "*", "", strings.Repeat("a", 300),
	} {
		if k, err := grants(claim); !errors.Is(err, api.ErrDenied) {
			t.Errorf("%q grants %+v, %+v, %+v: %v", claim, k.ServiceIdentities, k.NodeIdentities, k.TemplatedPolicies, err)
		}
	}
	k, err := grants("web") // the control
	if err != nil || len(k.ServiceIdentities) != 1 || len(k.NodeIdentities) != 1 || len(k.TemplatedPolicies) != 1 {
		t.Errorf("%+v, %v", k, err)
	}
	if i := slices.IndexFunc(k.TemplatedPolicies, func(p catalog.ACLTemplatedPolicy) bool { return acl.ValidIdentity(p.TemplateVariables.Name) }); i != 0 {
		t.Error("the template's variable isn't the claim")
	}
}
