// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/mux"
)

// The frames of weft-mux/1 (connect/proxy/mux).
const (
	muxOpen, muxData, muxWindow, muxClose, muxReset = 1, 2, 3, 5, 6
	muxStreams                                      = 448 // that a sidecar opens on one connection
	muxWindowBytes                                  = 64 << 10
)

// offenderFile is in WEFT_FLOOD_CERTIFICATE: the certificate and the key of the service whose sidecar means harm.
const offenderFile = "WEFT_FLOOD_CERTIFICATE"

// becomes has the floods of another sidecar come from one that has a certificate of the mesh, and may call.
func (p *pair) becomes(t *testing.T, service string) {
	t.Helper()
	p.intend("allow", service, "api")
	p.caller(service) // a certificate is for who is registered
	l, _ := p.leaf(service)
	file := filepath.Join(t.TempDir(), "offender.pem")
	if err := os.WriteFile(file, []byte(l.CertPEM+"\n"+l.PrivateKeyPEM), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(offenderFile, file)
}

// hostileTLS is how that sidecar speaks TLS.
func hostileTLS() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(os.Getenv(offenderFile), os.Getenv(offenderFile))
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{mux.ALPN}}, nil
}

// sidecar is one connection of the sidecar that means harm.
type sidecar struct {
	*tls.Conn
	out  []byte
	over chan struct{} // the proxy has ended it, or what reads has stopped
	ends int           // of streams that the proxy has ended; to be read once over is closed
	all  chan struct{} // so many have been: as many as were to be waited for
}

// hostile makes a connection. Where reads is set, what the proxy says is read, and all is closed once so many streams were ended by it.
func hostile(ctx context.Context, addr string, reads bool, ends int) (*sidecar, error) {
	conf, err := hostileTLS()
	if err != nil {
		return nil, err
	}
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: conf}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &sidecar{Conn: conn.(*tls.Conn), over: make(chan struct{}), all: make(chan struct{})}
	context.AfterFunc(ctx, func() { _ = s.NetConn().Close() })
	if !reads {
		return s, nil
	}
	go func() {
		defer close(s.over)
		r := bufio.NewReaderSize(s, 32<<10)
		for head := make([]byte, 8); ; {
			if _, err := io.ReadFull(r, head); err != nil {
				return
			}
			size := int(head[1])<<16 | int(head[2])<<8 | int(head[3])
			if _, err := r.Discard(size); err != nil {
				return
			}
			if head[0] == muxClose || head[0] == muxReset {
				if s.ends++; s.ends == ends {
					close(s.all)
				}
			}
		}
	}()
	return s, nil
}

// frame adds a frame to what is to be sent.
func (s *sidecar) frame(kind byte, id uint32, p string) {
	s.out = append(s.out, kind, byte(len(p)>>16), byte(len(p)>>8), byte(len(p)), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
	s.out = append(s.out, p...)
}

// send sends it.
func (s *sidecar) send() error {
	_, err := s.Write(s.out)
	s.out = s.out[:0]
	return err
}

// carriedFlood opens a connection and has step send n times, each with a stream's number; it was cut off if the proxy has ended it so long after that.
func carriedFlood(n int, wait time.Duration, step func(s *sidecar, id uint32) error) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, addr string) (bool, error) {
		s, err := hostile(ctx, addr, true, -1)
		if err != nil {
			return false, err
		}
		defer s.NetConn().Close()
		for i := range n {
			err := step(s, uint32(i+1))
			if err == nil && len(s.out) > 8<<10 {
				err = s.send()
			}
			if err != nil {
				return ctx.Err() == nil, nil
			}
		}
		if s.send() != nil {
			return ctx.Err() == nil, nil
		}
		select {
		case <-s.over:
			return ctx.Err() == nil, nil
		case <-time.After(wait):
			return false, nil
		}
	}
}

// heldStreams has a first text sent on so many streams of so many connections. It was cut off if all streams, or their connections, were
// ended by the proxy within a time.
func heldStreams(conns, streams int, first string, reads bool, within time.Duration) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, addr string) (bool, error) {
		var all []*sidecar
		defer func() {
			for _, s := range all {
				_ = s.NetConn().Close()
			}
		}()
		for range conns {
			s, err := hostile(ctx, addr, reads, streams)
			if err != nil {
				return false, err
			}
			all = append(all, s)
			_ = s.SetWriteDeadline(time.Now().Add(within))
			for id := range uint32(streams) {
				s.frame(muxOpen, id+1, "")
				for rest := first; rest != ""; {
					n := min(len(rest), 16<<10-8)
					s.frame(muxData, id+1, rest[:n])
					rest = rest[n:]
				}
				if err := s.send(); err != nil {
					break // the proxy may have ended it
				}
			}
		}
		end := time.NewTimer(within)
		defer end.Stop()
		for _, s := range all {
			if !reads { // what was sent to it is on its way, and then comes the end
				<-end.C
				_ = s.SetWriteDeadline(time.Now().Add(time.Second))
				for range 100 {
					if _, err := s.Write(make([]byte, 0)); err != nil {
						break
					}
					s.frame(muxWindow, 1, "\x00\x00\x00\x01")
					if err := s.send(); err != nil {
						return !errors.Is(err, os.ErrDeadlineExceeded), nil
					}
				}
				return false, nil
			}
			select {
			case <-s.over:
			case <-s.all:
			case <-end.C:
				return false, nil
			}
		}
		return true, nil
	}
}

