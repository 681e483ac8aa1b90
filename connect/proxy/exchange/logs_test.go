// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

func written(t *testing.T, l *Logs) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestAccessLogForms(t *testing.T) {
	var out bytes.Buffer
	path := filepath.Join(t.TempDir(), "access.log")
	l := NewLogs(&out, nil)
	fields := &header.List{}
	fields.Add("User-Agent", "a \"quoted\" \x01 \xff agent")
	fields.Add("x-request-id", "id")
	r := &record{
		began: time.Unix(0, 5e6).UTC(), took: 1500 * time.Microsecond, direction: config.Outbound, source: "web", destination: "api",
		method: "GET", path: "/p", authority: "h", protocol: "HTTP/2", status: 503, reason: reason.UpstreamReset, toUp: 1, toDown: 2,
		upstream: "10.0.0.1:80", cluster: "c", request: fields,
	}
	l.log(l.compileFormat(&config.AccessLog{Path: "/dev/stdout"}), r)
	l.log(l.compileFormat(&config.AccessLog{Path: "/dev/stdout", JSON: map[string]string{
		"at": "%START_TIME%", "agent": "%REQ(USER-AGENT)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "flags": "%RESPONSE_FLAGS%",
		"mixed": "%REQ(:METHOD)% %PROTOCOL% %RESPONSE_CODE% 100%%", "none": "%REQ(X-NONE)%", "short": "%REQ(:AUTHORITY):1%", "odd": "%NOPE(A%",
	}}), r)
	l.log(l.compileFormat(&config.AccessLog{Path: path, Text: "[%START_TIME(%Y/%m/%d)%] %DURATION% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %DOWNSTREAM_REMOTE_ADDRESS% %RESPONSE_CODE_DETAILS%"}), r)
	written(t, l)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatal(lines)
	}
	var own, given map[string]any
	for i, into := range []*map[string]any{&own, &given} {
		if err := json.Unmarshal([]byte(lines[i]), into); err != nil {
			t.Fatal(lines[i], err)
		}
	}
	for k, v := range map[string]any{
		"start_time": "1970-01-01T00:00:00.005Z", "direction": "outbound", "source": "web", "response_code": 503.0, "duration_ms": 1.5,
		"reason": "upstream_reset", "request_id": "id", "user_agent": "a \"quoted\" \x01 \ufffd agent", "bytes_sent": 2.0,
	} {
		if own[k] != v {
			t.Errorf("%s is %v, want %v", k, own[k], v)
		}
	}
	for k, v := range map[string]any{
		"path": "/p", "flags": "UR", "mixed": "GET HTTP/2 503 100%", "none": nil, "short": "h", "odd": "%NOPE(A%",
	} {
		if given[k] != v {
			t.Errorf("%s is %v, want %v", k, given[k], v)
		}
	}
	b, err := os.ReadFile(path)
	if want := "[1970/01/01] 1 1 2 10.0.0.1:80 c - upstream_reset\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v", b, err)
	}
}

// What is in a field's place is escaped, or null where a lone value isn't there, whichever field comes before; and a line makes no garbage.
func TestFieldsOfALine(t *testing.T) {
	l := NewLogs(nil, nil)
	f := l.compileFormat(&config.AccessLog{Path: "/dev/stdout", JSON: map[string]string{
		"a": "%REQ(X-NONE)%", "b": "%START_TIME%", "c": "%REQ(X-NONE)% %REQ(:PATH)%", "d": "%PROTOCOL%", "e": "%BYTES_SENT%", "f": "%REQ(X-LONG)%", "g": "",
	}})
	fields := &header.List{}
	fields.Add("x-long", strings.Repeat("long ", 100))
	r := &record{path: `/"\`, protocol: "HTTP/1.1", toDown: 1 << 40, request: fields}
	for _, at := range []string{"2026-01-02T03:04:05.999Z", "2026-01-02T03:04:06.001Z", "2026-01-02T03:04:06.010Z", "2026-01-02T03:04:05.000Z"} {
		var err error
		if r.began, err = time.Parse(time.RFC3339, at); err != nil {
			t.Fatal(err)
		}
		r.began = r.began.In(time.FixedZone("elsewhere", 3600))
		want := `{"a":null,"b":"` + at + `","c":"- /\"\\","d":"HTTP/1.1","e":"1099511627776","f":"` + strings.Repeat("long ", 100) + `","g":""}` + "\n"
		if got := string(appendFields(nil, f.fields, r)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	r.path = "/plain"
	room := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { _ = appendFields(room, f.fields, r) }); n != 0 {
		t.Errorf("%.0f allocations for a line", n)
	}
}

func TestLogsNeverHoldMoreThanTheirBound(t *testing.T) {
	l := NewLogs(nil, nil)
	s := l.sink("/dev/stdout")
	line := bytes.Repeat([]byte("x"), 1000)
	for range 2 * maxWaiting / 1000 {
		l.write(s, line)
	}
	if len(s.waiting) > maxWaiting || l.Dropped() == 0 {
		t.Error(len(s.waiting), l.Dropped())
	}
}

// Each reason that can be looked up is counted.
func TestEveryReasonIsCounted(t *testing.T) {
	for code := range reason.Explanations {
		if !slices.Contains(reasons[:], code) {
			t.Errorf("%s isn't counted", code)
		}
	}
}

func TestMetricsOfRequests(t *testing.T) {
	r := newRig(t, nil, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(404)
		}
		_, _ = w.Write([]byte("12345"))
	})))
	c := client(t, 1)
	for _, p := range []string{"/", "/", "/bad"} {
		_, _ = get(t, c, r.url(p))
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(r.metrics); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(5 * time.Second)
	for {
		got := map[string]float64{}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					if n := l.GetName(); n == "class" || n == "way" || n == "result" {
						name += " " + l.GetValue()
					}
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		if got["weft_proxy_requests_total 2xx"] == 2 && got["weft_proxy_requests_total 4xx"] == 1 && got["weft_proxy_request_seconds"] == 3 &&
			got["weft_proxy_bytes_total to_source"] == 15 && got["weft_proxy_connections_total ok"] == 1 && got["weft_proxy_connections_open"] == 1 {
			return
		}
		select {
		case <-deadline:
			t.Fatal(got)
		default:
		}
	}
}
