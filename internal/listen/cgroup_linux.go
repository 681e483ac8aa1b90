// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where systemd mounts the hierarchy of version 2: alone, or beside those of version 1.
const (
	hierarchy = "/sys/fs/cgroup"
	hybrid    = "/sys/fs/cgroup/unified"
)

// maxGroups bounds how many directories one answer looks at.
const maxGroups = 20_000

var (
	errNoHierarchy = errors.New("cgroups of version 2 aren't mounted at " + hierarchy)
	errManyGroups  = fmt.Errorf("there are more than %d cgroups to look through", maxGroups)
	errOldKernel   = errors.New("for Unix sockets the kernel has to be Linux 6.5 at least: let the upstream have a port, or name users")
)

// groupRoot is where the hierarchy is mounted.
func groupRoot() (string, error) {
	for _, at := range []string{hierarchy, hybrid} {
		var s unix.Statfs_t
		if err := unix.Statfs(at, &s); err == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return at, nil
		}
	}
	return "", errNoHierarchy
}

// inGroups says whether a cgroup, by the kernel's number for it, is one of those that are named, or beneath one. The number is that of its
// directory, and is never used again.
func inGroups(p *Processes, number uint64) (bool, error) {
	root, err := groupRoot()
	if err != nil {
		return false, err
	}
	l := lookup{number: number, left: maxGroups}
	for _, c := range p.Cgroups {
		if l.beneath(filepath.Join(root, filepath.Clean("/"+c))) {
			return true, nil
		}
	}
	for _, u := range p.Units {
		if l.unit(root, u) {
			return true, nil
		}
	}
	if l.left <= 0 {
		return false, errManyGroups
	}
	return false, nil
}

// lookup seeks a cgroup's number among directories.
type lookup struct {
	number uint64
	left   int // directories that may still be looked at
}

// beneath seeks it in a directory, and in all that is in it. A directory that isn't there has nothing.
func (l *lookup) beneath(dir string) (found bool) {
	_ = filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error { // what goes meanwhile isn't it
		if err != nil || !d.IsDir() {
			return nil
		}
		if l.left--; l.left < 0 {
			return fs.SkipAll
		}
		if found = l.is(at); found {
			return fs.SkipAll
		}
		return nil
	})
	return found
}

func (l *lookup) is(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Ino == l.number
}

// unit seeks it in the unit of that name, in all slices beneath a directory.
func (l *lookup) unit(dir, unit string) bool {
	entries, err := os.ReadDir(dir)
	if l.left--; err != nil || l.left < 0 {
		return false
	}
	for _, e := range entries {
		switch at := filepath.Join(dir, e.Name()); {
		case !e.IsDir():
		case e.Name() == unit && l.beneath(at), strings.HasSuffix(e.Name(), slice) && l.unit(at, unit):
			return true
		}
	}
	return false
}

// peerOwner is the process that connected to a Unix socket.
func peerOwner(conn net.Conn) (Owner, error) {
	p, err := PeerOf(conn)
	if err != nil {
		return Owner{}, err
	}
	o := Owner{UID: p.UID}
	o.path, o.why = peerGroup(conn, p.PID)
	return o, nil
}

// peerGroup is the cgroup of a Unix socket's peer. The process must be there still when its cgroup has been read, or the number may be another's.
func peerGroup(conn net.Conn, pid int) (string, error) {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return "", errors.ErrUnsupported
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return "", err
	}
	process := -1
	cerr := raw.Control(func(fd uintptr) { process, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	if errors.Is(err, unix.ENOPROTOOPT) {
		return "", errOldKernel
	}
	if err := errors.Join(cerr, err); err != nil {
		return "", fmt.Errorf("the process at a Unix socket: %w", err)
	}
	defer unix.Close(process) //nolint:errcheck // nothing was written
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	if err := unix.PidfdSendSignal(process, 0, nil, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return "", ErrNotLocal
	}
	return groupIn(string(text))
}

// groupIn finds the cgroup of version 2 in a process's list.
func groupIn(text string) (string, error) {
	for line := range strings.Lines(text) {
		if group, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return strings.TrimSuffix(group, " (deleted)"), nil
		}
	}
	return "", errNoHierarchy
}
