// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What is measured over the HTTP API, of weft and of Consul alike.

const someValue = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

func (c *clusterConfig) kv(ctx context.Context, p *place) (cost, error) {
	return loop(ctx, 32, c.seconds, []*place{p}, func(ctx context.Context, i int) error {
		_, err := p.ask(ctx, http.MethodPut, fmt.Sprintf("/v1/kv/key-%d", i%1000), someValue)
		return err
	})
}

func (c *clusterConfig) register(ctx context.Context, p *place) (cost, error) {
	return loop(ctx, 32, c.seconds, []*place{p}, func(ctx context.Context, i int) error {
		_, err := p.ask(ctx, http.MethodPut, "/v1/catalog/register", fmt.Sprintf(
			`{"Node":"r%d","Address":"10.1.0.1","SkipNodeUpdate":false,"Service":{"ID":"s%d","Service":"s%d","Port":%d,"Tags":["a","b"]},"Check":{"Name":"c","CheckID":"c%d","ServiceID":"s%d","Status":"passing"}}`,
			i%100, i%1000, i%1000, 1+i%60000, i%1000, i%1000))
		return err
	})
}

// instances registers 30 of web.
func instances(ctx context.Context, p *place) error {
	for i := range 30 {
		if err := instance(ctx, p, i, 80); err != nil {
			return err
		}
	}
	return nil
}

func instance(ctx context.Context, p *place, i, port int) error {
	_, err := p.ask(ctx, http.MethodPut, "/v1/catalog/register", fmt.Sprintf(
		`{"Node":"w%d","Address":"10.0.0.%d","Service":{"ID":"web","Service":"web","Port":%d,"Tags":["a"]},"Checks":[{"CheckID":"serfHealth","Name":"alive","Status":"passing"},{"CheckID":"web","Name":"web","Status":"passing","ServiceID":"web"}]}`, i, i, port))
	return err
}

const webHealth = "/v1/health/service/web"

func (c *clusterConfig) unchanged(ctx context.Context, p *place) (cost, error) {
	return loop(ctx, 8, c.seconds, []*place{p}, func(ctx context.Context, _ int) error {
		_, err := p.ask(ctx, http.MethodGet, webHealth, "")
		return err
	})
}

// writeBetween is what a read costs that comes after a write each: both together less the write alone.
func (c *clusterConfig) writeBetween(ctx context.Context, p *place) (cost, error) {
	one := []*place{p}
	write := func(ctx context.Context, i int) error { return instance(ctx, p, i%30, 1+i%60000) }
	alone, err := loop(ctx, 4, c.seconds, one, write)
	if err != nil {
		return alone, err
	}
	both, err := loop(ctx, 4, c.seconds, one, func(ctx context.Context, i int) error {
		if err := write(ctx, i); err != nil {
			return err
		}
		_, err := p.ask(ctx, http.MethodGet, webHealth, "")
		return err
	})
	return cost{max(0, both.cpu-alone.cpu), both.rate}, err
}

// reads compares default with stale reads at one of some servers, round by round: the medians of what each took of the processors of all, of their
// rates, and of the ratio of these in a round, since what else the machine does changes from one round to the next.
func (c *clusterConfig) reads(ctx context.Context, p *place, all []*place) (consistent, stale cost, ratio float64, err error) {
	for i := range 1000 {
		if _, err := p.ask(ctx, http.MethodPut, fmt.Sprintf("/v1/kv/key-%d", i), someValue); err != nil {
			return consistent, stale, 0, err
		}
	}
	var cpus, rates [2][]float64
	var ratios []float64
	const rounds = 9
	for r := range rounds {
		for k := range 2 {
			which := (r + k) % 2
			got, err := loop(ctx, 32, c.seconds/4, all, func(ctx context.Context, i int) error {
				_, err := p.ask(ctx, http.MethodGet, fmt.Sprintf("/v1/kv/key-%d%s", i%1000, [2]string{"", "?stale"}[which]), "")
				return err
			})
			if err != nil {
				return consistent, stale, 0, err
			}
			cpus[which] = append(cpus[which], float64(got.cpu))
			rates[which] = append(rates[which], got.rate)
		}
		ratios = append(ratios, rates[0][r]/rates[1][r])
	}
	of := func(which int) cost {
		cpu, _, _ := middle(cpus[which])
		rate, _, _ := middle(rates[which])
		return cost{time.Duration(cpu), rate}
	}
	ratio, _, _ = middle(ratios)
	return of(0), of(1), ratio, nil
}

// thousand registers 1,000 services on an agent, until all of them are in the catalog.
func (c *clusterConfig) thousand(ctx context.Context, p *place) (cost, error) {
	const n = 1000
	before, begin := p.cpu(), time.Now()
	next := make(chan int)
	errs := make(chan error, 32)
	var work sync.WaitGroup
	for range 32 {
		work.Go(func() {
			for i := range next {
				if _, err := p.ask(ctx, http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"a%d","Port":%d,"Check":{"TTL":"10m","Status":"passing"}}`, i, 1+i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case err := <-errs:
			close(next)
			return cost{}, err
		}
	}
	close(next)
	work.Wait()
	err := until(ctx, time.Minute, func() error {
		_, data, err := p.read(ctx, http.MethodGet, "/v1/catalog/node-services/"+p.name, "")
		if err == nil && strings.Count(string(data), `"ID":"a`) < n {
			err = errors.New("not all are there")
		}
		return err
	})
	took := time.Since(begin)
	return cost{(p.cpu() - before) / n, n / took.Seconds()}, err
}

// watchers has 1,000 blocking queries wait at an agent for one change, some times.
func (c *clusterConfig) watchers(ctx context.Context, server, at *place, of []*place) (each, last time.Duration, err error) {
	const n, rounds = 1000, 5
	over, round := c.profiled(ctx, at, "watchers"), 0
	for ; round < rounds || !over(); round++ {
		h, err := at.ask(ctx, http.MethodGet, webHealth, "")
		if err != nil {
			return 0, 0, err
		}
		index := h.Get("X-Consul-Index")
		errs := make(chan error, n)
		for range n {
			go func() {
				_, err := at.ask(ctx, http.MethodGet, webHealth+"?wait=100s&index="+index, "")
				errs <- err
			}()
		}
		if err := quiet(ctx, of); err != nil { // all wait
			return 0, 0, err
		}
		before, begin := cpuOfAll(of), time.Now()
		if err := instance(ctx, server, 1, 1000+round); err != nil {
			return 0, 0, err
		}
		for range n {
			if err := <-errs; err != nil {
				return 0, 0, err
			}
		}
		last += time.Since(begin)
		each += (cpuOfAll(of) - before) / n
	}
	return each / time.Duration(round), last / time.Duration(round), nil
}

// quiet waits until processes do next to nothing.
func quiet(ctx context.Context, of []*place) error {
	const look = 500 * time.Millisecond
	before := cpuOfAll(of)
	return until(ctx, time.Minute, func() error {
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
		now := cpuOfAll(of)
		spent := now - before
		before = now
		if spent > look/10 {
			return errors.New("it works")
		}
		return nil
	})
}

// idle is what a server agent without anything to do takes, some seconds after its start.
func idle(ctx context.Context, p *place) (float64, error) {
	if err := quiet(ctx, []*place{p}); err != nil {
		return 0, err
	}
	select {
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return p.pss(), nil
}

// decode reads an answer's JSON.
func decode[T any](ctx context.Context, p *place, path string) (out T, err error) {
	_, data, err := p.read(ctx, http.MethodGet, path, "")
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(data, &out)
}
