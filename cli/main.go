// SPDX-License-Identifier: Apache-2.0

// Package cli is weft's command line: it reads flags, wires agent, server and proxy together, and prints. What commands do
// stands in plain functions; urfave/cli only reads their flags. Main owns the process: signals, exit codes, output.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	ucli "github.com/urfave/cli/v2"
)

// Version is the binary's version; the build sets it.
var Version = "0.1.0-dev"

// Env is what a command may touch of the world.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// Exit codes beside 0 and 1.
const (
	exitUnknownCommand = 127
)

// exitError ends the program with a code; an empty text prints nothing.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// Main runs the command that args (with the program's name first) ask for and gives the exit code. SIGINT and SIGTERM end the
// command's context; a second one ends the process.
func Main(args []string) int {
	ctx, stop := signalContext()
	defer stop()
	return Run(ctx, Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}, args)
}

// signalError is the cause of a context that a signal ended.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string { return e.signal.String() }

// signalContext ends with SIGINT or SIGTERM; from then on a signal has its default effect.
func signalContext() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&signalError{s})
		case <-ctx.Done():
			signal.Stop(signals)
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// Run is Main with the world handed in.
func Run(ctx context.Context, env Env, args []string) int {
	app := newApp(env)
	err := app.RunContext(ctx, args)
	if err == nil {
		return 0
	}
	var exit *exitError
	if errors.As(err, &exit) {
		if exit.text != "" {
			fmt.Fprintln(env.Stderr, exit.text)
		}
		return exit.code
	}
	fmt.Fprintln(env.Stderr, "Error: "+err.Error())
	return 1
}

func newApp(env Env) *ucli.App {
	app := &ucli.App{
		Name: "weft", HelpName: "weft", Usage: "a service mesh in one binary", Version: Version,
		Description: "Start with `weft demo`, which runs a small mesh on this machine, or `weft agent -dev`.",
		Reader:      env.Stdin, Writer: env.Stdout, ErrWriter: env.Stderr,
		HideVersion: false, EnableBashCompletion: true, Suggest: true,
		ExitErrHandler: func(*ucli.Context, error) {}, // Run decides
		CommandNotFound: func(c *ucli.Context, name string) {
			fmt.Fprintf(env.Stderr, "weft: unknown command %q; `weft help` lists them\n", name)
		},
		Action: func(c *ucli.Context) error {
			if c.Args().Present() {
				return &exitError{code: exitUnknownCommand, text: fmt.Sprintf("weft: unknown command %q; `weft help` lists them", c.Args().First())}
			}
			return ucli.ShowAppHelp(c)
		},
		Commands: []*ucli.Command{
			demoCommand(env), agentCommand(env), servicesCommand(env), catalogCommand(env), intentionCommand(env), configCommand(env),
			connectCommand(env), tlsCommand(env), explainCommand(env), validateCommand(env), versionCommand(env),
			membersCommand(env), joinCommand(env), leaveCommand(env), forceLeaveCommand(env), eventCommand(env), keyringCommand(env), keygenCommand(env),
		},
	}
	return app
}

// group is a command that only holds others: alone it prints its help and fails.
func group(name, usage string, commands ...*ucli.Command) *ucli.Command {
	return &ucli.Command{
		Name: name, Usage: usage, Subcommands: commands,
		Action: func(c *ucli.Context) error {
			if c.Args().Present() {
				return &exitError{code: exitUnknownCommand, text: fmt.Sprintf("weft %s: unknown command %q", name, c.Args().First())}
			}
			if err := ucli.ShowSubcommandHelp(c); err != nil {
				return err
			}
			return &exitError{code: 1}
		},
	}
}

func versionCommand(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "version", Usage: "print the version",
		Action: func(*ucli.Context) error {
			fmt.Fprintf(env.Stdout, "weft v%s\n", Version)
			if info, ok := debug.ReadBuildInfo(); ok {
				fmt.Fprintf(env.Stdout, "built with %s\n", info.GoVersion)
			}
			return nil
		},
	}
}
