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
//	7 leave   –          (stream 0) the sender opens no more, or, the accepting side, wants no more opened, which the opener answers; said again
//	                     by the accepting side: it closes the connection, and didn't look at streams that it hasn't closed
//	8 ping    –          (stream 0) 9 pong answers it
//
// Only the opener closes the connection in order: when one of both leaves, and no stream is left. So nothing crosses the end. The accepting side does where
// the opener doesn't come to it, as it stands still: so it says leave again, which means nothing to an opener of a build before (frames of another kind or
// length than above would break the protocol for it).
//
// The peer is a sidecar of the mesh, and may be hostile all the same. What isn't as above ends the connection with a *ProtocolError; a stream
// that isn't read stops no other; and there are budgets for what is cheap to send and not to serve (guard.go).
//
// What isn't read yet is bounded, by what it is:
//
//   - of a stream, by its window: 64 KiB, up to 1 MiB where it is read as fast as it is sent. As long as 24 MiB wait on all sessions of a
//     Held, windows don't grow, and those of streams that are read slowly shrink to 16 KiB.
//   - what windows have grown beyond 64 KiB, by 16 MiB for all sessions of a Held, the half of it for one share.
//   - of a session, by that and its streams: 512, of which the opener has 448.
//   - on the accepting side all sessions of a Held, by 48 MiB: then it cuts streams of who holds more than a little.
//   - on the opener's side by no more than the above: it cuts none, and has a stream for each connection that its clients' requests need. So it is 64 KiB of
//     each that stands still, and 16 MiB.
//
// Goroutines: Run's caller reads; who writes to a stream flushes for all; and now and then Run's own flush in their stead. A stream has none.
package mux