// carriedFloods are those of another sidecar, on connections that carry others.
func carriedFloods() []flood {
	const get = "GET /page HTTP/1.1\r\nHost: api\r\n\r\n"
	half := func(n int) string { return "GET / HTTP/1.1\r\nHost: api\r\nX: " + strings.Repeat("a", n) }
	return []flood{
		{"carried: streams that are taken back", true, carriedPort, carriedFlood(50_000, 20*time.Second, func(s *sidecar, id uint32) error {
			s.frame(muxOpen, id, "")
			s.frame(muxData, id, get)
			s.frame(muxReset, id, "\x00")
			return nil
		})},
		{"carried: streams that end before they begin", true, carriedPort, carriedFlood(50_000, 20*time.Second, func(s *sidecar, id uint32) error {
			s.frame(muxOpen, id, "")
			s.frame(muxClose, id, "")
			return nil
		})},
		{"carried: more streams than are taken", true, carriedPort, carriedFlood(10_000, 20*time.Second, func(s *sidecar, id uint32) error {
			s.frame(muxOpen, id, "")
			return nil
		})},
		{"carried: more than the window", true, carriedPort, carriedFlood(200, 20*time.Second, func(s *sidecar, id uint32) error {
			if id == 1 {
				s.frame(muxOpen, id, "")
				s.frame(muxData, id, "GET /hang HTTP/1.1\r\nHost: api\r\n\r\n") // what is behind it isn't read before it is answered
			}
			s.frame(muxData, 1, strings.Repeat("a", 16<<10-8))
			return s.send()
		})},
		{"carried: windows of a byte", true, carriedPort, carriedFlood(100_000, 20*time.Second, func(s *sidecar, id uint32) error {
			if id == 1 {
				s.frame(muxOpen, id, "")
			}
			s.frame(muxWindow, 1, "\x00\x00\x00\x01")
			return nil
		})},
		{"carried: windows of a byte between data of a byte", true, carriedPort, carriedFlood(60_000, 20*time.Second, func(s *sidecar, id uint32) error {
			if id == 1 {
				s.frame(muxOpen, id, "")
				s.frame(muxData, id, "POST /echo HTTP/1.1\r\nHost: api\r\nContent-Length: 10000000\r\n\r\n")
			}
			s.frame(muxWindow, 1, "\x00\x00\x00\x01")
			s.frame(muxData, 1, "a")
			return nil
		})},
		{"carried: frames of a byte", false, carriedPort, carriedFlood(400_000, time.Second, func(s *sidecar, id uint32) error {
			stream := 1 + id/(muxWindowBytes-100)
			if id == 1 || id%(muxWindowBytes-100) == 0 {
				s.frame(muxOpen, stream, "")
				s.frame(muxData, stream, "POST /echo HTTP/1.1\r\nHost: api\r\nContent-Length: 10000000\r\n\r\n")
			}
			s.frame(muxData, stream, "a")
			return nil
		})},
		{"carried: records of a byte", false, carriedPort, carriedFlood(100, time.Second, func(s *sidecar, id uint32) error {
			s.frame(muxOpen, id, "")
			s.frame(muxData, id, get)
			defer func() { s.out = s.out[:0] }()
			for i := range s.out {
				if _, err := s.Write(s.out[i : i+1]); err != nil {
					return err
				}
			}
			return nil
		})},
		{"carried: answers that nobody reads", true, carriedPort, heldStreams(1, muxStreams, strings.Repeat(get, muxWindowBytes/len(get)), false, 25*time.Second)},
		{"carried: answers that nobody takes", false, carriedPort, heldStreams(1, muxStreams, strings.Repeat(get, muxWindowBytes/len(get)), true, 10*time.Second)},
		{"carried: heads that don't end", true, carriedPort, heldStreams(8, muxStreams, half(10), true, 25*time.Second)},
		{"carried: long heads that don't end", true, carriedPort, heldStreams(8, muxStreams, half(60<<10), true, 25*time.Second)},
	}
}
