// SPDX-License-Identifier: Apache-2.0

// Package feed streams to each agent the part of the catalog that its proxies' configuration is made of, and keeps what agents
// report of their proxies. What a proxy needs is found by running the code that configures it, on a transaction that
// records what it reads; nothing here knows what that is. A stream's goroutines end with it.
//
// A stream holds no queue: it knows up to where the agent is told, and makes the next piece when the last one was taken. So a
// slow agent costs one piece, whatever happens meanwhile; it goes on from the catalog's retained changes, or, where these
// no longer reach back, has its topics whole. That is what costs, so it is paced over all streams, and the second time within
// some minutes that an agent needs it, it waits.
package feed

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Config is what a Server is made of.
type Config struct {
	Store    *catalog.Store
	Resolver api.Resolver
	// Closure reads, on a recording transaction, all that configuring a proxy reads.
	Closure func(*catalog.Txn, *catalog.Service) error
	// Now is the clock; nil is the system's.
	Now func() time.Time
	Log *slog.Logger

	// MaxInterests bounds what one stream may ask for, 0 is 16384; MaxTopics how many topics one token may follow on one
	// stream, 0 is 32768. What is beyond is refused, the rest is served.
	MaxInterests, MaxTopics int
	// Lease is how long interests hold that aren't stated again, 0 is 10 minutes; agents state them every third of it.
	Lease time.Duration
	// Stall is how long a subscriber may take for one piece before its stream is ended, 0 is 30 s.
	Stall time.Duration
	// PieceBytes is about how much is sent at once, 0 is 256 KiB; a topic that is larger is sent whole all the same.
	PieceBytes int
	// Snapshots is how many streams may be sent whole topics at the same time, 0 is 32.
	Snapshots int
	// ReportTTL is how long an agent's word on its proxies holds, 0 is two minutes.
	ReportTTL time.Duration
}

func (c Config) withDefaults() Config {
	def := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	defTime := func(v *time.Duration, to time.Duration) {
		if *v == 0 {
			*v = to
		}
	}
	def(&c.MaxInterests, 16384)
	def(&c.MaxTopics, 32768)
	def(&c.PieceBytes, 256<<10)
	def(&c.Snapshots, 32)
	defTime(&c.Lease, 10*time.Minute)
	defTime(&c.Stall, 30*time.Second)
	defTime(&c.ReportTTL, 2*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Server serves feeds.
type Server struct {
	weftv1.UnimplementedFeedServer
	c       Config
	pace    pace
	strikes strikes
	streams streams

	mu       sync.Mutex         // guards what follows
	reports  map[string]*Report // by partition and node
	reported chan struct{}      // closed when there is a newer report
}

// New makes a server. It starts nothing.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Resolver == nil {
		return nil, errors.New("feed: Store and Resolver must be set")
	}
	c = c.withDefaults()
	return &Server{
		c: c, pace: newPace(c.Snapshots), strikes: strikes{now: c.Now, by: map[string]strike{}},
		reports: map[string]*Report{}, reported: make(chan struct{}),
	}, nil
}

func (s *Server) allow(ctx context.Context, token string, p api.Permission, namespace, name string) error {
	subject, err := s.c.Resolver.Resolve(ctx, token)
	if err != nil {
		return err
	}
	return subject.In(namespace).Allow(p, name)
}

// Subscribe serves one agent's stream until it ends. It returns while a Send may still be blocked on an agent that takes
// nothing; gRPC ends that with the stream.
func (s *Server) Subscribe(stream weftv1.Feed_SubscribeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx := stream.Context()
	if err := api.AuthorizeRPC(ctx, s.c.Resolver, nodeRead, first.GetNode()); err != nil {
		return api.GRPC(err)
	}
	defer s.streams.enter(first.GetNode())()
	u := newSubscription(s, stream, first)
	defer u.close()
	if err := u.serve(ctx); err != nil {
		if ctx.Err() == nil {
			s.c.Log.Debug("feed ended", "node", u.node, "error", err)
		}
		return api.GRPC(err)
	}
	return nil
}

var (
	nodeRead     = api.Permission{Resource: "node", Access: api.Read}
	nodeWrite    = api.Permission{Resource: "node", Access: api.Write}
	serviceRead  = api.Permission{Resource: "service", Access: api.Read}
	serviceWrite = api.Permission{Resource: "service", Access: api.Write}
)

// receive hands requests over, only the newest of those not yet looked at. It ends with the stream.
func receive(stream weftv1.Feed_SubscribeServer, requests chan *weftv1.SubscribeRequest, ended chan<- error) {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Canceled, "the agent ended the stream")
		}
		if err != nil {
			ended <- err
			return
		}
		select {
		case <-requests:
		default:
		}
		requests <- req // there is room: only this goroutine puts in
	}
}

// sameInterests says whether a request only states again what another one did.
func sameInterests(a, b *weftv1.SubscribeRequest) bool {
	if len(a.GetInterests()) != len(b.GetInterests()) {
		return false
	}
	for i, x := range a.GetInterests() {
		if !proto.Equal(x, b.GetInterests()[i]) {
			return false
		}
	}
	return true
}
