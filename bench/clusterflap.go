// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// flapper is 10,000 instances on 100 hosts, of 100 services, whose health changes every two seconds.
type flapper struct {
	conns []*grpc.ClientConn // one of each host: over one for all, their syncs would wait for its window
	scope catalog.Scope

	mu   sync.Mutex
	sent map[uint64]time.Time   // by the index of a host's sync: when that was sent
	seen map[uint64][]time.Time // by index: when followers had something of it
}

const (
	flapHosts, flapEach = 100, 100
	flapPeriod          = 2 * time.Second
)

// flapFigures are how long changes took to those who follow, how many there were, and the cores that they took.
type flapFigures struct {
	p99         time.Duration
	rate, cores float64
}

// sync is one host's agent that tells what changed: all that it has.
func (f *flapper) sync(ctx context.Context, host, turn int) error {
	status := []string{"passing", "critical"}[turn%2]
	cmd := catalog.Sync{Node: catalog.Node{Scope: f.scope, Node: fmt.Sprint("f", host), Address: fmt.Sprint("10.4.0.", host)}}
	for i := range flapEach {
		name := fmt.Sprint("flap", i)
		if turn == 0 {
			cmd.Items = append(cmd.Items, catalog.SyncItem{Service: &catalog.Service{Scope: f.scope, Node: cmd.Node.Node, ID: name, Service: name, Port: 1 + i}})
		}
		cmd.Items = append(cmd.Items, catalog.SyncItem{Check: &catalog.Check{
			Scope: f.scope, Node: cmd.Node.Node, CheckID: name, Name: name, ServiceID: name, ServiceName: name, Status: status,
		}})
	}
	body, err := catalog.Canonical(cmd)
	if err != nil {
		return err
	}
	begin := time.Now()
	resp, err := weftv1.NewCatalogClient(f.conns[host]).Sync(ctx, &weftv1.SyncRequest{Sync: body, Tokens: make([]string, len(cmd.Items))})
	if err != nil {
		return err
	}
	for _, r := range resp.GetResults() {
		if r.GetError() != "" {
			return errors.New(r.GetError())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent[resp.GetIndex()] = begin
	return nil
}

// follow notes when a service's changes come.
func (f *flapper) follow(ctx context.Context, service int) error {
	stream, err := weftv1.NewFeedClient(f.conns[service]).Subscribe(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&weftv1.SubscribeRequest{Node: fmt.Sprint("follower", service), Interests: []*weftv1.Interest{{Id: "i", Topics: []*weftv1.Topic{
		wire.Topic(catalog.ServiceTopic(f.scope.Name(fmt.Sprint("flap", service)))),
	}}}}); err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		f.mu.Lock()
		known := map[uint64]bool{}
		for _, item := range resp.GetItems() {
			if i := item.GetIndex(); !known[i] {
				known[i] = true
				f.seen[i] = append(f.seen[i], now)
			}
		}
		f.mu.Unlock()
	}
}

// flap has them change for a while. Of each change a follower of one in ten services is measured.
func (c *clusterConfig) flap(ctx context.Context, w *ward, p *place) (flapFigures, error) {
	pl, err := w.plane("flapper")
	if err != nil {
		return flapFigures{}, err
	}
	f := &flapper{scope: catalog.Scope{}.Default("dc1"), sent: map[uint64]time.Time{}, seen: map[uint64][]time.Time{}}
	for h := range flapHosts {
		conn, err := connection(pl, []*place{p})
		if err != nil {
			return flapFigures{}, err
		}
		defer conn.Close()
		f.conns = append(f.conns, conn)
		if err := f.sync(ctx, h, 0); err != nil {
			return flapFigures{}, err
		}
	}
	clear(f.sent)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for s := 0; s < flapEach; s += 10 {
		go func() {
			if err := f.follow(ctx, s); ctx.Err() == nil {
				cancel(err)
			}
		}()
	}
	if err := quiet(ctx, []*place{p}); err != nil {
		return flapFigures{}, err
	}
	before, begin := p.cpu(), time.Now()
	turns := max(4, int(2*c.seconds/flapPeriod))
	var work sync.WaitGroup
	for h := range flapHosts {
		work.Go(func() {
			next := time.Now().Add(mathrand.N(flapPeriod))
			for turn := 1; turn <= turns && ctx.Err() == nil; turn++ {
				select {
				case <-time.After(time.Until(next)):
				case <-ctx.Done():
					return
				}
				next = next.Add(flapPeriod)
				if err := f.sync(ctx, h, turn); err != nil {
					cancel(err)
				}
			}
		})
	}
	work.Wait()
	span, spent := time.Since(begin), p.cpu()-before
	if err := quiet(ctx, []*place{p}); err != nil { // what is under way arrives
		return flapFigures{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var took []time.Duration
	for index, at := range f.sent {
		for _, seen := range f.seen[index] {
			took = append(took, seen.Sub(at))
		}
	}
	if want := flapHosts * turns * flapEach / 10; len(took) < want/2 { // a follower may see two changes of an instance as one
		return flapFigures{}, fmt.Errorf("of %d changes only %d were seen", want, len(took))
	}
	slices.Sort(took)
	return flapFigures{took[len(took)*99/100], float64(len(f.sent)*flapEach) / span.Seconds(), spent.Seconds() / span.Seconds()}, nil
}
