// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/ads"
)

// ads has 200 proxies of one agent follow their configuration, and measures from a change of an instance of what all of them call
// until each was told.
func (c *clusterConfig) ads(ctx context.Context, p *place) (p50, p99, cpu time.Duration, err error) {
	const n, rounds = 200, 10
	for i := range n {
		if _, err := p.ask(ctx, http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(
			`{"Name":"x%d","Port":%d,"Connect":{"SidecarService":{"Port":%d,"Proxy":{"Upstreams":[{"DestinationName":"web","LocalBindPort":%d}]}}}}`, i, 30000+i, 31000+i, 32000+i)); err != nil {
			return 0, 0, 0, err
		}
	}
	if err := connectInstance(ctx, p, 1); err != nil {
		return 0, 0, 0, err
	}
	told := make(chan time.Time, 16*n)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := make(chan struct{}, n)
	for i := range n {
		go func() {
			if err := follow(ctx, p, i, ready, told); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		}()
	}
	for range n {
		select {
		case <-ready:
		case <-ctx.Done():
			return 0, 0, 0, context.Cause(ctx)
		case <-time.After(time.Minute):
			return 0, 0, 0, fmt.Errorf("not all of the %d streams have their endpoints", n)
		}
	}
	if err := quiet(ctx, []*place{p}); err != nil {
		return 0, 0, 0, err
	}
	for len(told) > 0 {
		<-told
	}
	var took []time.Duration
	over, before, done := c.profiled(ctx, p, "ads"), p.cpu(), 0
	for ; done < rounds || !over(); done++ {
		begin := time.Now()
		if err := connectInstance(ctx, p, 2+done); err != nil {
			return 0, 0, 0, err
		}
		for range n {
			select {
			case at := <-told:
				took = append(took, at.Sub(begin))
			case <-ctx.Done():
				return 0, 0, 0, context.Cause(ctx)
			case <-time.After(20 * time.Second):
				return 0, 0, 0, fmt.Errorf("round %d: not all of the %d streams were told", done, n)
			}
		}
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], (p.cpu() - before) / time.Duration(done), nil
}

func connectInstance(ctx context.Context, p *place, port int) error {
	for _, body := range []string{
		`{"Node":"w1","Address":"10.0.0.1","Service":{"ID":"web","Service":"web","Port":80}}`,
		fmt.Sprintf(`{"Node":"w1","Address":"10.0.0.1","SkipNodeUpdate":true,"Service":{"ID":"web-proxy","Service":"web-proxy","Kind":"connect-proxy","Port":%d,"Proxy":{"DestinationServiceName":"web"}}}`, 20000+port),
	} {
		if _, err := p.ask(ctx, http.MethodPut, "/v1/catalog/register", body); err != nil {
			return err
		}
	}
	return nil
}

// follow is one proxy: it acknowledges what it is told, and says when its endpoints change.
func follow(ctx context.Context, p *place, i int, ready chan<- struct{}, told chan<- time.Time) error {
	id := fmt.Sprintf("x%d-sidecar-proxy", i)
	access, err := decode[struct{ Secret string }](ctx, p, "/v1/agent/connect/proxy/"+id)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+p.ip+":8502", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, ads.SecretHeader, access.Secret)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, Node: &corev3.Node{
		Id: id, Cluster: fmt.Sprint("x", i), UserAgentName: "weft", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "0.1.0"},
	}})
	asked, first := false, true
	for err == nil {
		var r *discoveryv3.DeltaDiscoveryResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		now := time.Now()
		if err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
			break
		}
		switch {
		case r.GetTypeUrl() == xds.ClusterType && !asked:
			asked = true
			names := make([]string, 0, len(r.GetResources()))
			for _, res := range r.GetResources() {
				names = append(names, res.GetName())
			}
			err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: names})
		case r.GetTypeUrl() == xds.EndpointType && len(r.GetResources()) > 0:
			if first {
				first = false
				ready <- struct{}{}
				continue
			}
			told <- now
		}
	}
	return err
}
