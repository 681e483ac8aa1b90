// SPDX-License-Identifier: Apache-2.0

// Package intention decides who may call whom: it orders the rules of service-intentions entries by precedence and
// evaluates them for a connection or for a request. What it answers is what connect/xds renders for proxies; both take
// their rules from Match, so that they can't differ in order or reach.
//
// It is pure: it reads a catalog transaction and starts no goroutine. In a replica that doesn't hold an entry that could
// matter, each function returns an error that wraps catalog.ErrNotCovered, and never an answer.
package intention
