// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/internal/listen"
)

// limits.rpc_max_conns_per_client bounds the servers' port: one connection more is closed at once.
func TestServerPortLimits(t *testing.T) {
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := door.Stream(t.Context(), listen.Spec{Name: serverPort, Network: "tcp", Address: "127.0.0.1:0", Limits: portLimits(&config.Limits{RPCMaxConnsPerClient: 2})})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return // the test is over
			}
		}
	}()
	var all []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	if err := all[2].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := all[2].Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the third connection stays: %v", err)
	} else if !errors.Is(err, io.EOF) {
		t.Logf("refused by %v", err)
	}
}
