// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Report is what an agent said last of its proxies. It is not to be changed.
type Report struct {
	Node         catalog.Key
	Position     catalog.Position // of the agent's replica
	DefaultAllow bool             // the agent's decision where no intention speaks
	At           time.Time
	Proxies      map[string]*weftv1.ProxyReport // by ID
}

// maxReported bounds how many proxies one node may have.
const maxReported = 16384

// Report takes an agent's word on its proxies. It isn't replicated, and holds for ReportTTL.
func (s *Server) Report(ctx context.Context, req *weftv1.ReportRequest) (*weftv1.ReportResponse, error) {
	if err := api.AuthorizeRPC(ctx, s.c.Resolver, nodeWrite, req.GetNode()); err != nil {
		return nil, api.GRPC(err)
	}
	scope := catalog.Scope{Partition: req.GetPartition()}.Default(s.c.Store.Read().Datacenter())
	node := scope.Name(req.GetNode())
	key := node.Fold().String()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &Report{
		Node: node, Position: wire.PositionFrom(req.GetPosition()), DefaultAllow: req.GetDefaultAllow(), At: s.c.Now(),
		Proxies: map[string]*weftv1.ProxyReport{},
	}
	if !req.GetComplete() {
		old := s.reports[key]
		if old == nil {
			return &weftv1.ReportResponse{Unknown: true}, nil
		}
		maps.Copy(next.Proxies, old.Proxies)
	}
	for _, p := range req.GetProxies() {
		next.Proxies[p.GetProxyId()] = p
	}
	if len(next.Proxies) > maxReported {
		return nil, api.GRPC(fmt.Errorf("%w: %d proxies on one node, at most %d", catalog.ErrInvalid, len(next.Proxies), maxReported))
	}
	s.reports[key] = next
	s.expireLocked()
	close(s.reported)
	s.reported = make(chan struct{})
	return &weftv1.ReportResponse{}, nil
}

func (s *Server) expireLocked() {
	now := s.c.Now()
	maps.DeleteFunc(s.reports, func(_ string, r *Report) bool { return now.Sub(r.At) > s.c.ReportTTL })
}

// Reports lists what agents said last, by node, and a channel that is closed when there is something newer. An agent that has
// said nothing for ReportTTL isn't there.
func (s *Server) Reports() ([]*Report, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	all := slices.Collect(maps.Values(s.reports))
	slices.SortFunc(all, func(a, b *Report) int { return strings.Compare(a.Node.String(), b.Node.String()) })
	return all, s.reported
}
