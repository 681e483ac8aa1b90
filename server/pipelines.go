// SPDX-License-Identifier: Apache-2.0

package server

import (
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// pipelines is Raft's transport without a flaw of its pipelines: after an answer that isn't a success Raft reads no more answers, while
// its sender may still wait for room behind those that nobody reads, for ever. That follower then gets nothing as long as this
// leader leads, and Raft can't be stopped; heartbeats go on, so that nobody notices. Here such an answer ends the pipeline, which
// releases the sender; and who leads no more, or stops, cuts all that are open.
type pipelines struct {
	*raft.NetworkTransport

	mu   sync.Mutex
	open map[*pipeline]bool
}

type pipeline struct {
	raft.AppendPipeline
	of      *pipelines
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
}

// AppendEntriesPipeline opens one.
func (p *pipelines) AppendEntriesPipeline(id raft.ServerID, address raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := p.NetworkTransport.AppendEntriesPipeline(id, address)
	if err != nil {
		return nil, err
	}
	line := &pipeline{
		AppendPipeline: inner, of: p, answers: make(chan raft.AppendFuture, cap(inner.Consumer())), closed: make(chan struct{}),
	}
	p.mu.Lock()
	if p.open == nil {
		p.open = map[*pipeline]bool{}
	}
	p.open[line] = true
	p.mu.Unlock()
	go line.pass() // ends with the pipeline, which Raft closes
	return line, nil
}

// pass passes answers on, up to the last that Raft reads.
func (p *pipeline) pass() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			last := !f.Response().Success || f.Response().Term > f.Request().Term
			select {
			case p.answers <- f:
			case <-p.closed:
				return
			}
			if last {
				_ = p.Close() // nothing can be done about it
				return
			}
		case <-p.closed:
			return
		}
	}
}

// Consumer is where answers come.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close ends it, and who waits in it.
func (p *pipeline) Close() (err error) {
	p.once.Do(func() {
		p.of.mu.Lock()
		delete(p.of.open, p)
		p.of.mu.Unlock()
		close(p.closed)
		err = p.AppendPipeline.Close()
	})
	return err
}

// cut closes all that are open: who waits in one is told so, and Raft opens another where it still leads.
func (p *pipelines) cut() {
	if p == nil {
		return
	}
	p.mu.Lock()
	open := slices.Collect(maps.Keys(p.open))
	p.mu.Unlock()
	for _, o := range open {
		_ = o.Close() // nothing can be done about it
	}
}
