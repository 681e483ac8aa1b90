// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"

	ucli "github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/decode"
)

// clientFlags are what every command that asks an agent takes.
func clientFlags(more ...ucli.Flag) []ucli.Flag {
	return append([]ucli.Flag{
		&ucli.StringFlag{Name: "http-addr", Usage: "the agent: host:port, http://…, https://… or unix:///path (WEFT_HTTP_ADDR; default 127.0.0.1:8500)"},
		&ucli.StringFlag{Name: "token", Usage: "token to act with (WEFT_HTTP_TOKEN)"},
		&ucli.StringFlag{Name: "token-file", Usage: "file that holds the token (WEFT_HTTP_TOKEN_FILE)"},
		&ucli.StringFlag{Name: "ca-file", Usage: "certificates to trust over https, in PEM (WEFT_CACERT)"},
		&ucli.StringFlag{Name: "ca-path", Usage: "folder of such files (WEFT_CAPATH)"},
		&ucli.StringFlag{Name: "client-cert", Usage: "certificate to show over https (WEFT_CLIENT_CERT)"},
		&ucli.StringFlag{Name: "client-key", Usage: "its key (WEFT_CLIENT_KEY)"},
		&ucli.StringFlag{Name: "tls-server-name", Usage: "name to expect in the agent's certificate (WEFT_TLS_SERVER_NAME)"},
		&ucli.StringFlag{Name: "datacenter", Usage: "datacenter to ask, by default the agent's"},
		&ucli.StringFlag{Name: "namespace", Aliases: []string{"ns"}, Usage: "namespace to ask in, for what is in one (WEFT_NAMESPACE)"},
		&ucli.StringFlag{Name: "partition", Usage: "partition to ask in (WEFT_PARTITION)"},
		&ucli.BoolFlag{Name: "stale", Usage: "let any server answer, not only the leader"},
	}, more...)
}

func client(c *ucli.Context, env Env) (*apiclient.Client, error) {
	return apiclient.New(apiclient.Config{
		Address: c.String("http-addr"), Token: c.String("token"), TokenFile: c.String("token-file"),
		CAFile: c.String("ca-file"), CAPath: c.String("ca-path"), ClientCert: c.String("client-cert"), ClientKey: c.String("client-key"),
		TLSServerName: c.String("tls-server-name"), Datacenter: c.String("datacenter"), Namespace: c.String("namespace"),
		Partition: c.String("partition"), Stale: c.Bool("stale"), Getenv: env.Getenv,
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

// table prints rows in columns two spaces apart, a header first; with colours where w is a terminal.
func table(w io.Writer, header []string, rows [][]string) error {
	var plain bytes.Buffer
	t := tabwriter.NewWriter(&plain, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !coloured(w) {
		_, err := plain.WriteTo(w)
		return err
	}
	first := true
	for line := range strings.Lines(plain.String()) {
		if first {
			line = "\x1b[1m" + strings.TrimSuffix(line, "\n") + "\x1b[0m\n"
			first = false
		}
		if _, err := io.WriteString(w, states.ReplaceAllStringFunc(line, func(word string) string {
			return colours[word] + word + "\x1b[0m"
		})); err != nil {
			return err
		}
	}
	return nil
}

// coloured says whether w is a terminal whose user hasn't said no (https://no-color.org).
func coloured(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

var (
	states  = regexp.MustCompile(`\b(passing|warning|critical|alive|failed|left|allow|deny|true|false)\b`)
	colours = map[string]string{
		"passing": "\x1b[32m", "alive": "\x1b[32m", "allow": "\x1b[32m", "true": "\x1b[32m", "warning": "\x1b[33m", "left": "\x1b[33m",
		"critical": "\x1b[31m", "failed": "\x1b[31m", "deny": "\x1b[31m", "false": "\x1b[2m",
	}
)

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
