// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/internal/guard"
)

// The request headers by which a proxy proves who it is.
const (
	SecretHeader = "x-weft-proxy-secret"
	TokenHeader  = "x-consul-token"
)

// Claim is what a proxy says of itself. Nothing of it is proven.
type Claim struct {
	NodeID    string
	Cluster   string
	Token     string
	Secret    string
	UserAgent string // name and version, for logs
	Abilities xds.Abilities
}

// Source knows the proxies.
type Source interface {
	// Open decides whether a proxy is who it claims to be. An error that is no gRPC status becomes PermissionDenied. The context
	// is the stream's.
	Open(ctx context.Context, c Claim) (Stream, error)
}

// Stream is what a Source has for one proxy. Close is called once, after all else.
type Stream interface {
	// Output is the newest configuration, nil while there is none, and a channel that is closed when there is a newer one.
	Output() (*xds.Output, <-chan struct{})
	// Acked says that the proxy has all of the output of that hash, with typeURL as the last piece.
	Acked(typeURL, hash string)
	// Refused says that the proxy won't take what it was sent of a type, or can't do it, in its own words. Acked follows when it
	// can.
	Refused(typeURL, text string)
	Close()
}

// Config is what a Server is made of.
type Config struct {
	Source Source
	Log    *slog.Logger
	// Metrics takes the server's metrics; nil for none.
	Metrics prometheus.Registerer
}

// Server is the service's implementation.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	c       Config
	streams *prometheus.GaugeVec
	pushes  *prometheus.CounterVec
	answers *prometheus.CounterVec
}

// New makes a Server; it starts nothing.
func New(c Config) (*Server, error) {
	if c.Source == nil {
		return nil, errors.New("ads: a Source is needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		c:       c,
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "weft_ads_streams", Help: "Open streams of proxies."}, []string{"protocol"}),
		pushes:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_ads_pushes_total", Help: "Responses sent to proxies."}, []string{"type"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weft_ads_answers_total", Help: "Answers of proxies."}, []string{"type", "result"}),
	}
	if c.Metrics != nil {
		for _, m := range []prometheus.Collector{s.streams, s.pushes, s.answers} {
			if err := c.Metrics.Register(m); err != nil {
				return nil, fmt.Errorf("ads: %w", err)
			}
		}
	}
	return s, nil
}

// Register makes a gRPC server offer the service.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// DeltaAggregatedResources serves the delta protocol. It returns when the stream ends.
func (s *Server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return serve(s, g.Context(), protocol[*discoveryv3.DeltaDiscoveryRequest]{
		name: "delta", delta: true, recv: g.Recv, take: (*engine).takeDelta,
		send: func(p *push, version string) error {
			r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: p.url, Nonce: p.nonce, SystemVersionInfo: version, RemovedResources: p.removed}
			for _, res := range p.set {
				r.Resources = append(r.Resources, &discoveryv3.Resource{Name: res.Name, Version: res.Version, Resource: res.Any})
			}
			return g.Send(r)
		},
		names: func(r *discoveryv3.DeltaDiscoveryRequest) int {
			return len(r.GetResourceNamesSubscribe()) + len(r.GetInitialResourceVersions())
		},
	})
}

// StreamAggregatedResources serves the state-of-the-world protocol. It returns when the stream ends.
func (s *Server) StreamAggregatedResources(g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return serve(s, g.Context(), protocol[*discoveryv3.DiscoveryRequest]{
		name: "state", recv: g.Recv, take: (*engine).takeState,
		send: func(p *push, version string) error {
			r := &discoveryv3.DiscoveryResponse{TypeUrl: p.url, Nonce: p.nonce, VersionInfo: version}
			for _, res := range p.set {
				r.Resources = append(r.Resources, res.Any)
			}
			return g.Send(r)
		},
		names: func(r *discoveryv3.DiscoveryRequest) int { return len(r.GetResourceNames()) },
	})
}

// request is what the two protocols' requests have in common.
type request interface {
	GetNode() *corev3.Node
	GetTypeUrl() string
	GetResponseNonce() string
	GetErrorDetail() *rpcstatus.Status
}

type protocol[R request] struct {
	name  string
	delta bool
	recv  func() (R, error)
	take  func(*engine, R) bool
	send  func(p *push, version string) error
	names func(R) int
}

// What bounds a stream.
const (
	firstWithin = 10 * time.Second // the wait for the first request
	maxNames    = 20000            // names in one request, and per type in a stream
	maxTypes    = 16
)

