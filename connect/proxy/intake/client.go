// SPDX-License-Identifier: Apache-2.0

// Package intake follows an xDS server and compiles what it says into the proxy's configuration. It takes Envoy's v3
// resources over one delta ADS stream; what the proxy can't do is refused with the field's name, and what it had stays. A
// new configuration is given out only when all that it refers to is there. Client.Run owns its goroutines; a stream that
// breaks is opened again and goes on from the versions that are held.
package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/internal/run"
)

// The types of resource, in the order in which they are asked for.
const (
	typePrefix   = "type.googleapis.com/envoy."
	clusterType  = typePrefix + "config.cluster.v3.Cluster"
	endpointType = typePrefix + "config.endpoint.v3.ClusterLoadAssignment"
	listenerType = typePrefix + "config.listener.v3.Listener"
	routeType    = typePrefix + "config.route.v3.RouteConfiguration"
	secretType   = typePrefix + "extensions.transport_sockets.tls.v3.Secret"
)

var types = []string{clusterType, endpointType, listenerType, routeType, secretType}

// Config is what a Client is made of.
type Config struct {
	ID, Service string // node.id and node.cluster
	Version     string // of this proxy, shown to the server
	// Address of the xDS server: host:port, or unix:/path.
	Address       string
	Secret, Token string
	// Apply takes each new configuration; it is called from one goroutine, in order.
	Apply func(*config.Snapshot)
	// Now tells the time to certificate checks.
	Now func() time.Time
	Log *slog.Logger
}

// Client follows one xDS server.
type Client struct {
	c        Config
	world    *world
	answered bool // the stream has brought something; used by one goroutine after the other

	mu      sync.Mutex // guards what follows, and makes sends one at a time
	stream  adsStream  // the open one
	nonce   string     // of the last listeners that were taken on it
	trouble string     // with the listeners that are in force; "": none
	told    bool       // of trouble, on this stream
}

