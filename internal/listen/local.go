// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc/peer"
)

// ErrNotLocal says that a connection's other end is no open socket of this host, or is one no more.
var ErrNotLocal = errors.New("the caller is no process of this host, or has closed its socket")

// ErrStranger says that a process is none of those that may do something.
var ErrStranger = errors.New("the caller is a process that this isn't for")

// Owner is the process that opened the other end of a connection. Its cgroup is that of the hierarchy of version 2: of TCP the one in which the
// socket was made, by the kernel's number for it; of a Unix socket that of the process, by its path.
type Owner struct {
	UID   uint32
	group uint64
	path  string
	why   error // why the cgroup isn't known
}

// Processes are those of this host that run as one of some users and in one of some systemd units or cgroups. What isn't named isn't asked for.
type Processes struct {
	UIDs    []uint32
	Units   []string // of the system's manager: "web.service"; what a user's own manager runs is user@UID.service
	Cgroups []string // absolute paths; what is beneath one is in it
}

// Has returns nil for a process that is one of them. Which it isn't, or can't be told, is said by an error; the former's wraps ErrStranger.
func (p *Processes) Has(o Owner) error {
	if len(p.UIDs) > 0 && !slices.Contains(p.UIDs, o.UID) {
		return fmt.Errorf("%w: it runs as uid %d, not as one of %v", ErrStranger, o.UID, p.UIDs)
	}
	if len(p.Units)+len(p.Cgroups) == 0 {
		if len(p.UIDs) == 0 {
			return fmt.Errorf("%w: it is for nobody", ErrStranger)
		}
		return nil
	}
	in, err := p.grouped(o)
	switch {
	case err != nil:
		return fmt.Errorf("the cgroup of the caller, uid %d, can't be told: %w", o.UID, err)
	case !in:
		return fmt.Errorf("%w: it, uid %d, runs in none of the units and cgroups %v", ErrStranger, o.UID, slices.Concat(p.Units, p.Cgroups))
	}
	return nil
}

func (p *Processes) grouped(o Owner) (bool, error) {
	switch {
	case o.why != nil:
		return false, o.why
	case o.group != 0:
		return inGroups(p, o.group)
	}
	return slices.ContainsFunc(p.Units, func(u string) bool { return unitHas(u, o.path) }) ||
		slices.ContainsFunc(p.Cgroups, func(c string) bool { return beneath(o.path, c) }), nil
}

const slice = ".slice"

// unitHas says whether a cgroup is a unit's, or beneath it. Units are in slices, and slices the system's manager alone makes; a name further
// down may be anybody's to whom a cgroup was left.
func unitHas(unit, group string) bool {
	for name := range strings.SplitSeq(strings.TrimPrefix(group, "/"), "/") {
		if name == unit {
			return true
		}
		if !strings.HasSuffix(name, slice) {
			return false
		}
	}
	return false
}

func beneath(group, of string) bool {
	of = path.Clean("/" + of)
	return group == of || strings.HasPrefix(group, strings.TrimSuffix(of, "/")+"/")
}

// OwnerOf returns the process that opened the other end of a connection: of a Unix socket by the kernel's word at its connect, of TCP
// by asking the kernel for the socket that has our address as its peer, or to where that isn't zero: where a captured connection was going.
// That must be done while the connection is young, and the other end must still be open: one that is closed belongs to nobody, and is
// ErrNotLocal, as is one of another host or network namespace.
func OwnerOf(conn net.Conn, to netip.AddrPort) (Owner, error) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	local, also := conn.LocalAddr().(*net.TCPAddr)
	if !ok || !also {
		return peerOwner(conn)
	}
	if !to.IsValid() {
		to = local.AddrPort()
	}
	return ownerOf(unmapped(remote.AddrPort()), unmapped(to))
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

type callerKey struct{}

// withCaller is an http.Server's ConnContext.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Caller returns the process that makes a request to a server of a Door's HTTPServer, or of gRPC with GRPCCredentials, by its context, as OwnerOf
// does for a connection. It asks anew each time. A context of neither is an error.
func Caller(ctx context.Context) (Owner, error) {
	if c, ok := ctx.Value(callerKey{}).(net.Conn); ok {
		return OwnerOf(c, netip.AddrPort{})
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Owner{}, errors.New("who calls can't be told: the request came over no connection of this host")
	}
	if info, ok := p.AuthInfo.(plainInfo); ok {
		return OwnerOf(info.conn, netip.AddrPort{})
	}
	remote, ok := p.Addr.(*net.TCPAddr)
	local, also := p.LocalAddr.(*net.TCPAddr)
	if !ok || !also {
		return Owner{}, fmt.Errorf("who calls can't be told of a connection from %v with TLS: use a Unix socket without, or TCP", p.Addr)
	}
	return ownerOf(unmapped(remote.AddrPort()), unmapped(local.AddrPort()))
}
