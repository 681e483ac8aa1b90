// SPDX-License-Identifier: Apache-2.0

package hostproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// proxy is a host proxy on a socket.
type proxy struct {
	proxyv1.UnimplementedHostProxyServer
	protocol uint32
	told     chan *proxyv1.HostConfig
	trouble  string
	stop     func()
}

func (p *proxy) Hello(_ context.Context, h *proxyv1.HostHello) (*proxyv1.HostHello, error) {
	return &proxyv1.HostHello{Protocol: min(p.protocol, h.GetProtocol()), Version: "9"}, nil
}

func (p *proxy) Configure(ctx context.Context, c *proxyv1.HostConfig) (*proxyv1.HostStatus, error) {
	select {
	case p.told <- c:
	case <-ctx.Done():
	}
	status := &proxyv1.HostStatus{Generation: c.GetGeneration()}
	for _, m := range c.GetMembers() {
		status.Members = append(status.Members, &proxyv1.MemberStatus{ProxyId: m.GetProxyId(), Error: p.trouble})
	}
	return status, nil
}

func serve(t *testing.T, socket string, protocol uint32) *proxy {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{protocol: protocol, told: make(chan *proxyv1.HostConfig)}
	g := grpc.NewServer()
	proxyv1.RegisterHostProxyServer(g, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	var once sync.Once
	p.stop = func() { once.Do(func() { g.Stop(); <-done }) }
	t.Cleanup(p.stop)
	return p
}

// logged is a log that a test reads while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
	hit chan struct{}
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.hit <- struct{}{}:
	default:
	}
	return l.buf.Write(b)
}

func (l *logged) until(t *testing.T, text string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		found := strings.Contains(l.buf.String(), text)
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-l.hit:
		case <-limit:
			t.Fatalf("the log never says %q: %s", text, &l.buf)
		}
	}
}

type rig struct {
	state *local.State
	start chan struct{} // each call of Start
	log   *logged
}

func keep(t *testing.T, socket string, start func(context.Context) error) *rig {
	t.Helper()
	state, err := local.New(local.Config{Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "n1"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{state: state, log: &logged{hit: make(chan struct{}, 1)}}
	k, err := New(Config{
		Socket: socket, ADSAddress: "unix:/x", Version: "1", State: state, Secret: func(id string) string { return "secret of " + id },
		Start: start, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) register(t *testing.T, name string) {
	t.Helper()
	if _, err := r.state.Register(local.ServiceDefinition{
		Name: name, Port: 80, Token: "token of " + name, Connect: &local.ConnectDefinition{SidecarService: &local.ServiceDefinition{}},
	}, "", false); err != nil {
		t.Fatal(err)
	}
}

// told waits until the host proxy is told to be these, and no others.
func (p *proxy) want(t *testing.T, ids ...string) *proxyv1.HostConfig {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case c := <-p.told:
			got := map[string]bool{}
			for _, m := range c.GetMembers() {
				got[m.GetProxyId()] = true
			}
			all := len(got) == len(ids)
			for _, id := range ids {
				all = all && got[id]
			}
			if all {
				return c
			}
		case <-limit:
			t.Fatalf("it is never told to be %v", ids)
		}
	}
}

func never(context.Context) error { return errors.New("it must not be started: one answers") }

// A host proxy that runs already is told what to be, at once and at each change, and none is started.
func TestTells(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	p := serve(t, socket, Protocol)
	p.trouble = "no port"
	r := keep(t, socket, never)
	p.want(t)
	r.register(t, "web")
	c := p.want(t, "web-sidecar-proxy")
	m := c.GetMembers()[0]
	if m.GetService() != "web" || m.GetAdsAddress() != "unix:/x" || m.GetSecret() != "secret of web-sidecar-proxy" || m.GetToken() != "token of web" {
		t.Errorf("%v", m)
	}
	r.register(t, "api")
	p.want(t, "web-sidecar-proxy", "api-sidecar-proxy")
	if err := r.state.Deregister("web"); err != nil {
		t.Fatal(err)
	}
	p.want(t, "api-sidecar-proxy")
	r.log.until(t, "has trouble")
}

// Where none answers one is started; and again when it has gone.
func TestStarts(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	running := make(chan *proxy)
	r := keep(t, socket, func(context.Context) error {
		running <- serve(t, socket, Protocol)
		return nil
	})
	r.register(t, "web")
	for range 2 {
		p := <-running
		p.want(t, "web-sidecar-proxy")
		p.stop()
		r.register(t, "web") // a change finds it gone
	}
	(<-running).want(t, "web-sidecar-proxy")
}

// One that can't be started, and one that can't be understood, are said, and tried again.
func TestTroubles(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	r := keep(t, socket, func(context.Context) error { return fmt.Errorf("no such program") })
	r.log.until(t, "no such program")

	socket = filepath.Join(t.TempDir(), "s")
	serve(t, socket, 0)
	r = keep(t, socket, never)
	r.log.until(t, "no version of the control protocol that this agent knows (it is weft 9)")
	if _, err := New(Config{}); err == nil {
		t.Error("no socket, and it is taken")
	}
}
