// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWeft: a weft whose root is at AWS starts, gives out that root, and signs leaves under an intermediate of it; while AWS takes nothing, too.
func TestWeft(t *testing.T) {
	if os.Getenv("WEFT_E2E") != "1" {
		t.Skip("runs weft: set WEFT_E2E=1 and WEFT_BINARY, or run `make awspca`")
	}
	d := newDesk(t)
	d.f.pending = 1
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv, err := json.Marshal([]string{
		"/usr/bin/env", "AWS_ACCESS_KEY_ID=" + d.f.accessKey, "AWS_SECRET_ACCESS_KEY=" + d.f.secret, "AWS_EC2_METADATA_DISABLED=true",
		self, "weft-ca-aws", "-arn", d.root.arn, "-endpoint", d.url,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, at := t.TempDir(), fmt.Sprintf("127.%d.%d.1", 1+mrand.IntN(250), mrand.IntN(250))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(os.Getenv("WEFT_BINARY"), "agent", "-server", "-node", "s1", "-data-dir", filepath.Join(dir, "data"), "-bind", at, "-client", at,
		"-hcl", `connect { enabled = true  ca_provider = "command"  ca_config { command = `+string(argv)+` } }`)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	get := func(method, path, body string, v any) error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+at+":8500"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %d %s", path, resp.StatusCode, data)
		}
		if err != nil || v == nil {
			return err
		}
		return json.Unmarshal(data, v)
	}
	until := func(f func() error) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		var err error
		for range 600 {
			if err = f(); err == nil {
				return
			}
			<-tick.C
		}
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("%v\n%s", err, text)
	}
	until(func() error { return get("PUT", "/v1/agent/service/register", `{"Name":"web","Port":80}`, nil) })
	var leaf struct{ CertPEM string }
	until(func() error { return get("GET", "/v1/agent/connect/ca/leaf/web", "", &leaf) })
	var roots struct{ Roots []struct{ RootCert string } }
	until(func() error { return get("GET", "/v1/connect/ca/roots", "", &roots) })
	if len(roots.Roots) != 1 || !parse(t, roots.Roots[0].RootCert).Equal(d.root.cert) {
		t.Errorf("%+v", roots)
	}
	pool, inters := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(d.root.cert)
	block, rest := pem.Decode([]byte(leaf.CertPEM))
	if block == nil || !inters.AppendCertsFromPEM(rest) {
		t.Fatalf("%q", leaf.CertPEM)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, Intermediates: inters, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil || !strings.HasSuffix(cert.URIs[0].Path, "/svc/web") {
		t.Error(cert.URIs, err)
	}
	d.f.mu.Lock()
	d.f.fault = "ThrottlingException"
	asked := len(d.f.asked)
	d.f.mu.Unlock()
	until(func() error { return get("PUT", "/v1/agent/service/register", `{"Name":"api","Port":81}`, nil) })
	until(func() error { return get("GET", "/v1/agent/connect/ca/leaf/api", "", &leaf) })
	d.f.mu.Lock()
	if len(d.f.asked) != asked {
		t.Errorf("AWS was asked for a leaf: %v", d.f.asked[asked:])
	}
	d.f.mu.Unlock()
}
