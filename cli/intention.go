// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

// intention is the API's form of an intention, as far as the commands use it.
type intention struct {
	ID              string            `json:",omitempty"`
	SourceNS        string            `json:",omitempty"`
	SourceName      string            `json:",omitempty"`
	DestinationNS   string            `json:",omitempty"`
	DestinationName string            `json:",omitempty"`
	SourceType      string            `json:",omitempty"`
	Action          string            `json:",omitempty"`
	Permissions     []json.RawMessage `json:",omitempty"`
	Description     string            `json:",omitempty"`
	Meta            map[string]string `json:",omitempty"`
	Precedence      int               `json:",omitempty"`
}

// source and destination are the two ends, with their namespaces where these aren't the default one.
func (i *intention) source() string      { return spaced(i.SourceNS, i.SourceName) }
func (i *intention) destination() string { return spaced(i.DestinationNS, i.DestinationName) }

func spaced(namespace, name string) string {
	if namespace == "" || namespace == "default" {
		return name
	}
	return namespace + "/" + name
}

func (i *intention) effect() string {
	if i.Action != "" {
		return i.Action
	}
	return fmt.Sprintf("%d permissions", len(i.Permissions))
}

func intentionCommand(env Env) *ucli.Command {
	return group("intention", "say who may call whom",
		intentionCreate(env), intentionList(env), intentionGet(env), intentionCheck(env), intentionDelete(env), intentionMatch(env))
}

// pair reads SRC and DST.
func pair(c *ucli.Context) (url.Values, error) {
	if c.NArg() != 2 {
		return nil, usage("want a source and a destination, as: web api (either may be \"*\")")
	}
	return url.Values{"source": {c.Args().Get(0)}, "destination": {c.Args().Get(1)}}, nil
}

func intentionCreate(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "create", Usage: "allow or deny calls of a source to a destination", ArgsUsage: "SRC DST",
		Flags: clientFlags(
			&ucli.BoolFlag{Name: "allow", Usage: "allow the calls (the default)"},
			&ucli.BoolFlag{Name: "deny", Usage: "deny the calls"},
			&ucli.BoolFlag{Name: "file", Usage: "the arguments are JSON files, each with an intention or a list of them"},
			&ucli.BoolFlag{Name: "replace", Usage: "replace what stands between the two already"},
			&ucli.StringSliceFlag{Name: "meta", Usage: "key=value (repeatable)"},
			&ucli.StringFlag{Name: "description", Usage: "why it is so"},
			waitFlag(),
		),
		Action: func(c *ucli.Context) error {
			if c.Bool("allow") && c.Bool("deny") {
				return usage("-allow and -deny exclude each other")
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			if c.Bool("file") {
				return createFromFiles(c, env, cl)
			}
			q, err := pair(c)
			if err != nil {
				return err
			}
			in := intention{SourceName: q.Get("source"), DestinationName: q.Get("destination"), SourceType: "consul", Action: "allow", Description: c.String("description")}
			if c.Bool("deny") {
				in.Action = "deny"
			}
			if in.Meta, err = pairsOf("meta", c.StringSlice("meta")); err != nil {
				return err
			}
			return createIntention(c, env, cl, in)
		},
	}
}

// createFromFiles creates what JSON files hold. All are read before the first is sent.
func createFromFiles(c *ucli.Context, env Env, cl *apiclient.Client) error {
	if c.NArg() == 0 {
		return usage("name the files to read")
	}
	var all []intention
	for _, file := range c.Args().Slice() {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var list []intention
		if err := json.Unmarshal(data, &list); err != nil {
			var one intention
			if err := json.Unmarshal(data, &one); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			list = []intention{one}
		}
		for _, in := range list {
			if in.SourceName == "" || in.DestinationName == "" {
				return usage("%s: an intention needs SourceName and DestinationName", file)
			}
		}
		all = append(all, list...)
	}
	for _, in := range all {
		if err := createIntention(c, env, cl, in); err != nil {
			return err
		}
	}
	return nil
}

func createIntention(c *ucli.Context, env Env, cl *apiclient.Client, in intention) error {
	what := fmt.Sprintf("%s => %s (%s)", in.source(), in.destination(), in.Action)
	if c.Bool("replace") {
		q := url.Values{"source": {in.source()}, "destination": {in.destination()}}
		header, err := cl.Do(c.Context, http.MethodPut, "/v1/connect/intentions/exact", q, in, nil)
		if err != nil {
			return err
		}
		fmt.Fprintln(env.Stdout, "Created: "+what)
		return awaitProxies(c, env, cl, header)
	}
	if old, err := getIntention(c, cl, in.source(), in.destination()); err != nil {
		return err
	} else if old != nil {
		return fmt.Errorf("an intention from %q to %q stands already (%s): give -replace to put this one in its place",
			in.source(), in.destination(), old.effect())
	}
	header, err := cl.Do(c.Context, http.MethodPost, "/v1/connect/intentions", nil, in, nil)
	if err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout, "Created: "+what)
	return awaitProxies(c, env, cl, header)
}

// getIntention is nil where there is none.
func getIntention(c *ucli.Context, cl *apiclient.Client, src, dst string) (*intention, error) {
	var in intention
	_, err := cl.Do(c.Context, http.MethodGet, "/v1/connect/intentions/exact", url.Values{"source": {src}, "destination": {dst}}, nil, &in)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		return nil, nil
	}
	return &in, err
}

