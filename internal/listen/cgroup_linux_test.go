// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnitsAndCgroupsByPath(t *testing.T) {
	for _, tc := range []struct {
		group string
		p     Processes
		want  bool
	}{
		{"/system.slice/web.service", Processes{Units: []string{"web.service"}}, true},
		{"/system.slice/web.service/worker", Processes{Units: []string{"web.service"}}, true},
		{"/system.slice/system-web.slice/web@1.service", Processes{Units: []string{"web@1.service"}}, true},
		{"/shop.slice/shop-web.slice/web.service", Processes{Units: []string{"shop.slice"}}, true},
		// A user's own manager, and a service to which a cgroup was left, may call theirs as they like.
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", Processes{Units: []string{"web.service"}}, false},
		{"/system.slice/other.service/web.service", Processes{Units: []string{"web.service"}}, false},
		{"/system.slice/web.service.d", Processes{Units: []string{"web.service"}}, false},
		{"/", Processes{Units: []string{"web.service"}}, false},
		{"/system.slice/web.service", Processes{Cgroups: []string{"/system.slice/web.service"}}, true},
		{"/system.slice/web.service/worker", Processes{Cgroups: []string{"/system.slice"}}, true},
		{"/system.slice/web.services", Processes{Cgroups: []string{"/system.slice/web.service"}}, false},
		{"/../web.service", Processes{Cgroups: []string{"/web.service"}}, false}, // of another namespace
		{"/a", Processes{Units: []string{"web.service"}, Cgroups: []string{"/a"}}, true},
		{"/a", Processes{UIDs: []uint32{1}, Cgroups: []string{"/a"}}, false}, // both have to hold
		{"/a", Processes{UIDs: []uint32{0}, Cgroups: []string{"/a"}}, true},
		{"/a", Processes{}, false},
	} {
		if err := tc.p.Has(Owner{path: tc.group}); (err == nil) != tc.want || err != nil && !errors.Is(err, ErrStranger) {
			t.Errorf("%s in %+v: %v, want %v", tc.group, tc.p, err, tc.want)
		}
	}
}

// What the kernel doesn't tell lets nobody in.
func TestUnknownCgroup(t *testing.T) {
	p := Processes{UIDs: []uint32{0}, Units: []string{"web.service"}}
	if err := p.Has(Owner{why: errNoCgroup}); !errors.Is(err, errNoCgroup) {
		t.Error(err)
	}
	if err := (&Processes{UIDs: []uint32{0}}).Has(Owner{why: errNoCgroup}); err != nil {
		t.Error("its user is asked for alone:", err)
	}
}

// An answer of the kernel's, as it is made: with the cgroup among other attributes, without it, and cut short.
func TestOwnerWithCgroup(t *testing.T) {
	id := socketID(netip.MustParseAddrPort("127.0.0.1:1000"), netip.MustParseAddrPort("127.0.0.1:2000"))
	ne := binary.NativeEndian
	answer := func(attributes ...byte) []byte {
		b := make([]byte, unix.SizeofNlMsghdr+answerSize, 256)
		ne.PutUint16(b[4:], sockDiagByFamily)
		body := b[unix.SizeofNlMsghdr:]
		body[1] = 1 // established
		copy(body[answerID:], id[:])
		ne.PutUint32(body[answerUID:], 1001)
		ne.PutUint32(body[answerInode:], 5)
		b = append(b, attributes...)
		ne.PutUint32(b, uint32(len(b)))
		return b
	}
	attr := func(kind uint16, size int, value ...byte) []byte {
		b := make([]byte, 4, 16)
		ne.PutUint16(b, uint16(size))
		ne.PutUint16(b[2:], kind)
		b = append(b, value...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	number := ne.AppendUint64(nil, 4711)
	for name, tc := range map[string]struct {
		answer []byte
		want   uint64
	}{
		"with it":   {answer(append(attr(8, 5, 3), attr(attrCgroup, 12, number...)...)...), 4711},
		"without":   {answer(attr(8, 5, 3)...), 0},
		"too short": {answer(attr(attrCgroup, 8, 1, 2, 3, 4)...), 0},
		"too long":  {answer(attr(attrCgroup, 200, number...)...), 0},
		"of size 0": {answer(attr(8, 0)...), 0},
	} {
		o, err := owner(tc.answer, id)
		if err != nil || o.UID != 1001 || o.group != tc.want || (o.why == nil) != (tc.want != 0) {
			t.Errorf("%s: %+v, %v, want %d", name, o, err, tc.want)
		}
	}
}

// cgroup makes one of the hierarchy of version 2, where the kernel and the host let it.
func cgroup(t *testing.T, name string) (path string) {
	t.Helper()
	root, err := groupRoot()
	if err != nil || os.Getuid() != 0 {
		t.Skip("cgroups can't be made here:", err)
	}
	path = fmt.Sprintf("/weft-%d.slice/%s", os.Getpid(), name)
	if err := os.MkdirAll(filepath.Join(root, path), 0o755); err != nil {
		t.Skip("cgroups can't be made here:", err)
	}
	t.Cleanup(func() {
		for p := path; p != "/"; p = filepath.Dir(p) {
			_ = os.Remove(filepath.Join(root, p)) // it stays while another has one in it
		}
	})
	return path
}

// callIn has a process in a cgroup connect, say a line, and wait for the end of the connection.
func callIn(t *testing.T, group, how string) *exec.Cmd {
	t.Helper()
	root, err := groupRoot()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/bin/bash", "-c", "echo $$ > "+filepath.Join(root, group, "cgroup.procs")+" && "+how)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// In which unit and cgroup a process is, is told by the kernel: by loopback, and by a Unix socket.
func TestCgroupsOfCallers(t *testing.T) {
	web, worker, other := cgroup(t, "web.service"), cgroup(t, "web.service/worker"), cgroup(t, "other.service/web.service")
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	file, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for how, l := range map[string]net.Listener{
		"exec 3<>/dev/tcp/127.0.0.1/" + strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port) + "; echo hi >&3; cat <&3":                                        tcp,
		"exec python3 -c 'import socket; s=socket.socket(socket.AF_UNIX); s.connect(\"" + file.Addr().String() + "\"); s.send(b\"hi\\n\"); s.recv(1)'": file,
	} {
		if _, err := exec.LookPath("python3"); l == file && err != nil {
			continue
		}
		for group, in := range map[string]bool{web: true, worker: true, other: false, "/": false} {
			p := callIn(t, group, how)
			s := accept(t, l)
			o, err := OwnerOf(s, netip.AddrPort{})
			if errors.Is(o.why, errOldKernel) {
				t.Log(o.why)
				err = nil
				in = false
			}
			for _, may := range []Processes{{Units: []string{"web.service"}}, {Cgroups: []string{web}}, {UIDs: []uint32{0}, Units: []string{"web.service"}, Cgroups: []string{"/none"}}} {
				if has := may.Has(o); err != nil || (has == nil) != in {
					t.Errorf("a process in %s by %s, for %+v: %v, %v, want %v", group, l.Addr().Network(), may, err, has, in)
				}
			}
			if has := (&Processes{UIDs: []uint32{nobody}, Cgroups: []string{web}}).Has(o); has == nil {
				t.Errorf("a process in %s by %s: another user's", group, l.Addr().Network())
			}
			s.Close()
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
}
