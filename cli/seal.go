// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/internal/seal"
)

// sealCommands look after the keys that secrets in the servers' log and snapshots are sealed by. They work on a server's files, not over the API:
// no token gives these keys.
func sealCommands(env Env) *ucli.Command {
	flags := func() []ucli.Flag {
		return []ucli.Flag{
			&ucli.StringFlag{Name: "data-dir", Usage: "the server's data_dir", Required: true},
			&ucli.StringFlag{Name: "key-file", Usage: "the server's seal { key_file }, where it has one"},
		}
	}
	return group("seal", "the keys by which private keys in the servers' log and snapshots are sealed",
		&ucli.Command{
			Name: "show", Usage: "name the keys that this server has, and what seals them here", Flags: flags(),
			Action: func(c *ucli.Context) error {
				ring, err := openRing(c, env)
				if err != nil {
					return err
				}
				for i, k := range ring.Keys() {
					fmt.Fprintln(env.Stdout, k.ID()+map[bool]string{true: " (seals)"}[i == 0])
				}
				fmt.Fprintln(env.Stdout, "sealed by "+ring.SealedBy())
				return nil
			},
		},
		&ucli.Command{
			Name: "export", Usage: "print the keys, to be kept apart from snapshots: who has both has the certificate authority", Flags: flags(),
			Action: func(c *ucli.Context) error {
				ring, err := openRing(c, env)
				if err != nil {
					return err
				}
				keys := ring.Keys()
				if len(keys) == 0 {
					return fmt.Errorf("%s has no keys yet: a server makes them when it first leads, or gets them from the one that does", seal.RingFile(c.String("data-dir")))
				}
				for _, k := range keys {
					fmt.Fprintf(env.Stdout, "# %s\n%s\n", k.ID(), k.Text())
				}
				return nil
			},
		},
		&ucli.Command{
			Name: "import", Usage: "take what export printed, so that a snapshot from there can be restored; the server may run", ArgsUsage: "FILE (- for the standard input)", Flags: flags(),
			Action: func(c *ucli.Context) error { return sealImport(c, env) },
		},
	)
}

func openRing(c *ucli.Context, env Env) (*seal.Ring, error) {
	if _, err := os.Stat(c.String("data-dir")); err != nil {
		return nil, err
	}
	outer, err := seal.Outside(c.String("key-file"), env.Getenv("CREDENTIALS_DIRECTORY"))
	if err != nil {
		return nil, err
	}
	return seal.OpenRing(seal.RingFile(c.String("data-dir")), outer, rand.Reader)
}

func sealImport(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("This command takes one argument: the file that `weft operator seal export` printed, or -")
	}
	in := env.Stdin
	if name := c.Args().First(); name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	keys, err := readKeys(in)
	if err != nil {
		return err
	}
	ring, err := openRing(c, env)
	if err != nil {
		return err
	}
	if err := ring.Add(keys...); err != nil {
		return err
	}
	for _, k := range keys {
		fmt.Fprintln(env.Stdout, "Imported "+k.ID())
	}
	return nil
}

func readKeys(in io.Reader) ([]seal.Key, error) {
	var keys []seal.Key
	lines := bufio.NewScanner(io.LimitReader(in, 1<<20))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		k, err := seal.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.Join(lines.Err(), errors.New("there is no key in it"))
	}
	return keys, lines.Err()
}
