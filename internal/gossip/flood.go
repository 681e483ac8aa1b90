// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"net/netip"
	"time"
)

const (
	// floodEvery is how often servers of this datacenter are brought into the WAN, besides when the LAN's members change.
	floodEvery = 30 * time.Second
	// floodTimeout bounds one join.
	floodTimeout = 10 * time.Second
)

// Flood brings every server that the LAN pool knows into the WAN pool, until ctx ends: where one server of a datacenter joins
// another datacenter, all do. Both pools must run.
func Flood(ctx context.Context, lan, wan *Pool) error {
	for {
		_, changed := lan.Changes()
		for _, to := range missing(lan.Members(), wan.Members()) {
			jctx, cancel := context.WithTimeout(ctx, floodTimeout)
			if _, err := wan.Join(jctx, []string{to.String()}); err != nil && ctx.Err() == nil {
				lan.log.Debug("a server of this datacenter can't be brought into the WAN", "address", to.String(), "error", err)
			}
			cancel()
		}
		timer := time.NewTimer(floodEvery)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// missing are the WAN addresses of the LAN's servers that aren't in the WAN.
func missing(lan, wan []Member) []netip.AddrPort {
	there := map[string]bool{}
	for i := range wan {
		if wan[i].Status == StatusAlive {
			there[wan[i].Name] = true
		}
	}
	var out []netip.AddrPort
	for i := range lan {
		m := &lan[i]
		if !m.Server || m.WANPort == 0 || m.Status != StatusAlive || there[m.Name+"."+m.Datacenter] {
			continue
		}
		if addr, err := netip.ParseAddr(m.Address); err == nil {
			out = append(out, netip.AddrPortFrom(addr, uint16(m.WANPort)))
		}
	}
	return out
}
