// SPDX-License-Identifier: Apache-2.0

package feed

import "sync"

// streams counts the open streams of each node: a node that has one lives.
type streams struct {
	mu     sync.Mutex
	open   map[string]int
	change chan struct{}
}

// enter counts a stream until leave is called.
func (s *streams) enter(node string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]int{}
	}
	s.open[node]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[node]--; s.open[node] == 0 {
			delete(s.open, node)
			if s.change != nil {
				close(s.change)
				s.change = nil
			}
		}
	}
}

// Connected says whether a node has an open stream to this server.
func (s *Server) Connected(node string) bool {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	return s.streams.open[node] > 0
}

// Disconnected is closed when a node's last stream ends next.
func (s *Server) Disconnected() <-chan struct{} {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	if s.streams.change == nil {
		s.streams.change = make(chan struct{})
	}
	return s.streams.change
}
