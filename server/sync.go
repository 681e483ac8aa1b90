// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"fmt"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server/rest"
)

// catalogService takes what agents know of their hosts.
type catalogService struct {
	weftv1.UnimplementedCatalogServer
	s *Server
}

var (
	serviceWrite = api.Permission{Resource: "service", Access: api.Write}
	nodeWrite    = api.Permission{Resource: "node", Access: api.Write}
	nodeRead     = api.Permission{Resource: "node", Access: api.Read}
)

// Sync orders one host's difference as one command. The caller's own token has to allow writing the node, since its record goes
// with it; items whose token doesn't suffice are refused one by one, before it.
func (c *catalogService) Sync(ctx context.Context, req *weftv1.SyncRequest) (*weftv1.SyncResponse, error) {
	var cmd catalog.Sync
	if err := catalog.FromCanonical(req.GetSync(), &cmd); err != nil {
		return nil, api.GRPC(fmt.Errorf("%w: the sync can't be read: %w", catalog.ErrInvalid, err))
	}
	if len(req.GetTokens()) != len(cmd.Items) {
		return nil, api.GRPC(fmt.Errorf("%w: %d tokens for %d items", catalog.ErrInvalid, len(req.GetTokens()), len(cmd.Items)))
	}
	if err := api.AuthorizeRPC(ctx, c.s.c.Resolver, nodeWrite, cmd.Node.Node); err != nil {
		return nil, api.GRPC(err)
	}
	results := make([]error, len(cmd.Items))
	allowed, at := c.allowed(ctx, &cmd, req.GetTokens(), results)
	cmd.Items = allowed
	result, err := c.s.Propose(ctx, &cmd)
	if err != nil {
		return nil, api.GRPC(err)
	}
	for i, r := range result.Value.([]catalog.SyncResult) {
		results[at[i]] = r.Err
	}
	out := &weftv1.SyncResponse{Index: result.Index}
	for _, err := range results {
		r := &weftv1.ItemResult{}
		if err != nil {
			r.Error, r.Code = err.Error(), uint32(api.GRPCCode(err))
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

// allowed picks the items that their tokens allow and that are valid, with their places; the others get their error.
func (c *catalogService) allowed(ctx context.Context, cmd *catalog.Sync, tokens []string, results []error) (items []catalog.SyncItem, at []int) {
	for i, item := range cmd.Items {
		subject, err := c.s.c.Resolver.Resolve(ctx, tokens[i])
		if err == nil {
			err = oneNamespace(item)
		}
		if err == nil {
			subject = subject.In(namespaceOf(item))
			switch {
			case item.Service != nil:
				err = subject.Allow(serviceWrite, item.Service.Service)
			case item.Check != nil && item.Check.ServiceName != "":
				err = subject.Allow(serviceWrite, item.Check.ServiceName)
			default:
				err = subject.Allow(nodeWrite, cmd.Node.Node)
			}
		}
		if err == nil {
			err = checkItem(item)
		}
		if err != nil {
			results[i] = err
			continue
		}
		items, at = append(items, item), append(at, i)
	}
	return items, at
}

// namespaceOf is the namespace that an item is in.
func namespaceOf(item catalog.SyncItem) string {
	switch {
	case item.Service != nil:
		return cmp.Or(item.Service.Namespace, item.Namespace, catalog.DefaultNamespace)
	case item.Check != nil:
		return cmp.Or(item.Check.Namespace, item.Namespace, catalog.DefaultNamespace)
	}
	return cmp.Or(item.Namespace, catalog.DefaultNamespace)
}

// oneNamespace refuses an item whose namespace can't be.
func oneNamespace(item catalog.SyncItem) error {
	if ns := namespaceOf(item); !catalog.ValidNamespace(ns) {
		return fmt.Errorf("%w: namespace %q: want lower-case letters, digits and - within, at most 63", catalog.ErrInvalid, ns)
	}
	return nil
}

func checkItem(item catalog.SyncItem) error {
	switch {
	case item.Service != nil:
		return rest.CheckService(item.Service)
	case item.Check != nil:
		return rest.CheckCheck(item.Check)
	}
	return nil
}

// Host gives what the catalog has of a host, in all namespaces: to who may write it all.
func (c *catalogService) Host(ctx context.Context, req *weftv1.HostRequest) (*weftv1.HostResponse, error) {
	if err := api.AuthorizeRPC(ctx, c.s.c.Resolver, nodeWrite, req.GetNode()); err != nil {
		return nil, api.GRPC(err)
	}
	txn := c.s.store.Read()
	key := catalog.Scope{Partition: req.GetPartition()}.Default(c.s.c.Datacenter).Name(req.GetNode())
	out := &weftv1.HostResponse{Index: txn.Index()}
	node, err := txn.Node(key)
	if err != nil || node == nil {
		return out, api.GRPC(err)
	}
	if out.Node, err = catalog.Canonical(node); err != nil {
		return nil, api.GRPC(err)
	}
	services, err := txn.NodeServices(key)
	if err != nil {
		return nil, api.GRPC(err)
	}
	for _, s := range services {
		b, err := catalog.Canonical(s)
		if err != nil {
			return nil, api.GRPC(err)
		}
		out.Services = append(out.Services, b)
	}
	checks, err := txn.NodeChecks(key)
	if err != nil {
		return nil, api.GRPC(err)
	}
	for _, ch := range checks {
		b, err := catalog.Canonical(ch)
		if err != nil {
			return nil, api.GRPC(err)
		}
		out.Checks = append(out.Checks, b)
	}
	return out, nil
}
