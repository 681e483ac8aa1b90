// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package listen

import (
	"net"
	"time"
)

// peek can look at sockets on Unix only.
func peek(net.Conn, time.Duration) (first byte, said, ok bool) { return 0, false, false }
