// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The pages that people walk through.
const (
	quickStart  = "../website/docs/quick-start.md"
	trafficTour = "../website/docs/traffic-tour.md"
)

// block is one command of a page. Its kind is "" (must succeed), "background" (runs until the end) or "retry" (must come to
// succeed soon).
type block struct {
	line       int
	kind, text string
}

// blocks are the page's fenced sh blocks.
func blocks(page string) ([]block, error) {
	var all []block
	var open *block
	for n, line := range strings.Split(page, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case !fence && open != nil:
			open.text += line + "\n"
		case fence && open != nil:
			all = append(all, *open)
			open = nil
		case fence:
			kind, sh := strings.CutPrefix(strings.TrimSpace(info), "sh")
			open = &block{line: n + 1, kind: strings.TrimSpace(kind)}
			if !sh || (open.kind != "" && open.kind != "background" && open.kind != "retry") {
				return nil, fmt.Errorf("line %d: a block of %q: want sh, sh background or sh retry", n+1, info)
			}
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block has no end", open.line)
	}
	return all, nil
}

// free wants ports to be free: the page names them.
func free(t *testing.T, ports ...int) {
	t.Helper()
	for _, port := range ports {
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			t.Fatalf("port %d, which the page uses, is taken: stop what listens there (%v)", port, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestQuickStart runs the page as it stands.
func TestQuickStart(t *testing.T) {
	enabled(t)
	free(t, 8500, 8502, 8600, 9101, 9191, 21000, 21001)
	walk(t, quickStart)
}

// TestTrafficTour runs the page as it stands.
func TestTrafficTour(t *testing.T) {
	enabled(t)
	free(t, 8500, 8502, 8600, 9101, 9102, 9191, 21000, 21001, 21002)
	walk(t, trafficTour)
}

// walk runs a page's commands one after the other.
func walk(t *testing.T, file string) {
	t.Helper()
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all, err := blocks(string(page))
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(filepath.Dir(binary()))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path+":"+os.Getenv("PATH"))
	dir := t.TempDir()
	for n, b := range all {
		log := filepath.Join(dir, fmt.Sprintf("%02d.log", n))
		at := fmt.Sprintf("%s:%d", filepath.Base(file), b.line)
		run := func(text string) *process {
			p, err := start(at, log, "bash", "-euo", "pipefail", "-c", text)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		begin := time.Now()
		switch b.kind {
		case "background":
			// The shell becomes the block's last command, so that ending the one ends the other.
			lines := strings.Split(strings.TrimSpace(b.text), "\n")
			last := lines[len(lines)-1]
			if i := strings.LastIndex(last, "&& "); i >= 0 {
				last = last[:i+3] + "exec " + last[i+3:]
			} else {
				last = "exec " + last
			}
			lines[len(lines)-1] = last
			p := run(strings.Join(lines, "\n"))
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s said:\n%s", at, tail(log, 15))
				}
				if p.ended() {
					t.Errorf("%s ended by itself: %v", at, p.err)
				}
				if err := p.stop(10 * time.Second); err != nil {
					t.Error(err)
				}
			})
			if n == 0 { // the agent: a reader takes longer to type than it takes to start
				until(t, 10*time.Second, func() error {
					conn, err := net.Dial("tcp", loopback(8500))
					if err != nil {
						return err
					}
					return conn.Close()
				})
			}
		case "retry":
			until(t, 15*time.Second, func() error {
				p := run(b.text)
				<-p.done
				if p.err != nil {
					return fmt.Errorf("%s: %w\n%s", at, p.err, tail(log, 5))
				}
				return nil
			})
		default:
			p := run(b.text)
			<-p.done
			if p.err != nil {
				t.Fatalf("%s: %v\n%s", at, p.err, tail(log, 15))
			}
		}
		t.Logf("%s took %s", at, time.Since(begin).Round(time.Millisecond))
	}
}
