// SPDX-License-Identifier: Apache-2.0

// Package h2 is the HTTP/2 codec of the proxy's data path (RFC 9113, RFC 7541, RFC 8441): a server connection that hands
// each request to a stream.Handler, and a multiplexed client connection that opens stream.ClientExchanges. It frames,
// validates, controls flow and guards against floods; it doesn't route, retry, pool connections or make TLS. Only the
// framer and HPACK of golang.org/x/net/http2 are used, not its server or transport.
//
// Goroutines. Run (of Server or Client) is the connection's reader: it alone owns the read state. A server has each request's
// handler run in a goroutine of its own, by default a new one. Whoever has something to send writes it: frames go into one
// buffer, and the first goroutine that flushes lets the others run that are ready, then writes for all until the buffer is
// empty; the reader, which must never wait for the peer, starts a goroutine for that. Run returns when all of them have ended.
//
// Batches. The reader tells the owners of streams, and starts handlers, only before it waits for the peer: a message that
// came in one piece is found and passed on in one piece.
//
// Locks. writer.mu guards what goes out (buffer, HPACK encoder, the order of stream ids), conn.mu all other state; conn.mu
// may be taken while writer.mu is held, never the other way round.
package h2
