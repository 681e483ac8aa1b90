// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain is the successor where the tests start one.
func TestMain(m *testing.M) {
	in, err := Inherited(os.Getenv)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case in == nil:
		os.Exit(m.Run())
	}
	os.Exit(succeed(in))
}

// succeed serves one connection of each kind that the note asks for, and ends.
func succeed(in *Inheritance) int {
	if string(in.Note) == "die" {
		return 1
	}
	if string(in.Note) == "hang" {
		select {}
	}
	l, err := net.FileListener(in.Files["a"])
	if err != nil || in.Ready() != nil {
		return 1
	}
	conn, err := l.Accept()
	if err != nil {
		return 1
	}
	if _, err := fmt.Fprintf(conn, "%d %s", os.Getpid(), in.Note); err != nil || conn.Close() != nil {
		return 1
	}
	return 0
}

func listener(t *testing.T) (net.Listener, Successor) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = f.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return l, Successor{Path: exe, Args: []string{"successor"}, Env: os.Environ(), Files: map[string]*os.File{"a": f}, Note: []byte("note")}
}

// The successor serves the socket, and the predecessor can stop to: its accept ends, though both share the socket.
func TestTheSuccessorServes(t *testing.T) {
	l, s := listener(t)
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_ = conn.Close()
		}
		accepted <- err
	}()
	pid, err := Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-accepted:
		if !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the predecessor still accepts")
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if want := fmt.Sprintf("%d note", pid); err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Error(state, err)
	}
}

// One that doesn't come up is ended, and the predecessor goes on.
func TestASuccessorThatFails(t *testing.T) {
	l, s := listener(t)
	for note, want := range map[string]error{"die": errNotReady, "hang": context.DeadlineExceeded} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if note == "hang" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		}
		s.Note = []byte(note)
		_, err := Start(ctx, s)
		cancel()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", note, err)
		}
	}
	s.Path = "/nowhere/weft"
	if _, err := Start(t.Context(), s); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), s.Path) {
		t.Error(err)
	}
	go func() {
		if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
			_ = conn.Close()
		}
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestNotASuccessor(t *testing.T) {
	if in, err := Inherited(func(string) string { return "" }); in != nil || err != nil {
		t.Error(in, err)
	}
	if _, err := Inherited(func(string) string { return "7" }); err == nil || !strings.Contains(err.Error(), "unset") {
		t.Error(err)
	}
}
