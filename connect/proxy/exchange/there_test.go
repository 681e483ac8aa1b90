// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"io"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// ended is a request whose body is over.
type ended struct{ stream.ServerExchange }

func (ended) Trailers() *header.List { return nil }
func (ended) Buffered() int          { return 0 }

// A second try looks at the request while the first one's goroutine still reads it; what that finds out is its own until it is done.
func TestWhatIsThereWhileTheBodyIsRead(t *testing.T) {
	s := &source{ex: &exchange{req: new(stream.RequestHead)}, x: ended{}, running: true, told: true, done: make(chan struct{}, 1)}
	go func() {
		s.over(io.EOF)
		s.done <- struct{}{}
	}()
	if !s.there() {
		t.Error("a body that is being read counts as one that isn't")
	}
	<-s.done
	if s.running = false; !s.there() {
		t.Error("a body that was read isn't there")
	}
}
