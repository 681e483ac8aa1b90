// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package h1

import "syscall"

func (r *reader) initRaw() {}

func (r *reader) waitRaw() error { return syscall.EINVAL }

// peeker can't ask here: raw stays nil, and an idle connection counts as alive.
type peeker struct{ raw syscall.RawConn }

func (p *peeker) init(syscall.RawConn) {}

func (p *peeker) quiet() bool { return true }