// New makes a client. It connects in Run.
func New(c Config) (*Client, error) {
	if c.Address == "" || c.Apply == nil {
		return nil, errors.New("intake: Address and Apply must be set")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Client{c: c, world: newWorld(c.Now)}, nil
}

// The waits between tries after a stream has ended.
const (
	retryFirst = 20 * time.Millisecond
	retryLast  = 3 * time.Second
	// connectLast is the longest wait between tries to connect.
	connectLast = 250 * time.Millisecond
)

// Run follows the server until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	retry := retryFirst
	for ctx.Err() == nil {
		c.answered = false
		err := c.follow(ctx, conn)
		if ctx.Err() != nil {
			break
		}
		if c.answered { // it was a server that knows us: it comes back soon
			retry = retryFirst
		}
		c.c.Log.Warn("configuration stream ended, going on with what there is", "error", err, "retry_in", retry)
		timer := time.NewTimer(retry/2 + rand.N(retry/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		retry = min(2*retry, retryLast)
	}
	return nil
}

func (c *Client) dial() (*grpc.ClientConn, error) {
	network, address := "tcp", c.c.Address
	if path, ok := cutUnix(address); ok {
		network, address = "unix", path
	}
	conn, err := grpc.NewClient("passthrough:///xds", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.ForceCodecV2(codec{})),
		// The server is on this host as a rule: asking often costs little, and a proxy that hears of new roots late can't be
		// called by those that heard in time.
		grpc.WithConnectParams(grpc.ConnectParams{
			MinConnectTimeout: 2 * time.Second,
			Backoff:           backoff.Config{BaseDelay: retryFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: connectLast},
		}))
	if err != nil {
		return nil, fmt.Errorf("configuration server %s: %w", c.c.Address, err)
	}
	return conn, nil
}

func cutUnix(address string) (string, bool) {
	for _, prefix := range []string{"unix://", "unix:"} {
		if len(address) > len(prefix) && address[:len(prefix)] == prefix {
			return address[len(prefix):], true
		}
	}
	return "", false
}

type adsStream = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// follow opens one stream and stays with it until it breaks.
func (c *Client) follow(ctx context.Context, conn *grpc.ClientConn) error {
	g := run.New(ctx)
	md := metadata.Pairs("x-weft-proxy-secret", c.c.Secret)
	if c.c.Token != "" {
		md.Append("x-consul-token", c.c.Token)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(metadata.NewOutgoingContext(g.Context(), md), grpc.WaitForReady(true))
	if err != nil {
		return errors.Join(err, g.Stop())
	}
	c.use(stream)
	defer c.use(nil)
	g.Go("responses", func(context.Context) error {
		subscribed := map[string]map[string]bool{}
		if err := c.open(stream, subscribed); err != nil {
			return err
		}
		for {
			resp, err := stream.Recv()
			if err != nil {
				return err
			}
			c.answered = true
			if err := c.take(stream, subscribed, resp); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

// Trouble tells the server why the listeners in force can't be served; "": they can. It is a late refusal of the last
// listeners that were taken, and, when the trouble is over, a late acknowledgement. It may be called at any time.
func (c *Client) Trouble(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.trouble == why {
		return
	}
	c.trouble = why
	if c.stream != nil && c.nonce != "" {
		_ = c.lateLocked(c.stream) // a stream that broke is opened again, and told
	}
}

func (c *Client) lateLocked(stream adsStream) error {
	c.told = c.trouble != ""
	return stream.Send(verdict(listenerType, c.nonce, c.trouble))
}

func verdict(t, nonce, refusal string) *discoveryv3.DeltaDiscoveryRequest {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, ResponseNonce: nonce}
	if refusal != "" {
		r.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: refusal}
	}
	return r
}

func (c *Client) send(stream adsStream, r *discoveryv3.DeltaDiscoveryRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return stream.Send(r)
}

// answer says whether a response was taken. Trouble that listeners still have is told again with each new lot of them.
func (c *Client) answer(stream adsStream, resp *discoveryv3.DeltaDiscoveryResponse, refusal error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := ""
	if refusal != nil {
		text = refusal.Error()
	}
	err := stream.Send(verdict(resp.GetTypeUrl(), resp.GetNonce(), text))
	if err != nil || resp.GetTypeUrl() != listenerType {
		return err
	}
	if c.nonce = ""; refusal == nil {
		c.nonce = resp.GetNonce()
		if c.trouble != "" || c.told {
			return c.lateLocked(stream)
		}
	}
	return nil
}

// open asks for everything, saying which versions are held.
func (c *Client) open(stream adsStream, subscribed map[string]map[string]bool) error {
	node := &corev3.Node{
		Id: c.c.ID, Cluster: c.c.Service, UserAgentName: "weft",
		UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: c.c.Version},
	}
	needed := c.world.needed()
	for i, t := range types {
		names := []string{"*"}
		if t == endpointType || t == routeType || t == secretType {
			if names = slices.Sorted(maps.Keys(needed[t])); len(names) == 0 {
				continue // asked for when it is known what
			}
		}
		subscribed[t] = map[string]bool{}
		for _, n := range names {
			subscribed[t][n] = true
		}
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, ResourceNamesSubscribe: names, InitialResourceVersions: c.world.versions(t)}
		if i == 0 {
			req.Node = node
		}
		if err := c.send(stream, req); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) use(stream adsStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream, c.nonce, c.told = stream, "", false
}

// take applies one response, acknowledges or refuses it, and asks for what it newly refers to.
func (c *Client) take(stream adsStream, subscribed map[string]map[string]bool, resp *discoveryv3.DeltaDiscoveryResponse) error {
	named := make(map[string]named, len(resp.GetResources()))
	for _, r := range resp.GetResources() {
		named[r.GetName()] = namedOf(r)
	}
	refusal := c.world.update(resp.GetTypeUrl(), named, resp.GetRemovedResources())
	if refusal != nil {
		c.c.Log.Error("configuration refused", "type", resp.GetTypeUrl(), "error", refusal)
	} else if s := c.world.assemble(); s != nil {
		c.c.Apply(s)
	}
	if err := c.answer(stream, resp, refusal); err != nil {
		return err
	}
	return c.subscribe(stream, subscribed)
}

// subscribe asks for what is newly referred to and no longer for what isn't.
func (c *Client) subscribe(stream adsStream, subscribed map[string]map[string]bool) error {
	for t, names := range c.world.needed() {
		have := subscribed[t]
		if have == nil {
			have = map[string]bool{}
			subscribed[t] = have
		}
		req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t}
		for _, n := range slices.Sorted(maps.Keys(names)) {
			if !have[n] {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, n)
				have[n] = true
			}
		}
		for _, n := range slices.Sorted(maps.Keys(have)) {
			if !names[n] {
				req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, n)
				delete(have, n)
				c.world.forget(t, n)
			}
		}
		if len(req.ResourceNamesSubscribe)+len(req.ResourceNamesUnsubscribe) == 0 {
			continue
		}
		if err := c.send(stream, req); err != nil {
			return err
		}
	}
	return nil
}

// named is a resource with its version.
type named struct {
	version string
	any     *anypb.Any
}

func namedOf(r *discoveryv3.Resource) named { return named{r.GetVersion(), r.GetResource()} }
