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
	"path/filepath"
	"strings"
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

	then *func() error // what Run does when the flags are read; see after
}

// after has f run when all that the command line is made of is gone: the flags of every command, half a MB, would stay for as long as a
// proxy runs. So f must hold on to no ucli.Context.
func (e Env) after(f func() error) error {
	if e.then == nil {
		return f()
	}
	*e.then = f
	return nil
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
	called := "weft"
	if len(args) > 0 && strings.TrimSuffix(filepath.Base(args[0]), ".exe") == "consul" {
		called = "consul"
	}
	var then func() error
	env.then = &then
	err := newApp(env, called).RunContext(ctx, args)
	if err == nil && then != nil {
		err = then()
	}
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

func newApp(env Env, called string) *ucli.App {
	app := &ucli.App{
		Name: called, HelpName: called, Usage: "a service mesh in one binary",
		Reader: env.Stdin, Writer: env.Stdout, ErrWriter: env.Stderr,
		HideVersion: true, EnableBashCompletion: true, Suggest: true,
		DisableSliceFlagSeparator: true, // a flag that may be given often is split at no comma: its value may have some
		Flags:                     []ucli.Flag{&ucli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version"}},
		ExitErrHandler:            func(*ucli.Context, error) {}, // Run decides
		Commands: []*ucli.Command{
			demoCommand(env), agentCommand(env), servicesCommand(env), catalogCommand(env), intentionCommand(env), configCommand(env),
			connectCommand(env), tlsCommand(env), verifyCommand(env), explainCommand(env), validateCommand(env), versionCommand(env),
			membersCommand(env), joinCommand(env), leaveCommand(env), reloadCommand(env), forceLeaveCommand(env), eventCommand(env), keyringCommand(env), keygenCommand(env), planeCommand(env), rttCommand(env),
			infoCommand(env), monitorCommand(env), maintCommand(env), debugCommand(env),
			operatorCommand(env), snapshotCommand(env), importCommand(env), kvCommand(env), lockCommand(env), watchCommand(env),
			aclCommand(env), loginCommand(env), logoutCommand(env), peeringCommand(env), namespaceCommand(env), troubleshootCommand(env), completionCommand(env),
			refused("exec", "run a command on many hosts", execRefused),
			refused("partition", "look after partitions", tenancyRefused),
		},
	}
	app.Action = func(c *ucli.Context) error {
		switch {
		case c.Bool("version"):
			return printVersion(env, called, false)
		case c.Args().Present():
			fmt.Fprintf(env.Stderr, "%s: unknown command %q\n\n", called, c.Args().First())
			firstPage(env.Stderr, called, app.Commands)
			return &exitError{code: exitUnknownCommand}
		}
		firstPage(env.Stdout, called, app.Commands)
		return nil
	}
	app.CustomAppHelpTemplate = firstPageText(called, app.Commands)
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
