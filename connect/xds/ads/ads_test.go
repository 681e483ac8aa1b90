// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/xds"
)

// source is one proxy's configuration, set by the test.
type source struct {
	outputs chan *xds.Output // to be taken up
	opened  chan Claim
	events  chan string
	closed  chan struct{}
}

func newSource() *source {
	return &source{outputs: make(chan *xds.Output, 8), opened: make(chan Claim, 8), events: make(chan string, 64), closed: make(chan struct{}, 8)}
}

func (s *source) Open(ctx context.Context, c Claim) (Stream, error) {
	switch c.Secret {
	case "right":
	case "absent":
		return nil, status.Error(codes.NotFound, "no such proxy")
	default:
		return nil, errors.New("it doesn't prove who it is")
	}
	s.opened <- c
	return &stream{source: s, changed: make(chan struct{})}, nil
}

// stream hands out one output after the other; each is asked for by the server's loop alone.
type stream struct {
	source  *source
	out     *xds.Output
	changed chan struct{}
	waiting bool
}

func (s *stream) Output() (*xds.Output, <-chan struct{}) {
	select {
	case s.out = <-s.source.outputs:
		s.changed, s.waiting = make(chan struct{}), false
	default:
	}
	if !s.waiting {
		s.waiting = true
		changed := s.changed
		go func() {
			o, ok := <-s.source.outputs
			if !ok {
				return
			}
			s.source.outputs <- o // for the next call
			close(changed)
		}()
	}
	return s.out, s.changed
}

func (s *stream) Acked(_, hash string)   { s.source.events <- "acked " + hash }
func (s *stream) Refused(t, text string) { s.source.events <- "refused " + short(t) + " " + text }
func (s *stream) Close()                 { s.source.closed <- struct{}{} }
func short(t string) string              { return t[strings.LastIndex(t, ".")+1:] }
func res(name, content string) xds.Resource {
	a, _ := anypb.New(wrapperspb.String(content))
	return xds.Resource{Name: name, Version: content, Any: a}
}

// output makes an output of "type name=content" lines.
func output(lines ...string) *xds.Output {
	types := map[string]string{"c": xds.ClusterType, "e": xds.EndpointType, "l": xds.ListenerType, "r": xds.RouteType, "s": xds.SecretType}
	o := &xds.Output{Resources: map[string][]xds.Resource{}}
	slices.Sort(lines)
	for _, l := range lines {
		t, rest, _ := strings.Cut(l, " ")
		name, content, _ := strings.Cut(rest, "=")
		o.Resources[types[t]] = append(o.Resources[types[t]], res(name, content))
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	o.Hash = hex.EncodeToString(sum[:4])
	return o
}

func dial(t *testing.T, s *source) (context.Context, discoveryv3.AggregatedDiscoveryServiceClient) {
	t.Helper()
	server, err := New(Config{Source: s})
	if err != nil {
		t.Fatal(err)
	}
	g, l := grpc.NewServer(), bufconn.Listen(1<<20)
	server.Register(g)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(func() { cancel(); _ = conn.Close(); g.Stop(); <-done })
	return metadata.AppendToOutgoingContext(ctx, SecretHeader, "right", TokenHeader, "tok"), discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
}

var node = &corev3.Node{Id: "web-1", Cluster: "web", UserAgentName: "weft", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "0.1.0"}}

type deltaClient struct {
	t *testing.T
	s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

func openDelta(t *testing.T, ctx context.Context, c discoveryv3.AggregatedDiscoveryServiceClient) *deltaClient {
	t.Helper()
	s, err := c.DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &deltaClient{t, s}
}

func (c *deltaClient) ask(r *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.Node = node
	if err := c.s.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

// expect checks a response, "Type +name=version -name", and answers it.
func (c *deltaClient) expect(want, refusal string) {
	c.t.Helper()
	r, err := c.s.Recv()
	if err != nil {
		c.t.Fatalf("instead of %q: %v", want, err)
	}
	got := short(r.TypeUrl)
	for _, x := range r.Resources {
		got += " +" + x.Name + "=" + x.Version
	}
	for _, x := range r.RemovedResources {
		got += " -" + x
	}
	if got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}
	if refusal != "" {
		ack.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: refusal}
	}
	c.ask(ack)
}

func (s *source) event(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s.events:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no %q", want)
	}
}

