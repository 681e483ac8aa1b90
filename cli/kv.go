// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

// kvPair is an entry as the API shows it.
type kvPair struct {
	LockIndex   uint64
	Key         string
	Flags       uint64
	Value       []byte
	Session     string `json:",omitempty"`
	CreateIndex uint64
	ModifyIndex uint64
}

func kvCommand(env Env) *ucli.Command {
	cas := []ucli.Flag{
		&ucli.BoolFlag{Name: "cas", Usage: "only if the key's ModifyIndex is still -modify-index"},
		&ucli.Uint64Flag{Name: "modify-index", Usage: "with -cas; 0: only if there is none"},
	}
	return group("kv", "read and write the key-value store",
		&ucli.Command{
			Name: "get", Usage: "print a key's value, or those under a prefix", ArgsUsage: "[KEY_OR_PREFIX]",
			Flags: clientFlags(
				&ucli.BoolFlag{Name: "base64", Usage: "values in base64"},
				&ucli.BoolFlag{Name: "detailed", Usage: "with all that is known of a key"},
				&ucli.BoolFlag{Name: "keys", Usage: "the names of keys that begin with the prefix"},
				&ucli.BoolFlag{Name: "recurse", Usage: "all that begin with the prefix"},
				&ucli.StringFlag{Name: "separator", Value: "/", Usage: "with -keys: names are cut behind the first one after the prefix"},
			),
			Action: func(c *ucli.Context) error { return kvGet(c, env) },
		},
		&ucli.Command{
			Name: "put", Usage: "write a key", ArgsUsage: "KEY [DATA | @FILE | -]",
			Flags: clientFlags(append(cas,
				&ucli.Uint64Flag{Name: "flags", Usage: "a number that is kept with the key"},
				&ucli.BoolFlag{Name: "base64", Usage: "the data is base64"},
				&ucli.StringFlag{Name: "session", Usage: "session, for -acquire and -release"},
				&ucli.BoolFlag{Name: "acquire", Usage: "take the key's lock too"},
				&ucli.BoolFlag{Name: "release", Usage: "give the key's lock up too"},
			)...),
			Action: func(c *ucli.Context) error { return kvPut(c, env) },
		},
		&ucli.Command{
			Name: "delete", Usage: "delete a key, or all that begin with it", ArgsUsage: "KEY_OR_PREFIX",
			Flags:  clientFlags(append(cas, &ucli.BoolFlag{Name: "recurse", Usage: "all that begin with it"})...),
			Action: func(c *ucli.Context) error { return kvDelete(c, env) },
		},
		&ucli.Command{
			Name: "export", Usage: "print all under a prefix as JSON", ArgsUsage: "[PREFIX]", Flags: clientFlags(),
			Action: func(c *ucli.Context) error { return kvExport(c, env) },
		},
		&ucli.Command{
			Name: "import", Usage: "write what kv export printed", ArgsUsage: "DATA | @FILE | -",
			Flags:  clientFlags(&ucli.StringFlag{Name: "prefix", Usage: "put before each key"}),
			Action: func(c *ucli.Context) error { return kvImport(c, env) },
		},
	)
}

// kvPath is where a key is, its leading slash apart.
func kvPath(key string) string { return "/v1/kv/" + url.PathEscape(strings.TrimPrefix(key, "/")) }

// data reads an argument that may be a file or standard input.
func data(env Env, arg string) ([]byte, error) {
	switch {
	case arg == "-":
		return io.ReadAll(env.Stdin)
	case strings.HasPrefix(arg, "@"):
		return os.ReadFile(arg[1:])
	}
	return []byte(arg), nil
}

func kvGet(c *ucli.Context, env Env) error {
	if c.NArg() > 1 {
		return usage("Too many arguments (expected 1, got %d)", c.NArg())
	}
	key := strings.TrimPrefix(c.Args().First(), "/")
	if key == "" && !c.Bool("keys") && !c.Bool("recurse") {
		return usage("Error! Missing KEY argument")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	switch {
	case c.Bool("keys"):
		var keys []string
		_, err := cl.Do(c.Context, http.MethodGet, kvPath(key), url.Values{"keys": {""}, "separator": {c.String("separator")}}, nil, &keys)
		if err != nil && !apiclient.IsStatus(err, http.StatusNotFound) {
			return err
		}
		for _, k := range keys {
			fmt.Fprintln(env.Stdout, k)
		}
		return nil
	case c.Bool("recurse"):
		pairs, err := kvList(c, cl, key)
		for i, p := range pairs {
			if c.Bool("detailed") {
				if i > 0 {
					fmt.Fprintln(env.Stdout)
				}
				kvDetails(env.Stdout, &p, c.Bool("base64"))
				continue
			}
			fmt.Fprintf(env.Stdout, "%s:%s\n", p.Key, kvText(p.Value, c.Bool("base64")))
		}
		return err
	}
	var pairs []kvPair
	if _, err := cl.Do(c.Context, http.MethodGet, kvPath(key), nil, nil, &pairs); apiclient.IsStatus(err, http.StatusNotFound) || err == nil && len(pairs) == 0 {
		return usage("Error! No key exists at: %s", key)
	} else if err != nil {
		return err
	}
	if c.Bool("detailed") {
		kvDetails(env.Stdout, &pairs[0], c.Bool("base64"))
		return nil
	}
	fmt.Fprintln(env.Stdout, kvText(pairs[0].Value, c.Bool("base64")))
	return nil
}

func kvList(c *ucli.Context, cl *apiclient.Client, prefix string) (pairs []kvPair, err error) {
	_, err = cl.Do(c.Context, http.MethodGet, kvPath(prefix), url.Values{"recurse": {""}}, nil, &pairs)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		err = nil
	}
	return pairs, err
}

