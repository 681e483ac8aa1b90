// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/server/consul"
)

func snapshotCommand(env Env) *ucli.Command {
	return group("snapshot", "save and restore the whole state of the servers",
		&ucli.Command{
			Name: "save", Usage: "save a snapshot into a file", ArgsUsage: "FILE",
			Flags:  clientFlags(&ucli.StringFlag{Name: "append-filename", Usage: "put version, dc or node into the file's name (comma-separated)"}),
			Action: func(c *ucli.Context) error { return snapshotSave(c, env) },
		},
		&ucli.Command{Name: "restore", Usage: "make a file's snapshot the state of the cluster", ArgsUsage: "FILE", Flags: clientFlags(
			&ucli.BoolFlag{Name: "discard-sealed", Usage: "without the certificate authority's keys, where the key that they are sealed by is lost: the mesh gets a new root"},
		), Action: func(c *ucli.Context) error { return snapshotRestore(c, env) }},
		&ucli.Command{
			Name: "inspect", Usage: "say what a file's snapshot holds, and check that it is whole", ArgsUsage: "FILE",
			Flags: []ucli.Flag{
				formatFlag(), &ucli.BoolFlag{Name: "kvdetails", Usage: "count keys by their beginnings too"},
				&ucli.IntFlag{Name: "kvdepth", Value: 2, Usage: "how many parts of a key, with / between them, are a beginning; 0: all"},
				&ucli.StringFlag{Name: "kvfilter", Usage: "count only keys that begin so"},
			},
			Action: func(c *ucli.Context) error { return snapshotInspect(c, env) },
		},
		&ucli.Command{
			Name: "decode", Usage: "print what a file's snapshot holds, a row a line as JSON, secrets included", ArgsUsage: "FILE|-",
			Action: func(c *ucli.Context) error { return snapshotDecode(c, env) },
		},
	)
}

func printRaw(w io.Writer, raw []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "    "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, out.String())
	return err
}

// snapshotName puts what -append-filename names before the file's extension.
func snapshotName(c *ucli.Context, env Env, file string) (string, error) {
	wanted := c.String("append-filename")
	if wanted == "" {
		return file, nil
	}
	cl, err := client(c, env)
	if err != nil {
		return "", err
	}
	var self struct {
		Config struct{ Datacenter, NodeName, Version string }
	}
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/self", nil, nil, &self); err != nil {
		return "", err
	}
	ext := filepath.Ext(file)
	name := strings.TrimSuffix(file, ext)
	for part := range strings.SplitSeq(wanted, ",") {
		switch strings.TrimSpace(part) {
		case "version":
			name += "-" + self.Config.Version
		case "dc":
			name += "-" + self.Config.Datacenter
		case "node":
			name += "-" + self.Config.NodeName
		default:
			return "", usage("-append-filename %q: want version, dc or node", part)
		}
	}
	return name + ext, nil
}

// snapshotSave saves, checks what came, and only then gives the file its name.
func snapshotSave(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("This command takes one argument: the file to save into")
	}
	path, err := snapshotName(c, env, c.Args().First())
	if err != nil {
		return err
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	unverified := path + ".unverified"
	file, err := os.OpenFile(unverified, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	header, err := cl.Do(c.Context, http.MethodGet, "/v1/snapshot", nil, nil, io.Writer(file))
	if err == nil {
		_, err = inspectArchive(file, nil)
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("Error saving snapshot: %w", err), os.Remove(unverified)) //nolint:staticcheck // Consul's text
	}
	if err := os.Rename(unverified, path); err != nil {
		return err
	}
	fmt.Fprintf(env.Stdout, "Saved and verified snapshot to index %s\n", header.Get("X-Consul-Index"))
	return nil
}

func snapshotRestore(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("This command takes one argument: the file to restore from")
	}
	file, err := os.Open(c.Args().First())
	if err != nil {
		return err
	}
	defer file.Close()
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var answer bytes.Buffer
	query := url.Values{}
	if c.Bool("discard-sealed") {
		query.Set("discard-sealed", "")
	}
	if _, err := cl.Do(c.Context, http.MethodPut, "/v1/snapshot", query, io.Reader(file), io.Writer(&answer)); err != nil {
		return fmt.Errorf("Error restoring snapshot: %w", err) //nolint:staticcheck // Consul's text
	}
	fmt.Fprintln(env.Stdout, "Restored snapshot")
	if answer.Len() == 0 {
		return nil
	}
	var report consul.Report
	if err := json.Unmarshal(answer.Bytes(), &report); err != nil {
		return fmt.Errorf("the server's report can't be read: %w", err)
	}
	return printReport(env.Stdout, &report)
}

// printReport shows what was taken of Consul's snapshot, and what wasn't.
func printReport(w io.Writer, r *consul.Report) error {
	fmt.Fprintf(w, "\nIt is Consul's, up to index %d. Taken:\n", r.Index)
	var rows [][]string
	for _, t := range r.Taken {
		rows = append(rows, []string{t.What, strconv.Itoa(t.Count)})
	}
	if err := table(w, nil, rows); err != nil {
		return err
	}
	if len(r.Left) > 0 {
		fmt.Fprintln(w, "\nNot taken:")
	}
	for _, l := range r.Left {
		fmt.Fprintf(w, "%s: %s\n", l.What, l.Why)
	}
	return nil
}
