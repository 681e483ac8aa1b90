// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/xml"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// deviations are the cases of h2spec that weft's proxy answers otherwise, each with the reason.
var deviations = map[string]string{
	"Sends invalid connection preface": "a port that speaks HTTP/1.1 too takes what isn't HTTP/2's preface (RFC 9113 §3.4) for HTTP/1.1, says 400 and closes",
}

// TestH2Spec runs every case of h2spec, the strict ones too, against weft's proxy as a client on the host sees it.
func TestH2Spec(t *testing.T) {
	enabled(t)
	h2spec := os.Getenv("WEFT_H2SPEC")
	if h2spec == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("WEFT_H2SPEC names no h2spec: run `make e2e`, which builds it")
		}
		t.Skip("needs h2spec: run `make e2e`, which builds it")
	}
	p := newPair(t, mustWorld(t, Builtin, "deny"), "http2")
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	out, err := exec.Command(h2spec, "-S", "-h", host, "-p", port, "-P", "/page", "-o", "5", "-j", report).CombinedOutput()
	data, rerr := os.ReadFile(report)
	if rerr != nil {
		t.Fatalf("no report: %v, %v\n%s", rerr, err, out)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string  `xml:"package,attr"`
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
				Skipped *string `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &suites); err != nil {
		t.Fatal(err)
	}
	n, seen := 0, map[string]bool{}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			n++
			if c.Failure == nil && c.Error == nil && c.Skipped == nil {
				continue
			}
			seen[c.Name] = true
			if deviations[c.Name] == "" {
				t.Errorf("%s: %s", c.Package, c.Name)
			}
		}
	}
	for name := range deviations {
		if !seen[name] {
			t.Errorf("%q is no deviation any more", name)
		}
	}
	if n < 140 {
		t.Errorf("only %d cases", n)
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
	t.Logf("%d cases, %d deviations", n, len(seen))
}
