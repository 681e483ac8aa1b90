// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/catalog"
)

// given are the certificates that this agent shows and that aren't the mesh's.
func (a *Agent) given() []rest.Given {
	var out []rest.Given
	if a.c.NodeCertificate != nil {
		if cert, files := a.c.NodeCertificate(); cert != nil {
			out = append(out, rest.Given{Kind: "node", Cert: cert, Files: files})
		}
	}
	for kind, conf := range map[string]*tls.Config{"https": a.httpsTLS.Load(), "grpc": a.grpcTLS.Load()} {
		if conf == nil || len(conf.Certificates) == 0 {
			continue
		}
		if cert, err := x509.ParseCertificate(conf.Certificates[0].Certificate[0]); err == nil { // it was used, so it can be read
			out = append(out, rest.Given{Kind: kind, Cert: cert, Files: true})
		}
	}
	return out
}

// certificates are all that are known; the authority's are missing until the replica has them.
func (a *Agent) certificates() []rest.CertificateView {
	certs, _ := rest.Certificates(rest.Config{Store: a.store, Leaves: a.leaves, Given: a.given, Now: a.c.Now})
	return certs
}

// certificatesEvery is how often it is looked how long certificates live: a leaf of an hour has 36 s at 1 %.
const certificatesEvery = 30 * time.Second

// watchCertificates says in the log when a certificate has passed 50, 20 and 5 % of its life left, or is in trouble.
func (a *Agent) watchCertificates(ctx context.Context) error {
	tick := time.NewTicker(certificatesEvery)
	defer tick.Stop()
	var seen lives
	for {
		for _, n := range seen.next(a.certificates()) {
			a.c.Log.LogAttrs(ctx, n.level, "a certificate's life", slog.String("kind", n.Kind), slog.String("name", n.Name), slog.String("serial", n.Serial),
				slog.String("left", percent(n.Left)), slog.Time("ends", n.ValidBefore), slog.String("status", n.Status), slog.String("renewal", n.Error))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func percent(share float64) string { return strconv.Itoa(int(100*share)) + " %" }

// lives remembers what was said of each certificate. The zero value has said nothing.
type lives struct{ said map[string]said }

type said struct {
	marks  int // of rest.LifeMarks, so many are passed
	status string
}

// notice is a certificate of which something is to be said.
type notice struct {
	rest.CertificateView
	level slog.Level
}

// next says of which certificates something is new: another mark is passed, or the status is another. What passes a mark without being in
// trouble is said at debug level: leaves do all day.
func (l *lives) next(certs []rest.CertificateView) []notice {
	now := make(map[string]said, len(certs))
	var out []notice
	for _, v := range certs {
		key := v.Kind + " " + v.Name + " " + v.Serial
		s := said{status: v.Status}
		for _, mark := range rest.LifeMarks() {
			if v.Left < mark {
				s.marks++
			}
		}
		now[key] = s
		was, known := l.said[key]
		if !known {
			was = said{status: catalog.HealthPassing}
		}
		if s == was {
			continue
		}
		level := slog.LevelDebug
		switch {
		case s.status == catalog.HealthCritical:
			level = slog.LevelError
		case s.status == catalog.HealthWarning:
			level = slog.LevelWarn
		case was.status != s.status:
			level = slog.LevelInfo // it is well again
		}
		out = append(out, notice{v, level})
	}
	l.said = now
	return out
}

// certificateCollector exports the life of what isn't a service's leaf.
type certificateCollector struct {
	all  func() []rest.CertificateView
	now  func() time.Time
	desc *prometheus.Desc
}

func (c *certificateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *certificateCollector) Collect(ch chan<- prometheus.Metric) {
	told := map[string]bool{"leaf": true} // they have a metric of their own
	for _, v := range c.all() {
		if told[v.Kind] || v.Former() {
			continue
		}
		told[v.Kind] = true
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, v.ValidBefore.Sub(c.now()).Seconds(), v.Kind)
	}
}
