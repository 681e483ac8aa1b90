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

// testTransports are two on one network.
func testTransports(t *testing.T) (one, two *pipelines) {
	w := memnet.New()
	transport := func(address string) *pipelines {
		l, err := w.Listen(address + "/raft")
		if err != nil {
			t.Fatal(err)
		}
		s := &streams{Listener: l, address: address, dial: func(ctx context.Context, to, _ string) (net.Conn, error) {
			return w.DialFrom(ctx, address, to+"/raft")
		}}
		p := &pipelines{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: s, MaxPool: 3, Timeout: time.Minute})}
		t.Cleanup(func() {
			_ = p.Close()
			_ = s.Close()
		})
		return p
	}
	return transport("10.0.0.1:8300"), transport("10.0.0.2:8300")
}

// sendForever sends until it can't.
func sendForever(line raft.AppendPipeline) (ended chan error) {
	ended = make(chan error, 1)
	go func() {
		for {
			if _, err := line.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

// A sender that waits in a pipeline in which nothing comes back is let go.
func TestPipelineIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, _ := testTransports(t) // the other takes what comes, and answers nothing
		line, err := leader.AppendEntriesPipeline("two", "10.0.0.2:8300")
		if err != nil {
			t.Fatal(err)
		}
		ended := sendForever(line)
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

// So is one that sends to a follower that refuses: Raft reads the refusal and nothing behind it.
func TestPipelineIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, follower := testTransports(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for n := 0; ; n++ {
				select {
				case rpc := <-follower.NetworkTransport.Consumer():
					rpc.Respond(&raft.AppendEntriesResponse{Success: n < 3}, nil)
				case <-ctx.Done():
					return
				}
			}
		}()
		line, err := leader.AppendEntriesPipeline("two", "10.0.0.2:8300")
		if err != nil {
			t.Fatal(err)
		}
		ended := sendForever(line)
		for (<-line.Consumer()).Response().Success {
		}
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("it waits for ever")
		}
		_ = line.Close()
	})
}