func kvText(value []byte, encoded bool) string {
	if encoded {
		return base64.StdEncoding.EncodeToString(value)
	}
	return string(value)
}

func kvDetails(w io.Writer, p *kvPair, encoded bool) {
	session := p.Session
	if session == "" {
		session = "-"
	}
	for _, row := range []struct{ name, value string }{
		{"CreateIndex", strconv.FormatUint(p.CreateIndex, 10)}, {"Flags", strconv.FormatUint(p.Flags, 10)}, {"Key", p.Key},
		{"LockIndex", strconv.FormatUint(p.LockIndex, 10)}, {"ModifyIndex", strconv.FormatUint(p.ModifyIndex, 10)}, {"Session", session},
		{"Value", kvText(p.Value, encoded)},
	} {
		fmt.Fprintf(w, "%-16s %s\n", row.name, row.value)
	}
}

func kvPut(c *ucli.Context, env Env) error {
	key := strings.TrimPrefix(c.Args().First(), "/")
	switch {
	case key == "":
		return usage("Error! Missing KEY argument")
	case c.NArg() > 2:
		return usage("Error! Too many arguments (expected 1 or 2, got %d)", c.NArg())
	case (c.Bool("acquire") || c.Bool("release")) && c.String("session") == "":
		return usage("Error! Missing -session (required with -acquire and -release)")
	}
	value, err := data(env, c.Args().Get(1))
	if err != nil {
		return err
	}
	if c.Bool("base64") {
		if value, err = base64.StdEncoding.DecodeString(strings.TrimSpace(string(value))); err != nil {
			return usage("Error! Cannot base 64 decode data: %s", err)
		}
	}
	q := casQuery(c)
	if c.IsSet("flags") {
		q.Set("flags", strconv.FormatUint(c.Uint64("flags"), 10))
	}
	done, failed := "Success! Data written to: ", "Error! Did not write to "+key+": CAS failed"
	switch {
	case c.Bool("acquire"):
		q.Set("acquire", c.String("session"))
		done, failed = "Success! Lock acquired on: ", "Error! Did not acquire lock"
	case c.Bool("release"):
		q.Set("release", c.String("session"))
		done, failed = "Success! Lock released on: ", "Error! Did not release lock"
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var ok bool
	if _, err := cl.Do(c.Context, http.MethodPut, kvPath(key), q, value, &ok); err != nil {
		return err
	}
	if !ok {
		return usage("%s", failed)
	}
	fmt.Fprintln(env.Stdout, done+key)
	return nil
}

func kvDelete(c *ucli.Context, env Env) error {
	key := strings.TrimPrefix(c.Args().First(), "/")
	switch {
	case key == "" && !c.Bool("recurse"):
		return usage("Error! Missing KEY argument")
	case c.Bool("cas") && c.Bool("recurse"):
		return usage("Cannot specify both -cas and -recurse!")
	case c.Bool("cas") && c.Uint64("modify-index") == 0:
		return usage("Must specify -modify-index if specifying -cas!")
	case !c.Bool("cas") && c.IsSet("modify-index"):
		return usage("Cannot specify -modify-index without -cas!")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	q := casQuery(c)
	if c.Bool("recurse") {
		q.Set("recurse", "")
	}
	var ok bool
	if _, err := cl.Do(c.Context, http.MethodDelete, kvPath(key), q, nil, &ok); err != nil {
		return err
	}
	switch {
	case !ok:
		return usage("Error! Did not delete key %s: CAS failed", key)
	case c.Bool("recurse"):
		fmt.Fprintln(env.Stdout, "Success! Deleted keys with prefix: "+key)
	default:
		fmt.Fprintln(env.Stdout, "Success! Deleted key: "+key)
	}
	return nil
}

// kvExported is an entry of an export.
type kvExported struct {
	Key   string `json:"key"`
	Flags uint64 `json:"flags"`
	Value string `json:"value"` // base64
}

func kvExport(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	pairs, err := kvList(c, cl, c.Args().First())
	if err != nil {
		return err
	}
	out := make([]kvExported, 0, len(pairs))
	for _, p := range pairs {
		out = append(out, kvExported{p.Key, p.Flags, base64.StdEncoding.EncodeToString(p.Value)})
	}
	text, err := json.MarshalIndent(out, "", "\t")
	if err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, string(text))
	return nil
}

func kvImport(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("Missing DATA argument: JSON, @FILE, or - for standard input")
	}
	text, err := data(env, c.Args().First())
	if err != nil {
		return err
	}
	var entries []kvExported
	if err := json.Unmarshal(text, &entries); err != nil {
		return fmt.Errorf("the data isn't what kv export prints: %w", err)
	}
	values := make([][]byte, len(entries))
	for i, e := range entries { // all is read before the first write
		if values[i], err = base64.StdEncoding.DecodeString(e.Value); err != nil {
			return fmt.Errorf("key %q: its value isn't base64: %w", e.Key, err)
		}
		if e.Key == "" {
			return errors.New("an entry has no key")
		}
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	for i, e := range entries {
		key := c.String("prefix") + e.Key
		if _, err := cl.Do(c.Context, http.MethodPut, kvPath(key), url.Values{"flags": {strconv.FormatUint(e.Flags, 10)}}, values[i], nil); err != nil {
			return fmt.Errorf("key %q (%d of %d are written): %w", key, i, len(entries), err)
		}
		fmt.Fprintln(env.Stdout, "Imported: "+key)
	}
	return nil
}
