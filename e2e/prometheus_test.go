// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Prometheus finds its targets by consul_sd_configs, scrapes them, and forgets one that is deregistered.
func TestPrometheus(t *testing.T) {
	enabled(t)
	if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(binary())), ".cache", "bin", "prometheus")); err != nil {
		t.Skip("Prometheus isn't built: `make prometheus` does it, in some minutes, once")
	}
	w := mustWorld(t, Builtin, "allow")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, "app_up 1\n")
	}))
	defer app.Close()
	u, err := url.Parse(app.URL)
	if err != nil {
		t.Fatal(err)
	}
	register := func(id string) {
		t.Helper()
		var port int
		if _, err := fmt.Sscan(u.Port(), &port); err != nil {
			t.Fatal(err)
		}
		if err := w.do(http.MethodPut, "/v1/agent/service/register", object{
			"ID": id, "Name": "app", "Address": u.Hostname(), "Port": port, "Tags": []string{"metrics"}, "Meta": object{"team": "blue"},
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
	register("a1")
	dir, port := t.TempDir(), mustPort(t)
	conf := fmt.Sprintf(`
global: { scrape_interval: 1s }
scrape_configs:
  - job_name: mesh
    consul_sd_configs:
      - server: %s
        tags: [metrics]
        refresh_interval: 1s
    relabel_configs:
      - { source_labels: [__meta_consul_service], target_label: service }
      - { source_labels: [__meta_consul_service_id], target_label: id }
      - { source_labels: [__meta_consul_service_metadata_team], target_label: team }
      - { source_labels: [__meta_consul_dc], target_label: dc }
      - { source_labels: [__meta_consul_health], target_label: health }
  - job_name: agent
    metrics_path: /v1/agent/metrics
    params: { format: [prometheus] }
    static_configs: [{ targets: ["%s"] }]
`, loopback(w.http), loopback(w.http))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	client(t, w, "prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", loopback(port))
	query := func(q string) ([]map[string]string, error) {
		resp, err := http.Get("http://" + loopback(port) + "/api/v1/query?query=" + url.QueryEscape(q))
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		var answer struct {
			Data struct {
				Result []struct{ Metric map[string]string }
			}
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return nil, err
		}
		var out []map[string]string
		for _, r := range answer.Data.Result {
			out = append(out, r.Metric)
		}
		return out, nil
	}
	expect := func(q string, n int) []map[string]string {
		t.Helper()
		var got []map[string]string
		took := until(t, 60*time.Second, func() (err error) {
			if got, err = query(q); err == nil && len(got) != n {
				err = fmt.Errorf("%s: %v, want %d", q, got, n)
			}
			return err
		})
		t.Logf("%s: %d within %s", q, n, took)
		return got
	}
	m := expect(`app_up == 1`, 1)[0]
	if m["service"] != "app" || m["id"] != "a1" || m["team"] != "blue" || m["dc"] != "dc1" || m["health"] != "passing" {
		t.Errorf("labels: %v", m)
	}
	expect(`up{job="agent"} == 1`, 1)
	register("a2")
	expect(`up{job="mesh"} == 1`, 2)
	if err := w.do(http.MethodPut, "/v1/agent/service/deregister/a1", nil, nil); err != nil {
		t.Fatal(err)
	}
	if m := expect(`up{job="mesh"} == 1`, 1)[0]; m["id"] != "a2" {
		t.Error(errors.New("the one that is left: " + m["id"]))
	}
}
