// SPDX-License-Identifier: Apache-2.0

// Package apiclient is the small HTTP client that weft's own commands use. It knows addresses, tokens and errors, and no
// endpoint: those stand with the commands. It owns no goroutine.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config says which agent to ask, and as whom. Empty fields come from the environment: WEFT_* first, then CONSUL_*.
type Config struct {
	Address    string // host:port, http://…, https://… or unix:///path; default 127.0.0.1:8500
	Token      string
	TokenFile  string // wins over Token
	Datacenter string
	Namespace  string
	Partition  string
	Stale      bool // any server may answer
	// For https: whose certificates are trusted (by default the system's), the certificate to show, the name to expect.
	CAFile, CAPath        string
	ClientCert, ClientKey string
	TLSServerName         string
	Getenv                func(string) string // nil: os.Getenv
}

// Client asks one agent.
type Client struct {
	base  url.URL
	token string
	user  *url.Userinfo
	query url.Values // of every request
	http  *http.Client
	// namespace is that of requests for what is in one.
	namespace string
}

// StatusError is an answer that isn't a success.
type StatusError struct {
	Method, Path string
	Code         int
	Text         string // the body, trimmed
}

func (e *StatusError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Code, http.StatusText(e.Code))
	}
	return fmt.Sprintf("Unexpected response code: %d (%s)", e.Code, e.Text)
}

// IsStatus says whether err is an answer with this status code.
func IsStatus(err error, code int) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code == code
}

// New makes a client. It connects when it is first used.
func New(c Config) (*Client, error) {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	env := func(name string) string {
		if v := c.Getenv("WEFT_" + name); v != "" {
			return v
		}
		return c.Getenv("CONSUL_" + name)
	}
	addr := first(c.Address, env("HTTP_ADDR"), "127.0.0.1:8500")
	token := first(c.Token, env("HTTP_TOKEN"))
	if file := first(c.TokenFile, env("HTTP_TOKEN_FILE")); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("Error loading token file: %w", err) //nolint:staticcheck // Consul's text
		}
		token = strings.TrimSpace(string(data))
	}
	cl := &Client{namespace: first(c.Namespace, env("NAMESPACE")), token: token, base: url.URL{Scheme: "http", Host: addr}, query: url.Values{}}
	for key, v := range map[string]string{
		"dc": c.Datacenter, "partition": first(c.Partition, env("PARTITION")),
	} {
		if v != "" {
			cl.query.Set(key, v)
		}
	}
	if c.Stale {
		cl.query.Set("stale", "")
	}
	if name, password, ok := strings.Cut(env("HTTP_AUTH"), ":"); ok {
		cl.user = url.UserPassword(name, password)
	} else if name != "" {
		cl.user = url.User(name)
	}
	if on, err := boolean("HTTP_SSL", env("HTTP_SSL"), false); err != nil {
		return nil, err
	} else if on {
		cl.base.Scheme = "https"
	}
	transport := &http.Transport{Proxy: nil, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, IdleConnTimeout: time.Minute}
	switch scheme, rest, ok := strings.Cut(addr, "://"); {
	case !ok:
	case scheme == "unix":
		cl.base.Scheme, cl.base.Host = "http", "unix"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", rest)
		}
	case scheme == "http" || scheme == "https":
		host, path, _ := strings.Cut(rest, "/")
		cl.base.Scheme, cl.base.Host, cl.base.Path = scheme, host, strings.TrimSuffix("/"+path, "/")
	default:
		return nil, fmt.Errorf("address %q: want host:port, http://, https:// or unix://", addr)
	}
	if cl.base.Scheme == "https" {
		var err error
		if transport.TLSClientConfig, err = tlsConfig(c, env); err != nil {
			return nil, err
		}
	}
	cl.http = &http.Client{Transport: transport}
	return cl, nil
}

func first(options ...string) string {
	for _, o := range options {
		if o != "" {
			return o
		}
	}
	return ""
}

// spaced says whether what is at a path is in namespaces. The rest is asked for without one, so that a namespace in the environment is in
// nobody's way.
func spaced(path string) bool {
	if strings.HasPrefix(path, "/v1/catalog/datacenters") {
		return false
	}
	for _, prefix := range []string{
		"/v1/agent/service", "/v1/agent/check", "/v1/agent/health/", "/v1/agent/connect/authorize", "/v1/agent/connect/ca/leaf/", "/v1/agent/connect/prox", "/v1/catalog/", "/v1/health/", "/v1/config", "/v1/connect/intentions",
		"/v1/discovery-chain/", "/v1/kv/", "/v1/session/", "/v1/txn", "/v1/weft/explain", "/v1/weft/proxies",
	} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return strings.HasPrefix(path, "/v1/query/") && strings.HasSuffix(path, "/execute")
}

// Address is where the agent is asked.
func (c *Client) Address() string { return c.base.String() }

// Do sends a request: body is sent as JSON unless it is nil or a []byte; the answer is decoded into out unless that is nil
// (a *[]byte gets it raw, an io.Writer as it comes). An answer other than 2xx is a *StatusError. The response's header is returned.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body, out any) (http.Header, error) {
	u := c.base
	u.Path, u.RawPath = c.base.Path+unescaped(path), c.base.Path+path
	q := maps.Clone(c.query)
	if c.namespace != "" && spaced(path) {
		q.Set("ns", c.namespace)
	}
	for k, v := range query {
		q[k] = v
	}
	u.RawQuery = q.Encode()
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		payload = bytes.NewReader(b)
	case io.Reader:
		payload = b
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), payload)
	if err != nil {
		return nil, err
	}
	if c.user != nil {
		password, _ := c.user.Password()
		req.SetBasicAuth(c.user.Username(), password)
	}
	if c.token != "" {
		req.Header.Set("X-Consul-Token", c.token)
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, explain(err, c.Address())
	}
	defer resp.Body.Close()
	if w, ok := out.(io.Writer); ok && resp.StatusCode == http.StatusOK {
		if _, err := io.Copy(w, resp.Body); err != nil {
			return resp.Header, fmt.Errorf("%s %s: %w", method, path, err)
		}
		return resp.Header, nil
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.Header, &StatusError{Method: method, Path: path, Code: resp.StatusCode, Text: strings.TrimSpace(string(data))}
	}
	switch o := out.(type) {
	case nil:
		return resp.Header, nil
	case *[]byte:
		*o = data
		return resp.Header, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return resp.Header, fmt.Errorf("%s %s: the answer can't be read: %w", method, path, err)
	}
	return resp.Header, nil
}

func unescaped(path string) string {
	if p, err := url.PathUnescape(path); err == nil {
		return p
	}
	return path
}

func explain(err error, addr string) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("no agent answers at %s (%w); is it running? give another address with -http-addr", addr, op.Err)
	}
	return err
}
