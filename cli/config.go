// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/decode"
)

func configCommand(env Env) *ucli.Command {
	kindName := []ucli.Flag{
		&ucli.StringFlag{Name: "kind", Usage: "as service-defaults", Required: true},
		&ucli.StringFlag{Name: "name", Usage: "as web", Required: true},
	}
	cas := []ucli.Flag{
		&ucli.BoolFlag{Name: "cas", Usage: "only if the entry's ModifyIndex is still -modify-index"},
		&ucli.Uint64Flag{Name: "modify-index", Usage: "0: only if there is none"},
	}
	return group("config", "read and write config entries",
		&ucli.Command{Name: "write", Usage: "write the entry that a file (or - for standard input) holds, in HCL, JSON or YAML", ArgsUsage: "FILE", Flags: clientFlags(append(cas, waitFlag())...), Action: func(c *ucli.Context) error { return configWrite(c, env) }},
		&ucli.Command{Name: "read", Usage: "print an entry as JSON", Flags: clientFlags(kindName...), Action: func(c *ucli.Context) error { return configRead(c, env) }},
		&ucli.Command{Name: "list", Usage: "list the names of a kind's entries", Flags: clientFlags(kindName[0], &ucli.StringFlag{Name: "filter", Usage: "filter expression"}), Action: func(c *ucli.Context) error { return configList(c, env) }},
		&ucli.Command{Name: "delete", Usage: "delete an entry", Flags: clientFlags(append(cas, waitFlag(), &ucli.StringFlag{Name: "kind", Usage: "as service-defaults"}, &ucli.StringFlag{Name: "name", Usage: "as web"}, &ucli.StringFlag{Name: "filename", Usage: "the entry that this file writes, in place of -kind and -name"})...), Action: func(c *ucli.Context) error { return configDelete(c, env) }},
	)
}

func casQuery(c *ucli.Context) url.Values {
	q := url.Values{}
	if c.Bool("cas") {
		q.Set("cas", strconv.FormatUint(c.Uint64("modify-index"), 10))
	}
	return q
}

// entryHead says which entry it is.
type entryHead struct{ Kind, Name string }

// entryFile reads the file of an entry.
func entryFile(env Env, path string) (*decode.Document, entryHead, error) {
	var head entryHead
	doc, err := document(env, path)
	if err != nil {
		return nil, head, err
	}
	for _, f := range []struct {
		name string
		into *string
	}{{"kind", &head.Kind}, {"name", &head.Name}} {
		n := doc.Root.Field(f.name)
		if n == nil || n.Kind != decode.String {
			return nil, head, usage("%s: %s is missing: an entry begins with kind = \"service-defaults\" and name = \"web\", say", doc.File, f.name)
		}
		*f.into = n.Text
	}
	return doc, head, nil
}

func configWrite(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("name the file to read, or - for standard input")
	}
	doc, head, err := entryFile(env, c.Args().First())
	if err != nil {
		return err
	}
	if kinds := catalog.EntryKinds(); !slices.Contains(kinds, head.Kind) {
		return usage("%s: there is no config entry of kind %q: want one of %s", doc.File, head.Kind, strings.Join(kinds, ", "))
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var ok bool
	header, err := cl.Do(c.Context, http.MethodPut, "/v1/config", casQuery(c), decode.Any(doc.Root), &ok)
	if err != nil {
		return fmt.Errorf("%s: the entry %s/%s was refused: %w", doc.File, head.Kind, head.Name, err)
	}
	if !ok {
		return fmt.Errorf("%s/%s was not written: its ModifyIndex isn't %d", head.Kind, head.Name, c.Uint64("modify-index"))
	}
	for _, w := range header.Values("X-Weft-Warning") {
		fmt.Fprintln(env.Stderr, "Warning: "+w)
	}
	fmt.Fprintf(env.Stdout, "Config entry written: %s/%s\n", head.Kind, head.Name)
	return awaitProxies(c, env, cl, header)
}

func entryPath(c *ucli.Context) string {
	return "/v1/config/" + url.PathEscape(c.String("kind")) + "/" + url.PathEscape(c.String("name"))
}

func configRead(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var entry json.RawMessage
	if _, err := cl.Do(c.Context, http.MethodGet, entryPath(c), nil, nil, &entry); err != nil {
		return err
	}
	return printJSON(env.Stdout, entry)
}

func configList(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var entries []struct{ Name string }
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/config/"+url.PathEscape(c.String("kind")), filterQuery(c), nil, &entries); err != nil {
		return err
	}
	for _, e := range entries {
		fmt.Fprintln(env.Stdout, e.Name)
	}
	return nil
}

func filterQuery(c *ucli.Context) url.Values {
	q := url.Values{}
	if f := c.String("filter"); f != "" {
		q.Set("filter", f)
	}
	return q
}

func configDelete(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	head := entryHead{c.String("kind"), c.String("name")}
	if file := c.String("filename"); file != "" {
		if head != (entryHead{}) {
			return usage("-filename names the entry: leave -kind and -name away")
		}
		if _, head, err = entryFile(env, file); err != nil {
			return err
		}
	}
	if head.Kind == "" || head.Name == "" {
		return usage("say which entry with -kind and -name, or with -filename")
	}
	var answer json.RawMessage
	path := "/v1/config/" + url.PathEscape(head.Kind) + "/" + url.PathEscape(head.Name)
	header, err := cl.Do(c.Context, http.MethodDelete, path, casQuery(c), nil, &answer)
	if err != nil {
		return err
	}
	if string(answer) == "false" {
		return fmt.Errorf("%s/%s was not deleted: its ModifyIndex isn't %d", head.Kind, head.Name, c.Uint64("modify-index"))
	}
	fmt.Fprintf(env.Stdout, "Config entry deleted: %s/%s\n", head.Kind, head.Name)
	return awaitProxies(c, env, cl, header)
}
