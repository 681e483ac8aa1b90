// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// packetQueue is how many packets a receiver holds; further ones are lost.
	packetQueue = 256
	// maxPacket is the largest packet, as UDP's over IPv4.
	maxPacket = 65507
)

// PacketConn sends and receives packets under one name. Sending never blocks: a
// packet to a name that nobody has, or to a receiver whose queue is full, is
// lost without an error.
type PacketConn struct {
	guard
	net    *Network
	name   string
	queue  []packet
	closed bool
	readBy deadline
}

type packet struct {
	from Addr
	data []byte
}

var _ net.PacketConn = (*PacketConn)(nil)

// ListenPacket takes a name for packets until the connection is closed. Names
// of streams and packets don't collide, as ports of TCP and UDP don't.
func (n *Network) ListenPacket(name string) (net.PacketConn, error) {
	if name == "" {
		return nil, opError("listen", name, fmt.Errorf("the name is empty"))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.packets[name] != nil {
		return nil, opError("listen", name, syscall.EADDRINUSE)
	}
	c := &PacketConn{net: n, name: name}
	c.cond.L = &c.mu
	n.packets[name] = c
	return c, nil
}

// ReadFrom blocks for the next packet. What doesn't fit into p is lost.
func (c *PacketConn) ReadFrom(p []byte) (int, net.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, nil, opError("read", c.name, net.ErrClosed)
		case c.readBy.passed:
			return 0, nil, opError("read", c.name, os.ErrDeadlineExceeded)
		case len(c.queue) > 0:
			next := c.queue[0]
			c.queue = slices.Delete(c.queue, 0, 1)
			return copy(p, next.data), next.from, nil
		}
		c.cond.Wait()
	}
}

// WriteTo sends a copy of p to the name that addr says. It fails only here: on
// a closed connection, or with syscall.EMSGSIZE for more than 65507 bytes.
func (c *PacketConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if addr == nil {
		return 0, opError("write", "", fmt.Errorf("the address is missing"))
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, opError("write", addr.String(), net.ErrClosed)
	}
	if len(p) > maxPacket {
		return 0, opError("write", addr.String(), syscall.EMSGSIZE)
	}
	c.net.mu.Lock()
	to := c.net.packets[addr.String()]
	c.net.mu.Unlock()
	if to != nil {
		to.put(packet{from: Addr(c.name), data: slices.Clone(p)})
	}
	return len(p), nil
}

func (c *PacketConn) put(p packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.queue) >= packetQueue {
		return
	}
	c.queue = append(c.queue, p)
	c.cond.Broadcast()
}

// Close frees the name and wakes readers with net.ErrClosed.
func (c *PacketConn) Close() error {
	c.net.mu.Lock()
	if c.net.packets[c.name] == c {
		delete(c.net.packets, c.name)
	}
	c.net.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.queue = true, nil
	c.readBy.stop()
	c.cond.Broadcast()
	return nil
}

// LocalAddr returns the name as an Addr.
func (c *PacketConn) LocalAddr() net.Addr { return Addr(c.name) }

// SetDeadline is SetReadDeadline: writes don't block.
func (c *PacketConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline sets when a ReadFrom fails with os.ErrDeadlineExceeded.
func (c *PacketConn) SetReadDeadline(t time.Time) error {
	c.setDeadline(&c.readBy, t)
	return nil
}

// SetWriteDeadline does nothing: writes don't block.
func (c *PacketConn) SetWriteDeadline(time.Time) error { return nil }
