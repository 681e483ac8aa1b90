// SPDX-License-Identifier: Apache-2.0

package stormtest

import (
	"bytes"
	"net"
	"time"
)

// Conn is a connection on which in is received, at most step bytes at a time (0: as many as are asked for), then its end. What is written to it is dropped.
func Conn(in []byte, step int) net.Conn { return conn{bytes.NewReader(in), step} }

type conn struct {
	r    *bytes.Reader
	step int
}

func (c conn) Read(p []byte) (int, error) {
	if c.step > 0 {
		p = p[:min(len(p), c.step)]
	}
	return c.r.Read(p)
}

func (conn) Write(p []byte) (int, error)      { return len(p), nil }
func (conn) Close() error                     { return nil }
func (conn) LocalAddr() net.Addr              { return nil }
func (conn) RemoteAddr() net.Addr             { return nil }
func (conn) SetDeadline(time.Time) error      { return nil }
func (conn) SetReadDeadline(time.Time) error  { return nil }
func (conn) SetWriteDeadline(time.Time) error { return nil }
