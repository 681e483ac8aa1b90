// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/internal/run"
)

// abroad is what the leader follows of other datacenters: each service there that is called from here, by one blocking query for
// all of this datacenter. What is heard goes through the log into the catalog, so that every server and agent has it in the usual
// way, also after a restart, and also while the other datacenter can't be reached.
type abroad struct {
	s         *Server
	following map[catalog.Key]context.CancelFunc
}

// The waits after a question to another datacenter that failed.
const (
	abroadRetryFirst = time.Second
	abroadRetryLast  = 10 * time.Second
	// abroadWait is how long one question may be held there; abroadGrace what an answer may take longer.
	abroadWait  = 5 * time.Minute
	abroadGrace = time.Minute
	// abroadBytes bounds an answer.
	abroadBytes = 64 << 20
)

// followAbroad keeps what is imported until leadership ends.
func (s *Server) followAbroad(ctx context.Context) error {
	a := &abroad{s: s, following: map[catalog.Key]context.CancelFunc{}}
	g := run.New(ctx)
	g.Go("what is called abroad", func(ctx context.Context) error {
		for ctx.Err() == nil {
			txn := s.store.Read().Record()
			keys, err := chain.Abroad(txn)
			if err != nil {
				return err
			}
			a.follow(g, keys)
			if err := a.forget(ctx, keys); err != nil && ctx.Err() == nil {
				s.c.Log.Warn("can't forget services of other datacenters", "error", err)
			}
			_ = s.store.WaitChange(ctx, txn) // it fails when ctx ends
		}
		return nil
	})
	return g.Wait()
}

// follow begins to follow what isn't followed yet, and ends what isn't called any more.
func (a *abroad) follow(g *run.Group, keys []catalog.Key) {
	wanted := map[catalog.Key]bool{}
	for _, key := range keys {
		wanted[key] = true
		if a.following[key] != nil {
			continue
		}
		ctx, stop := context.WithCancel(g.Context())
		a.following[key] = stop
		g.Go("import", func(context.Context) error { return a.keep(ctx, key) })
	}
	for key, stop := range a.following {
		if !wanted[key] {
			stop()
			delete(a.following, key)
		}
	}
}

// forget drops what is imported and no longer called.
func (a *abroad) forget(ctx context.Context, keys []catalog.Key) error {
	wanted := map[catalog.Key]bool{}
	for _, key := range keys {
		wanted[key] = true
	}
	imports, err := a.s.store.Read().Imports()
	for _, i := range imports {
		if !wanted[i.Service] && err == nil {
			_, err = a.s.Propose(ctx, catalog.Import{Service: i.Service, Drop: true})
		}
	}
	return err
}

// keep holds a question about one service there until ctx ends.
func (a *abroad) keep(ctx context.Context, key catalog.Key) error {
	var known []byte
	return follow(ctx, func(index uint64) (uint64, error) {
		list, next, err := a.s.instancesAbroad(ctx, key, index)
		if err == nil {
			known, err = a.bring(ctx, key, list, known)
		} else if ctx.Err() == nil {
			err = errors.Join(err, a.mark(ctx, key, err))
		}
		return next, err
	}, func(err error, _ time.Duration) {
		known = nil
		a.s.c.Log.Debug("a service of another datacenter isn't heard of", "service", key, "datacenter", key.Datacenter, "error", err)
	})
}

// follow has a question asked, and what is heard done with, until ctx ends: the next time for what is newer than the index that ask gave; after
// a failure from the start, later and later. failed is told of it.
func follow(ctx context.Context, ask func(index uint64) (next uint64, err error), failed func(err error, retry time.Duration)) error {
	var index uint64
	retry := abroadRetryFirst
	for ctx.Err() == nil {
		next, err := ask(index)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failed(err, retry)
			index = 0
			pause(ctx, retry)
			retry = min(2*retry, abroadRetryLast)
			continue
		case next == index: // nothing new: it waited, or doesn't wait
			pause(ctx, abroadRetryFirst)
		}
		index, retry = next, abroadRetryFirst
	}
	return nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// bring imports what was heard, if it isn't what is known.
func (a *abroad) bring(ctx context.Context, key catalog.Key, list []catalog.InstanceRecord, known []byte) ([]byte, error) {
	body, err := catalog.Canonical(list)
	if err != nil || known != nil && bytes.Equal(body, known) {
		return known, err
	}
	have, err := a.s.store.Read().Import(key)
	if err != nil {
		return nil, err
	}
	if _, err := a.s.Propose(ctx, catalog.Import{Service: key, Instances: list}); err != nil {
		return nil, err
	}
	if have != nil && have.Fault != "" {
		a.s.c.Log.Info("a service of another datacenter is heard of again", "service", key, "datacenter", key.Datacenter)
	}
	return body, nil
}

// mark notes since when a service there isn't heard of, once: its instances stay.
func (a *abroad) mark(ctx context.Context, key catalog.Key, fault error) error {
	have, err := a.s.store.Read().Import(key)
	if err != nil || have != nil && have.Fault != "" {
		return err
	}
	a.s.c.Log.Warn("a service of another datacenter isn't heard of: its instances stay as they were known", "service", key,
		"datacenter", key.Datacenter, "error", fault)
	_, err = a.s.Propose(ctx, catalog.Import{Service: key, Fault: fault.Error(), Since: a.s.c.Now().UTC().Truncate(time.Second)})
	return err
}

