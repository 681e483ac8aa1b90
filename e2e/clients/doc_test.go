// SPDX-License-Identifier: Apache-2.0

// Package clients holds tests in which programs and libraries that were made for Consul do their jobs on weft. It is a module of
// its own, because what it needs would raise the Go version that weft asks for. It has no product code.
package clients
