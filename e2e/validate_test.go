// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Every configuration that the table renders for an Envoy is given to `envoy --mode validate` too: what the Envoy has in force, as
// it tells, turned into a static configuration. Rows that differ in names and ports alone are validated once.

// validations are the configurations of a world that were seen, and what became of them.
type validations struct {
	slots chan struct{} // how many run at the same time

	mu     sync.Mutex // guards all below
	group  sync.WaitGroup
	seen   map[[sha256.Size]byte]bool
	faults []string
}

func newValidations() *validations {
	return &validations{seen: map[[sha256.Size]byte]bool{}, slots: make(chan struct{}, max(1, runtime.NumCPU()/2))}
}

// end waits for all validations, and gives their number.
func (v *validations) end(t *testing.T) int {
	t.Helper()
	v.group.Wait()
	for _, fault := range v.faults {
		t.Error(fault)
	}
	return len(v.seen)
}

// validate begins the validation of what the Envoy of an instance has now.
func (m *Mesh) validate(i *Instance) {
	m.t.Helper()
	resp, err := m.w.client.Get("http://" + i.admin + "/config_dump?include_eds")
	if err != nil {
		m.t.Errorf("configuration of %s: %v", i.ID, err)
		return
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.t.Errorf("configuration of %s: %s %v", i.ID, resp.Status, err)
		return
	}
	static, err := staticConfig(data)
	if err != nil {
		m.t.Errorf("configuration of %s: %v", i.ID, err)
		return
	}
	shape := regexp.MustCompile(regexp.QuoteMeta(m.prefix)+`|"port_value":\d+|\.0\.[01]:\d+|\d{4}-\d\d-\d\dT[^"]*`).ReplaceAll(static, nil)
	m.w.validations.begin(m.w.dir, m.t.Name()+": "+i.ID, static, sha256.Sum256(shape))
}

func (v *validations) begin(dir, name string, config []byte, shape [sha256.Size]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen[shape] {
		return
	}
	v.seen[shape] = true
	file := filepath.Join(dir, fmt.Sprintf("validate-%x.json", shape[:8]))
	v.group.Go(func() {
		v.slots <- struct{}{}
		defer func() { <-v.slots }()
		if err := runValidate(file, config); err != nil {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.faults = append(v.faults, name+": "+err.Error())
		}
	})
}

// newer is what an Envoy is given only where it says that it knows it, and what the oldest is therefore not asked about.
var newer = regexp.MustCompile(`"custom_tags":\[[^\]]*\],?`)

func runValidate(file string, config []byte) error {
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, binary := range []string{envoy(), os.Getenv("WEFT_ENVOY_OLDEST")} {
		if binary == "" {
			continue
		}
		if binary != envoy() {
			if err := os.WriteFile(file, newer.ReplaceAll(config, nil), 0o600); err != nil {
				return err
			}
		}
		out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s --mode validate: %w: … %s", binary, err, out[max(0, len(out)-1000):])
		}
	}
	return nil
}

