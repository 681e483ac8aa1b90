// SPDX-License-Identifier: Apache-2.0

// Package feed streams to each agent the part of the catalog that its proxies' configuration is made of, and keeps what agents
// report of their proxies. What a proxy needs is found by running the code that configures it, on a transaction that
// records what it reads; nothing here knows what that is. A stream's goroutines end with it.
package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/wire"
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
	// MaxInterests bounds what one stream may ask for; 0 means 4096.
	MaxInterests int
}

// Server serves feeds.
type Server struct {
	weftv1.UnimplementedFeedServer
	c Config

	mu      sync.Mutex
	reports map[string]Report // by node
}

// Report is what an agent said last of its proxies.
type Report struct {
	Node     string
	Position catalog.Position
	At       time.Time
	Proxies  []*weftv1.ProxyReport
}

// New makes a server. It starts nothing.
func New(c Config) (*Server, error) {
	if c.MaxInterests == 0 {
		c.MaxInterests = 4096
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Server{c: c, reports: map[string]Report{}}, nil
}

// Report takes an agent's word on its proxies. It isn't replicated.
func (s *Server) Report(ctx context.Context, req *weftv1.ReportRequest) (*weftv1.ReportResponse, error) {
	if err := s.allow(ctx, "", api.Permission{Resource: "node", Access: api.Write}, req.GetNode()); err != nil {
		return nil, api.GRPC(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[req.GetNode()] = Report{
		Node: req.GetNode(), Position: wire.PositionFrom(req.GetPosition()), At: s.c.Now(), Proxies: req.GetProxies(),
	}
	return &weftv1.ReportResponse{}, nil
}

// Reports lists what agents said last, by node.
func (s *Server) Reports() []Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Values(s.reports))
	slices.SortFunc(all, func(a, b Report) int { return strings.Compare(a.Node, b.Node) })
	return all
}

func (s *Server) allow(ctx context.Context, token string, p api.Permission, name string) error {
	subject, err := s.c.Resolver.Resolve(ctx, token)
	if err != nil {
		return err
	}
	return subject.Allow(p, name)
}

// Subscribe serves one agent's stream until it ends.
func (s *Server) Subscribe(stream weftv1.Feed_SubscribeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	g := run.New(stream.Context())
	requests := make(chan *weftv1.SubscribeRequest, 1)
	g.Go("requests", func(ctx context.Context) error {
		for {
			req, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return status.Error(codes.Canceled, "the agent ended the stream")
			}
			if err != nil {
				return err
			}
			select {
			case <-requests: // only the newest counts
			default:
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return nil
			}
		}
	})
	g.Go("changes", func(ctx context.Context) error {
		sub := &subscription{s: s, stream: stream, node: first.GetNode(), sent: map[catalog.Topic]bool{}}
		sub.resume(first)
		return sub.follow(ctx, first, requests)
	})
	return g.Wait()
}

// subscription is one stream: what was sent, and up to where.
type subscription struct {
	s      *Server
	stream weftv1.Feed_SubscribeServer
	node   string

	position catalog.Position
	sent     map[catalog.Topic]bool // covered at the other end
	wanted   map[catalog.Topic]bool
	refused  []*weftv1.InterestError
}

// resume takes over what the agent holds, if it is of this catalog's epoch.
func (u *subscription) resume(first *weftv1.SubscribeRequest) {
	position := wire.PositionFrom(first.GetPosition())
	if position.Epoch != u.s.c.Store.Position().Epoch {
		return
	}
	u.position = position
	for _, t := range wire.TopicsFrom(first.GetHeld()) {
		u.sent[t] = true
	}
}

func (u *subscription) follow(ctx context.Context, req *weftv1.SubscribeRequest, requests <-chan *weftv1.SubscribeRequest) error {
	asked := true // the first message, and the answer to a new request, is sent even if there is nothing in it
	for {
		resp, err := u.next(ctx, req, asked)
		if err != nil {
			return err
		}
		if asked || len(resp.Items)+len(resp.Covered)+len(resp.Dropped) > 0 {
			for _, part := range split(resp, maxMessage) {
				if err := u.stream.Send(part); err != nil {
					return err
				}
			}
		}
		asked = false
		newest, ended := u.wait(ctx, requests)
		switch {
		case ended:
			return nil
		case newest != nil:
			req, asked = newest, true
		}
	}
}

