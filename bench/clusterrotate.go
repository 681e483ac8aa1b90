// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// rotation is what a new root takes, with which every leaf is signed anew.
type rotation struct {
	leaves, agents int
	rooted, took   time.Duration // until the request is answered, and until the last agent has its last leaf
	server, agent  time.Duration // processor time: the server's, and all agents'
}

// rotate registers proxies at agents, waits for their leaves, and makes a new root.
func (c *clusterConfig) rotate(ctx context.Context, w *ward, p *place) (r rotation, err error) {
	const agents, each = 5, 1000
	r.leaves, r.agents = agents*each, agents
	var at []*place
	for n := range agents {
		a, err := w.agent(ctx, fmt.Sprint("c", n))
		if err != nil {
			return r, err
		}
		at = append(at, a)
		if err := proxies(ctx, a, each); err != nil {
			return r, err
		}
	}
	last := map[*place]time.Time{}
	for _, a := range at {
		if err := until(ctx, 2*time.Minute, func() error {
			ends, err := leafEnds(ctx, a)
			for _, end := range ends {
				if end.After(last[a]) {
					last[a] = end
				}
			}
			if err == nil && len(ends) < each {
				err = fmt.Errorf("%s has %d leaves", a.name, len(ends))
			}
			return err
		}); err != nil {
			return r, err
		}
	}
	const apart = 5 * time.Second // so that new leaves can be told from the old by when they end
	select {
	case <-time.After(apart):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if err := quiet(ctx, append(at, p)); err != nil {
		return r, err
	}
	c.profiled(ctx, p, "rotation, server")
	c.profiled(ctx, at[0], "rotation, agent")
	server, agent, begin := p.cpu(), cpuOfAll(at), time.Now()
	if _, err := p.ask(ctx, http.MethodPut, "/v1/connect/ca/configuration", `{"Provider":"consul","Config":{"Rotate":true}}`); err != nil {
		return r, err
	}
	r.rooted = time.Since(begin)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for _, a := range at {
		if err := until(ctx, 2*time.Minute, func() error {
			<-tick.C // an agent that answers signs nothing
			ends, err := leafEnds(ctx, a)
			renewed := 0
			for _, end := range ends {
				if end.After(last[a].Add(apart / 2)) {
					renewed++
				}
			}
			if err == nil && renewed < each {
				err = fmt.Errorf("%s has %d new leaves", a.name, renewed)
			}
			return err
		}); err != nil {
			return r, err
		}
	}
	r.took, r.server, r.agent = time.Since(begin), p.cpu()-server, cpuOfAll(at)-agent
	return r, nil
}

// proxies registers so many proxies at an agent, each of a service of its own.
func proxies(ctx context.Context, a *place, n int) error {
	const clients = 32
	errs := make([]error, clients)
	var work sync.WaitGroup
	for client := range clients {
		work.Go(func() {
			for i := client; i < n && errs[client] == nil; i += clients {
				_, errs[client] = a.ask(ctx, http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(
					`{"Kind":"connect-proxy","Name":"%s-%d-proxy","Port":%d,"Proxy":{"DestinationServiceName":"%s-%d"}}`, a.name, i, 10000+i, a.name, i))
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// leafEnds says when each leaf of an agent ends, by its metrics.
func leafEnds(ctx context.Context, a *place) ([]time.Time, error) {
	_, data, err := a.read(ctx, http.MethodGet, "/v1/agent/metrics?format=prometheus", "")
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var ends []time.Time
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "weft_agent_leaf_expiry_seconds{") {
			continue
		}
		seconds, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:len(line)-1], 64)
		if err != nil {
			return nil, err
		}
		ends = append(ends, now.Add(time.Duration(seconds*float64(time.Second))))
	}
	return ends, nil
}

func (c *clusterConfig) rotateRow(ctx context.Context, t *table) error {
	w, p, err := c.lone(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	r, err := c.rotate(ctx, w, p)
	if err != nil {
		return err
	}
	t.add(15, fmt.Sprintf("a new root, and %d leaves on %d agents by it", r.leaves, r.agents), "≤ 10 s",
		fmt.Sprintf("%.1f s (root %.0f ms), CPU: server %.1f s, agents %.1f s", r.took.Seconds(), millis(r.rooted), r.server.Seconds(), r.agent.Seconds()), "-", "-", r.took <= 10*time.Second)
	return nil
}
