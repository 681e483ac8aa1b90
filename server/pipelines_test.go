// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/memnet"
)

// A sender that waits in a pipeline whose answers nobody takes is let go.
func TestPipelineIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memnet.New()
		transport := func(address string) *pipelines {
			l, err := w.Listen(address + "/raft")
			if err != nil {
				t.Fatal(err)
			}
			s := &streams{Listener: l, address: address, dial: func(ctx context.Context, to, protocol string) (net.Conn, error) {
				return w.DialFrom(ctx, address, to+"/raft")
			}}
			p := &pipelines{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: s, MaxPool: 3, Timeout: time.Minute})}
			t.Cleanup(func() {
				_ = p.Close()
				_ = s.Close()
			})
			return p
		}
		leader := transport("10.0.0.1:8300")
		transport("10.0.0.2:8300") // it takes what comes, and answers nothing
		line, err := leader.AppendEntriesPipeline("two", "10.0.0.2:8300")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := line.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}); err != nil {
					ended <- err
					return
				}
			}
		}()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it doesn't wait: %v", err)
		default:
		}
		leader.cut()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("it still waits")
		}
	})
}
