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
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from here on a signal has its default effect
	return Run(ctx, Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}, args)
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
