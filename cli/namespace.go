// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/decode"
)

// namespace is the API's form of a namespace.
type namespace struct {
	Name        string
	Description string
	Meta        map[string]string `json:",omitempty"`
	CreateIndex uint64            `json:",omitempty"`
	ModifyIndex uint64            `json:",omitempty"`
}

func namespaceCommand(env Env) *ucli.Command {
	about := []ucli.Flag{
		&ucli.StringFlag{Name: "name", Usage: "the namespace: lower-case letters, digits and -", Required: true},
		&ucli.StringFlag{Name: "description", Usage: "what it is for"},
		&ucli.StringSliceFlag{Name: "meta", Usage: "key=value (repeatable)"}, formatFlag(), &ucli.BoolFlag{Name: "show-meta", Usage: "show the indexes too"},
	}
	return group("namespace", "look after namespaces",
		&ucli.Command{Name: "create", Usage: "make a namespace", Flags: clientFlags(about...), Action: func(c *ucli.Context) error { return namespaceCreate(c, env) }},
		&ucli.Command{
			Name: "update", Usage: "say something else of a namespace",
			Flags:  clientFlags(append(about, &ucli.BoolFlag{Name: "no-merge", Usage: "drop what isn't said again"})...),
			Action: func(c *ucli.Context) error { return namespaceUpdate(c, env) },
		},
		&ucli.Command{
			Name: "write", Usage: "make or change a namespace by a file", ArgsUsage: "<file>", Flags: clientFlags(formatFlag(), about[len(about)-1]),
			Action: func(c *ucli.Context) error { return namespaceWrite(c, env) },
		},
		&ucli.Command{
			Name: "read", Usage: "show a namespace", ArgsUsage: "<name>", Flags: clientFlags(formatFlag(), about[len(about)-1]),
			Action: func(c *ucli.Context) error { return namespaceRead(c, env) },
		},
		&ucli.Command{Name: "list", Usage: "list the namespaces", Flags: clientFlags(formatFlag(), about[len(about)-1]), Action: func(c *ucli.Context) error { return namespaceList(c, env) }},
		&ucli.Command{
			Name: "delete", Usage: "delete a namespace that is empty", ArgsUsage: "<name>", Flags: clientFlags(),
			Action: func(c *ucli.Context) error { return namespaceDelete(c, env) },
		})
}

// namespaceAt is where a namespace is, by the one argument that a command has.
func namespaceAt(c *ucli.Context) (name, path string, err error) {
	if c.NArg() != 1 {
		return "", "", usage("Must specify exactly one argument: the name of the namespace")
	}
	return c.Args().First(), "/v1/namespace/" + url.PathEscape(c.Args().First()), nil
}

func (n *namespace) print(c *ucli.Context, env Env) error {
	js, err := asJSON(c)
	if err != nil {
		return err
	}
	if js {
		return printJSON(env.Stdout, n)
	}
	fmt.Fprintf(env.Stdout, "Name:            %s\nDescription:     %s\n", n.Name, n.Description)
	for _, k := range slices.Sorted(maps.Keys(n.Meta)) {
		fmt.Fprintf(env.Stdout, "Meta:            %s=%s\n", k, n.Meta[k])
	}
	if c.Bool("show-meta") {
		fmt.Fprintf(env.Stdout, "Create Index:    %d\nModify Index:    %d\n", n.CreateIndex, n.ModifyIndex)
	}
	return nil
}

// write puts a namespace: into /v1/namespace to make it, under its name to change it.
func (n *namespace) write(c *ucli.Context, env Env, cl *apiclient.Client, path string) error {
	body := map[string]any{"Name": n.Name, "Description": n.Description, "Meta": n.Meta}
	var out namespace
	if _, err := cl.Do(c.Context, http.MethodPut, path, nil, body, &out); err != nil {
		return fmt.Errorf("Error writing namespace %s: %w", n.Name, err) //nolint:staticcheck // Consul's text
	}
	return out.print(c, env)
}

// said is a namespace by flags.
func saidNamespace(c *ucli.Context) (*namespace, error) {
	meta, err := pairsOf("meta", c.StringSlice("meta"))
	return &namespace{Name: c.String("name"), Description: c.String("description"), Meta: meta}, err
}

func namespaceCreate(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	n, err := saidNamespace(c)
	if err != nil {
		return err
	}
	return n.write(c, env, cl, "/v1/namespace")
}

func namespaceUpdate(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	n, err := saidNamespace(c)
	if err != nil {
		return err
	}
	path := "/v1/namespace/" + url.PathEscape(n.Name)
	var old namespace
	if _, err := cl.Do(c.Context, http.MethodGet, path, nil, nil, &old); err != nil {
		return fmt.Errorf("Error reading namespace %s: %w", n.Name, err) //nolint:staticcheck // Consul's text
	}
	if !c.Bool("no-merge") {
		if !c.IsSet("description") {
			n.Description = old.Description
		}
		for k, v := range old.Meta {
			if _, said := n.Meta[k]; said {
				continue
			}
			if n.Meta == nil {
				n.Meta = map[string]string{}
			}
			n.Meta[k] = v
		}
	}
	return n.write(c, env, cl, path)
}

func namespaceWrite(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("Must specify exactly one argument: the file, or - for standard input")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	d, err := document(env, c.Args().First())
	if err != nil {
		return err
	}
	n, err := namespaceIn(d, c.Args().First())
	if err != nil {
		return err
	}
	path := "/v1/namespace/" + url.PathEscape(n.Name)
	var old namespace
	if _, err := cl.Do(c.Context, http.MethodGet, path, nil, nil, &old); err != nil {
		var s *apiclient.StatusError
		if !errors.As(err, &s) || s.Code != http.StatusNotFound {
			return err
		}
		path = "/v1/namespace"
	}
	return n.write(c, env, cl, path)
}

// namespaceIn reads a file: Name, Description and a block Meta.
func namespaceIn(d *decode.Document, path string) (*namespace, error) {
	n := &namespace{}
	if err := d.Into(n); err != nil {
		return nil, err
	}
	if n.Name == "" {
		return nil, fmt.Errorf("%s: Name is missing: it says which namespace the file is about", path)
	}
	return n, nil
}

func namespaceRead(c *ucli.Context, env Env) error {
	name, path, err := namespaceAt(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var n namespace
	if _, err := cl.Do(c.Context, http.MethodGet, path, nil, nil, &n); err != nil {
		return fmt.Errorf("Error reading namespace %s: %w", name, err) //nolint:staticcheck // Consul's text
	}
	return n.print(c, env)
}

func namespaceList(c *ucli.Context, env Env) error {
	js, err := asJSON(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var all []*namespace
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/namespaces", nil, nil, &all); err != nil {
		return fmt.Errorf("Error listing namespaces: %w", err) //nolint:staticcheck // Consul's text
	}
	if js {
		return printJSON(env.Stdout, all)
	}
	slices.SortFunc(all, func(a, b *namespace) int { return strings.Compare(a.Name, b.Name) })
	for i, n := range all {
		if i > 0 {
			fmt.Fprintln(env.Stdout)
		}
		if err := n.print(c, env); err != nil {
			return err
		}
	}
	return nil
}

func namespaceDelete(c *ucli.Context, env Env) error {
	name, path, err := namespaceAt(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	if _, err := cl.Do(c.Context, http.MethodDelete, path, nil, nil, nil); err != nil {
		return fmt.Errorf("Error deleting namespace %s: %w", name, err) //nolint:staticcheck // Consul's text
	}
	fmt.Fprintf(env.Stdout, "Namespace %q was deleted\n", name)
	return nil
}