// heard is an instance as the servers of another datacenter tell it.
type heard struct {
	Node struct {
		Node, Address   string
		TaggedAddresses map[string]string
		Meta            map[string]string
	}
	Service struct {
		Kind, ID, Service, Address string
		Tags                       []string
		TaggedAddresses            map[string]catalog.ServiceAddress
		Meta                       map[string]string
		Port                       int
		Weights                    catalog.Weights
		Proxy                      struct {
			DestinationServiceName string
			LocalServicePort       int
		}
		Connect  catalog.Connect
		Locality *catalog.Locality
	}
	Checks []struct{ CheckID, Name, Status, ServiceID, Type string }
}

// instancesAbroad asks for the instances of a service there that can be dialled, once they are newer than index.
func (s *Server) instancesAbroad(ctx context.Context, key catalog.Key, index uint64) ([]catalog.InstanceRecord, uint64, error) {
	q := url.Values{"stale": {""}}
	if key.Namespace != catalog.DefaultNamespace {
		q.Set("ns", key.Namespace)
	}
	if key.Partition != catalog.DefaultPartition {
		q.Set("partition", key.Partition)
	}
	var all []heard
	next, err := s.askAbroad(ctx, key.Datacenter, "/v1/health/connect/"+url.PathEscape(key.Name), q, index, &all)
	if err != nil {
		return nil, 0, err
	}
	list := []catalog.InstanceRecord{}
	for i := range all {
		if r, ok := all[i].record(); ok {
			list = append(list, r)
		}
	}
	return list, next, nil
}

// record is the instance as it is kept here: with the address by which other datacenters reach it, and without what only its own
// proxy needs. One that listens on a socket of its host can't be called from here.
func (h *heard) record() (catalog.InstanceRecord, bool) {
	n, s := &h.Node, &h.Service
	node := &catalog.Node{Node: n.Node, Address: cmp.Or(n.TaggedAddresses["wan"], n.Address), Meta: n.Meta}
	service := &catalog.Service{
		Kind: s.Kind, ID: s.ID, Service: s.Service, Tags: s.Tags, Meta: s.Meta, Address: s.Address, Port: s.Port, Weights: s.Weights, Locality: s.Locality,
	}
	if wan, ok := s.TaggedAddresses["wan"]; ok && wan.Address != "" {
		service.Address, service.Port = wan.Address, cmp.Or(wan.Port, s.Port)
	}
	if s.Kind == catalog.KindConnectProxy {
		service.Proxy = &catalog.Proxy{DestinationServiceName: s.Proxy.DestinationServiceName, LocalServicePort: s.Proxy.LocalServicePort}
	}
	if s.Connect.Native {
		service.Connect = &catalog.Connect{Native: true}
	}
	r := catalog.InstanceRecord{Node: node, Service: service}
	for _, c := range h.Checks {
		r.Checks = append(r.Checks, &catalog.Check{CheckID: c.CheckID, Name: c.Name, Status: c.Status, ServiceID: c.ServiceID, Type: c.Type})
	}
	return r, service.Port > 0
}

// askAbroad has another datacenter's servers answer a read, once its index is above the given one, and decodes the answer.
func (s *Server) askAbroad(ctx context.Context, dc, path string, q url.Values, index uint64, into any) (next uint64, err error) {
	q.Set("dc", dc)
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", abroadWait.String())
	}
	ctx, cancel := context.WithTimeout(ctx, abroadWait+abroadGrace)
	defer cancel()
	header, err := s.exchangeAbroad(ctx, dc, http.MethodGet, path+"?"+q.Encode(), http.NoBody, into)
	if err != nil {
		return 0, err
	}
	next, err = strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64)
	if err != nil || next < index {
		next = 0 // another history: from the start
	}
	return next, nil
}

// exchangeAbroad has another datacenter's servers answer a request, whose target says which, by this datacenter's token, and decodes the answer.
func (s *Server) exchangeAbroad(ctx context.Context, dc, method, target string, body io.Reader, into any) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	if token := s.replicationToken(); token != "" {
		r.Header.Set("X-Consul-Token", token)
	}
	resp, err := s.Ask(dc, r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read whole, or of no use
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Consul-Results-Filtered-By-ACLs") == "true" {
		return nil, refusedAbroad(resp, dc)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, abroadBytes)).Decode(into); err != nil {
		return nil, fmt.Errorf("the answer of datacenter %s can't be read: %w", dc, err)
	}
	return resp.Header, nil
}

// errAbroad says that another datacenter's servers don't answer what they are asked.
var errAbroad = errors.New("the other datacenter refuses")

func refusedAbroad(resp *http.Response, dc string) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // for people alone
	switch resp.StatusCode {
	case http.StatusOK, http.StatusForbidden, http.StatusUnauthorized:
		return fmt.Errorf("%w: the token that this datacenter's servers have for datacenter %s may not read this: set acl.tokens.replication to one that may: %s",
			errAbroad, dc, strings.TrimSpace(string(text)))
	}
	return fmt.Errorf("%w: datacenter %s answers with %s: %s", errAbroad, dc, resp.Status, strings.TrimSpace(string(text)))
}

// replicationToken is this datacenter's token for others, "" for none.
func (s *Server) replicationToken() string {
	if s.c.Replication == nil {
		return ""
	}
	return s.c.Replication()
}
