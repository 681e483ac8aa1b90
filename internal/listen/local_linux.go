// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

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
	attrCgroup       = 21 // INET_DIAG_CGROUP_ID, since Linux 5.7
)

var errNoCgroup = errors.New("the kernel doesn't say it: it has to be Linux 5.7 at least, with cgroups of version 2")

// ownerOf asks for one socket by its addresses, and says who opened it.
func ownerOf(local, remote netip.AddrPort) (Owner, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return Owner{}, fmt.Errorf("who calls can't be asked of the kernel: %w", err)
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
		return Owner{}, err
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Owner{}, fmt.Errorf("who calls can't be asked of the kernel: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return Owner{}, fmt.Errorf("the kernel doesn't say who calls: %w", err)
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
func owner(answer []byte, asked [idSize]byte) (Owner, error) {
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil || len(messages) == 0 {
		return Owner{}, fmt.Errorf("the kernel's answer about who calls can't be read: %w", err)
	}
	m := messages[0]
	if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		if no := -int32(binary.NativeEndian.Uint32(m.Data)); no > 0 && syscall.Errno(no) != unix.ENOENT {
			return Owner{}, fmt.Errorf("the kernel doesn't say who calls: %w", syscall.Errno(no))
		}
		return Owner{}, ErrNotLocal
	}
	if m.Header.Type != sockDiagByFamily || len(m.Data) < answerSize {
		return Owner{}, fmt.Errorf("the kernel's answer about who calls is of type %d and %d bytes", m.Header.Type, len(m.Data))
	}
	state := m.Data[1]
	if string(m.Data[answerID:answerID+36]) != string(asked[:36]) || state == stateTimeWait || state == stateNewSynRecv ||
		binary.NativeEndian.Uint32(m.Data[answerInode:]) == 0 {
		return Owner{}, ErrNotLocal
	}
	o := Owner{UID: binary.NativeEndian.Uint32(m.Data[answerUID:])}
	if o.group = cgroupIn(m.Data[answerSize:]); o.group == 0 {
		o.why = errNoCgroup
	}
	return o, nil
}

// cgroupIn finds the cgroup among an answer's attributes; 0 if it isn't there.
func cgroupIn(attributes []byte) uint64 {
	ne := binary.NativeEndian
	for len(attributes) >= unix.SizeofRtAttr {
		size := int(ne.Uint16(attributes))
		if size < unix.SizeofRtAttr || size > len(attributes) {
			return 0
		}
		if ne.Uint16(attributes[2:]) == attrCgroup && size == unix.SizeofRtAttr+8 {
			return ne.Uint64(attributes[unix.SizeofRtAttr:])
		}
		attributes = attributes[min((size+3)&^3, len(attributes)):]
	}
	return 0
}
