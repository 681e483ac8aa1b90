// SPDX-License-Identifier: Apache-2.0

// Package exchange is the engine of weft's built-in proxy: it serves downstream HTTP connections by the compiled
// configuration (routes, authorisation, rewriting, retries, timeouts), keeps the pools of upstream connections, balances,
// limits, ejects what fails, counts and logs. Listeners, downstream TLS handshakes and the copying of plain TCP are
// connect/proxy's; parsing is the codecs'.
//
// Goroutines. A downstream connection runs on its caller's goroutine; HTTP/2's requests, on one more each, out of the
// engine's workers, which serve one after the other. One goroutine owns an exchange; a request body that isn't wholly there
// yet gets a second one, which is done when the exchange is. Each upstream HTTP/2 connection has one reader, started at the first use and ended by Run's end. Timers call
// only watchdog.fire.
//
// Memory. What a request needs is compiled into a view when the snapshot changes: a request takes no lock that another
// request of another endpoint takes. The lists that hold connections have a lock per endpoint.
package exchange
