// SPDX-License-Identifier: Apache-2.0

// Package telemetry sends an agent's metrics to where statsd, statsite or DogStatsD takes them in. It reads what Prometheus would
// read, so that there is one set of figures. A counter is sent as what was added since, a gauge as it is, a histogram or summary
// as two counters, .count and .sum. What can't be sent is lost but for the counters, which are sent when that works again.
//
// The lines are written here and not by go-metrics' sinks: those start goroutines that nobody waits for, drop labels, and would
// want every figure told twice. Sender.Run owns its one goroutine.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Sender is made of.
type Config struct {
	Settings Settings
	// Host is this node's name: gauges are told apart by it.
	Host    string
	Metrics prometheus.Gatherer
	// Dial opens the connections; nil: the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
}

// Settings is the part of the configuration that says what is sent and where to.
type Settings struct {
	StatsdAddress   string   // host:port, UDP
	StatsiteAddress string   // host:port, TCP
	DogstatsdAddr   string   // host:port, UDP, or unix:///path of a datagram socket
	DogstatsdTags   []string // of every metric, as "key:value"
	MetricsPrefix   string   // "" is consul
	DisableHostname bool     // the node's name isn't part of gauges
	PrefixFilter    []string // "+prefix" and "-prefix": the longest decides
	FilterDefault   *bool    // of metrics that none of them names; nil is true
	// EnableHostMetrics has figures of the machine among the metrics.
	EnableHostMetrics bool
}

const (
	defaultPrefix = "consul"
	// sendEvery is statsd's own interval: more often would be lost in it.
	sendEvery   = 10 * time.Second
	dialTimeout = 5 * time.Second
	// maxPacket is what fits into an Ethernet frame.
	maxPacket = 1432
)

// On says whether anything is sent.
func (s *Settings) On() bool { return s.StatsdAddress+s.StatsiteAddress+s.DogstatsdAddr != "" }

// Validate checks what doesn't need the network.
func (s *Settings) Validate() error {
	var faults []error
	for key, address := range map[string]string{"statsd_address": s.StatsdAddress, "statsite_address": s.StatsiteAddress, "dogstatsd_addr": s.DogstatsdAddr} {
		if address == "" || key == "dogstatsd_addr" && isUnix(address) {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			faults = append(faults, fmt.Errorf("telemetry.%s: %q: want host:port: %w", key, address, err))
		}
	}
	for _, rule := range s.PrefixFilter {
		if len(rule) < 2 || rule[0] != '+' && rule[0] != '-' {
			faults = append(faults, fmt.Errorf("telemetry.prefix_filter: %q: want + or - and the beginning of a name", rule))
		}
	}
	return errors.Join(faults...)
}

// Sender sends metrics. Make it with New, and Run it.
type Sender struct {
	c     Config
	sinks []*sink
}

// New makes a sender. It opens nothing.
func New(c Config) (*Sender, error) {
	if err := c.Settings.Validate(); err != nil {
		return nil, err
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Settings.MetricsPrefix == "" {
		c.Settings.MetricsPrefix = defaultPrefix
	}
	s := &Sender{c: c}
	for _, to := range []sink{
		{what: "statsd", network: "udp", address: c.Settings.StatsdAddress},
		{what: "statsite", network: "tcp", address: c.Settings.StatsiteAddress},
		{what: "dogstatsd", network: "udp", address: c.Settings.DogstatsdAddr, tags: true},
	} {
		if to.address == "" {
			continue
		}
		if isUnix(to.address) {
			to.network, to.address = "unixgram", to.address[len(unixScheme):]
		}
		to.sent = map[string]float64{}
		s.sinks = append(s.sinks, &to)
	}
	return s, nil
}

const unixScheme = "unix://"

func isUnix(address string) bool {
	return len(address) > len(unixScheme) && address[:len(unixScheme)] == unixScheme
}

// Run sends until ctx ends, and then once more. What can't be reached is logged once, until it is there again.
func (s *Sender) Run(ctx context.Context) error {
	defer func() {
		for _, to := range s.sinks {
			to.close()
		}
	}()
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.send(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			s.send(last)
			return nil
		}
	}
}

func (s *Sender) send(ctx context.Context) {
	families, err := s.c.Metrics.Gather()
	if err != nil {
		s.c.Log.Debug("some metrics can't be read", "error", err)
	}
	for _, to := range s.sinks {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		err := to.send(ctx, s, families)
		cancel()
		switch {
		case err != nil && !to.failing:
			s.c.Log.Warn("metrics can't be sent", "to", to.what, "address", to.address, "error", err)
		case err == nil && to.failing:
			s.c.Log.Info("metrics are sent again", "to", to.what, "address", to.address)
		}
		to.failing = err != nil
	}
}

// sink is one place that metrics are sent to.
type sink struct {
	what, network, address string
	tags                   bool // labels are DogStatsD's tags; else their values are parts of the name
	conn                   net.Conn
	failing                bool
	sent                   map[string]float64 // counters, as of what was sent last
}

func (k *sink) close() {
	if k.conn != nil {
		_ = k.conn.Close() // nothing waits for it
		k.conn = nil
	}
}
