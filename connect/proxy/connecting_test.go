// SPDX-License-Identifier: Apache-2.0

//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/internal/listen"
)

// kept is what was logged.
type kept struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.Write(p)
}

func (k *kept) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.String()
}

// A tunnel whose client is denied while it is still connecting is no failure of the service, and isn't told of as one. One whose service doesn't come to
// speak in time is.
func TestATunnelThatIsDeniedWhileItConnects(t *testing.T) {
	for name, denied := range map[string]bool{"denied": true, "no answer": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(l *config.Listener) { l.Direction, l.TCP = config.Outbound, &config.TCP{Cluster: "api"} })
			var logged kept
			b.p.c.Log = slog.New(slog.NewTextHandler(&logged, nil))
			asked := make(chan struct{}, 3)
			b.upstream("api", func(c net.Conn) {
				if n, _ := c.Read(make([]byte, 1)); n == 1 {
					asked <- struct{}{} // the handshake has begun, and gets no answer
				}
				_, _ = io.Copy(io.Discard, c)
			})
			api := *b.s.Clusters["api"]
			api.TLS = &config.ClientTLS{Config: &tls.Config{InsecureSkipVerify: true}}
			if api.ConnectTimeout = 100 * time.Millisecond; denied {
				api.ConnectTimeout = time.Minute
			}
			set := func(l config.Listener) {
				b.s = &config.Snapshot{Listeners: map[string]*config.Listener{"l": &l}, Clusters: map[string]*config.Cluster{"api": &api}, Routes: b.s.Routes}
				b.p.apply(b.s)
			}
			set(*b.s.Listeners["l"])
			client := b.dial()
			<-asked
			if denied {
				l := *b.s.Listeners["l"]
				l.Local = &listen.Processes{UIDs: []uint32{uint32(os.Getuid()) + 1}}
				set(l)
			}
			if n, err := client.Read(make([]byte, 1)); err == nil {
				t.Errorf("it was served: %d", n)
			}
			if err := b.g.Stop(); err != nil { // who serves it has ended
				t.Error(err)
			}
			if told := strings.Contains(logged.String(), "no upstream connection"); told == denied {
				t.Errorf("logged: %q", logged.String())
			}
		})
	}
}
