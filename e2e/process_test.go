// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// binary is weft's, and envoy Envoy's; both absolute once TestMain ran.
func binary() string { return os.Getenv("WEFT_BINARY") }
func envoy() string  { return os.Getenv("WEFT_ENVOY") }

func TestMain(m *testing.M) {
	if os.Getenv("WEFT_E2E") == "1" {
		for _, name := range []string{"WEFT_BINARY", "WEFT_ENVOY"} {
			path := os.Getenv(name)
			if _, err := exec.LookPath(path); path == "" || err != nil {
				fmt.Fprintf(os.Stderr, "%s=%q: no program is there; run `make e2e`, which builds and installs what is needed\n", name, path)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

// enabled skips a test unless end-to-end tests were asked for.
func enabled(t *testing.T) {
	t.Helper()
	if os.Getenv("WEFT_E2E") != "1" {
		t.Skip("runs another program: set WEFT_E2E=1, or run `make e2e`")
	}
}

// until tries f again and again, and fails the test if it never succeeds within d. It returns how long that took.
func until(t *testing.T, d time.Duration, f func() error) time.Duration {
	t.Helper()
	took, err := tryUntil(d, f)
	if err != nil {
		t.Fatal(err)
	}
	return took
}

func tryUntil(d time.Duration, f func() error) (time.Duration, error) {
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		took := time.Since(begin)
		if err == nil {
			return took, nil
		}
		if took > d {
			return took, fmt.Errorf("not within %s: %w", d, err)
		}
		<-tick.C
	}
}

// process is a running program. Its output goes to a file.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended, after err is set
	err  error
}

// start runs a program in a process group of its own; the kernel kills it should the tests' process die.
func start(name, log string, command string, args ...string) (*process, error) {
	return startAs(0, name, log, command, args...)
}

// startAs is start as another user; 0 is the one that the test is.
func startAs(uid uint32, name, log string, command string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: log, cmd: exec.Command(command, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if uid != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	started := make(chan error, 1)
	go func() { // ends with the process
		defer close(p.done)
		defer f.Close()
		runtime.LockOSThread() // the death signal comes when the starting thread ends
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// stop asks the process to end, and kills it if it doesn't within d.
func (p *process) stop(d time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(d):
		p.kill()
		return fmt.Errorf("%s didn't end within %s of SIGTERM", p.name, d)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// tail is the end of a log.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// weft runs a command of weft's to its end.
func weft(env []string, stdin string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(binary(), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// Ports are from below the range that the kernel takes for outgoing connections, which would do until one of these has the same
// number. Test programs that run at the same time have a part of them each: a part belongs to who listens on its first port.
const firstPort, portsEnd, portParts = 10240, 28000, 4

var (
	portPart = sync.OnceValue(func() net.Listener {
		for i := range portParts {
			if l, err := net.Listen("tcp", loopback(firstPort+i*(portsEnd-firstPort)/portParts)); err == nil {
				return l // for as long as this program runs
			}
		}
		return nil
	})
	portsGiven atomic.Int32
)

// freePort is a port of loopback on which nobody listens now, and that no other test gets.
func freePort() (int, error) {
	part := portPart()
	if part == nil {
		return 0, errors.New("other test programs have all ports")
	}
	first := part.Addr().(*net.TCPAddr).Port
	for n := int(portsGiven.Add(1)); n < (portsEnd-firstPort)/portParts; n = int(portsGiven.Add(1)) {
		if l, err := net.Listen("tcp", loopback(first+n)); err == nil {
			return first + n, l.Close()
		}
	}
	return 0, errors.New("no port is free")
}

func mustPort(t *testing.T) int {
	t.Helper()
	p, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// processesOf are the IDs of the running processes whose command line has this text in it.
func processesOf(text string) (map[int]string, error) {
	found := map[int]string{}
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, path := range entries {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		line := string(bytes.ReplaceAll(data, []byte{0}, []byte{' '}))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && pid != os.Getpid() && strings.Contains(line, text) {
			found[pid] = line
		}
	}
	return found, nil
}
