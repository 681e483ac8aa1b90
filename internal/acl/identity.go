// SPDX-License-Identifier: Apache-2.0

package acl

import (
	"fmt"
	"regexp"
	"strings"
)

// The names that identities may have, and those of policies, roles and auth methods.
var (
	identityName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$`)
	objectName   = regexp.MustCompile(`^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?$`)
)

// ValidIdentity says whether a service or node identity may have this name: lower case, digits, "-" and "_", at most 256.
func ValidIdentity(name string) bool { return len(name) <= 256 && identityName.MatchString(name) }

// ValidName says whether a policy (at most 128 long), role (256) or auth method (128) may have this name.
func ValidName(name string, most int) bool { return len(name) <= most && objectName.MatchString(name) }

// ServiceIdentityRules are the rules of a service with its sidecar: it registers both, and finds everybody else.
func ServiceIdentityRules(name string) string {
	return fmt.Sprintf("service %q { policy = \"write\" }\nservice %q { policy = \"write\" }\nservice_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\n",
		name, name+"-sidecar-proxy")
}

// NodeIdentityRules are the rules of a node's agent: it registers itself, and finds services.
func NodeIdentityRules(name string) string {
	return fmt.Sprintf("node %q { policy = \"write\" }\nservice_prefix \"\" { policy = \"read\" }\n", name)
}

// GlobalManagement are the rules of the policy of that name, as text: write to everything.
const GlobalManagement = `
acl = "write"
agent_prefix "" { policy = "write" }
event_prefix "" { policy = "write" }
key_prefix "" { policy = "write" }
keyring = "write"
node_prefix "" { policy = "write" }
operator = "write"
mesh = "write"
peering = "write"
query_prefix "" { policy = "write" }
service_prefix "" {
  policy = "write"
  intentions = "write"
}
session_prefix "" { policy = "write" }
`

// The IDs of the policies that are always there.
const (
	ManagementPolicyID = "00000000-0000-0000-0000-000000000001"
	ReadOnlyPolicyID   = "00000000-0000-0000-0000-000000000002"
)

// EveryNamespace are the rules of GlobalManagement, or at the level read those of GlobalReadOnly, in all namespaces but the default. They
// hold beside the stored text of these two policies, which is the one that everybody knows.
func EveryNamespace(l Level) string {
	level := l.String()
	return fmt.Sprintf("namespace_prefix \"\" {\n  key_prefix \"\" { policy = %[1]q }\n  node_prefix \"\" { policy = \"read\" }\n"+
		"  service_prefix \"\" {\n    policy = %[1]q\n    intentions = %[1]q\n  }\n  session_prefix \"\" { policy = %[1]q }\n}\n", level)
}

// GlobalReadOnly are the rules of builtin/global-read-only.
var GlobalReadOnly = strings.ReplaceAll(GlobalManagement, `"write"`, `"read"`)

// Template is a templated policy: rules made of variables.
type Template struct {
	Name, ID, Description string
	// Variable is the variable that must be given, "" for none.
	Variable string
	// Rules has {name} where the variable's value goes.
	Rules string
}

// Templates are the templated policies that there are, with Consul's names and IDs.
func Templates() []Template {
	const id = "00000000-0000-0000-0000-00000000000"
	return []Template{
		{"builtin/service", id + "3", "Gives the token or role permissions to register a service and discover services in the Consul catalog.", "name",
			"service \"{name}\" { policy = \"write\" }\nservice \"{name}-sidecar-proxy\" { policy = \"write\" }\nservice_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\n"},
		{"builtin/node", id + "4", "Gives the token or role permissions for an agent/node.", "name",
			"node \"{name}\" { policy = \"write\" }\nservice_prefix \"\" { policy = \"read\" }\n"},
		{"builtin/dns", id + "5", "Gives the token or role permissions for the Consul DNS to query services in the network.", "",
			"node_prefix \"\" { policy = \"read\" }\nservice_prefix \"\" { policy = \"read\" }\nquery_prefix \"\" { policy = \"read\" }\n"},
		{"builtin/nomad-server", id + "6", "Gives the token or role permissions required for integration with a nomad server.", "",
			"acl = \"write\"\nagent_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\nservice_prefix \"\" { policy = \"write\" }\n"},
		{"builtin/api-gateway", id + "8", "Gives the token or role permissions for a Consul api gateway", "name",
			"mesh = \"read\"\nnode_prefix \"\" { policy = \"read\" }\nservice_prefix \"\" { policy = \"read\" }\nservice \"{name}\" { policy = \"write\" }\n"},
		{"builtin/nomad-client", id + "9", "Gives the token or role permissions required for integration with a nomad client.", "",
			"agent_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\nservice_prefix \"\" { policy = \"write\" }\nkey_prefix \"\" { policy = \"read\" }\n"},
	}
}

// Render gives the rules of a templated policy for a value of its variable.
func (t Template) Render(value string) (string, error) {
	if t.Variable == "" {
		if value != "" {
			return "", fmt.Errorf("templated policy %q takes no variables", t.Name)
		}
		return t.Rules, nil
	}
	if !ValidIdentity(value) {
		return "", fmt.Errorf("templated policy %q: variable %s: %q must be lower-case letters, digits, '-' and '_', and begin and end with a letter or digit", t.Name, t.Variable, value)
	}
	return strings.ReplaceAll(t.Rules, "{name}", value), nil
}

// TemplateNamed finds a templated policy by its name.
func TemplateNamed(name string) (Template, bool) {
	for _, t := range Templates() {
		if t.Name == name {
			return t, true
		}
	}
	return Template{}, false
}
