// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package lounge

import (
	"errors"
	"net"
	"time"
)

const able = false

// poller isn't there.
type poller struct{}

func newPoller() (*poller, error)         { return nil, errors.ErrUnsupported }
func (*poller) close()                    {}
func (*poller) wakeAt(time.Time)          {}
func (*poller) wait() ([]uint64, error)   { return nil, errors.ErrUnsupported }
func (*poller) add(net.Conn, uint64) bool { return false }
func (*poller) remove(net.Conn)           {}
