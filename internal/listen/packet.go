// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
)

// Packets is an open packet socket. Its PacketConn is a *net.UDPConn or
// *net.UnixConn.
type Packets struct {
	net.PacketConn
	door *Door
	name string
	unix string // path to remove on Close
	mu   sync.Mutex
	keep bool // handed over: the path stays
}

// Packet opens a packet socket, or takes it over if one of that name and
// address was inherited. ctx bounds only the opening. An address that is taken
// is an *InUseError. The result is a *Packets.
func (d *Door) Packet(ctx context.Context, spec Spec) (net.PacketConn, error) {
	switch spec.Network {
	case "udp", "udp4", "udp6", "unixgram":
	default:
		return nil, specError(spec, fmt.Errorf("network %q is not one of udp, udp4, udp6, unixgram", spec.Network))
	}
	if spec.TLS != nil {
		return nil, specError(spec, fmt.Errorf("TLS is for streams, not for %s", spec.Network))
	}
	p := &Packets{door: d, name: spec.Name}
	if err := d.claim(spec); err != nil {
		return nil, err
	}
	var err error
	if p.PacketConn, err = d.inheritedPacket(spec); p.PacketConn == nil && err == nil {
		if spec.Network == "unixgram" {
			p.PacketConn, err = listenUnixgram(ctx, spec)
		} else {
			p.PacketConn, err = (&net.ListenConfig{}).ListenPacket(ctx, spec.Network, spec.Address)
			err = explainInUse(err, spec)
		}
	}
	if err != nil {
		d.release(spec.Name)
		return nil, specError(spec, err)
	}
	if spec.Network == "unixgram" {
		p.unix = spec.Address
	}
	d.opened(spec.Name, p)
	return p, nil
}

// Close closes the socket. A second call returns net.ErrClosed, wrapped.
func (p *Packets) Close() error {
	err := p.PacketConn.Close()
	if err != nil {
		return err
	}
	p.door.release(p.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unix != "" && !p.keep {
		os.Remove(p.unix) //nolint:errcheck // somebody else may have removed it
	}
	return nil
}

// File returns a duplicate of the socket, for another process. From then on
// Close leaves a Unix socket's path in place.
func (p *Packets) File() (*os.File, error) {
	f, err := fileOf(p.PacketConn)
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.keep = true
	}
	return f, err
}
