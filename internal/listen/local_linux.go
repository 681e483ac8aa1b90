// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNotLocal says that a connection's other end is no open socket of this host, or is one no more.
var ErrNotLocal = errors.New("the caller is no process of this host, or has closed its socket")

// LocalUID returns the user whose process opened the other end of a connection: of a Unix socket by the kernel's word at its connect, of TCP
// by asking the kernel for the socket that has our address as its peer, or to where that isn't zero: where a captured connection was going.
// That must be done while the connection is young, and the other end must still be open: one that is closed belongs to nobody, and is
// ErrNotLocal, as is one of another host or network namespace.
func LocalUID(conn net.Conn, to netip.AddrPort) (uint32, error) {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	local, also := conn.LocalAddr().(*net.TCPAddr)
	if !ok || !also {
		peer, err := PeerOf(conn)
		return peer.UID, err
	}
	if !to.IsValid() {
		to = local.AddrPort()
	}
	return ownerOf(unmapped(remote.AddrPort()), unmapped(to))
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Of the kernel's linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	requestSize      = 16 + 56 // nlmsghdr, inet_diag_req_v2
	idSize           = 48      // inet_diag_sockid
	answerID         = 4       // where it stands in inet_diag_msg
	answerUID        = 64
	answerInode      = 68
	answerSize       = 72
	noCookie         = 0xffffffff
	stateTimeWait    = 6
	stateNewSynRecv  = 12
)

// ownerOf asks for one socket by its addresses, and says who opened it.
func ownerOf(local, remote netip.AddrPort) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("who calls can't be asked of the kernel: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	id := socketID(local, remote)
	request := make([]byte, requestSize)
	ne := binary.NativeEndian
	ne.PutUint32(request[0:], requestSize)
	ne.PutUint16(request[4:], sockDiagByFamily)
	ne.PutUint16(request[6:], unix.NLM_F_REQUEST)
	request[16], request[17] = unix.AF_INET, unix.IPPROTO_TCP
	if local.Addr().Is6() {
		request[16] = unix.AF_INET6
	}
	ne.PutUint32(request[20:], ^uint32(0)) // in any state
	copy(request[24:], id[:])
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, err
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("who calls can't be asked of the kernel: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, fmt.Errorf("the kernel doesn't say who calls: %w", err)
	}
	return owner(answer[:n], id)
}

// socketID is a socket as the kernel knows it. Its interface and cookie aren't asked for.
func socketID(local, remote netip.AddrPort) (id [idSize]byte) {
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(id[40:], noCookie)
	binary.NativeEndian.PutUint32(id[44:], noCookie)
	return id
}

// owner reads the answer. It must be about the very socket, which must be one that a process has: what the kernel keeps of closed ones it says
// to be root's.
func owner(answer []byte, asked [idSize]byte) (uint32, error) {
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil || len(messages) == 0 {
		return 0, fmt.Errorf("the kernel's answer about who calls can't be read: %w", err)
	}
	m := messages[0]
	if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		if no := -int32(binary.NativeEndian.Uint32(m.Data)); no > 0 && syscall.Errno(no) != unix.ENOENT {
			return 0, fmt.Errorf("the kernel doesn't say who calls: %w", syscall.Errno(no))
		}
		return 0, ErrNotLocal
	}
	if m.Header.Type != sockDiagByFamily || len(m.Data) < answerSize {
		return 0, fmt.Errorf("the kernel's answer about who calls is of type %d and %d bytes", m.Header.Type, len(m.Data))
	}
	state := m.Data[1]
	if string(m.Data[answerID:answerID+36]) != string(asked[:36]) || state == stateTimeWait || state == stateNewSynRecv ||
		binary.NativeEndian.Uint32(m.Data[answerInode:]) == 0 {
		return 0, ErrNotLocal
	}
	return binary.NativeEndian.Uint32(m.Data[answerUID:]), nil
}
