// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/run"
)

// Config is what a Runner is made of.
type Config struct {
	// API answers the reads, as an agent's HTTP API does.
	API http.Handler
	// HTTPAddr is told to programs as CONSUL_HTTP_ADDR, so that they can ask the same agent.
	HTTPAddr string
	Watches  []Definition
	Log      *slog.Logger
}

// Runner runs watches. Make it with New, and Run it.
type Runner struct {
	c Config

	mu      sync.Mutex // guards all below
	watches []Definition
	changed chan struct{}
}

// New makes a runner. It starts nothing.
func New(c Config) (*Runner, error) {
	return &Runner{c: c, watches: c.Watches, changed: make(chan struct{})}, nil
}

// Set puts other watches in place of those that run. Those that stay the same go on.
func (r *Runner) Set(watches []Definition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches = watches
	close(r.changed)
	r.changed = make(chan struct{})
}

// Run follows all watches until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	g := run.New(ctx)
	type running struct {
		d    Definition
		stop context.CancelFunc
	}
	var now []running
	for {
		r.mu.Lock()
		wanted, changed := r.watches, r.changed
		r.mu.Unlock()
		var next []running
		for _, d := range wanted {
			found := false
			for i, old := range now {
				if old.stop != nil && reflect.DeepEqual(old.d, d) {
					next, found = append(next, old), true
					now[i].stop = nil
					break
				}
			}
			if !found {
				wctx, stop := context.WithCancel(g.Context())
				next = append(next, running{d, stop})
				g.Go("watch", func(context.Context) error { r.follow(wctx, d); return nil })
			}
		}
		for _, old := range now {
			if old.stop != nil {
				old.stop()
			}
		}
		now = next
		select {
		case <-changed:
		case <-ctx.Done():
			for _, old := range now {
				old.stop()
			}
			return g.Stop()
		}
	}
}

// The waits between reads that fail.
const (
	retryFirst = time.Second
	retryLast  = 3 * time.Minute
)

// follow reads again and again, and hands on what differs from what was handed on before.
func (r *Runner) follow(ctx context.Context, d Definition) {
	log := r.c.Log.With("watch", d.Type)
	path, query := d.Request()
	position, known, retry := "", []byte(nil), retryFirst
	for ctx.Err() == nil {
		w, err := r.read(ctx, d, path, query, position)
		if ctx.Err() != nil {
			return
		}
		var doc []byte
		if err == nil {
			doc, err = d.Document(w.Code, w.Body.Bytes())
		}
		if err != nil {
			log.Warn("watch can't be read", "path", path, "error", err, "retry_in", retry)
			pause(ctx, retry)
			position, retry = "", min(2*retry, retryLast)
			continue
		}
		retry = retryFirst
		position = w.Header().Get("X-Consul-Index")
		if d.Type == "agent_service" {
			position = w.Header().Get("X-Consul-ContentHash")
		}
		if known == nil || !bytes.Equal(doc, known) {
			known = doc
			if err := r.hand(ctx, d, position, doc); err != nil {
				log.Warn("handler of a watch failed", "path", path, "error", err)
			}
		} else if position == "" {
			pause(ctx, retryFirst) // nothing to wait for
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (r *Runner) read(ctx context.Context, d Definition, path string, query map[string][]string, position string) (*api.Recorder, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		return nil, err
	}
	q := req.URL.Query()
	for k, v := range query {
		q[k] = v
	}
	switch {
	case position == "":
	case d.Type == "agent_service":
		q.Set("hash", position)
	default:
		q.Set("index", position)
	}
	req.URL.RawQuery = q.Encode()
	req.RemoteAddr = "127.0.0.1:0"
	if d.Token != "" {
		req.Header.Set("X-Consul-Token", d.Token)
	}
	return api.Record(r.c.API, req, 0), nil
}

// hand gives a document to the handler.
func (r *Runner) hand(ctx context.Context, d Definition, index string, doc []byte) error {
	if d.HandlerType == "http" {
		return post(ctx, d.HTTPHandlerConfig, index, doc)
	}
	out, err := Execute(ctx, d.Args, d.Handler, []string{"CONSUL_INDEX=" + index, "CONSUL_HTTP_ADDR=" + r.c.HTTPAddr}, doc)
	r.c.Log.Debug("handler of a watch", "watch", d.Type, "output", out)
	return err
}

// maxOutput is how much of a handler's output is kept.
const maxOutput = 4096

// Execute runs a program with its arguments, or a line for the shell, with doc on its standard input. It gives the beginning of
// what it said.
func Execute(ctx context.Context, args []string, line string, env []string, doc []byte) (string, error) {
	if line != "" {
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		args = []string{shell, "-c", line}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = bytes.NewReader(doc)
	out := &head{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return string(out.kept), fmt.Errorf("%s: %w: %s", args[0], err, bytes.TrimSpace(out.kept))
	}
	return string(out.kept), nil
}

// head keeps the first bytes of what is written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxOutput-len(h.kept))]...)
	return len(p), nil
}

func post(ctx context.Context, h HTTPHandler, index string, doc []byte) error {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	method := h.Method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, h.Path, bytes.NewReader(doc))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Consul-Index", index)
	for name, values := range h.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: h.TLSSkipVerify} //nolint:gosec // the definition asks for it by name
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode > 299 {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
		return errors.Join(fmt.Errorf("%s: %s: %s", h.Path, resp.Status, bytes.TrimSpace(body)), err)
	}
	return nil
}
