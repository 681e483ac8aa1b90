// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/decode"
)

// clientFlags are what every command that asks an agent takes.
func clientFlags(more ...ucli.Flag) []ucli.Flag {
	return append([]ucli.Flag{
		&ucli.StringFlag{Name: "http-addr", Usage: "the agent: host:port, http://…, https://… or unix:///path (WEFT_HTTP_ADDR; default 127.0.0.1:8500)"},
		&ucli.StringFlag{Name: "token", Usage: "token to act with (WEFT_HTTP_TOKEN)"},
		&ucli.StringFlag{Name: "token-file", Usage: "file that holds the token (WEFT_HTTP_TOKEN_FILE)"},
		&ucli.StringFlag{Name: "datacenter", Usage: "datacenter to ask, by default the agent's"},
	}, more...)
}

func client(c *ucli.Context, env Env) (*apiclient.Client, error) {
	return apiclient.New(apiclient.Config{
		Address: c.String("http-addr"), Token: c.String("token"), TokenFile: c.String("token-file"),
		Datacenter: c.String("datacenter"), Getenv: env.Getenv,
	})
}

// usage is a command called with the wrong arguments.
func usage(format string, args ...any) error {
	return &exitError{code: 1, text: fmt.Sprintf(format, args...)}
}

// document reads a file, or standard input for "-", by the format that its name says (standard input: HCL, which reads
// most JSON, unless it begins with a brace).
func document(env Env, path string) (*decode.Document, error) {
	if path != "-" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return decode.Parse(path, data)
	}
	data, err := io.ReadAll(env.Stdin)
	if err != nil {
		return nil, err
	}
	name := "stdin.hcl"
	for _, b := range data {
		if b == '{' {
			name = "stdin.json"
		}
		if b != ' ' && b != '\n' && b != '\t' && b != '\r' {
			break
		}
	}
	return decode.Parse(name, data)
}

// table prints rows in columns two spaces apart, a header first.
func table(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "    ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// formatFlag is -format.
func formatFlag() ucli.Flag {
	return &ucli.StringFlag{Name: "format", Value: "pretty", Usage: "pretty or json"}
}

// asJSON reads -format.
func asJSON(c *ucli.Context) (bool, error) {
	switch f := c.String("format"); f {
	case "pretty", "":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, usage("Unknown format: %s", f)
	}
}
