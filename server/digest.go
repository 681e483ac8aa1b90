// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Each server compares the checkpoints of its tables with those of all the others. One that finds itself alone with its own,
// where a majority of the servers agree on another, stops: it no longer has what was agreed. No server can stop another.
const (
	compareEvery  = 30 * time.Second
	compareWithin = 10 * time.Second
)

// compareDigests compares until ctx ends, or this server is the odd one.
func (s *Server) compareDigests(ctx context.Context) error {
	for {
		timer := time.NewTimer(compareEvery*3/4 + rand.N(compareEvery/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		others, servers := s.otherDigests(ctx)
		v := odd(s.store.Checkpoints(), others, servers)
		switch {
		case v.odd:
			return fmt.Errorf("this server stops: its catalog differs from that of the other servers (checkpoint %d: %s). "+
				"Keep its data_dir for whoever looks into it, empty it, and let the server join anew", v.block, strings.Join(v.tables, ", "))
		case v.tables != nil:
			s.c.Log.Error("the servers' catalogs differ, and there is no majority for either", "checkpoint", v.block, "tables", v.tables)
		}
	}
}

// otherDigests asks the other servers that vote or follow; servers is how many there are, with this one.
func (s *Server) otherDigests(ctx context.Context) (others [][]catalog.Checkpoint, servers int) {
	future := s.raft.Load().GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, 1
	}
	ctx, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	all := future.Configuration().Servers
	for _, p := range all {
		if p.ID == raft.ServerID(s.c.NodeID) {
			continue
		}
		client, err := s.peers.servers(s.addressOf(string(p.ID), string(p.Address)))
		if err != nil {
			continue
		}
		resp, err := client.Digests(ctx, &weftv1.DigestsRequest{})
		if err != nil {
			s.c.Log.Debug("a server's digests aren't known", "server", string(p.ID), "error", err)
			continue
		}
		var list []catalog.Checkpoint
		for _, c := range resp.GetCheckpoints() {
			list = append(list, catalog.Checkpoint{Block: c.GetBlock(), Tables: c.GetTables()})
		}
		others = append(others, list)
	}
	return others, len(all)
}

// verdict is what a comparison gives: tables is nil where all agree.
type verdict struct {
	odd    bool
	block  uint64
	tables []string
}

// odd compares the newest checkpoint that this server has with those of the others that have it too; servers is how many there
// are, those that didn't answer counted.
func odd(mine []catalog.Checkpoint, others [][]catalog.Checkpoint, servers int) verdict {
	for i := len(mine) - 1; i >= 0; i-- {
		agree := map[string]int{} // what differs from mine → how many have it so
		same, known := 1, false
		var tables []string
		for _, list := range others {
			for j := range list {
				if list[j].Block != mine[i].Block {
					continue
				}
				known = true
				differ := mine[i].Differs(&list[j])
				if len(differ) == 0 {
					same++
					continue
				}
				tables = differ
				agree[form(&list[j])]++
			}
		}
		if !known {
			continue // nobody has this one yet, or any more
		}
		for _, n := range agree {
			if n > servers/2 {
				return verdict{true, mine[i].Block, tables}
			}
		}
		if len(agree) > 0 && same <= servers/2 {
			return verdict{false, mine[i].Block, tables}
		}
		return verdict{}
	}
	return verdict{}
}

// form is a checkpoint as a key.
func form(c *catalog.Checkpoint) string {
	var b strings.Builder
	for _, t := range c.Differs(&catalog.Checkpoint{}) {
		fmt.Fprintf(&b, "%s %x\n", t, c.Tables[t])
	}
	return b.String()
}

// Digests gives this server's last checkpoints.
func (v *serversService) Digests(ctx context.Context, _ *weftv1.DigestsRequest) (*weftv1.DigestsResponse, error) {
	if err := v.fromServer(ctx); err != nil {
		return nil, err
	}
	out := &weftv1.DigestsResponse{}
	for _, c := range v.s.store.Checkpoints() {
		out.Checkpoints = append(out.Checkpoints, &weftv1.Checkpoint{Block: c.Block, Tables: c.Tables})
	}
	return out, nil
}
