// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/run"
)

// The times of a lock.
const (
	lockTTL   = 15 * time.Second
	lockRenew = lockTTL / 3
	lockGrace = 5 * time.Second // between asking a program to end and killing it
	lockRetry = 2 * time.Second
	exitChild = 2
)

func lockCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "lock", Usage: "run a program while holding a lock, or one of several slots", ArgsUsage: "PREFIX PROGRAM …",
		Flags: clientFlags(
			&ucli.IntFlag{Name: "n", Value: 1, Usage: "how many may hold it at once"},
			&ucli.StringFlag{Name: "name", Usage: "the session's name"},
			&ucli.DurationFlag{Name: "timeout", Usage: "give up waiting after this time; 0 waits for ever"},
			&ucli.DurationFlag{Name: "try", Usage: "as -timeout"},
			&ucli.IntFlag{Name: "monitor-retry", Value: 3, Usage: "how many faults in a row may pass before the lock counts as lost"},
			&ucli.BoolFlag{Name: "pass-stdin", Usage: "the program reads this command's input"},
			&ucli.BoolFlag{Name: "child-exit-code", Usage: "exit with 2 if the program fails"},
			&ucli.BoolFlag{Name: "shell", Value: true, Usage: "run the program by the shell"},
			&ucli.BoolFlag{Name: "verbose", Usage: "say what happens"},
		),
		Action: func(c *ucli.Context) error { return lock(c, env) },
	}
}

// errLockLost is the cause with which a program that held a lock is ended.
var errLockLost = errors.New("the lock was lost")

func lock(c *ucli.Context, env Env) error {
	if c.NArg() < 2 {
		return usage("Key prefix and program must be given")
	}
	if c.Int("n") < 1 {
		return usage("-n must be 1 or more")
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	prefix, program := strings.Trim(c.Args().First(), "/"), c.Args().Slice()[1:]
	name := c.String("name")
	if name == "" {
		name = fmt.Sprintf("Lock for '%s' at '%s'", strings.Join(program, " "), prefix)
	}
	say := func(format string, args ...any) {
		if c.Bool("verbose") {
			fmt.Fprintf(env.Stderr, format+"\n", args...)
		}
	}
	// The session outlives a signal: the lock is given up in order.
	life := context.WithoutCancel(c.Context)
	session, err := newSession(life, cl, name, c.Int("n") > 1)
	if err != nil {
		return err
	}
	defer destroySession(life, cl, session)
	lctx, lose := context.WithCancelCause(c.Context)
	defer lose(nil)
	g := run.New(lctx)
	g.Go("renew", func(ctx context.Context) error { return renewSession(ctx, cl, session) })
	var slot slotOf = &mutex{cl: cl, key: prefix + "/.lock", session: session}
	if n := c.Int("n"); n > 1 {
		slot = &semaphore{cl: cl, prefix: prefix + "/", session: session, limit: n}
	}
	say("Attempting lock acquisition")
	err = acquire(g.Context(), slot, max(c.Duration("timeout"), c.Duration("try")))
	if err == nil {
		say("Lock acquired")
		g.Go("lock", func(ctx context.Context) error { return monitor(ctx, slot, c.Int("monitor-retry")) })
		err = runHolding(g.Context(), env, c, program)
		say("Program ended, the lock is given up")
	}
	lose(run.ErrStopped)
	lost := g.Wait()
	slot.release(life)
	switch {
	case errors.Is(lost, errLockLost):
		return fmt.Errorf("%w; the program was ended", errLockLost)
	case c.Context.Err() != nil && err == nil:
		return nil
	}
	return err
}

// acquire takes the slot, within a time if that isn't 0.
func acquire(ctx context.Context, s slotOf, within time.Duration) error {
	if within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	err := s.acquire(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return usage("Lock acquisition failed: it is held by others, and -timeout is over")
	}
	return err
}

// monitor returns errLockLost when the slot is held no longer.
func monitor(ctx context.Context, s slotOf, retries int) error {
	index := ""
	for faults := 0; ; {
		held, next, err := s.held(ctx, index)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if faults++; faults > retries {
				return fmt.Errorf("%w: %w", errLockLost, err)
			}
			index = ""
			if !pause(ctx, lockRetry) {
				return nil
			}
			continue
		case !held:
			return errLockLost
		}
		faults, index = 0, next
	}
}

// runHolding runs the program until it ends, or ctx does: then it is asked to end, and killed if it doesn't.
func runHolding(ctx context.Context, env Env, c *ucli.Context, program []string) error {
	cmd := command(ctx, env, c.Bool("shell"), program)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = lockGrace
	cmd.Env = append(os.Environ(), "CONSUL_LOCK_HELD=true", "WEFT_LOCK_HELD=true")
	if c.Bool("pass-stdin") {
		cmd.Stdin = env.Stdin
	}
	err := cmd.Run()
	switch code := exitCode(err); {
	case err == nil || ctx.Err() != nil:
		return nil
	case code < 0:
		return fmt.Errorf("the program can't be run: %w", err)
	case c.Bool("child-exit-code"):
		return &exitError{code: exitChild, text: fmt.Sprintf("the program ended with code %d", code)}
	}
	fmt.Fprintf(env.Stderr, "the program ended: %v\n", err)
	return nil
}

// newSession makes a session that ends soon after it isn't renewed. What it holds is deleted where it is a slot's own key.
func newSession(ctx context.Context, cl *apiclient.Client, name string, ownKeys bool) (string, error) {
	body := map[string]any{"Name": name, "TTL": lockTTL.String()}
	if ownKeys {
		body["Behavior"] = "delete"
	}
	var out struct{ ID string }
	_, err := cl.Do(ctx, http.MethodPut, "/v1/session/create", nil, body, &out)
	if err != nil {
		return "", fmt.Errorf("no session for the lock: %w", err)
	}
	return out.ID, nil
}

func destroySession(ctx context.Context, cl *apiclient.Client, id string) {
	ctx, cancel := context.WithTimeout(ctx, lockGrace)
	defer cancel()
	_, _ = cl.Do(ctx, http.MethodPut, "/v1/session/destroy/"+id, nil, nil, nil) // it ends by itself otherwise
}

// renewSession renews until ctx ends, or the session is gone.
func renewSession(ctx context.Context, cl *apiclient.Client, id string) error {
	for pause(ctx, lockRenew) {
		_, err := cl.Do(ctx, http.MethodPut, "/v1/session/renew/"+id, nil, nil, nil)
		if apiclient.IsStatus(err, http.StatusNotFound) {
			return fmt.Errorf("%w: its session has ended", errLockLost)
		}
	}
	return nil
}
