// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/internal/run"
)

// Service is one of the demo's services as a program of its own: it knows nothing of the mesh, only an address on this
// host for what it calls.
type Service struct {
	Name     string // "web", "api" or "db"
	Version  string // shown in answers
	Listen   string // host:port
	Upstream string // host:port where the next service is found; "" for db
}

// Run serves until ctx ends.
func (s Service) Run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("demo service %s: %w", s.Name, err)
	}
	if s.Name == "db" {
		return s.serveLines(ctx, l)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	switch s.Name {
	case "web":
		mux.HandleFunc("GET /{$}", s.page)
	case "api":
		mux.HandleFunc("GET /visits", s.visits)
	default:
		return errors.Join(fmt.Errorf("demo service %q: want web, api or db", s.Name), l.Close())
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	g := run.New(ctx)
	g.Go("serve", func(context.Context) error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go("stop", func(ctx context.Context) error {
		<-ctx.Done()
		return server.Close()
	})
	return g.Wait()
}

// Visits is what the demo's api answers.
type Visits struct {
	Version string `json:"version"`
	Visits  int64  `json:"visits"`
}

// visits asks the database, over TCP through the sidecar, and answers in JSON.
func (s Service) visits(w http.ResponseWriter, r *http.Request) {
	n, err := s.count(r.Context())
	if err != nil {
		http.Error(w, "the database doesn't answer: "+err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(Visits{Version: s.Version, Visits: n}) // the client may be gone
}

func (s Service) count(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Upstream)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, "VISIT\n"); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	var n int64
	_, err = fmt.Sscanf(line, "%d\n", &n)
	return n, err
}

// serveLines is the database: it counts lines.
func (s Service) serveLines(ctx context.Context, l net.Listener) error {
	var count atomic.Int64
	g := run.New(ctx)
	g.Go("stop", func(ctx context.Context) error {
		<-ctx.Done()
		return l.Close()
	})
	g.Go("accept", func(ctx context.Context) error {
		for {
			conn, err := l.Accept()
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			g.Go("connection", func(ctx context.Context) error {
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // ends the read below
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					if _, err := fmt.Fprintf(conn, "%d\n", count.Add(1)); err != nil {
						break
					}
				}
				return nil
			})
		}
	})
	return g.Wait()
}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>weft demo</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}
.ok{color:#0a6b2d}.no{color:#a11212}code{background:#eee;padding:.1em .3em}</style></head><body>
<h1>web → api → db</h1>
{{if .Err}}<p class="no"><strong>api didn't answer: {{.Status}}</strong></p><pre>{{.Err}}</pre>
{{if .Reason}}<p>The proxy's reason: <code>{{.Reason}}</code> — <code>weft explain {{.Reason}}</code></p>{{end}}
{{else}}<p class="ok">api <strong>{{.Version}}</strong> answered: visit number <strong>{{.Visits.Visits}}</strong>.</p>{{end}}
<p>This page asks <code>{{.Upstream}}</code>, where web's sidecar listens for api. It comes anew each second.</p>
</body></html>
`))

type pageData struct {
	Visits
	Upstream, Status, Reason, Err string
}

// page asks the api, over HTTP through the sidecar, and shows the answer; its own status is 502 if there was none.
func (s Service) page(w http.ResponseWriter, r *http.Request) {
	d := s.ask(r.Context())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if d.Err != "" {
		w.WriteHeader(http.StatusBadGateway)
	}
	_ = pageTemplate.Execute(w, d) // the client may be gone
}

func (s Service) ask(ctx context.Context) pageData {
	d := pageData{Upstream: s.Upstream}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Upstream+"/visits", nil)
	if err != nil {
		d.Status, d.Err = "bad address", err.Error()
		return d
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.Status, d.Err = "no connection", err.Error()
		return d
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		d.Status, d.Reason, d.Err = resp.Status, resp.Header.Get("X-Weft-Reason"), string(text)
		if d.Err == "" {
			d.Err = resp.Status
		}
		return d
	}
	if err := json.NewDecoder(resp.Body).Decode(&d.Visits); err != nil {
		d.Status, d.Err = "unreadable answer", err.Error()
	}
	return d
}