func TestDelta(t *testing.T) {
	s := newSource()
	ctx, client := dial(t, s)
	c := openDelta(t, ctx, client)
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
	if claim := <-s.opened; claim.NodeID != "web-1" || claim.Token != "tok" || !claim.Abilities.Weft || claim.UserAgent != "weft/0.1.0" {
		t.Fatalf("%+v", claim)
	}
	one := output("c a=1", "e a=1", "l in=1", "r in=1", "s leaf=1")
	s.outputs <- one
	c.expect("Cluster +a=1", "")
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: []string{"a"}})
	c.expect("ClusterLoadAssignment +a=1", "")
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.SecretType, ResourceNamesSubscribe: []string{"leaf", "nope"}})
	c.expect("Secret +leaf=1", "")
	c.expect("Secret -nope", "")
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ListenerType, ResourceNamesSubscribe: []string{"*"}})
	c.expect("Listener +in=1", "")
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, ResourceNamesSubscribe: []string{"in"}})
	c.expect("RouteConfiguration +in=1", "")
	s.event(t, "acked "+one.Hash)

	// A changed cluster: its endpoints again. A new one first, what refers to it later, the old one last.
	two := output("c a=2", "c b=1", "e a=1", "e b=1", "l in=2", "r in=1", "s leaf=1")
	s.outputs <- two
	c.expect("Cluster +a=2 +b=1", "")
	c.expect("ClusterLoadAssignment +a=1", "")
	c.expect("Listener +in=2", "")
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: []string{"b"}})
	c.expect("ClusterLoadAssignment +b=1", "")
	s.event(t, "acked "+two.Hash)

	three := output("c b=1", "e b=1", "l out=1", "r in=2", "s leaf=2")
	s.outputs <- three
	c.expect("Secret +leaf=2", "")
	c.expect("Listener +out=1", "")
	c.expect("RouteConfiguration +in=2", "")
	c.expect("Listener -in", "")
	c.expect("ClusterLoadAssignment -a", "")
	c.expect("Cluster -a", "")
	s.event(t, "acked "+three.Hash)

	// A refusal is told, and not repeated before something changes.
	s.outputs <- output("c b=bad", "e b=2", "l out=1", "r in=2", "s leaf=2")
	c.expect("Cluster +b=bad", "no good")
	s.event(t, "refused Cluster no good")
	c.expect("ClusterLoadAssignment +b=2", "")
	five := output("c b=3", "e b=2", "l out=1", "r in=2", "s leaf=2")
	s.outputs <- five
	c.expect("Cluster +b=3", "")
	c.expect("ClusterLoadAssignment +b=2", "")
	s.event(t, "acked "+five.Hash)

	// Unsubscribed and asked for again: sent again.
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, ResourceNamesUnsubscribe: []string{"in"}})
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.RouteType, ResourceNamesSubscribe: []string{"in"}})
	c.expect("RouteConfiguration +in=2", "")
	_ = c.s.CloseSend()
	<-s.closed
}

// A proxy whose endpoints change more quickly than it answers hears of new roots all the same.
func TestSecretsDontStarve(t *testing.T) {
	e := newEngine(true)
	for _, url := range []string{xds.ClusterType, xds.EndpointType, xds.SecretType} {
		e.takeDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: []string{"*"}})
	}
	answer := func(p *push) {
		t.Helper()
		e.takeDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: p.url, ResponseNonce: p.nonce})
	}
	e.update(output("c a=1", "e a=0", "s roots=0"))
	for p := e.next(); p != nil; p = e.next() {
		answer(p)
	}
	for i := 1; e.kinds[xds.SecretType].has["roots"].Version == "0"; i++ {
		if i > 3 {
			t.Fatal("the new roots aren't sent while endpoints change")
		}
		e.update(output("c a=1", fmt.Sprint("e a=", i), "s roots=1"))
		answer(e.next())
	}
}

// A proxy that has taken its listeners and then can't serve one says so later, and again when it can. In between it doesn't have
// the output, whatever else it takes.
func TestTroubleAfterTheAnswer(t *testing.T) {
	s := newSource()
	ctx, client := dial(t, s)
	c := openDelta(t, ctx, client)
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ListenerType})
	one := output("c a=1", "l in=1")
	s.outputs <- one
	c.expect("Cluster +a=1", "")
	c.expect("Listener +in=1", "")
	s.event(t, "acked "+one.Hash)
	late := func(nonce, refusal string) {
		r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ListenerType, ResponseNonce: nonce}
		if refusal != "" {
			r.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: refusal}
		}
		c.ask(r)
	}
	late("2", "port taken")
	s.event(t, "refused Listener port taken")
	late("2", "port taken") // again: no news
	late("1", "stale")
	s.outputs <- output("c a=2", "l in=1")
	c.expect("Cluster +a=2", "")
	late("2", "")
	s.event(t, "acked "+output("c a=2", "l in=1").Hash)
}

