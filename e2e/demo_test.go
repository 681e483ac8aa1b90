// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// offset moves the demo's ports away from those of a weft that runs here, and not to where outgoing connections have theirs.
const offset = 9000

// page gets web's page.
func page() (status int, body string, err error) {
	client, end := h1()
	defer end()
	resp, err := client.Get("http://" + loopback(9090+offset) + "/")
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// TestDemo runs the demo and its three things to try, and looks at what is left of it.
func TestDemo(t *testing.T) {
	enabled(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	log := filepath.Join(t.TempDir(), "demo.log")
	p, err := start("demo", log, binary(), "demo", "--port-offset", fmt.Sprint(offset))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the demo said:\n%s", tail(log, 30))
			if logs, err := filepath.Glob(filepath.Join(temp, "*", "agent.log")); err == nil && len(logs) > 0 {
				t.Logf("end of its agent's log:\n%s", tail(logs[0], 60))
			}
			for _, url := range []string{loopback(8500+offset) + "/v1/health/connect/api", loopback(8500+offset) + "/v1/agent/checks", loopback(8500+offset) + "/v1/agent/connect/proxies", loopback(19001+offset) + "/config"} {
				if resp, err := http.Get("http://" + url); err == nil {
					body, _ := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					t.Logf("%s:\n%s", url, body)
				}
			}
		}
		_ = p.stop(10 * time.Second) // it has ended, unless the test failed
	})
	ready := until(t, 40*time.Second, func() error {
		if p.ended() {
			t.Fatalf("the demo ended by itself: %v", p.err)
		}
		status, body, err := page()
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("web answers %d: %s", status, body)
		}
		return err
	})
	t.Logf("web's page is there after %s", ready.Round(time.Millisecond))
	until(t, 10*time.Second, func() error {
		if said := tail(log, 200); !strings.Contains(said, "Three things to try") {
			return errors.New("the demo doesn't say what to try")
		}
		return nil
	})
	addr := "-http-addr=" + loopback(8500+offset)
	do := func(stdin string, args ...string) {
		t.Helper()
		if out, errs, err := weft(nil, stdin, args...); err != nil {
			t.Fatalf("weft %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
		}
	}
	do("", "intention", "create", addr, "-deny", "-replace", "web", "api")
	took := until(t, effect+slack, func() error {
		status, body, err := page()
		if err == nil && status == http.StatusOK && !strings.Contains(body, "403") {
			err = fmt.Errorf("web still answers %d", status)
		}
		return err
	})
	t.Logf("denied after %s", took.Round(time.Millisecond))
	do("", "intention", "create", addr, "-allow", "-replace", "web", "api")
	until(t, effect+slack, func() error { return wantPage("v1") })
	splitter, err := json.Marshal(object{"Kind": "service-splitter", "Name": "api", "Splits": []object{{"Weight": 100, "ServiceSubset": "v2"}}})
	if err != nil {
		t.Fatal(err)
	}
	do(string(splitter), "config", "write", addr, "-")
	until(t, 5*time.Second, func() error { return wantPage("v2") })
	demoEnds(t, p, temp)
}

func wantPage(text string) error {
	status, body, err := page()
	if err == nil && (status != http.StatusOK || !strings.Contains(body, text)) {
		err = fmt.Errorf("web answers %d, and not with %q: %s", status, text, body)
	}
	return err
}

// demoEnds stops the demo as Ctrl-C does: nothing of it may be left.
func demoEnds(t *testing.T, p *process, temp string) {
	t.Helper()
	mine, err := processesOf(binary())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, func() error {
		if !p.ended() {
			return errors.New("the demo still runs after SIGINT")
		}
		return nil
	})
	if p.err != nil {
		t.Errorf("the demo ended with %v", p.err)
	}
	left, err := processesOf(binary())
	if err != nil {
		t.Fatal(err)
	}
	for pid := range mine {
		if line, there := left[pid]; there {
			t.Errorf("process %d is left: %s", pid, line)
		}
	}
	for _, port := range []int{8500, 8502, 8600, 9090, 9101, 9102, 9103, 9191, 9192, 9193, 19001, 19002, 19003, 19004, 21000, 21001, 21002, 21003} {
		if conn, err := net.Dial("tcp", loopback(port+offset)); err == nil {
			_ = conn.Close()
			t.Errorf("somebody still listens on port %d", port+offset)
		}
	}
	if files, err := filepath.Glob(filepath.Join(temp, "*")); err != nil || len(files) > 0 {
		t.Errorf("files are left: %v %v", files, err)
	}
}

// TestDemoPortTaken: who holds a port is named, with the remedy.
func TestDemoPortTaken(t *testing.T) {
	enabled(t)
	l, err := net.Listen("tcp", loopback(9090+offset+100))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, errs, err := weft(nil, "", "demo", "--port-offset", fmt.Sprint(offset+100))
	if err == nil || !strings.Contains(errs, fmt.Sprint(9090+offset+100)) || !strings.Contains(errs, "e2e.test") || !strings.Contains(errs, "--port-offset") {
		t.Errorf("%v: %s\nwant the port, who holds it, and what to do", err, errs)
	}
}
