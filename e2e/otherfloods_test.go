// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// otherFloods are those of bodies and of names. The others of C67 to C78 aren't here: C67 (hostile servers) is in connect/proxy/h2 and
// C71 (after the handshake) in internal/listen, each beside what must go on; C73, C74, C75, C77 and C78 are of decompression, documents,
// users' expressions, watches and xDS, of which a proxy has none that a caller reaches.
func otherFloods() []flood {
	const refused = "POST /echo HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: nothing\r\n"
	return []flood{
		{"C72 a body of 10 GiB for a request that is refused", true, upstreamPort, endless(refused+"Content-Length: 10737418240\r\n\r\n", "")},
		{"C72 the same in chunks", true, upstreamPort, endless(refused+"Transfer-Encoding: chunked\r\n\r\n", "10000\r\n")},
		{"C72 10 GiB after a length of 10", true, upstreamPort, endless("POST /echo HTTP/1.1\r\nHost: api\r\nContent-Length: 10\r\n\r\n", "")},
		{"C76 names that never come again", false, upstreamPort, manyNames},
	}
}

// endless sends a head and bytes without an end, before each 64 KiB of them a text. It was cut off if the proxy closed the connection
// after a small part of it.
func endless(head, before string) func(context.Context, string) (bool, error) {
	return func(ctx context.Context, addr string) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return false, err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
		if _, err := io.WriteString(conn, head); err != nil {
			return false, err
		}
		piece := append([]byte(before), make([]byte, 64<<10)...)
		if before != "" {
			piece = append(piece, "\r\n"...)
		}
		for n := 0; n < 64<<20; n += len(piece) { // more than all buffers on the way
			if _, err := conn.Write(piece); err != nil {
				return ctx.Err() == nil, nil
			}
		}
		return false, nil
	}
}

// manyNames asks for something new in everything that a name can be in, again and again. Each has to be answered.
func manyNames(ctx context.Context, addr string) (bool, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for i := range 2000 {
		n := strconv.Itoa(i)
		if _, err := fmt.Fprintf(conn, "GET /page?token=%[1]s HTTP/1.1\r\nHost: h%[1]s.example\r\nUser-Agent: u%[1]s\r\nX-%[1]s: %[1]s\r\nX-Request-Id: %[1]s\r\n\r\n", n); err != nil {
			return false, err
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return false, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return false, fmt.Errorf("%s: %w", resp.Status, err)
		}
	}
	return false, nil
}