func TestDeltaReconnect(t *testing.T) {
	s := newSource()
	ctx, client := dial(t, s)
	c := openDelta(t, ctx, client)
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, InitialResourceVersions: map[string]string{"a": "1", "b": "1", "old": "1"}})
	s.outputs <- output("c a=1", "c b=2")
	c.expect("Cluster +b=2", "")
	c.expect("Cluster -old", "")
	s.event(t, "acked "+output("c a=1", "c b=2").Hash)
}

func TestState(t *testing.T) {
	s := newSource()
	ctx, client := dial(t, s)
	c, err := client.StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]*discoveryv3.DiscoveryResponse{}
	ask := func(url, refusal string, names ...string) {
		t.Helper()
		r := &discoveryv3.DiscoveryRequest{Node: node, TypeUrl: url, ResourceNames: names, ResponseNonce: last[url].GetNonce(), VersionInfo: last[url].GetVersionInfo()}
		if refusal != "" {
			r.ErrorDetail = &rpcstatus.Status{Message: refusal}
		}
		if err := c.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		r, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got := short(r.TypeUrl)
		for _, a := range r.Resources {
			m, _ := a.UnmarshalNew()
			got += " " + m.(*wrapperspb.StringValue).Value
		}
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		last[r.TypeUrl] = r
	}
	ask(xds.ClusterType, "")
	ask(xds.EndpointType, "", "a")
	one := output("c a=c1", "e a=e1", "e b=e2")
	s.outputs <- one
	expect("Cluster c1")
	ask(xds.ClusterType, "")
	expect("ClusterLoadAssignment e1")
	ask(xds.EndpointType, "", "a", "b")
	expect("ClusterLoadAssignment e1 e2")
	ask(xds.EndpointType, "", "a", "b")
	s.event(t, "acked "+one.Hash)

	two := output("c b=c2", "e b=e2")
	s.outputs <- two
	expect("Cluster c1 c2") // both until nothing refers to the old one
	ask(xds.ClusterType, "")
	expect("ClusterLoadAssignment e2")
	ask(xds.EndpointType, "", "b")
	expect("Cluster c2")
	ask(xds.ClusterType, "")
	s.event(t, "acked "+two.Hash)

	s.outputs <- output("c b=bad", "e b=e3")
	expect("Cluster bad")
	ask(xds.ClusterType, "no good")
	s.event(t, "refused Cluster no good")
	expect("ClusterLoadAssignment e3")
}

// A proxy's refusals without an end are read, and answered with nothing; more names than a proxy has are refused, at once and bit by bit.
func TestC78_RequestsWithoutMeasure(t *testing.T) {
	names := func(from, n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint("n", from+i))
		}
		return all
	}
	for name, floods := range map[string]func(c *deltaClient){
		"at once": func(c *deltaClient) {
			c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: names(0, maxNames+1)})
		},
		"bit by bit": func(c *deltaClient) {
			for i := range 12 {
				_ = c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: names(2000*i, 2000)})
			}
		},
		"types": func(c *deltaClient) {
			for i := range maxTypes + 1 {
				_ = c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: fmt.Sprint("t", i), ResourceNamesSubscribe: []string{"a"}})
			}
		},
	} {
		s := newSource()
		ctx, client := dial(t, s)
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		c := openDelta(t, ctx, client)
		c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
		<-s.opened
		floods(c)
		if _, err := c.s.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	// The control, after refusals by the thousand: the stream goes on.
	s := newSource()
	ctx, client := dial(t, s)
	c := openDelta(t, ctx, client)
	c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
	<-s.opened
	for range 10_000 {
		c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: "none", ErrorDetail: &rpcstatus.Status{Message: "no"}})
	}
	s.outputs <- output("c a=1", "e a=1")
	c.expect("Cluster +a=1", "")
}

func TestWhoIsRefused(t *testing.T) {
	s := newSource()
	ctx, client := dial(t, s)
	for secret, want := range map[string]codes.Code{"wrong": codes.PermissionDenied, "absent": codes.NotFound} {
		c := openDelta(t, metadata.NewOutgoingContext(ctx, metadata.Pairs(SecretHeader, secret)), client)
		c.ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType})
		if _, err := c.s.Recv(); status.Code(err) != want {
			t.Errorf("%s: %v", secret, err)
		}
	}
	c := openDelta(t, ctx, client)
	if err := c.s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.s.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a node: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without a source")
	}
	c = openDelta(t, ctx, client)
	_ = c.s.CloseSend()
	if _, err := c.s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("closed at once: %v", err)
	}
}
