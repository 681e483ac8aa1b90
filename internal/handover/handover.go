// SPDX-License-Identifier: Apache-2.0

// Package handover lets a process be replaced by a newer one without closing its sockets: it starts its successor with them
// open, waits until that says that it serves, and can then let its own connections come to their end.
//
// The successor gets a socket to its predecessor at file descriptor 3 (WEFT_HANDOVER says so) and what is handed over from 4 on.
// The package doesn't know what the sockets are for, and owns no goroutine beyond a call.
package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// variable names the environment variable that tells a successor that it is one.
const variable = "WEFT_HANDOVER"

const firstFile = 3

// hello is what a successor is told first.
type hello struct {
	Sockets []string // names, in the order of their descriptors
	Note    []byte
}

// readyWord is what a successor answers when it serves.
const readyWord = "ready\n"

// Successor is the program that takes over.
type Successor struct {
	Path string   // of the binary
	Args []string // with the program's name first
	Env  []string
	// Files are the sockets by name; they stay open here, and the caller's to close.
	Files map[string]*os.File
	// Note is handed over as it is. It may be secret: it goes over a socket, not through the environment.
	Note []byte
}

// Start starts the successor and returns its process ID when it says that it serves. If it ends before that, or ctx does, it is
// ended, and everything here is as before.
func Start(ctx context.Context, s Successor) (pid int, err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("hand over: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "handover"), os.NewFile(uintptr(pair[1]), "handover")
	conn, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close())
	if err != nil {
		return 0, errors.Join(fmt.Errorf("hand over: %w", err), theirs.Close())
	}
	defer conn.Close()
	names := slices.Sorted(maps.Keys(s.Files))
	files := []*os.File{theirs}
	for _, n := range names {
		files = append(files, s.Files[n])
	}
	pid, err = fork(s, files)
	err = errors.Join(err, theirs.Close()) // so that its end here is noticed
	if err != nil {
		return 0, fmt.Errorf("hand over to %s: %w", s.Path, err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := tell(conn, hello{names, s.Note}); err != nil {
		return 0, fmt.Errorf("hand over to %s: %w", s.Path, errors.Join(err, context.Cause(ctx), end(pid)))
	}
	return pid, nil
}

var errNotReady = errors.New("it ended before it served; its log says why")

func tell(conn net.Conn, h hello) error {
	if err := json.NewEncoder(conn).Encode(h); err != nil {
		return err
	}
	word, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && word == readyWord || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return errors.Join(errNotReady, err)
}

// fork starts the process. The descriptors are taken raw: os.File.Fd would put the sockets, which both processes share, into
// blocking mode, in which an accepting goroutine can't be ended.
func fork(s Successor, files []*os.File) (int, error) {
	attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}}
	for _, e := range s.Env {
		if !strings.HasPrefix(e, variable+"=") {
			attr.Env = append(attr.Env, e)
		}
	}
	attr.Env = append(attr.Env, fmt.Sprintf("%s=%d", variable, firstFile))
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return 0, err
		}
		if err := raw.Control(func(fd uintptr) { attr.Files = append(attr.Files, fd) }); err != nil {
			return 0, err
		}
	}
	return syscall.ForkExec(s.Path, s.Args, attr)
}

// end ends a successor that isn't one, and waits for it.
func end(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	_ = p.Kill() // it may have ended
	_, err = p.Wait()
	return err
}

// Inheritance is what a predecessor has handed over.
type Inheritance struct {
	Files map[string]*os.File
	Note  []byte
	conn  net.Conn
}

// Inherited takes what a predecessor hands over, nil where there is none. It is called once, at the start.
func Inherited(getenv func(string) string) (*Inheritance, error) {
	if getenv(variable) == "" {
		return nil, nil
	}
	if getenv(variable) != fmt.Sprint(firstFile) {
		return nil, fmt.Errorf("%s=%q: only a predecessor sets this variable, to %d; unset it", variable, getenv(variable), firstFile)
	}
	f := os.NewFile(firstFile, "handover")
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%s is set, and descriptor %d is no socket of a predecessor's: unset it: %w", variable, firstFile, errors.Join(err, f.Close()))
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	var h hello
	if err := json.NewDecoder(io.LimitReader(conn, 64<<20)).Decode(&h); err != nil {
		return nil, fmt.Errorf("what the predecessor hands over: %w", errors.Join(err, conn.Close()))
	}
	in := &Inheritance{Files: map[string]*os.File{}, Note: h.Note, conn: conn}
	for i, name := range h.Sockets {
		fd := firstFile + 1 + i
		syscall.CloseOnExec(fd)
		in.Files[name] = os.NewFile(uintptr(fd), name)
	}
	return in, nil
}

// Ready tells the predecessor that its sockets are served here.
func (i *Inheritance) Ready() error {
	_, err := io.WriteString(i.conn, readyWord)
	return errors.Join(err, i.conn.Close())
}
