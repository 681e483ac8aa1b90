// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/connect/proxy"
)

// maxAdmin bounds an admin page's answer.
const maxAdmin = 64 << 20

// errAdminPath says that an admin page has no such path.
var errAdminPath = errors.New("the admin page doesn't know it")

func adminGet(ctx context.Context, admin, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdmin))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("http://%s%s: %w", admin, path, errAdminPath)
	case resp.StatusCode != http.StatusOK:
		return body, errors.New(resp.Status)
	}
	return body, nil
}

func adminReady(ctx context.Context, admin string) (string, error) {
	body, err := adminGet(ctx, admin, "/ready")
	if err != nil && len(body) == 0 {
		return err.Error(), err
	}
	return strings.TrimSpace(string(body)), err
}

// adminCluster is a cluster as a proxy has it.
type adminCluster struct {
	Name    string
	All     int // endpoints
	Healthy int
}

// adminClusters asks a proxy's admin page, Envoy's or that of weft's own, for its clusters in the mesh.
func adminClusters(ctx context.Context, admin string) ([]adminCluster, error) {
	body, err := adminGet(ctx, admin, "/clusters?format=json")
	read := envoyClusters
	if errors.Is(err, errAdminPath) {
		body, err = adminGet(ctx, admin, "/config")
		read = ownClusters
	}
	if err != nil {
		return nil, fmt.Errorf("admin page %s: %w; is it a proxy's, and was it started with -admin-bind?", admin, err)
	}
	all, err := read(body)
	if err != nil {
		return nil, fmt.Errorf("admin page %s: %w", admin, err)
	}
	all = slices.DeleteFunc(all, func(c adminCluster) bool { return !strings.Contains(c.Name, ".internal.") })
	slices.SortFunc(all, func(a, b adminCluster) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// serviceIn is the service in a cluster's name, [subset.]service.namespace.datacenter.internal.trust-domain.
func serviceIn(cluster string) string {
	before, _, _ := strings.Cut(cluster, ".internal.")
	parts := strings.Split(before, ".")
	return parts[max(0, len(parts)-3)]
}

func envoyClusters(body []byte) ([]adminCluster, error) {
	var page struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Health struct {
					EDS       string `json:"eds_health_status"`
					Outlier   bool   `json:"failed_outlier_check"`
					Active    bool   `json:"failed_active_health_check"`
					Excluded  bool   `json:"excluded_via_immediate_hc_fail"`
					IsRemoved bool   `json:"pending_dynamic_removal"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("/clusters: %w", err)
	}
	var out []adminCluster
	for _, c := range page.Clusters {
		one := adminCluster{Name: c.Name, All: len(c.Hosts)}
		for _, host := range c.Hosts {
			if h := host.Health; (h.EDS == "HEALTHY" || h.EDS == "UNKNOWN" || h.EDS == "") && !h.Outlier && !h.Active && !h.Excluded && !h.IsRemoved {
				one.Healthy++
			}
		}
		out = append(out, one)
	}
	return out, nil
}

func ownClusters(body []byte) ([]adminCluster, error) {
	var page map[string]proxy.Description
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("/config: %w", err)
	}
	var out []adminCluster
	for _, p := range page {
		for _, c := range p.Clusters {
			one := adminCluster{Name: c.Name, All: len(c.Endpoints)}
			for _, e := range c.Endpoints {
				if e.Healthy && !e.Draining {
					one.Healthy++
				}
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// adminUpstreams lists the clusters that a proxy has, as it sees them itself.
func adminUpstreams(ctx context.Context, env Env, admin string) error {
	all, err := adminClusters(ctx, admin)
	if err != nil {
		return err
	}
	var rows [][]string
	missing := false
	for _, c := range all {
		rows = append(rows, []string{serviceIn(c.Name), c.Name, strconv.Itoa(c.All), strconv.Itoa(c.Healthy)})
		missing = missing || c.Healthy == 0
	}
	if err := table(env.Stdout, []string{"Upstream", "Cluster", "Instances", "Healthy"}, rows); err != nil {
		return err
	}
	if missing {
		return &exitError{code: 1, text: "An upstream has no healthy instance: see `weft catalog services`, and the checks of that service."}
	}
	return nil
}

// upstream says whether a proxy has instances of an upstream to call.
func (v *verdicts) upstream(ctx context.Context, admin, id string) error {
	all, err := adminClusters(ctx, admin)
	if err != nil {
		return err
	}
	found := false
	for _, c := range all {
		if c.Name == id || serviceIn(c.Name) == id {
			found = true
			v.say(c.Healthy > 0, "upstream %s: %d of %d instances can be called (%s)", id, c.Healthy, c.All, c.Name)
		}
	}
	if !found {
		v.say(false, "the proxy has no upstream %s: name it in its registration, as proxy.upstreams or connect.sidecar_service.proxy.upstreams", id)
	}
	return nil
}

// serviceAt finds the service that an address stands for: a virtual one, or that of an instance.
func serviceAt(ctx context.Context, cl *apiclient.Client, ip string) (string, error) {
	if net.ParseIP(ip) == nil {
		return "", usage("-upstream-ip %q isn't an IP address", ip)
	}
	var names map[string][]string
	if _, err := cl.Do(ctx, http.MethodGet, "/v1/catalog/services", nil, nil, &names); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var all []struct {
			Address, ServiceAddress string
			ServiceTaggedAddresses  map[string]struct{ Address string }
		}
		if _, err := cl.Do(ctx, http.MethodGet, "/v1/catalog/connect/"+url.PathEscape(name), nil, nil, &all); err != nil {
			return "", err
		}
		for _, i := range all {
			if cmp.Or(i.ServiceAddress, i.Address) == ip {
				return name, nil
			}
			for _, a := range i.ServiceTaggedAddresses {
				if a.Address == ip {
					return name, nil
				}
			}
		}
	}
	return "", fmt.Errorf("no service of the mesh has the address %s: see `weft catalog services`", ip)
}
