// SPDX-License-Identifier: Apache-2.0

package server

import (
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// pipelines is Raft's transport with its open pipelines known, so that they can be closed. Raft's leader may be caught in one when it
// steps down: nobody reads what comes back any more, the next message waits for room behind it, and neither the goroutine ends nor,
// for ever, Raft when it is stopped; meanwhile its heartbeats go on.
type pipelines struct {
	*raft.NetworkTransport

	mu   sync.Mutex
	open map[*pipeline]bool
}

type pipeline struct {
	raft.AppendPipeline
	of *pipelines
}

// AppendEntriesPipeline opens one.
func (p *pipelines) AppendEntriesPipeline(id raft.ServerID, address raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := p.NetworkTransport.AppendEntriesPipeline(id, address)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[*pipeline]bool{}
	}
	kept := &pipeline{inner, p}
	p.open[kept] = true
	return kept, nil
}

func (p *pipeline) Close() error {
	p.of.mu.Lock()
	delete(p.of.open, p)
	p.of.mu.Unlock()
	return p.AppendPipeline.Close()
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