// next is what the agent has to be told to get from what it has to what the catalog holds now. The topics are worked out
// anew where the request is new, or a config entry among them has changed: nothing else decides on them.
func (u *subscription) next(ctx context.Context, req *weftv1.SubscribeRequest, asked bool) (*weftv1.SubscribeResponse, error) {
	txn := u.s.c.Store.Read()
	var lost map[catalog.Topic]bool // what the agent holds of them isn't true any more
	items, _, ok := txn.Changes(u.position, func(t catalog.Topic) bool { return u.sent[t] }, 0)
	if !ok || u.position.Epoch != txn.Position().Epoch {
		lost = u.sent
		items, u.sent = nil, map[catalog.Topic]bool{} // too far behind: everything anew
	}
	if asked || !ok || slices.ContainsFunc(items, decides) {
		if err := u.compute(ctx, txn, req); err != nil {
			return nil, err
		}
	}
	resp := &weftv1.SubscribeResponse{Position: wire.Position(txn.Position()), Errors: u.refused}
	for _, item := range items {
		if u.wanted[item.Topic] {
			resp.Items = append(resp.Items, wire.Item(item))
		}
	}
	for t := range lost {
		resp.Dropped = append(resp.Dropped, wire.Topic(t))
	}
	for t := range u.wanted {
		if u.sent[t] {
			continue
		}
		content, err := txn.Items(t)
		if err != nil {
			return nil, api.GRPC(err)
		}
		for _, item := range content {
			resp.Items = append(resp.Items, wire.Item(item))
		}
		resp.Replaced, resp.Covered = append(resp.Replaced, wire.Topic(t)), append(resp.Covered, wire.Topic(t))
		u.sent[t] = true
	}
	for t := range u.sent {
		if !u.wanted[t] {
			resp.Dropped = append(resp.Dropped, wire.Topic(t))
			delete(u.sent, t)
		}
	}
	u.position = txn.Position()
	return resp, nil
}

// decides says whether a change may alter which topics are needed.
func decides(item catalog.Item) bool {
	return item.Topic.Kind == catalog.TopicEntry || item.Topic.Kind == catalog.TopicEntries
}

// wait returns when a topic changes, another request is there, or the stream has ended.
func (u *subscription) wait(ctx context.Context, requests <-chan *weftv1.SubscribeRequest) (req *weftv1.SubscribeRequest, ended bool) {
	wctx, cancel := context.WithCancel(ctx)
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		_ = u.s.c.Store.Wait(wctx, slices.Collect(maps.Keys(u.sent)), u.position.Index) // fails only with its context
	}()
	select {
	case <-woken:
	case req = <-requests:
	case <-ctx.Done():
	}
	cancel()
	<-woken
	return req, ctx.Err() != nil
}

// compute works out the topics that the interests need.
func (u *subscription) compute(ctx context.Context, txn *catalog.Txn, req *weftv1.SubscribeRequest) error {
	u.wanted, u.refused = map[catalog.Topic]bool{catalog.CATopic(): true}, nil
	if n := len(req.GetInterests()); n > u.s.c.MaxInterests {
		return status.Errorf(codes.ResourceExhausted, "%d interests, at most %d are served on one stream", n, u.s.c.MaxInterests)
	}
	for _, i := range req.GetInterests() {
		if err := u.interest(ctx, txn, i); err != nil {
			u.refused = append(u.refused, &weftv1.InterestError{Id: i.GetId(), Message: err.Error()})
		}
	}
	return nil
}

func (u *subscription) interest(ctx context.Context, txn *catalog.Txn, i *weftv1.Interest) error {
	for _, t := range wire.TopicsFrom(i.GetTopics()) {
		if err := u.s.allow(ctx, i.GetToken(), readPermission(t), t.Key.Name); err != nil {
			return err
		}
		u.wanted[t] = true
	}
	if len(i.GetProxy()) == 0 {
		return nil
	}
	var proxy catalog.Service
	if err := catalog.FromCanonical(i.GetProxy(), &proxy); err != nil {
		return fmt.Errorf("the proxy's registration can't be read: %w", err)
	}
	if proxy.Proxy == nil {
		return fmt.Errorf("service %q isn't a proxy", proxy.ID)
	}
	if err := u.s.allow(ctx, i.GetToken(), api.Permission{Resource: "service", Access: api.Write}, proxy.Proxy.DestinationServiceName); err != nil {
		return err
	}
	if u.s.c.Closure == nil {
		return errors.New("this server can't tell what a proxy needs: ask for topics")
	}
	reading := txn.With().Record()
	err := u.s.c.Closure(reading, &proxy)
	for _, t := range reading.Topics() {
		u.wanted[t] = true
	}
	return err // with the topics read so far: what is wrong with the configuration is seen at the proxy too
}

func readPermission(t catalog.Topic) api.Permission {
	switch t.Kind {
	case catalog.TopicCA:
		return api.Permission{}
	case catalog.TopicNode, catalog.TopicNodes:
		return api.Permission{Resource: "node", Access: api.Read}
	}
	return api.Permission{Resource: "service", Access: api.Read}
}