func serve[R request](s *Server, ctx context.Context, p protocol[R]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests, ended := make(chan R), make(chan error, 1)
	go func() { // ends with the stream, which ends when serve returns
		for {
			r, err := p.recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	var first R
	wait := time.NewTimer(firstWithin)
	defer wait.Stop()
	select {
	case first = <-requests:
	case err := <-ended:
		return closed(err)
	case <-wait.C:
		return status.Error(codes.DeadlineExceeded, "the first request did not come in time")
	case <-ctx.Done():
		return ctx.Err()
	}
	claim, err := claimOf(ctx, first.GetNode())
	if err != nil {
		return err
	}
	stream, err := s.c.Source.Open(ctx, claim)
	if err != nil {
		if _, ok := status.FromError(err); ok {
			return err
		}
		s.c.Log.Warn("proxy refused", "proxy", claim.NodeID, "error", err)
		return status.Error(codes.PermissionDenied, err.Error())
	}
	defer stream.Close()
	s.streams.WithLabelValues(p.name).Inc()
	defer s.streams.WithLabelValues(p.name).Dec()
	l := &loop[R]{s: s, p: p, e: newEngine(p.delta), stream: stream, log: s.c.Log.With("proxy", claim.NodeID)}
	if err := l.take(first); err != nil {
		return err
	}
	return l.run(ctx, requests, ended)
}

func closed(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// loop is one stream at work.
type loop[R request] struct {
	s      *Server
	p      protocol[R]
	e      *engine
	stream Stream
	log    *slog.Logger
}

func (l *loop[R]) run(ctx context.Context, requests <-chan R, ended <-chan error) error {
	for {
		out, changed := l.stream.Output()
		l.e.update(out)
		for p := l.e.next(); p != nil; p = l.e.next() {
			if err := l.p.send(p, l.e.out.Hash); err != nil {
				return err
			}
			l.s.pushes.WithLabelValues(label(p.url)).Inc()
			l.log.Debug("sent", "type", p.url, "changed", p.changed, "removed", p.removed, "nonce", p.nonce)
		}
		if hash, ok := l.e.complete(); ok {
			l.stream.Acked("", hash)
		}
		select {
		case r := <-requests:
			if err := l.take(r); err != nil {
				return err
			}
		case <-changed:
		case err := <-ended:
			return closed(err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *loop[R]) take(r R) error {
	url := r.GetTypeUrl()
	if _, known := l.e.kinds[url]; !known && len(l.e.kinds) >= maxTypes {
		return status.Errorf(codes.ResourceExhausted, "more than %d types on one stream", maxTypes)
	}
	if l.p.names(r) > maxNames && !guard.Off("C78") {
		return status.Errorf(codes.ResourceExhausted, "more than %d names in one request", maxNames)
	}
	answered := l.p.take(l.e, r)
	if k := l.e.kinds[url]; len(k.names) > maxNames && !guard.Off("C78") {
		return status.Errorf(codes.ResourceExhausted, "more than %d names of type %s", maxNames, url)
	}
	if !answered {
		return nil
	}
	if text := refusal(r.GetErrorDetail()); text != "" {
		l.s.answers.WithLabelValues(label(url), "refused").Inc()
		l.log.Warn("the proxy refused its configuration", "type", url, "error", text)
		l.stream.Refused(url, text)
		return nil
	}
	l.s.answers.WithLabelValues(label(url), "taken").Inc()
	if hash, ok := l.e.complete(); ok {
		l.stream.Acked(url, hash)
	}
	return nil
}

// refusal is the text of a refusal, "" if there is none.
func refusal(st *rpcstatus.Status) string {
	switch {
	case st == nil:
		return ""
	case st.GetMessage() == "":
		return "refused without a reason"
	}
	return st.GetMessage()
}

// label keeps names that a proxy makes up out of the metrics.
func label(url string) string {
	for _, t := range additions {
		if t == url {
			return url
		}
	}
	return "other"
}

func claimOf(ctx context.Context, n *corev3.Node) (Claim, error) {
	if n.GetId() == "" {
		return Claim{}, status.Error(codes.InvalidArgument, "the first request has to hold the proxy's node.id")
	}
	c := Claim{NodeID: n.GetId(), Cluster: n.GetCluster()}
	md, _ := metadata.FromIncomingContext(ctx)
	header := func(name string) string {
		if v := md.Get(name); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	c.Secret, c.Token = header(SecretHeader), header(TokenHeader)
	version := n.GetUserAgentVersion()
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		version = fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	c.UserAgent = n.GetUserAgentName()
	if version != "" {
		c.UserAgent += "/" + version
	}
	c.Abilities = xds.Abilities{Weft: n.GetUserAgentName() == "weft", Version: version}
	return c, nil
}
