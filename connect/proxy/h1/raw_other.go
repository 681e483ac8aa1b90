// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package h1

import "syscall"

func (r *reader) initRaw() {}

func (r *reader) waitRaw() error { return syscall.EINVAL }

func quiet(syscall.RawConn) bool { return false }
