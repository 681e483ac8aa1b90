// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package nowait

import "syscall"

const able = false

// Read isn't there: Of gives nil.
func Read(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.EINVAL }

// Write isn't there either.
func Write(uintptr, []byte) (int, syscall.Errno) { return 0, syscall.EINVAL }