// staticConfig turns a dump of what an Envoy has into a bootstrap with all of it in it.
func staticConfig(dump []byte) ([]byte, error) {
	var d struct{ Configs []object }
	if err := json.Unmarshal(dump, &d); err != nil {
		return nil, err
	}
	all := map[string][]object{}
	boot := object{}
	for _, c := range d.Configs {
		if b, ok := c["bootstrap"].(object); ok {
			boot = b
		}
		for _, k := range []struct{ list, state, of string }{
			{"dynamic_listeners", "active_state", "listener"}, {"dynamic_active_clusters", "", "cluster"},
			{"dynamic_route_configs", "", "route_config"}, {"dynamic_endpoint_configs", "", "endpoint_config"},
			{"dynamic_active_secrets", "", "secret"},
		} {
			list, _ := c[k.list].([]any)
			for _, e := range list {
				e, _ := e.(object)
				if k.state != "" {
					e, _ = e[k.state].(object)
				}
				if r, ok := e[k.of].(object); ok {
					all[k.of] = append(all[k.of], r)
				}
			}
		}
	}
	if len(boot) == 0 || len(all["listener"]) == 0 || len(all["cluster"]) == 0 || len(all["secret"]) == 0 {
		return nil, fmt.Errorf("the dump isn't whole: %d listeners, %d clusters, %d secrets", len(all["listener"]), len(all["cluster"]), len(all["secret"]))
	}
	routes, loads := map[any]object{}, map[any]object{}
	for _, r := range all["route_config"] {
		routes[r["name"]] = r
	}
	for _, r := range all["endpoint_config"] {
		loads[r["cluster_name"]] = r
	}
	for _, c := range all["cluster"] {
		inlineEndpoints(c, loads)
	}
	for _, s := range all["secret"] {
		if err := replaceKeys(s); err != nil {
			return nil, err
		}
	}
	static, _ := boot["static_resources"].(object)
	for list, of := range map[string]string{"listeners": "listener", "clusters": "cluster", "secrets": "secret"} {
		own, _ := static[list].([]any)
		for _, r := range all[of] {
			delete(r, "@type")
			own = append(own, r)
		}
		static[list] = own
	}
	delete(boot, "dynamic_resources")
	if node, ok := boot["node"].(object); ok {
		delete(node, "extensions") // what the program can do
	}
	inline(static, routes)
	return json.Marshal(boot)
}

// inlineEndpoints puts the endpoints into a cluster that asks for them elsewhere.
func inlineEndpoints(c object, loads map[any]object) {
	eds, ok := c["eds_cluster_config"].(object)
	if !ok {
		return
	}
	delete(c, "eds_cluster_config")
	c["type"] = "STATIC"
	name := eds["service_name"]
	if name == nil {
		name = c["name"]
	}
	load := loads[name]
	if load == nil {
		load = object{}
	}
	delete(load, "@type")
	localities, _ := load["endpoints"].([]any)
	for _, l := range localities {
		if l, ok := l.(object); ok && l["load_balancing_weight"] == 0.0 {
			delete(l, "load_balancing_weight") // the dump's way to say that there is none
		}
	}
	load["cluster_name"] = name
	c["load_assignment"] = load
}

// inline puts routes into the listeners that ask for them, and has secrets looked for beside them.
func inline(v any, routes map[any]object) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			inline(e, routes)
		}
	case object:
		delete(v, "sds_config")
		if rds, ok := v["rds"].(object); ok {
			if r := routes[rds["route_config_name"]]; r != nil {
				delete(v, "rds")
				delete(r, "@type")
				v["route_config"] = r
			}
		}
		for _, e := range v {
			inline(e, routes)
		}
	}
}

// replaceKeys puts a pair of its own in place of a certificate whose key the dump doesn't tell.
func replaceKeys(secret object) error {
	tls, ok := secret["tls_certificate"].(object)
	if !ok {
		return nil
	}
	pair, err := keyPair()
	if err != nil {
		return err
	}
	tls["certificate_chain"], tls["private_key"] = pair[0], pair[1]
	return nil
}

var keyPair = sync.OnceValues(func() (pair [2]object, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"leaf"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return pair, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair, err
	}
	for i, b := range []*pem.Block{{Type: "CERTIFICATE", Bytes: cert}, {Type: "PRIVATE KEY", Bytes: private}} {
		pair[i] = object{"inline_bytes": base64.StdEncoding.EncodeToString(pem.EncodeToMemory(b))}
	}
	return pair, nil
})

// TestValidateFinds: a configuration that no Envoy would take doesn't pass.
func TestValidateFinds(t *testing.T) {
	enabled(t)
	if err := runValidate(filepath.Join(t.TempDir(), "x.json"), []byte(`{"static_resources":{"clusters":[{"name":"x","type":"NONE"}]}}`)); err == nil {
		t.Error("it passes")
	}
}
