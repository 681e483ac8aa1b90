// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUpgrade replaces weft's proxies in place, twice, under load and with long streams open: nothing is lost, no stream is cut,
// a policy that changes holds for the streams that the old processes still carry, and these end with their last stream. It is
// no row of the table: Envoy is replaced by Envoy's own means.
func TestUpgrade(t *testing.T) {
	enabled(t)
	for _, kind := range []Kind{Builtin, Host} {
		t.Run(string(kind), func(t *testing.T) { upgrade(t, mustWorld(t, kind, "deny")) })
	}
}

func upgrade(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	p.protocol("db", "tcp")
	p.intend("allow", "worker", "db")
	db := p.instance("db", "db", tcpBackend(t).Port)
	worker := p.instance("worker", "worker", mustPort(t), "db")
	until(t, 15*time.Second, func() error { return call("tcp", worker.Up["db"]) })
	logs := map[string]string{} // of each process, by what its command line has in it
	if w.Kind == Host {
		logs["-shared -socket "+w.dir] = filepath.Join(w.dir, "data", "run", "proxy.log")
	} else {
		for _, i := range []*Instance{p.api, p.web, db, worker} {
			logs["-sidecar-for "+i.ID+" "] = i.sidecar.log
		}
	}
	t.Cleanup(func() {
		for which := range logs {
			all, _ := processesOf(which)
			for pid := range all {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
	})
	// `make upgrade` asks for more.
	rate, count := number("WEFT_UPGRADE_RATE", 300), number("WEFT_UPGRADE_STREAMS", 21)
	var streams []net.Conn
	for len(streams) < count {
		streams = append(streams, openWebsocket(t, p.addr), mustDial(t, worker.Up["db"]), openStream(t, p.addr))
	}
	began := time.Now()
	l := load(t, "http://"+p.addr+"/echo", rate)
	l.more(50)
	first := map[int]string{}
	for round := range 2 {
		for which, log := range logs {
			old := newest(t, which)
			if round == 0 {
				first[old] = which
			}
			if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			until(t, 20*time.Second, func() error {
				if n := strings.Count(tail(log, 1000), "took over from the predecessor"); n != round+1 {
					return fmt.Errorf("%s: %d successors, want %d\n%s", which, n, round+1, tail(log, 10))
				}
				return nil
			})
			l.more(50)
		}
		for i, s := range streams {
			if err := ping(s); err != nil {
				t.Errorf("round %d: stream %d: %v", round, i, err)
			}
		}
	}
	for _, i := range []*Instance{p.api, p.web} {
		until(t, 15*time.Second, func() error {
			st, err := p.status(i)
			if err == nil && (!st.Connected || st.AckedHash != st.RenderedHash) {
				err = fmt.Errorf("%+v", st)
			}
			return err
		})
	}
	if err := l.agree(nil, p.backend); err != nil {
		t.Error(err)
	}
	t.Logf("%d requests at %d/s and %d streams (websocket, TCP, HTTP/2) over two upgrades of each of %d processes", l.seq.Load(), int(float64(l.seq.Load())/time.Since(began).Seconds()), len(streams), len(logs))
	p.intend("deny", "worker", "db")
	for i := 1; i < len(streams); i += 3 {
		until(t, effect+slack, func() error {
			if ping(streams[i]) == nil {
				return fmt.Errorf("stream %d goes on though it is denied", i)
			}
			return nil
		})
	}
	for _, s := range streams {
		_ = s.Close()
	}
	until(t, 20*time.Second, func() error {
		for pid, which := range first {
			if all, err := processesOf(which); err != nil || all[pid] != "" && !zombie(pid) {
				return fmt.Errorf("process %d (%s) hasn't ended: %v", pid, which, err)
			}
		}
		return nil
	})
}

// TestStopUnderLoad stops the sidecars of two instances in turns, and starts them again, under a load of requests that can't be sent twice: none is lost.
func TestStopUnderLoad(t *testing.T) {
	enabled(t)
	p := newPair(t, mustWorld(t, Builtin, "deny"), "http")
	other := p.instance("api", "api-2", p.api.Port)
	both := []*Instance{p.api, other}
	l := load(t, "http://"+p.addr+"/echo", number("WEFT_UPGRADE_RATE", 300))
	for range 3 {
		for _, i := range both {
			until(t, 20*time.Second, func() error { // the caller knows both: else nobody is there to be called
				var passing []any
				err := p.w.do(http.MethodGet, "/v1/health/connect/"+p.api.Name+"?passing", nil, &passing)
				if err == nil && len(passing) < len(both) {
					err = fmt.Errorf("%d instances are well", len(passing))
				}
				if st, failed := p.status(p.web); err == nil && (failed != nil || st.AckedHash != st.RenderedHash) {
					err = fmt.Errorf("%+v, %w", st, failed)
				}
				return err
			})
			l.more(300)
			if err := i.sidecar.stop(20 * time.Second); err != nil {
				t.Fatal(err)
			}
			l.more(50)
			i.sidecar = p.runSidecar(Builtin, i)
			until(t, 20*time.Second, func() error {
				conn, err := dialTCP(loopback(i.Public))
				if err == nil {
					err = conn.Close()
				}
				return err
			})
		}
	}
	if err := l.agree(nil, p.backend); err != nil {
		t.Error(err)
	}
}

// newest is the process that was started last of those with this text in their command line.
func newest(t *testing.T, which string) int {
	t.Helper()
	all, err := processesOf(which)
	if err != nil || len(all) == 0 {
		t.Fatalf("no process %q: %v", which, err)
	}
	last := 0
	for pid := range all {
		last = max(last, pid)
	}
	return last
}

func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(data), ") Z ")
}

func mustDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := dialTCP(addr)
	if err == nil {
		err = ping(conn)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// openWebsocket gives a connection on which bytes are echoed.
func openWebsocket(t *testing.T, addr string) net.Conn {
	t.Helper()
	return opened(t, upgraded, addr)
}

func opened(t *testing.T, open func(addr string) (net.Conn, error), addr string) net.Conn {
	t.Helper()
	conn, err := open(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

// upgraded is a connection that has become a websocket.
func upgraded(addr string) (net.Conn, error) {
	conn, err := dialTCP(addr)
	if err != nil {
		return nil, err
	}
	return upgradedOn(conn)
}

func upgradedOn(conn net.Conn) (net.Conn, error) {
	if _, err := io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	var head []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, one...) {
		if _, err := io.ReadFull(conn, one); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	if !strings.HasPrefix(string(head), fmt.Sprintf("HTTP/1.1 %d", http.StatusSwitchingProtocols)) {
		return nil, errors.Join(fmt.Errorf("%q", head), conn.Close())
	}
	return conn, nil
}

// number is a whole number from the environment.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// openStream gives a stream of HTTP/2, on a connection of its own, on which bytes are echoed.
func openStream(t *testing.T, addr string) net.Conn {
	t.Helper()
	return opened(t, streamed, addr)
}

// streamed is a request of HTTP/2, on a connection of its own, whose body comes back.
func streamed(addr string) (net.Conn, error) {
	in, out := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/stream", in)
	if err != nil {
		return nil, err
	}
	tr := h2c().Transport
	resp, err := tr.RoundTrip(req) // without the time limit of clients
	if err != nil {
		return nil, err
	}
	return &streamConn{ReadCloser: resp.Body, PipeWriter: out, end: tr.(*http.Transport).CloseIdleConnections}, nil
}

// streamConn is a request's body and its response's as a connection.
type streamConn struct {
	net.Conn
	io.ReadCloser
	*io.PipeWriter
	end func()
}

func (s *streamConn) Read(p []byte) (int, error)  { return s.ReadCloser.Read(p) }
func (s *streamConn) Write(p []byte) (int, error) { return s.PipeWriter.Write(p) }
func (s *streamConn) SetDeadline(time.Time) error { return nil }
func (s *streamConn) Close() error {
	err := errors.Join(s.PipeWriter.Close(), s.ReadCloser.Close())
	s.end()
	return err
}
