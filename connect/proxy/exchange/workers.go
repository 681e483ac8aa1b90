// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"runtime"
	"sync"
)

const (
	maxWorkers = 4096 // that wait for work
	// ballast is on the stack of each worker that waits. A collection halves a stack of which less than a quarter is in use;
	// it would have to grow, and be copied, again with the next request.
	ballast = 5 << 10
)

// workers are goroutines that serve one request after the other: a new goroutine's stack grows, and is copied, several times
// while it serves one. Those that had no work for some time end.
type workers struct {
	mu    sync.Mutex
	on    bool
	idle  []*worker // the last that became idle at the end
	least int       // as few were idle at some time since the last trim
}

type worker struct{ work chan func() }

func (p *workers) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = true
}

// do runs f in a goroutine and doesn't wait for it.
func (p *workers) do(f func()) {
	p.mu.Lock()
	n := len(p.idle)
	if n == 0 {
		p.mu.Unlock()
		go p.loop(f)
		return
	}
	w := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.least = min(p.least, n-1)
	p.mu.Unlock()
	w.work <- f
}

//go:noinline
func (p *workers) loop(f func()) {
	var hold [ballast]byte
	w := &worker{make(chan func(), 1)}
	for ok := true; ok; {
		f()
		if !p.rest(w) {
			break
		}
		f, ok = <-w.work
	}
	runtime.KeepAlive(&hold)
}

// rest has w wait for work; false: it isn't wanted.
func (p *workers) rest(w *worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || len(p.idle) >= maxWorkers {
		return false
	}
	p.idle = append(p.idle, w)
	return true
}

// trim ends those that weren't needed since the last trim.
func (p *workers) trim() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLocked(p.least)
	p.least = len(p.idle)
}

func (p *workers) endLocked(n int) {
	for _, w := range p.idle[:n] {
		close(w.work)
	}
	kept := copy(p.idle, p.idle[n:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
}

// stop ends all that wait, and those that work when they are done.
func (p *workers) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = false
	p.endLocked(len(p.idle))
}
