// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/weftmesh/weft/internal/handover"
	"github.com/weftmesh/weft/internal/listen"
)

// upgradeWithin is how long a successor may take until it serves.
const upgradeWithin = 30 * time.Second

// upgrade replaces this proxy's process by a newer one, on SIGUSR2: the binary is started again from its path, with the same
// arguments and the open sockets. Once that serves, this process closes its own and lets its connections come to their end.
type upgrade struct {
	door    *listen.Door
	log     *slog.Logger
	getenv  func(string) string
	retire  chan struct{} // closed when the successor serves
	inherit *handover.Inheritance

	// What a proxy adds: whether it serves, what its successor is told, and what happens where there is none after all.
	ready func() bool
	note  func() ([]byte, error)
	undo  func()
}

// newUpgrade takes over what a predecessor has handed over, if there is one.
func newUpgrade(env Env, door *listen.Door, log *slog.Logger) (*upgrade, error) {
	u := &upgrade{
		door: door, log: log, getenv: env.Getenv, retire: make(chan struct{}),
		note: func() ([]byte, error) { return nil, nil }, undo: func() {},
	}
	var err error
	if u.inherit, err = handover.Inherited(env.Getenv); err != nil || u.inherit == nil {
		return u, err
	}
	return u, door.Inherit(u.inherit.Files)
}

// predecessor is the note that was handed over, nil without a predecessor.
func (u *upgrade) predecessor() []byte {
	if u.inherit == nil {
		return nil
	}
	return u.inherit.Note
}

// run tells whom it concerns when this process serves, and then waits for the signal that makes it one itself.
func (u *upgrade) run(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if err := u.arrive(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	for {
		select {
		case <-signals:
			pid, err := u.once(ctx)
			if err == nil {
				u.log.Info("the successor serves, draining", "pid", pid)
				close(u.retire)
				<-ctx.Done() // further signals are for the successor
				return nil
			}
			u.undo()
			if ctx.Err() == nil {
				u.log.Error("not replaced, going on", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// readyLook is how often a successor looks whether it serves yet.
const readyLook = 5 * time.Millisecond

func (u *upgrade) arrive(ctx context.Context) error {
	if u.inherit == nil && u.getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	tick := time.NewTicker(readyLook)
	defer tick.Stop()
	for !u.ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	if err := u.notify(); err != nil {
		u.log.Warn("the service manager isn't told that the proxy serves", "error", err)
	}
	if u.inherit == nil {
		return nil
	}
	for _, name := range u.door.CloseInherited() {
		u.log.Info("a socket of the predecessor isn't needed any more", "listener", name)
	}
	if err := u.inherit.Ready(); err != nil {
		return fmt.Errorf("the predecessor has gone: %w", err)
	}
	u.log.Info("took over from the predecessor", "pid", os.Getppid())
	return nil
}

func (u *upgrade) once(ctx context.Context) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, upgradeWithin)
	defer cancel()
	path, err := os.Executable()
	if err != nil {
		return 0, err
	}
	note, err := u.note()
	if err != nil {
		return 0, err
	}
	files, err := u.door.Files()
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	u.log.Info("being replaced", "binary", path, "sockets", len(files))
	return handover.Start(ctx, handover.Successor{Path: path, Args: os.Args, Env: os.Environ(), Files: files, Note: note})
}

// notify tells systemd (sd_notify(3), Type=notify) that the proxy serves, and, of a successor, that it is the service's main
// process from now on (NotifyAccess=all).
func (u *upgrade) notify() error {
	path := u.getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := (&net.Dialer{}).Dial("unixgram", path)
	if err != nil {
		return err
	}
	state := "READY=1"
	if u.inherit != nil {
		state = fmt.Sprintf("MAINPID=%d\n%s", os.Getpid(), state)
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}
