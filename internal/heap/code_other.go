// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package heap

// dropCode does nothing where it isn't known how.
func dropCode() error { return nil }
