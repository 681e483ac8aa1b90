// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// What agents do at a server's port, done by many of them in this process.

// plane is what a node of the ward connects with.
func (w *ward) plane(node string) (*plane.Plane, error) {
	key, err := base64.StdEncoding.DecodeString(w.key)
	if err != nil {
		return nil, err
	}
	return plane.New(plane.Config{
		Datacenter: "dc1", NodeName: node, Secrets: func() [][]byte { return [][]byte{key} }, DialContext: nodeDialer.DialContext,
	})
}

// connection is one TLS connection to the gRPC of one of some servers, as agents choose it: in an order of their own, to the next where one
// doesn't answer, which they stay with. What agents do besides, to choose anew some minutes after servers have come, takes longer than is measured.
func connection(pl *plane.Plane, of []*place) (*grpc.ClientConn, error) {
	order := slices.Clone(of)
	mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return grpc.NewClient("passthrough:///servers", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)), grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (conn net.Conn, err error) { // one at a time
			for range order {
				if conn, err = pl.Dial(ctx, order[0].ip+":8300", "", plane.GRPC); err == nil {
					break
				}
				order = append(order[1:], order[0])
			}
			return conn, err
		}))
}

// crowd is agents that follow the feed of one service.
type crowd struct {
	of      []*place
	service string
	size    int
	dials   chan struct{} // as many at once

	mu    sync.Mutex
	index []uint64    // by subscriber: the newest that it has of the service
	at    []time.Time // when that came
	moved chan struct{}
}

// follow subscribes, and again where a stream ends, as agents do: until ctx ends.
func (c *crowd) follow(ctx context.Context, pl *plane.Plane, i int) {
	conn, err := connection(pl, c.of)
	if err != nil {
		return
	}
	defer conn.Close()
	retry := 50 * time.Millisecond
	var position *weftv1.Position
	for ctx.Err() == nil {
		select {
		case c.dials <- struct{}{}:
		case <-ctx.Done():
			return
		}
		dialled := sync.OnceFunc(func() { <-c.dials })
		before := position
		position = c.once(ctx, conn, i, position, dialled)
		dialled()
		if ctx.Err() != nil {
			return
		}
		if before != position {
			retry = 50 * time.Millisecond
		}
		select {
		case <-time.After(retry/2 + mathrand.N(retry/2)):
		case <-ctx.Done():
		}
		retry = min(2*retry, 5*time.Second)
	}
}

func (c *crowd) once(ctx context.Context, conn *grpc.ClientConn, i int, held *weftv1.Position, first func()) *weftv1.Position {
	topics := []*weftv1.Topic{wire.Topic(catalog.ServiceTopic(catalog.Scope{}.Default("dc1").Name(c.service)))}
	stream, err := weftv1.NewFeedClient(conn).Subscribe(ctx)
	if err != nil {
		return held
	}
	req := &weftv1.SubscribeRequest{Node: fmt.Sprint("sub", i), Interests: []*weftv1.Interest{{Id: "i", Topics: topics}}}
	if held != nil {
		req.Position, req.Held = held, topics
	}
	if err := stream.Send(req); err != nil {
		return held
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return held
		}
		first()
		now := time.Now()
		held = resp.GetPosition()
		c.mu.Lock()
		c.index[i], c.at[i] = max(c.index[i], held.GetIndex()), now
		c.mu.Unlock()
		select {
		case c.moved <- struct{}{}:
		default:
		}
	}
}

// all waits until every subscriber has an index, and gives when each had it.
func (c *crowd) all(ctx context.Context, index uint64, d time.Duration) ([]time.Time, error) {
	var out []time.Time
	err := until(ctx, d, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := 0
		for _, i := range c.index {
			if i >= index {
				n++
			}
		}
		if n < c.size {
			return fmt.Errorf("%d of %d have it", n, c.size)
		}
		out = slices.Clone(c.at)
		return nil
	})
	return out, err
}

// gather connects them all.
func gather(ctx context.Context, w *ward, of []*place, size int, service string) (*crowd, error) {
	c := &crowd{of: of, service: service, size: size, dials: make(chan struct{}, 64), index: make([]uint64, size), at: make([]time.Time, size), moved: make(chan struct{}, 1)}
	var pl *plane.Plane
	for i := range size {
		if i%100 == 0 { // a node may have only so many connections
			var err error
			if pl, err = w.plane(fmt.Sprint("crowd", i)); err != nil {
				return nil, err
			}
		}
		go c.follow(ctx, pl, i)
	}
	_, err := c.all(ctx, 1, 3*time.Minute)
	return c, err
}

