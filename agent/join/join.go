// SPDX-License-Identifier: Apache-2.0

// Package join gets a node into its gossip pool: it tries the addresses of the configuration until one answers. Besides
// addresses and names it knows commands that print addresses ("exec=…") and the clouds' lists of machines ("provider=aws …"),
// which it asks by small clients of their HTTP APIs. It owns no goroutine but the one that Run is.
package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/weftmesh/weft/internal/gossip"
)

// Config is what a Joiner is made of.
type Config struct {
	// Pool is called so in logs: "lan" or "wan".
	Pool string
	// Addresses to join, as the configuration has them.
	Addresses []string
	// Interval is between tries, 30 s if it is 0; after Max tries Run gives up, 0 is never.
	Interval time.Duration
	Max      int
	// Join joins what was found; it gives how many nodes it reached.
	Join func(ctx context.Context, addresses []string) (int, error)
	// Getenv, HTTP and Now are what the clouds' clients use; nil: nothing is set, the network without a proxy, the system's clock.
	Getenv func(string) string
	HTTP   http.RoundTripper
	Now    func() time.Time
	Log    *slog.Logger
}

// Joiner tries to join. Make it with New, and Run it.
type Joiner struct {
	c       Config
	sources []source
}

// source is where addresses come from.
type source interface {
	addresses(ctx context.Context) ([]string, error)
}

// literal is an address or a name.
type literal string

func (l literal) addresses(context.Context) ([]string, error) { return []string{string(l)}, nil }

const (
	defaultInterval = 30 * time.Second
	// findTimeout bounds a look at a cloud's list, or a command.
	findTimeout = 30 * time.Second
)

// New makes a joiner. An address that it can't understand is an error.
func New(c Config) (*Joiner, error) {
	if c.Interval <= 0 {
		c.Interval = defaultInterval
	}
	if c.Getenv == nil {
		c.Getenv = func(string) string { return "" }
	}
	if c.HTTP == nil {
		c.HTTP = &http.Transport{} // metadata services are on the machine's own link: no proxy
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	j := &Joiner{c: c}
	for _, a := range c.Addresses {
		s, err := j.parse(strings.TrimSpace(a))
		if err != nil {
			return nil, fmt.Errorf("address to join (%s) %q: %w", c.Pool, hide(a), err)
		}
		j.sources = append(j.sources, s)
	}
	return j, nil
}

func (j *Joiner) parse(a string) (source, error) {
	if line, ok := strings.CutPrefix(a, "exec="); ok {
		if strings.TrimSpace(line) == "" {
			return nil, errors.New("exec= wants a command that prints addresses")
		}
		return command(line), nil
	}
	if !strings.Contains(a, "provider=") {
		if a == "" || strings.ContainsAny(a, " \t=") {
			return nil, errors.New("want an address, a name, exec=command, or provider=aws, gce or azure with its settings")
		}
		return literal(a), nil
	}
	args, err := settings(a)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: j.c.HTTP, Timeout: findTimeout}
	switch p := args["provider"]; p {
	case "aws":
		return newAWS(args, client, j.c.Getenv, j.c.Now)
	case "gce":
		return newGCE(args, client)
	case "azure":
		return newAzure(args, client, j.c.Getenv)
	case "exec":
		if args["command"] == "" {
			return nil, errors.New("provider=exec wants command=")
		}
		return command(args["command"]), nil
	default:
		return nil, fmt.Errorf("the provider %q is unknown: want aws, gce or azure; for others use exec=command", p)
	}
}

// settings reads "key=value key='a value'".
func settings(text string) (map[string]string, error) {
	out := map[string]string{}
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		key, after, ok := strings.Cut(rest, "=")
		if !ok || strings.ContainsAny(key, " \t") {
			return nil, fmt.Errorf("want key=value where %.20q stands", rest)
		}
		value := ""
		if quote := strings.IndexAny(after, `'"`); quote == 0 {
			end := strings.IndexByte(after[1:], after[0])
			if end < 0 {
				return nil, fmt.Errorf("%s: the quotation mark has no end", key)
			}
			value, rest = after[1:1+end], after[2+end:]
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("%s stands there twice", key)
		}
		out[key] = value
	}
	return out, nil
}

// hide leaves the secrets of an address out.
func hide(address string) string {
	fields := strings.Fields(address)
	for i, f := range fields {
		if k, _, ok := strings.Cut(f, "="); ok && strings.Contains(k, "secret") {
			fields[i] = k + "=<hidden>"
		}
	}
	return strings.Join(fields, " ")
}

// ErrGaveUp is how Run ends where nobody was reached in as many tries as it had.
var ErrGaveUp = errors.New("no node could be joined")

// Run tries until one other node was joined, and then ends; also when ctx does.
func (j *Joiner) Run(ctx context.Context) error {
	if len(j.sources) == 0 {
		return nil
	}
	for try := 1; ; try++ {
		n, err := j.once(ctx)
		switch {
		case n > 0:
			j.c.Log.Info("joined", "pool", j.c.Pool, "nodes", n)
			return nil
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, gossip.ErrAlone):
			j.c.Log.Debug("nobody to join yet", "pool", j.c.Pool)
		default:
			j.c.Log.Warn("nobody was joined", "pool", j.c.Pool, "try", try, "again_in", j.c.Interval, "error", err)
		}
		if j.c.Max > 0 && try >= j.c.Max {
			return fmt.Errorf("%w (%s) in %d tries: %w", ErrGaveUp, j.c.Pool, try, err)
		}
		timer := time.NewTimer(j.c.Interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// once looks the addresses up and joins them.
func (j *Joiner) once(ctx context.Context) (int, error) {
	var all []string
	var faults []error
	for _, s := range j.sources {
		found, err := func() ([]string, error) {
			ctx, cancel := context.WithTimeout(ctx, findTimeout)
			defer cancel()
			return s.addresses(ctx)
		}()
		if err != nil {
			faults = append(faults, err)
			continue
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return 0, errors.Join(append(faults, gossip.ErrAlone)...)
	}
	n, err := j.c.Join(ctx, all)
	if len(faults) > 0 {
		err = errors.Join(append(faults, err)...)
	}
	return n, err
}
