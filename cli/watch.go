// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
)

func watchCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "watch", Usage: "run a program whenever something changes, with it as JSON on its input; without a program: print it once",
		ArgsUsage: "[PROGRAM …]",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "type", Usage: "key, keyprefix, services, nodes, service, checks or event"},
			&ucli.StringFlag{Name: "key", Usage: "the key (type key)"},
			&ucli.StringFlag{Name: "prefix", Usage: "the prefix (type keyprefix)"},
			&ucli.StringFlag{Name: "service", Usage: "the service (type service, or checks)"},
			&ucli.StringSliceFlag{Name: "tag", Usage: "only instances with this tag (type service, repeatable)"},
			&ucli.StringFlag{Name: "passingonly", Usage: "true: only instances whose checks pass (type service)"},
			&ucli.StringFlag{Name: "state", Usage: "any, passing, warning or critical (type checks)"},
			&ucli.StringFlag{Name: "name", Usage: "the event's name (type event)"},
			&ucli.StringFlag{Name: "filter", Usage: "filter expression (types services, nodes, service, checks)"},
			&ucli.BoolFlag{Name: "shell", Value: true, Usage: "run the program by the shell"},
		),
		Action: func(c *ucli.Context) error { return watch(c, env) },
	}
}

// watched is where what a watch is about is read.
type watched struct {
	path  string
	query url.Values
	// one: the answer is a list of one or nothing, and the one is what is wanted.
	one bool
	// absent is what there is where nothing is.
	absent string
}

func watchedBy(c *ucli.Context) (watched, error) {
	w := watched{query: url.Values{}, absent: "[]"}
	if f := c.String("filter"); f != "" {
		w.query.Set("filter", f)
	}
	need := func(flag string) (string, error) {
		if v := c.String(flag); v != "" {
			return v, nil
		}
		return "", usage("-type=%s needs -%s", c.String("type"), flag)
	}
	var name string
	var err error
	switch kind := c.String("type"); kind {
	case "key":
		name, err = need("key")
		w.path, w.one, w.absent = kvPath(name), true, "null"
	case "keyprefix":
		name, err = need("prefix")
		w.path = kvPath(name)
		w.query.Set("recurse", "")
	case "services":
		w.path = "/v1/catalog/services"
	case "nodes":
		w.path = "/v1/catalog/nodes"
	case "service":
		name, err = need("service")
		w.path = "/v1/health/service/" + url.PathEscape(name)
		w.query["tag"] = c.StringSlice("tag")
		if c.String("passingonly") == "true" {
			w.query.Set("passing", "1")
		}
	case "checks":
		state := c.String("state")
		switch {
		case state != "" && c.String("service") != "":
			return w, usage("-state and -service exclude each other")
		case c.String("service") != "":
			w.path = "/v1/health/checks/" + url.PathEscape(c.String("service"))
		case state == "":
			w.path = "/v1/health/state/any"
		default:
			w.path = "/v1/health/state/" + url.PathEscape(state)
		}
	case "event":
		w.path = "/v1/event/list"
		if n := c.String("name"); n != "" {
			w.query.Set("name", n)
		}
	case "":
		return w, usage("Watch -type must be specified")
	default:
		return w, usage("-type=%s: want key, keyprefix, services, nodes, service, checks or event", kind)
	}
	return w, err
}

// read asks once, and waits for something newer than index where that isn't "".
func (w *watched) read(ctx context.Context, cl *apiclient.Client, index string) (text []byte, next string, err error) {
	q := url.Values{}
	for k, v := range w.query {
		q[k] = v
	}
	if index != "" {
		q.Set("index", index)
		q.Set("wait", "300s")
	}
	var raw json.RawMessage
	header, err := cl.Do(ctx, http.MethodGet, w.path, q, nil, &raw)
	if apiclient.IsStatus(err, http.StatusNotFound) && header != nil {
		raw, err = json.RawMessage(w.absent), nil
	}
	if err != nil {
		return nil, "", err
	}
	if w.one && raw[0] == '[' {
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, "", err
		}
		raw = json.RawMessage(w.absent)
		if len(list) > 0 {
			raw = list[0]
		}
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "    "); err != nil {
		return nil, "", err
	}
	out.WriteByte('\n')
	return out.Bytes(), header.Get("X-Consul-Index"), nil
}

// watchRetry is how long a watch waits after a fault before it asks again.
const watchRetry = 5 * time.Second

func watch(c *ucli.Context, env Env) error {
	w, err := watchedBy(c)
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	if !c.Args().Present() {
		text, _, err := w.read(c.Context, cl, "")
		if err == nil {
			_, err = env.Stdout.Write(text)
		}
		return err
	}
	var last []byte
	index := ""
	for {
		text, next, err := w.read(c.Context, cl, index)
		if c.Context.Err() != nil {
			return nil // a signal ends a watch, that is no failure
		}
		if err != nil {
			fmt.Fprintf(env.Stderr, "watch: %v; asking again in %s\n", err, watchRetry)
			index = ""
			if !pause(c.Context, watchRetry) {
				return nil
			}
			continue
		}
		index = next
		if bytes.Equal(text, last) {
			continue
		}
		last = text
		cmd := command(c.Context, env, c.Bool("shell"), c.Args().Slice())
		cmd.Stdin = bytes.NewReader(text)
		cmd.Env = append(os.Environ(), "CONSUL_INDEX="+index, "WEFT_INDEX="+index)
		if err := cmd.Run(); err != nil && c.Context.Err() == nil {
			return fmt.Errorf("the watch's program failed: %w", err)
		}
	}
}

// pause waits; false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// command is a program with weft's output for its own, by the shell or as it is. It is killed with ctx.
func command(ctx context.Context, env Env, shell bool, args []string) *exec.Cmd {
	if shell {
		sh := env.Getenv("SHELL")
		if sh == "" {
			sh = "/bin/sh"
		}
		args = []string{sh, "-c", strings.Join(args, " ")}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = env.Stdout, env.Stderr
	return cmd
}

// exitCode is a program's own, -1 if it didn't run or was killed.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}
