// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	defaultMode = fs.FileMode(0o600)
	// maxUnixPath is what fits into sockaddr_un, without the final zero.
	maxUnixPath = 107
)

// listenUnix opens a Unix stream socket with the spec's mode from the first
// moment. A socket that an ended process has left is removed; one that somebody
// listens on is an *InUseError; a file that is no socket is left alone.
func listenUnix(ctx context.Context, spec Spec) (net.Listener, error) {
	mode, err := prepareUnix(ctx, spec, "unix")
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{Control: chmodBeforeBind(mode)}).Listen(ctx, "unix", spec.Address)
	if err != nil {
		return nil, explainInUse(err, spec)
	}
	if err := os.Chmod(spec.Address, mode); err != nil { // what the umask took away
		l.Close() //nolint:errcheck // the chmod's error says more
		return nil, err
	}
	return l, nil
}

func listenUnixgram(ctx context.Context, spec Spec) (net.PacketConn, error) {
	mode, err := prepareUnix(ctx, spec, "unixgram")
	if err != nil {
		return nil, err
	}
	p, err := (&net.ListenConfig{Control: chmodBeforeBind(mode)}).ListenPacket(ctx, "unixgram", spec.Address)
	if err != nil {
		return nil, explainInUse(err, spec)
	}
	if err := os.Chmod(spec.Address, mode); err != nil {
		p.Close() //nolint:errcheck // the chmod's error says more
		return nil, err
	}
	return p, nil
}

// prepareUnix checks the path, makes way, and returns the mode to use.
func prepareUnix(ctx context.Context, spec Spec, network string) (fs.FileMode, error) {
	path := spec.Address
	if path == "" {
		return 0, errors.New("the path of the Unix socket is empty")
	}
	if len(path) > maxUnixPath {
		return 0, fmt.Errorf("the path %s has %d bytes, and a Unix socket's may have %d: use a shorter one", path, len(path), maxUnixPath)
	}
	mode := spec.Mode.Perm()
	if mode == 0 {
		mode = defaultMode
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return mode, nil
	}
	if err != nil {
		return 0, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return 0, fmt.Errorf("%s exists and is not a socket: remove it, or use another path", path)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, path)
	if err == nil {
		c.Close() //nolint:errcheck // it only asked whether anybody is there
		return 0, newInUse(network, path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return mode, os.Remove(path)
	}
	return 0, fmt.Errorf("find out whether %s is in use: %w", path, err)
}

// chmodBeforeBind sets the mode on the socket itself, which bind then gives to
// the path (Linux); without it the path would be open to all for a moment.
func chmodBeforeBind(mode fs.FileMode) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), uint32(mode)) })
		if errors.Is(err, syscall.EINVAL) { // not possible on this system
			err = nil
		}
		return errors.Join(cerr, err)
	}
}
