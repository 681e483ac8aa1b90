// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests that run weft's binary as its users do: one table of behaviour that Envoy, the built-in proxy
// and the host proxy must share, the quick start, the demo, and bad input at the command line. It exports nothing. The
// tests run where WEFT_E2E=1, with the binary in WEFT_BINARY and Envoy in WEFT_ENVOY; `make e2e` sets all three. Every
// process that a test starts, the test ends.
package e2e
