// SPDX-License-Identifier: Apache-2.0

// Package mux carries many connections between two sidecars on one (weft-mux/1, agreed by ALPN). Each Stream is a net.Conn, on which HTTP/1.1 is
// spoken as on a connection of its own; what many of them have to send at one moment goes by one TLS record and one system call, and so
// it is received. It knows no HTTP, and not who the peer is: that was settled when the Session's connection was made.
//
// What is sent are frames: a head of eight bytes, kind (1), length of what follows (3) and stream (4), numbers in network order.
//
//	1 open    –          the opener (the TLS client) begins a stream; numbers only grow
//	2 data    1 to 16376 bytes of the stream
//	3 window  4          so many more bytes of the stream are taken; it begins with 64 KiB
//	4 end     –          the sender writes no more, and reads on
//	5 close   –          the sender neither writes nor reads any more
//	6 reset   1          the stream is cut: 0, or 1 where nothing of it was looked at, or nothing behind what was answered
//	7 leave   –          (stream 0) the sender opens no more, or, the accepting side, wants no more opened, which the opener answers
//	8 ping    –          (stream 0) 9 pong answers it
//
// Only the opener closes the connection in order: when one of both leaves, and no stream is left. So nothing crosses the end.
//
// The peer is a sidecar of the mesh, and may be hostile all the same. What isn't as above ends the connection with a *ProtocolError; a stream
// that isn't read stops no other; what isn't read yet is bounded for each stream and for all; and there are budgets for what
// is cheap to send and not to serve (guard.go).
//
// Goroutines: Run's caller reads; who writes to a stream flushes for all; and now and then Run's own flush in their stead. A stream has none.
package mux
