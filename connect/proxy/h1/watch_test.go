// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// Who sends the body on asks what there is of it also when it is over, while the connection is watched and the client's next request
// comes: the race detector would see that it looks at the reader.
func TestBufferedBesideTheWatch(t *testing.T) {
	for _, head := range []string{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			client, conn := net.Pipe()
			defer client.Close()
			served := 0
			done := make(chan error, 1)
			go func() {
				done <- Serve(t.Context(), conn, ServerConfig{}, func(x stream.ServerExchange) {
					served++
					ctx := x.Context()
					if body, err := io.ReadAll(bodyReader{x}); string(body) != "hi" || err != nil {
						t.Errorf("the body is %q, %v", body, err)
					}
					<-time.After(2 * watchAfter)
					if n := x.Buffered(); n != 0 {
						t.Errorf("%d bytes of a body that is over", n)
					}
					if ctx.Err() != nil {
						t.Error(context.Cause(ctx))
					}
					_ = x.WriteHead(&stream.ResponseHead{Status: 204}, true)
				})
			}()
			go func() { _, _ = io.Copy(io.Discard, client) }() // ends with the connection
			for range 2 {
				if _, err := io.WriteString(client, head); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(time.Second)
			_ = client.Close()
			<-done
			if served != 2 {
				t.Errorf("%d requests were served", served)
			}
		})
	}
}
