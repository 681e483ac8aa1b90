// SPDX-License-Identifier: Apache-2.0

// Package host is the host proxy: one process that is the sidecar of all services of a host. An agent tells it over a Unix
// socket (weft.proxy.v1.HostProxy) which proxies to be; each runs by itself, with identity, pools and listeners of its own.
// The host proxy never needs the agent to go on: when it is gone, the members stay as they were told last.
//
// The package doesn't know what a proxy does: it is handed what makes one. Host.Run owns all goroutines: the server of
// the control socket, and one for each member.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// Protocol is the newest version of the exchange on the control socket that this package speaks, and Oldest the oldest.
const (
	Protocol = 1
	Oldest   = 1
)

// Member is one proxy that the host proxy is to be. Two equal ones mean the same.
type Member struct {
	ProxyID    string
	Service    string
	ADSAddress string // unix:/path or host:port
	Secret     string // proves to ADS who the proxy is
	Token      string
}

// LogValue leaves out what is secret.
func (m Member) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", m.ProxyID), slog.String("service", m.Service), slog.String("ads", m.ADSAddress))
}

// Runner is a proxy. Run serves until ctx ends and then drains in a time of its own; it returns when nothing of it is left.
// Ready says whether a configuration is in force; it may be called at any time by any goroutine.
type Runner interface {
	Run(ctx context.Context) error
	Ready() bool
}

// Config is what a Host is made of.
type Config struct {
	Socket  string // the control socket's path; it is made with mode 0600
	Version string // of the binary
	Door    *listen.Door
	// New makes a member's proxy. It opens nothing. It may be called for a member while an earlier one of the same ID still
	// drains, never while one of that ID serves.
	New func(Member) (Runner, error)
	// Predecessor is what HandOver gave in the process before this one: the members to begin with. Nil for none.
	Predecessor []byte
	// Retire is closed when a successor has taken over: Run then closes the control socket, starts nothing any more, and returns
	// when the members, which are to look at the same channel, have ended.
	Retire <-chan struct{}
	Log    *slog.Logger
}

func (c Config) validate() error {
	switch {
	case c.Socket == "":
		return errors.New("host proxy: the control socket's path is missing")
	case c.Door == nil || c.New == nil || c.Log == nil:
		return errors.New("host proxy: Door, New and Log must be set")
	}
	return nil
}

// Host runs the members. Make it with New, and Run it once.
type Host struct {
	c Config

	mu         sync.Mutex // guards what follows
	members    map[string]*member
	generation uint64
	group      *run.Group // of the members; nil unless Run runs
	begun      bool       // with the predecessor's members, if there was one
	frozen     bool       // a successor is coming up with the members of now
}

// New makes a host proxy without members. It opens nothing.
func New(c Config) (*Host, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Host{c: c, members: map[string]*member{}}, nil
}

// Run serves the control socket and the members until ctx ends or it is retired, then drains all members at the same time and returns when
// they have ended. A member that fails is started again and never ends the others.
func (h *Host) Run(ctx context.Context) error {
	l, err := h.c.Door.Stream(ctx, listen.Spec{Name: "hostproxy", Network: "unix", Address: h.c.Socket, Mode: 0o600})
	if err != nil {
		return fmt.Errorf("host proxy: %w", err)
	}
	members := run.New(ctx)
	ended := make(chan struct{})
	members.Go("stay", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-ended:
		}
		return nil
	})
	h.mu.Lock()
	h.group = members
	h.mu.Unlock()
	if err = h.succeed(); err == nil {
		serving := run.New(ctx)
		serving.Go("control socket", func(ctx context.Context) error { return h.serve(ctx, l) })
		err = serving.Wait() // only ctx ends it, or a successor, or a socket that broke
	}
	h.mu.Lock()
	h.group = nil // no member begins any more
	h.mu.Unlock()
	close(ended)
	if err == nil && h.retired() {
		return members.Wait()
	}
	return errors.Join(err, members.Stop())
}

func (h *Host) retired() bool {
	select {
	case <-h.c.Retire:
		return true
	default:
		return false
	}
}

// succeed begins with the predecessor's members.
func (h *Host) succeed() error {
	defer func() {
		h.mu.Lock()
		h.begun = true
		h.mu.Unlock()
	}()
	if h.c.Predecessor == nil {
		return nil
	}
	var c proxyv1.HostConfig
	if err := proto.Unmarshal(h.c.Predecessor, &c); err != nil {
		return fmt.Errorf("what the predecessor hands over: %w", err)
	}
	members, err := membersOf(&c)
	if err == nil {
		_, err = h.configure(c.GetGeneration(), members)
	}
	return err
}

// HandOver gives the members as a successor takes them, secrets included. From then on callers that want others are told to
// come again, until Resume: they find the successor then.
func (h *Host) HandOver() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = true
	c := &proxyv1.HostConfig{Generation: h.generation}
	for _, s := range h.statusLocked() {
		c.Members = append(c.Members, &proxyv1.HostMember{
			ProxyId: s.ProxyID, Service: s.Service, AdsAddress: s.ADSAddress, Secret: s.Secret, Token: s.Token,
		})
	}
	return proto.Marshal(c)
}

// Resume goes on as before HandOver: there is no successor.
func (h *Host) Resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = false
}

// Ready says whether every member has a configuration in force.
func (h *Host) Ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.statusLocked() {
		if !s.Ready {
			return false
		}
	}
	return h.begun
}

// drainCalls is how long a call on the control socket may go on when the host proxy ends.
const drainCalls = time.Second

func (h *Host) serve(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(grpc.Creds(listen.GRPCCredentials()), grpc.MaxRecvMsgSize(16<<20))
	proxyv1.RegisterHostProxyServer(s, &control{h: h})
	g := run.New(ctx)
	g.Go("stop", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
		case <-h.c.Retire:
		}
		hard := time.AfterFunc(drainCalls, s.Stop)
		defer hard.Stop()
		s.GracefulStop()
		return nil
	})
	g.Go("serve", func(ctx context.Context) error {
		if err := s.Serve(l); ctx.Err() == nil && !h.retired() && err != nil {
			return err
		}
		return nil
	})
	return g.Wait()
}

// Status is how a member is.
type Status struct {
	Member
	Ready   bool
	Runner  Runner // nil while it can't be made
	Err     error  // of the last start, nil once it serves
	Started time.Time
}

// Members gives how each member is, sorted by ID, and the generation of the configuration that said so.
func (h *Host) Members() ([]Status, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.statusLocked(), h.generation
}
