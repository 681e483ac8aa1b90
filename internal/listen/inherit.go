// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
)

// filer is a listener whose socket can be handed to another process.
type filer interface{ File() (*os.File, error) }

// opening stands for a listener that is being opened: not yet to be handed over.
type opening struct{}

func (opening) File() (*os.File, error) { return nil, errors.ErrUnsupported }

// Inherit gives the door sockets that another process had open, by the name of
// their listener. The next Stream or Packet of that name takes its socket over
// if the address is the one asked for, and otherwise closes it and opens a new
// one. The door owns the files from here on; CloseInherited closes those that
// nobody asked for.
func (d *Door) Inherit(files map[string]*os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range files {
		if f == nil || name == "" {
			return fmt.Errorf("inherit sockets: %q has no name or no file", name)
		}
		if d.inherited[name] != nil {
			return fmt.Errorf("inherit sockets: %q was inherited already", name)
		}
		d.inherited[name] = f
	}
	return nil
}

// CloseInherited closes inherited sockets that no listener has taken over, and
// returns their names. Call it once all listeners are open.
func (d *Door) CloseInherited() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name, f := range d.inherited {
		f.Close() //nolint:errcheck // a duplicate; nothing depends on it
		names = append(names, name)
		delete(d.inherited, name)
	}
	return names
}

// Files returns a duplicate of each open socket, by name, for a process that
// takes over: pass them with exec.Cmd.ExtraFiles and close them here. In-memory
// listeners are left out.
func (d *Door) Files() (map[string]*os.File, error) {
	d.mu.Lock()
	open := make(map[string]filer, len(d.open))
	for name, f := range d.open {
		open[name] = f
	}
	d.mu.Unlock()
	files := make(map[string]*os.File, len(open))
	for name, l := range open {
		f, err := l.File()
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		if err != nil {
			for _, f := range files {
				f.Close() //nolint:errcheck // a duplicate
			}
			return nil, fmt.Errorf("hand over listener %q: %w", name, err)
		}
		files[name] = f
	}
	return files, nil
}

// File returns a duplicate of the listening socket, for another process. From
// then on Close leaves a Unix socket's path in place. An in-memory listener's
// error wraps errors.ErrUnsupported.
func (l *Listener) File() (*os.File, error) {
	f, err := fileOf(l.inner)
	if u, ok := l.inner.(*net.UnixListener); ok && err == nil {
		u.SetUnlinkOnClose(false)
	}
	return f, err
}

func fileOf(socket any) (*os.File, error) {
	if s, ok := socket.(filer); ok {
		return s.File()
	}
	return nil, fmt.Errorf("a socket of type %T can't be handed over: %w", socket, errors.ErrUnsupported)
}

// takeInherited removes and returns the file of that name; nil if there is none.
func (d *Door) takeInherited(name string) *os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.inherited[name]
	delete(d.inherited, name)
	return f
}

func (d *Door) inheritedStream(spec Spec) (net.Listener, error) {
	f := d.takeInherited(spec.Name)
	if f == nil {
		return nil, nil
	}
	defer f.Close() //nolint:errcheck // FileListener has its own duplicate
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the inherited socket: %w", err)
	}
	if sameAddr(l.Addr(), spec) {
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(true)
		}
		return l, nil
	}
	d.log.Info("inherited socket not used", slog.String("listener", spec.Name),
		slog.String("inherited", l.Addr().String()), slog.String("wanted", spec.Address))
	return nil, l.Close()
}

func (d *Door) inheritedPacket(spec Spec) (net.PacketConn, error) {
	f := d.takeInherited(spec.Name)
	if f == nil {
		return nil, nil
	}
	defer f.Close() //nolint:errcheck // FilePacketConn has its own duplicate
	p, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("take over the inherited socket: %w", err)
	}
	if sameAddr(p.LocalAddr(), spec) {
		return p, nil
	}
	d.log.Info("inherited socket not used", slog.String("listener", spec.Name),
		slog.String("inherited", p.LocalAddr().String()), slog.String("wanted", spec.Address))
	return nil, p.Close()
}

// sameAddr says whether an open socket is what spec asks for.
func sameAddr(have net.Addr, spec Spec) bool {
	ipPort := func(network, address string) (net.IP, int, bool) {
		switch network[:3] {
		case "tcp":
			a, err := net.ResolveTCPAddr(network, address)
			if err == nil {
				return a.IP, a.Port, true
			}
		case "udp":
			a, err := net.ResolveUDPAddr(network, address)
			if err == nil {
				return a.IP, a.Port, true
			}
		}
		return nil, 0, false
	}
	if have.Network() == "unix" || have.Network() == "unixgram" {
		return have.Network() == spec.Network && have.String() == spec.Address
	}
	if have.Network()[:3] != spec.Network[:3] {
		return false
	}
	ip, port, ok := ipPort(have.Network(), have.String())
	wantIP, wantPort, wantOK := ipPort(spec.Network, spec.Address)
	return ok && wantOK && (port == wantPort || wantPort == 0) && (ip.Equal(wantIP) || anyIP(ip) && anyIP(wantIP))
}

func anyIP(ip net.IP) bool { return ip == nil || ip.IsUnspecified() }
