// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Holder finds the process that listens on an address of network tcp, tcp4,
// tcp6, udp, udp4, udp6, unix or unixgram; one that holds the port on all
// addresses holds it on each. It reads /proc and takes some milliseconds per
// thousand processes. Where it finds none the error wraps ErrNoHolder.
func Holder(network, addr string) (Process, error) {
	var inodes []string
	var err error
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		inodes, err = ipInodes(network, addr)
	case "unix", "unixgram":
		inodes, err = unixInodes(addr)
	default:
		return Process{}, fmt.Errorf("find the holder of %s: network %q is not known", addr, network)
	}
	if err != nil {
		return Process{}, fmt.Errorf("find the holder of %s %s: %w", network, addr, err)
	}
	if len(inodes) > 0 {
		if pid := processWithSocket(inodes); pid != 0 {
			return Process{PID: pid, Command: commandOf(pid)}, nil
		}
	}
	return Process{}, fmt.Errorf("%s %s: %w", network, addr, ErrNoHolder)
}

// ipInodes reads /proc/net/tcp and its like for sockets bound to addr.
func ipInodes(network, addr string) ([]string, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.LookupPort(network, service)
	if err != nil {
		return nil, err
	}
	var want net.IP
	if host != "" {
		a, err := net.ResolveIPAddr("ip"+strings.TrimLeft(network, "tcpud"), host)
		if err != nil {
			return nil, err
		}
		want = a.IP
	}
	var inodes []string
	for _, table := range []string{network[:3], network[:3] + "6"} {
		data, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			continue // no IPv6, say
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 10 || network[:3] == "tcp" && f[3] != "0A" { // 0A: LISTEN
				continue
			}
			ip, p, ok := parseProcAddr(f[1])
			if ok && p == port && (ip.Equal(want) || anyIP(ip) || anyIP(want)) {
				inodes = append(inodes, f[9])
			}
		}
	}
	return inodes, nil
}

// parseProcAddr reads "0100007F:2134": groups of four bytes, each in the order
// of the machine (little-endian where weft runs), and the port.
func parseProcAddr(s string) (net.IP, int, bool) {
	a, p, _ := strings.Cut(s, ":")
	ip, err := hex.DecodeString(a)
	port, err2 := strconv.ParseUint(p, 16, 16)
	if err != nil || err2 != nil || len(ip) != net.IPv4len && len(ip) != net.IPv6len {
		return nil, 0, false
	}
	for group := range slices.Chunk(ip, 4) {
		slices.Reverse(group)
	}
	return ip, int(port), true
}

// unixInodes reads /proc/net/unix for sockets bound to path.
func unixInodes(path string) ([]string, error) {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var inodes []string
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimRight(line, "\n"), " ", 9)
		f = slices.DeleteFunc(f, func(s string) bool { return s == "" })
		if len(f) >= 8 && strings.HasSuffix(line, " "+path+"\n") {
			inodes = append(inodes, f[6])
		}
	}
	return inodes, nil
}

// processWithSocket returns the lowest pid that has one of the sockets open, or 0.
func processWithSocket(inodes []string) int {
	want := map[string]bool{}
	for _, inode := range inodes {
		want["socket:["+inode+"]"] = true
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	found := 0
	for _, proc := range procs {
		pid, err := strconv.Atoi(proc.Name())
		if err != nil || found != 0 && pid > found {
			continue
		}
		dir := filepath.Join("/proc", proc.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's, or gone
		}
		for _, fd := range fds {
			if link, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && want[link] {
				found = pid
				break
			}
		}
	}
	return found
}

func commandOf(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(line) > 0 {
		return string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '}))
	}
	if name, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil {
		return strings.TrimSpace(string(name))
	}
	return "unknown"
}