func intentionRows(all []intention) [][]string {
	var rows [][]string
	for _, i := range all {
		rows = append(rows, []string{i.ID, i.source(), i.effect(), i.destination(), strconv.Itoa(i.Precedence)})
	}
	return rows
}

var intentionHeader = []string{"ID", "Source", "Action", "Destination", "Precedence"}

func intentionList(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "list", Usage: "list all intentions", Flags: clientFlags(formatFlag()),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			var all []intention
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/connect/intentions", nil, nil, &all); err != nil {
				return err
			}
			if js, err := asJSON(c); err != nil || js {
				return orElse(err, func() error { return printJSON(env.Stdout, all) })
			}
			if len(all) == 0 {
				return &exitError{code: 2, text: "There are no intentions."}
			}
			return table(env.Stdout, intentionHeader, intentionRows(all))
		},
	}
}

func orElse(err error, f func() error) error {
	if err != nil {
		return err
	}
	return f()
}

func intentionGet(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "get", Usage: "show one intention", ArgsUsage: "SRC DST | ID", Flags: clientFlags(waitFlag()),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			var in *intention
			if c.NArg() == 1 {
				in = &intention{}
				if _, err := cl.Do(c.Context, http.MethodGet, "/v1/connect/intentions/"+url.PathEscape(c.Args().First()), nil, nil, in); err != nil {
					return err
				}
			} else {
				q, err := pair(c)
				if err != nil {
					return err
				}
				if in, err = getIntention(c, cl, q.Get("source"), q.Get("destination")); err != nil {
					return err
				}
				if in == nil {
					return fmt.Errorf("no intention from %q to %q", q.Get("source"), q.Get("destination"))
				}
			}
			for _, l := range [][2]string{
				{"Source", in.source()},
				{"Destination", in.destination()},
				{"Action", in.effect()},
				{"ID", in.ID},
				{"Precedence", strconv.Itoa(in.Precedence)},
				{"Description", in.Description},
			} {
				if l[1] != "" {
					fmt.Fprintf(env.Stdout, "%-13s %s\n", l[0]+":", l[1])
				}
			}
			for k, v := range in.Meta {
				fmt.Fprintf(env.Stdout, "Meta[%s]: %s\n", k, v)
			}
			return nil
		},
	}
}

func intentionCheck(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "check", Usage: "ask whether a source may call a destination: exit code 0 allowed, 1 denied, 2 error", ArgsUsage: "SRC DST",
		Flags: clientFlags(), OnUsageError: usedWrongly,
		Action: func(c *ucli.Context) error {
			q, err := pair(c)
			if err != nil {
				return &exitError{code: 2, text: err.Error()}
			}
			cl, err := client(c, env)
			if err != nil {
				return &exitError{code: 2, text: err.Error()}
			}
			var answer struct{ Allowed bool }
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/connect/intentions/check", q, nil, &answer); err != nil {
				return &exitError{code: 2, text: "Error checking the connection: " + err.Error()}
			}
			if !answer.Allowed {
				fmt.Fprintln(env.Stdout, "Denied")
				return &exitError{code: 1}
			}
			fmt.Fprintln(env.Stdout, "Allowed")
			return nil
		},
	}
}

func intentionDelete(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "delete", Usage: "delete an intention", ArgsUsage: "SRC DST | ID", Flags: clientFlags(),
		Action: func(c *ucli.Context) error {
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			var header http.Header
			if c.NArg() == 1 {
				header, err = cl.Do(c.Context, http.MethodDelete, "/v1/connect/intentions/"+url.PathEscape(c.Args().First()), nil, nil, nil)
			} else {
				var q url.Values
				if q, err = pair(c); err == nil {
					header, err = cl.Do(c.Context, http.MethodDelete, "/v1/connect/intentions/exact", q, nil, nil)
				}
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(env.Stdout, "Intention deleted.")
			return awaitProxies(c, env, cl, header)
		},
	}
}

func intentionMatch(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "match", Usage: "list the intentions that concern a service, in the order in which they are evaluated", ArgsUsage: "NAME",
		Flags: clientFlags(
			&ucli.BoolFlag{Name: "source", Usage: "of the service as a source"},
			&ucli.BoolFlag{Name: "destination", Usage: "of the service as a destination (the default)"},
		),
		OnUsageError: usedWrongly,
		Action: func(c *ucli.Context) error {
			if c.NArg() != 1 || (c.Bool("source") && c.Bool("destination")) {
				return &exitError{code: 2, text: "want one name, and not both -source and -destination"}
			}
			cl, err := client(c, env)
			if err != nil {
				return err
			}
			by := "destination"
			if c.Bool("source") {
				by = "source"
			}
			name := c.Args().First()
			var found map[string][]intention
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/connect/intentions/match", url.Values{"by": {by}, "name": {name}}, nil, &found); err != nil {
				return err
			}
			return table(env.Stdout, intentionHeader, intentionRows(found[name]))
		},
	}
}

// usedWrongly ends a command of which 1 says something else, as Consul's does.
func usedWrongly(_ *ucli.Context, err error, _ bool) error {
	return &exitError{code: 2, text: "Error: " + err.Error()}
}
