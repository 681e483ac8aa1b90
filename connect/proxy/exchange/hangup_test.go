// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// A client that hangs up ends its request at the service at once, whichever request of its connection that is.
func TestAClientThatHangsUpIsNoticed(t *testing.T) {
	for _, before := range []int{0, 1, 3} {
		t.Run(fmt.Sprintf("after %d requests", before), func(t *testing.T) {
			came, ended := make(chan struct{}), make(chan struct{})
			r := newRig(t, codec(config.HTTP1), upstream(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path != "/slow" {
					return
				}
				close(came)
				<-req.Context().Done()
				close(ended)
			})))
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			for range before {
				_, _ = fmt.Fprint(conn, "GET /quick HTTP/1.1\r\nHost: api\r\n\r\n")
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
			}
			_, _ = fmt.Fprint(conn, "GET /slow HTTP/1.1\r\nHost: api\r\n\r\n")
			<-came
			_ = conn.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the service still works for a client that is gone")
			}
		})
	}
}