// feedFigures are a change to many subscribers, what each costs, and what happens when all servers restart.
type feedFigures struct {
	p99, cpu                   time.Duration
	bytes                      float64
	firstWrite, inSync         time.Duration
	memoryBefore, memoryAtPeak float64 // of all servers, in MB
	largest                    float64 // that one of them came to
	subscribers                int
}

// memory is what servers take together, and the largest of them.
func memory(of []*place) (sum, largest float64) {
	for _, p := range of {
		pss := p.pss()
		sum, largest = sum+pss, max(largest, pss)
	}
	return sum, largest
}

func (c *clusterConfig) feed(ctx context.Context, w *ward, leader *place) (f feedFigures, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := instances(ctx, leader); err != nil {
		return f, err
	}
	before, _ := memory(w.places)
	crowd, err := gather(ctx, w, w.places, c.subscribers, "web")
	if err != nil {
		return f, err
	}
	if err := quiet(ctx, w.places); err != nil {
		return f, err
	}
	f.subscribers = c.subscribers
	after, _ := memory(w.places)
	f.bytes = (after - before) * (1 << 20) / float64(c.subscribers)
	const rounds = 5
	var took []time.Duration
	for r := range rounds {
		cpu, begin := cpuOfAll(w.places), time.Now()
		if err := instance(ctx, leader, 1, 2000+r); err != nil {
			return f, err
		}
		h, err := leader.ask(ctx, http.MethodGet, webHealth, "")
		if err != nil {
			return f, err
		}
		var index uint64
		fmt.Sscan(h.Get("X-Consul-Index"), &index)
		at, err := crowd.all(ctx, index, time.Minute)
		if err != nil {
			return f, err
		}
		for _, t := range at {
			took = append(took, t.Sub(begin))
		}
		f.cpu += (cpuOfAll(w.places) - cpu) / rounds
	}
	slices.Sort(took)
	f.p99 = took[len(took)*99/100]
	return f, c.restart(ctx, w.places, crowd, &f)
}

// restart kills all servers and starts them again: everybody returns.
func (c *clusterConfig) restart(ctx context.Context, of []*place, crowd *crowd, f *feedFigures) error {
	f.memoryBefore, _ = memory(of)
	for _, p := range of {
		p.kill()
	}
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	crowd.mu.Lock()
	clear(crowd.index)
	crowd.mu.Unlock()
	begin := time.Now()
	started := make(chan error, len(of))
	for _, p := range of {
		go func() { started <- p.start(ctx) }() // it takes writes then
	}
	var err error
	for i := range of {
		err = errors.Join(err, <-started)
		if i == 0 {
			f.firstWrite = time.Since(begin)
		}
	}
	if err != nil {
		return err
	}
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for over := false; !over; {
			sum, largest := memory(of)
			f.memoryAtPeak, f.largest = max(f.memoryAtPeak, sum), max(f.largest, largest)
			select {
			case <-done:
				over = true
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	_, err = crowd.all(ctx, 1, 2*time.Minute)
	f.inSync = time.Since(begin)
	close(done)
	work.Wait()
	return err
}

// sign has leaves signed over RPC, for services that are registered.
func (c *clusterConfig) sign(ctx context.Context, w *ward, p *place) (cost, error) {
	const services = 64
	for i := range services {
		if _, err := p.ask(ctx, http.MethodPut, "/v1/catalog/register", fmt.Sprintf(`{"Node":"signer","Address":"10.3.0.1","Service":{"ID":"l%d","Service":"l%d","Port":1}}`, i, i)); err != nil {
			return cost{}, err
		}
	}
	roots, err := decode[struct{ TrustDomain string }](ctx, p, "/v1/connect/ca/roots")
	if err != nil {
		return cost{}, err
	}
	var csrs []string
	for i := range services {
		key, err := ca.NewKey(rand.Reader)
		if err != nil {
			return cost{}, err
		}
		csr, err := ca.CSR(identity.Service{
			TrustDomain: identity.TrustDomain(roots.TrustDomain), Partition: "default", Namespace: "default", Datacenter: "dc1", Service: fmt.Sprint("l", i),
		}, key, rand.Reader)
		if err != nil {
			return cost{}, err
		}
		csrs = append(csrs, csr)
	}
	pl, err := w.plane("signer")
	if err != nil {
		return cost{}, err
	}
	conn, err := connection(pl, []*place{p})
	if err != nil {
		return cost{}, err
	}
	defer conn.Close()
	client := weftv1.NewCAClient(conn)
	return loop(ctx, 16, c.seconds, []*place{p}, func(ctx context.Context, i int) error {
		_, err := client.Sign(ctx, &weftv1.SignRequest{Node: "signer", CsrPem: csrs[i%services]})
		return err
	})
}
