// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons of the metric weft_listen_refused_total.
const (
	reasonAddress   = "address_limit"
	reasonIdentity  = "identity_limit"
	reasonHandshake = "handshake"
	reasonTimeout   = "handshake_timeout"
	reasonQueue     = "handshake_queue"
	reasonNoTLS     = "no_certificate"
	reasonClosing   = "closing"
	reasonBody      = "body_limit"
)

type metrics struct {
	accepted *prometheus.CounterVec // by listener
	refused  *prometheus.CounterVec // by listener and reason
	open     *prometheus.GaugeVec   // by listener
	groups   *prometheus.CounterVec // by listener and group
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_listen_accepted_total",
			Help: "Connections handed to the program, after the TLS handshake where there is one.",
		}, []string{"listener"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_listen_refused_total",
			Help: "Connections closed, or requests refused, by a limit of the listener.",
		}, []string{"listener", "reason"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weft_listen_open_connections",
			Help: "Connections that are open, those in the handshake included.",
		}, []string{"listener"}),
		groups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_listen_tls_handshakes_total",
			Help: "TLS handshakes that were completed, by the group of the key exchange; X25519MLKEM768 is the one that is safe from quantum computers.",
		}, []string{"listener", "group"}),
	}
	if reg == nil {
		return m, nil
	}
	var err error
	if m.accepted, err = register(reg, m.accepted); err != nil {
		return nil, err
	}
	if m.refused, err = register(reg, m.refused); err != nil {
		return nil, err
	}
	if m.open, err = register(reg, m.open); err != nil {
		return nil, err
	}
	if m.groups, err = register(reg, m.groups); err != nil {
		return nil, err
	}
	return m, nil
}

// register returns c, or the same metric of an earlier door on this registry.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	if err == nil {
		return c, nil
	}
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if old, ok := already.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, fmt.Errorf("register the metrics of listeners: %w", err)
}
