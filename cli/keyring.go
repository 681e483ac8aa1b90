// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/internal/gossip"
)

func keygenCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "keygen", Usage: "make a gossip key",
		Action: func(*ucli.Context) error {
			key, err := gossip.NewKey(rand.Reader)
			if err != nil {
				return err
			}
			fmt.Fprintln(env.Stdout, key)
			return nil
		},
	}
}

func keyringCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "keyring", Usage: "list and change the gossip keys of the cluster",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "install", Usage: "a key that all nodes shall take"},
			&ucli.StringFlag{Name: "use", Usage: "the key that all nodes shall encrypt with"},
			&ucli.StringFlag{Name: "remove", Usage: "a key that nodes shall take no more"},
			&ucli.BoolFlag{Name: "list", Usage: "list all keys"},
			&ucli.BoolFlag{Name: "list-primary", Usage: "list the keys that nodes encrypt with"},
			&ucli.IntFlag{Name: "relay-factor", Usage: "how many other nodes pass on each answer too, 0 to 5"},
			&ucli.BoolFlag{Name: "local-only", Usage: "don't ask other datacenters (with -list and -list-primary)"},
		),
		Action: func(c *ucli.Context) error { return keyring(c, env) },
	}
}

// keyring does the one operation that the flags name.
func keyring(c *ucli.Context, env Env) error {
	given := 0
	for _, name := range []string{"install", "use", "remove", "list", "list-primary"} {
		if c.IsSet(name) {
			given++
		}
	}
	list := c.Bool("list") || c.Bool("list-primary")
	switch n := c.Int("relay-factor"); {
	case given != 1:
		return usage("Only a single action is allowed: one of -install, -use, -remove, -list and -list-primary")
	case n < 0 || n > 5:
		return usage("Error parsing relay factor: want 0 to 5, got %d", n)
	case c.Bool("local-only") && !list:
		return usage("Error parsing local-only: it is only for listing keys")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	q := url.Values{}
	if n := c.Int("relay-factor"); n > 0 {
		q.Set("relay-factor", strconv.Itoa(n))
	}
	if list {
		what := "installed encryption keys"
		if c.Bool("list-primary") {
			what = "installed primary encryption keys"
		}
		fmt.Fprintf(env.Stdout, "==> Gathering %s...\n", what)
		if c.Bool("local-only") {
			q.Set("local-only", "true")
		}
		var pools []keyringPool
		if _, err := cl.Do(c.Context, http.MethodGet, "/v1/operator/keyring", q, nil, &pools); err != nil {
			return fmt.Errorf("listing keys: %w", err)
		}
		printKeyring(env, pools, c.Bool("list-primary"))
		return nil
	}
	method, key, doing := http.MethodPost, c.String("install"), "Installing new gossip encryption key..."
	switch {
	case c.IsSet("use"):
		method, key, doing = http.MethodPut, c.String("use"), "Changing primary gossip encryption key..."
	case c.IsSet("remove"):
		method, key, doing = http.MethodDelete, c.String("remove"), "Removing gossip encryption key..."
	}
	fmt.Fprintln(env.Stdout, "==> "+doing)
	if _, err := cl.Do(c.Context, method, "/v1/operator/keyring", q, map[string]string{"Key": key}, nil); err != nil {
		return fmt.Errorf("changing the keyring: %w", err)
	}
	return nil
}

// keyringPool is what the members of one pool said.
type keyringPool struct {
	WAN         bool
	Datacenter  string
	Segment     string
	Messages    map[string]string
	Keys        map[string]int
	PrimaryKeys map[string]int
	NumNodes    int
}

func printKeyring(env Env, pools []keyringPool, primary bool) {
	for _, p := range pools {
		name := p.Datacenter + " (LAN)"
		if p.WAN {
			name = "WAN"
		} else if p.Segment != "" {
			name = p.Datacenter + " [" + p.Segment + "]"
		}
		fmt.Fprintf(env.Stdout, "\n%s:\n", name)
		for _, node := range slices.Sorted(maps.Keys(p.Messages)) {
			fmt.Fprintf(env.Stdout, "  ===> %s: %s\n", node, p.Messages[node])
		}
		keys := p.Keys
		if primary {
			keys = p.PrimaryKeys
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			fmt.Fprintf(env.Stdout, "  %s [%d/%d]\n", key, keys[key], p.NumNodes)
		}
	}
}
