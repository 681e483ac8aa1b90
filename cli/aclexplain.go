// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// denial is what a server's or an agent's refusal says.
var denial = regexp.MustCompile(`(?:AccessorID '([^']*)' )?lacks permission '([a-z]+):([a-z-]+)'(?: on "((?:[^"\\]|\\.)*)")?(?: in namespace "([a-z0-9*-]+)")?`)

func aclExplainCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "explain", Usage: "say which rule would grant what was refused", ArgsUsage: "PERMISSION [NAME] | TEXT-OF-THE-REFUSAL",
		Action: func(c *ucli.Context) error {
			all := strings.Join(c.Args().Slice(), " ")
			resource, access, name, accessor, namespace := "", "", "", "", ""
			if m := denial.FindStringSubmatch(all); m != nil {
				accessor, resource, access, name, namespace = m[1], m[2], m[3], m[4], m[5]
			} else if r, a, ok := strings.Cut(c.Args().First(), ":"); ok {
				resource, access, name = r, a, c.Args().Get(1)
			} else {
				return usage("give a permission as service:write with a name, or the text of a refusal, in quotes")
			}
			rule, err := granting(resource, access, name)
			if err != nil {
				return err
			}
			switch namespace {
			case "":
			case "*":
				rule = "namespace_prefix \"\" {\n  " + strings.ReplaceAll(rule, "\n", "\n  ") + "\n}"
			default:
				rule = fmt.Sprintf("namespace %q {\n  %s\n}", namespace, strings.ReplaceAll(rule, "\n", "\n  "))
			}
			fmt.Fprintf(env.Stdout, "Any policy of the token with this rule grants it:\n\n%s\n", indent(rule))
			switch {
			case strings.Contains(all, "anonymous token"):
				fmt.Fprintln(env.Stdout, "The request had no token: send one (-token, WEFT_HTTP_TOKEN), rather than give this to everybody.")
			case accessor != "":
				fmt.Fprintf(env.Stdout, "weft acl token read -accessor-id %s -expanded shows what the token has now.\n", accessor)
			}
			return nil
		},
	}
}

// granting is the narrowest rule that grants a permission.
func granting(resource, access, name string) (string, error) {
	level := map[string]string{"read": "read", "list": "list", "write": "write", "write-prefix": "write"}[access]
	switch {
	case level == "":
		return "", usage("%q is no access: want read, list or write", access)
	case slices.Contains([]string{"acl", "keyring", "operator", "mesh", "peering"}, resource):
		return fmt.Sprintf("%s = %q", resource, level), nil
	}
	block, field := resource, "policy"
	if resource == "intentions" {
		block, field = "service", "intentions"
	}
	if !slices.Contains([]string{"agent", "node", "service", "key", "session", "event", "query"}, block) {
		return "", usage("%q is no resource that rules are about", resource)
	}
	if name == "" || access == "write-prefix" {
		block += "_prefix"
	}
	return fmt.Sprintf("%s %q {\n  %s = %q\n}", block, name, field, level), nil
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") + "\n" }
