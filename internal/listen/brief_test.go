// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Nobody looks for the caller of a brief request, and all that comes after it is read: also what was sent at once. Another request's context
// ends when its caller goes, before and after a brief one.
func TestBriefRequests(t *testing.T) {
	d := newDoor(t)
	spec := Spec{Name: "http", Network: "tcp", Address: "127.0.0.1:0", Brief: func(r *http.Request) bool { return r.Method == http.MethodPut || r.Method == http.MethodGet }}
	l, err := d.Stream(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	waits, left := make(chan struct{}), make(chan struct{})
	srv := d.HTTPServer(spec, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.Method {
		case http.MethodPut, http.MethodGet:
			conn, _ := r.Context().Value(callerKey{}).(net.Conn)
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err != nil {
				t.Errorf("while a brief request is answered, one byte was read: %d, %v", n, err)
			}
		case http.MethodDelete:
			close(waits)
			<-r.Context().Done()
			close(left)
			return
		}
		_, _ = io.WriteString(w, r.Method+string(body))
	}))
	go func() { _ = srv.Serve(l) }() // ends with Close
	defer srv.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	ask := func(methods ...string) {
		t.Helper()
		var all strings.Builder
		sent := func(i int) string {
			if methods[i] == http.MethodGet {
				return "" // so that the goroutine that looks for the caller begins before the handler
			}
			return fmt.Sprint(i)
		}
		for i, m := range methods {
			fmt.Fprintf(&all, "%s / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", m, len(sent(i)), sent(i))
		}
		_, _ = io.WriteString(conn, all.String())
		for i, m := range methods {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if want := m + sent(i); string(body) != want {
				t.Errorf("the answer is %q, want %q", body, want)
			}
		}
	}
	ask("PUT")
	ask("PUT", "PUT", "POST", "PUT")
	ask("POST", "PUT")
	ask("GET")
	ask("GET", "GET", "PUT", "GET", "POST", "GET")
	_, _ = io.WriteString(conn, "DELETE / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
	<-waits
	_ = conn.Close()
	<-left
}
