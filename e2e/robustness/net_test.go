// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespace is a network and mount namespace without a name: it is gone, with what is mounted in it, with the thread that made it and
// the processes in it, however this test ends.
type namespace struct{ work chan func() }

func newNamespace() (*namespace, error) {
	n := &namespace{make(chan func())}
	made := make(chan error, 1)
	go func() { // ends with close; the thread is never given back, so it ends too
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") // what is mounted here is seen nowhere else
		}
		if err != nil {
			made <- fmt.Errorf("make a namespace (as root?): %w", err)
			return
		}
		made <- nil
		for f := range n.work {
			f()
		}
	}()
	return n, <-made
}

// do runs f in the namespace. What f starts is in it too.
func (n *namespace) do(f func() error) error {
	done := make(chan error, 1)
	n.work <- func() { done <- f() }
	return <-done
}

func (n *namespace) close() { close(n.work) }

const mtu = 9000

// link is how packets go from one port to another. The zero value is a good link.
type link struct {
	cut           bool
	delay, jitter time.Duration // jitter beyond the gap between packets changes their order
	loss, twice   float64       // of packets, 0 to 1
	rate          int           // bytes a second; 0: no bound
}

// network carries packets between TUN devices, one in each namespace: it is switch, wire and fault in one. Ports count from 1, and
// port n is 10.77.0.n.
type network struct {
	ports []*port
	mu    sync.Mutex
	rand  *rand.Rand
	wait  sync.WaitGroup
}

type port struct {
	ns    *namespace
	tun   *os.File
	links []atomic.Pointer[link]  // to each port
	free  []atomic.Pointer[timed] // when a slow link has sent all that it was given
}

type timed struct{ at time.Time }

func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}) }

func newNetwork(ports int, seed uint64) (*network, error) {
	w := &network{rand: rand.New(rand.NewPCG(seed, 1))}
	for n := 1; n <= ports; n++ {
		ns, err := newNamespace()
		if err != nil {
			return nil, errors.Join(err, w.close())
		}
		p := &port{ns: ns, links: make([]atomic.Pointer[link], ports+1), free: make([]atomic.Pointer[timed], ports+1)}
		w.ports = append(w.ports, p)
		if err := ns.do(func() (err error) { p.tun, err = openTun(address(n)); return err }); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	for n := range w.ports {
		w.wait.Go(func() { w.carry(n + 1) })
	}
	return w, nil
}

// openTun makes a device in the namespace of the calling thread.
func openTun(at netip.Addr) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], "wire0")
	req.flags = unix.IFF_TUN | unix.IFF_NO_PI
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); e != 0 {
		return nil, errors.Join(fmt.Errorf("TUNSETIFF: %w", e), unix.Close(fd))
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"addr", "add", at.String() + "/24", "dev", "wire0"}, {"link", "set", "wire0", "mtu", fmt.Sprint(mtu), "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("ip %v: %w: %s", args, err, out), unix.Close(fd))
		}
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// carry takes what port n sends until the network is closed.
func (w *network) carry(n int) {
	p := w.ports[n-1]
	buf := make([]byte, mtu+64)
	for {
		size, err := p.tun.Read(buf)
		if err != nil {
			return // closed
		}
		packet := buf[:size]
		if size < 20 || packet[0]>>4 != 4 || [3]byte(packet[16:19]) != [3]byte{10, 77, 0} {
			continue
		}
		if to := int(packet[19]); to >= 1 && to <= len(w.ports) && to != n {
			w.send(n, to, packet)
		}
	}
}

const linkQueue = 256 << 10 // bytes that wait for a slow link; more are dropped

func (w *network) send(from, to int, packet []byte) {
	l := w.ports[from-1].links[to].Load()
	out := w.ports[to-1].tun
	if l == nil {
		_, _ = out.Write(packet) // a packet may always be lost
		return
	}
	copies, delay := w.chance(l)
	if copies == 0 {
		return
	}
	if l.rate > 0 {
		free := &w.ports[from-1].free[to]
		now := time.Now()
		at := now
		if f := free.Load(); f != nil && f.at.After(now) {
			at = f.at
		}
		if at.Sub(now) > time.Duration(linkQueue)*time.Second/time.Duration(l.rate) {
			return
		}
		at = at.Add(time.Duration(len(packet)) * time.Second / time.Duration(l.rate))
		free.Store(&timed{at})
		delay += at.Sub(now)
	}
	own := append([]byte(nil), packet...)
	for range copies {
		if delay <= 0 {
			_, _ = out.Write(own)
			continue
		}
		time.AfterFunc(delay, func() { _, _ = out.Write(own) })
	}
}

// chance decides what becomes of a packet.
func (w *network) chance(l *link) (copies int, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.cut || w.rand.Float64() < l.loss {
		return 0, 0
	}
	copies, delay = 1, l.delay
	if l.jitter > 0 {
		delay += time.Duration(w.rand.Int64N(int64(l.jitter)))
	}
	if w.rand.Float64() < l.twice {
		copies = 2
	}
	return copies, delay
}

// set makes the link from one port to another so.
func (w *network) set(from, to int, l link) {
	if l == (link{}) {
		w.ports[from-1].links[to].Store(nil)
		return
	}
	w.ports[from-1].links[to].Store(&l)
}

// around makes every link to and from a port so.
func (w *network) around(n int, in, out link) {
	for o := range w.ports {
		if o+1 != n {
			w.set(n, o+1, out)
			w.set(o+1, n, in)
		}
	}
}

// heal makes all links good.
func (w *network) heal() {
	for from := range w.ports {
		for to := range w.ports {
			w.set(from+1, to+1, link{})
		}
	}
}

func (w *network) close() error {
	var errs []error
	for _, p := range w.ports {
		if p.tun != nil {
			errs = append(errs, p.tun.Close())
		}
	}
	w.wait.Wait()
	for _, p := range w.ports {
		p.ns.close()
	}
	return errors.Join(errs...)
}
