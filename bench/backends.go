// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What every request of the race carries, and its answer. No contender is told of it: the routes and permissions of
// features.json match on the headers.
const (
	racePath = "/shop/orders/42"
	raceID   = "X-Race-Id"
)

var (
	raceHeaders = [][2]string{{"X-Tenant", "blue"}, {"X-Region", "eu-1"}, {"X-Tier", "gold"}}
	kilobyte    = bytes.Repeat([]byte("0123456789abcdef"), 64)
	megabyte    = bytes.Repeat(kilobyte, 1024)
)

// raceBackend starts the backend of a protocol; each checks what it gets, and closes the connection on a request that isn't
// as it was sent.
func raceBackend(protocol string) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	switch protocol {
	case "grpc":
		s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(echoStream), grpc.MaxConcurrentStreams(1<<20))
		go func() { _ = s.Serve(l) }() // ends with the listener
		return l, nil
	case "http2":
		go acceptAll(l, func(c net.Conn) {
			(&http2.Server{MaxConcurrentStreams: 1 << 20}).ServeConn(c, &http2.ServeConnOpts{Handler: http.HandlerFunc(answerRace)})
		})
	case "http":
		go acceptAll(l, func(c net.Conn) { _ = serveHTTP1(c) }) // its client sees the end
	case "tcp":
		go acceptAll(l, func(c net.Conn) { _ = serveTCP(c) }) // as above
	default:
		return nil, fmt.Errorf("no backend speaks %q", protocol)
	}
	return l, nil
}

// collector takes spans, and forgets them.
func collector() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // one that breaks off is sent again
	})}
	go func() { _ = s.Serve(l) }() // ends with the listener
	return l, nil
}

func acceptAll(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

var errNotAsSent = errors.New("the request isn't as it was sent")

// serveHTTP1 answers requests one after another: GET path, with ?size for another size than 1 KB; POST is answered alike.
func serveHTTP1(c net.Conn) error {
	br := bufio.NewReaderSize(c, 16<<10)
	var out []byte
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		_, rest, ok := bytes.Cut(line, []byte(" "+racePath))
		if !ok {
			return errNotAsSent
		}
		body := kilobyte
		if bytes.HasPrefix(rest, []byte("?large")) {
			body = megabyte
		}
		h, err := readHeaders(br)
		if err != nil {
			return err
		}
		if h.seen != len(raceHeaders) || h.id == "" {
			return errNotAsSent
		}
		if _, err := br.Discard(h.length); err != nil {
			return err
		}
		out = append(out[:0], "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(body)), 10)
		out = append(out, "\r\n"+raceID+": "...)
		out = append(out, h.id...)
		out = append(out, "\r\n\r\n"...)
		out = append(out, body...)
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

// raceHead is what of a header counts here.
type raceHead struct {
	id     string
	length int
	seen   int
	close  bool
}

func readHeaders(br *bufio.Reader) (raceHead, error) {
	var h raceHead
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return h, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return h, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte(raceID)):
			h.id = string(value)
		case bytes.EqualFold(name, []byte("Content-Length")):
			if h.length, err = strconv.Atoi(string(value)); err != nil {
				return h, err
			}
		case bytes.EqualFold(name, []byte("Connection")):
			h.close = bytes.EqualFold(value, []byte("close"))
		default:
			for _, want := range raceHeaders {
				if bytes.EqualFold(name, []byte(want[0])) && string(value) == want[1] {
					h.seen++
				}
			}
		}
	}
}

// answerRace is serveHTTP1 for HTTP/2.
func answerRace(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != racePath || r.Header.Get(raceID) == "" {
		http.Error(w, errNotAsSent.Error(), http.StatusTeapot)
		return
	}
	for _, h := range raceHeaders {
		if r.Header.Get(h[0]) != h[1] {
			http.Error(w, errNotAsSent.Error(), http.StatusTeapot)
			return
		}
	}
	_, _ = io.Copy(io.Discard, r.Body) // a body that breaks off ends the stream
	w.Header().Set(raceID, r.Header.Get(raceID))
	w.Header().Set("Content-Length", strconv.Itoa(len(kilobyte)))
	_, _ = w.Write(kilobyte) // as above
}

// serveTCP answers each kilobyte with the same, and after "bulk" swallows what comes, answering each megabyte with a byte.
func serveTCP(c net.Conn) error {
	buf := make([]byte, len(megabyte))
	if _, err := io.ReadFull(c, buf[:len(kilobyte)]); err != nil {
		return err
	}
	if !strings.HasPrefix(string(buf[:4]), "bulk") {
		for {
			if !bytes.Equal(buf[:len(kilobyte)], kilobyte) {
				return errNotAsSent
			}
			if _, err := c.Write(buf[:len(kilobyte)]); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, buf[:len(kilobyte)]); err != nil {
				return err
			}
		}
	}
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
	}
}

// rawCodec takes messages as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (rawCodec) Name() string { return "proto" }

// echoStream answers each message with itself: one for a unary call, as many as come for a stream.
func echoStream(_ any, s grpc.ServerStream) error {
	for {
		var m []byte
		if err := s.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if !bytes.Equal(m, kilobyte) {
			return status.Error(codes.DataLoss, errNotAsSent.Error())
		}
		if err := s.SendMsg(&m); err != nil {
			return err
		}
	}
}
