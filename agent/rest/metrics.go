// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/weftmesh/weft/internal/api"
)

// gaugeView, sampleView and metricsView are figures in the form of Consul's agent/metrics.
type gaugeView struct {
	Name   string
	Value  float64
	Labels map[string]string
}

type sampleView struct {
	Name   string
	Count  uint64
	Rate   float64
	Sum    float64
	Min    float64
	Max    float64
	Mean   float64
	Stddev float64
	Labels map[string]string
}

type metricsView struct {
	Timestamp string
	Gauges    []gaugeView
	Points    []struct{} // Consul's are always none too
	Counters  []sampleView
	Samples   []sampleView
}

// metrics answers with the agent's figures: as JSON, or in Prometheus' form to who asks for that.
func (h *handlers) metrics(w http.ResponseWriter, r *api.Request) error {
	accept := r.Header.Get("Accept")
	if r.URL.Query().Get("format") == "prometheus" || strings.Contains(accept, "openmetrics") || strings.Contains(accept, "text/plain") {
		promhttp.HandlerFor(h.c.Metrics, promhttp.HandlerOpts{DisableCompression: true}).ServeHTTP(w, r.Request)
		return nil
	}
	view, err := h.gather()
	if err != nil {
		return err
	}
	return api.WriteJSON(w, view)
}

// metricsEvery is how often agent/metrics/stream tells the figures.
const metricsEvery = 10 * time.Second

// streamMetrics tells the figures again and again, until the client goes away.
func (h *handlers) streamMetrics(w http.ResponseWriter, r *api.Request) error {
	w.Header().Set("Content-Type", "application/json")
	out, encoder := http.NewResponseController(w), json.NewEncoder(w)
	tick := time.NewTicker(metricsEvery)
	defer tick.Stop()
	again := time.NewTicker(api.AgainEach)
	defer again.Stop()
	for {
		view, err := h.gather()
		if err != nil {
			return err
		}
		if encoder.Encode(view) != nil || out.Flush() != nil {
			return nil // the client is gone
		}
		for told := true; told; {
			select {
			case <-tick.C:
				told = false
			case <-again.C:
				if err := r.Lost(); err != nil {
					return err
				}
			case <-r.Context().Done():
				return nil
			}
		}
	}
}

func (h *handlers) gather() (*metricsView, error) {
	families, err := h.c.Metrics.Gather()
	if err != nil {
		return nil, err
	}
	v := &metricsView{
		Timestamp: h.c.Now().UTC().Round(time.Second).Format("2006-01-02 15:04:05 -0700 MST"), Gauges: []gaugeView{}, Points: []struct{}{},
		Counters: []sampleView{}, Samples: []sampleView{},
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			v.add(f.GetName(), f.GetType(), m)
		}
	}
	return v, nil
}

func (v *metricsView) add(name string, kind dto.MetricType, m *dto.Metric) {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	sample := func(count uint64, sum float64) sampleView {
		s := sampleView{Name: name, Count: count, Sum: sum, Labels: labels}
		if count > 0 {
			s.Mean = sum / float64(count)
		}
		return s
	}
	switch kind {
	case dto.MetricType_COUNTER:
		v.Counters = append(v.Counters, sample(uint64(m.GetCounter().GetValue()), m.GetCounter().GetValue()))
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		v.Samples = append(v.Samples, sample(m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()))
	case dto.MetricType_SUMMARY:
		v.Samples = append(v.Samples, sample(m.GetSummary().GetSampleCount(), m.GetSummary().GetSampleSum()))
	default:
		value := m.GetGauge().GetValue() + m.GetUntyped().GetValue() // one of them isn't there
		if value == value && value-value == 0 {                      // JSON has neither NaN nor infinity
			v.Gauges = append(v.Gauges, gaugeView{name, value, labels})
		}
	}
}

// version tells which weft this is.
func (h *handlers) version(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, map[string]string{"SHA": "", "BuildDate": "1970-01-01T00:00:00Z", "HumanVersion": h.c.Version, "FIPS": ""})
}
