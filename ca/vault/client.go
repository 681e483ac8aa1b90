// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/ca"
)

const (
	requestTimeout = 10 * time.Second
	maxBody        = 4 << 20
)

// statusError is an answer that isn't a success.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.text) }

func isStatus(err error, code int) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == code
}

// client talks to one Vault, with a token that it keeps alive.
type client struct {
	conf ca.VaultConfig
	http *http.Client

	mu    sync.Mutex // guards all below; held while a token is got, so that one login serves all
	token string
	renew time.Time // when half of the token's life is over; zero: it has no end, or isn't known yet
	known bool      // whether the token was looked up
}

func newClient(conf ca.VaultConfig) (*client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: conf.TLSServerName, InsecureSkipVerify: conf.TLSSkipVerify} //nolint:gosec // only where it is asked for
	files := []string{conf.CAFile}
	if conf.CAFile == "" {
		files = nil
		if conf.CAPath != "" {
			found, err := filepath.Glob(filepath.Join(conf.CAPath, "*.pem"))
			if err == nil && len(found) == 0 {
				err = errors.New("there is no file there that ends in .pem")
			}
			if err != nil {
				return nil, fmt.Errorf("%w: CAPath %s: %w", ca.ErrConfig, conf.CAPath, err)
			}
			files = found
		}
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			if t.RootCAs == nil {
				t.RootCAs = x509.NewCertPool()
			}
			if !t.RootCAs.AppendCertsFromPEM(text) {
				err = errors.New("there is no certificate in it")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w: CAFile %s: %w", ca.ErrConfig, f, err)
		}
	}
	if conf.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(conf.CertFile, conf.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: CertFile and KeyFile: %w", ca.ErrConfig, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return &client{
		conf: conf, token: string(conf.Token),
		http: &http.Client{
			Timeout: requestTimeout, CheckRedirect: onceToTheLeader,
			Transport: &http.Transport{TLSClientConfig: t, Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
		},
	}, nil
}

// onceToTheLeader follows what a standby says of its leader, once, and never to plain text: the token goes along.
func onceToTheLeader(req *http.Request, via []*http.Request) error {
	if len(via) > 1 || via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("it leads elsewhere again, or to plain text")
	}
	return nil
}

// do asks under a token that is in its time; where it has ended before its time and there is a login, once more under a new one.
// out may be nil.
func (c *client) do(ctx context.Context, now time.Time, method, namespace, path string, in, out any) error {
	token, err := c.current(ctx, now)
	if err != nil {
		return err
	}
	err = c.send(ctx, token, method, namespace, path, in, out)
	if isStatus(err, http.StatusForbidden) && c.conf.AuthMethod.Type != "" {
		c.forget(token)
		again, loginErr := c.current(ctx, now)
		if loginErr != nil {
			return loginErr
		}
		err = c.send(ctx, again, method, namespace, path, in, out)
	}
	return err
}

// forget lets go of a token that was refused, unless somebody has got another meanwhile.
func (c *client) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token, c.known = "", false
	}
}

// current gives a token: it logs in where there is none, and renews one of which half the life is over.
func (c *client) current(ctx context.Context, now time.Time) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == "" {
		return c.token, c.loginLocked(ctx, now)
	}
	if !c.known {
		var self struct {
			Data struct {
				TTL       int64
				Renewable bool
			}
		}
		if err := c.send(ctx, c.token, http.MethodGet, c.conf.Namespace, "auth/token/lookup-self", nil, &self); err != nil {
			return "", err
		}
		c.livesLocked(now, self.Data.TTL, self.Data.Renewable)
	}
	if c.renew.IsZero() || now.Before(c.renew) {
		return c.token, nil
	}
	var got struct{ Auth auth }
	err := c.send(ctx, c.token, http.MethodPost, c.conf.Namespace, "auth/token/renew-self", struct{}{}, &got)
	switch {
	case err == nil:
		c.livesLocked(now, got.Auth.LeaseDuration, got.Auth.Renewable)
	case c.conf.AuthMethod.Type != "":
		return c.token, c.loginLocked(ctx, now)
	default:
		return "", err
	}
	return c.token, nil
}

// livesLocked notes how long a token lives from now on.
func (c *client) livesLocked(now time.Time, seconds int64, renewable bool) {
	c.known, c.renew = true, time.Time{}
	if seconds > 0 && (renewable || c.conf.AuthMethod.Type != "") {
		c.renew = now.Add(time.Duration(seconds) * time.Second / 2)
	}
}

type auth struct {
	ClientToken   string `json:"client_token"`
	LeaseDuration int64  `json:"lease_duration"`
	Renewable     bool   `json:"renewable"`
}

// loginLocked gets a token by the login that the configuration has.
func (c *client) loginLocked(ctx context.Context, now time.Time) error {
	a := c.conf.AuthMethod
	if a.Type == "" {
		return errors.New("the token was refused, and no AuthMethod is configured to get another")
	}
	body := map[string]string{}
	var err error
	read := func(param, value, file string) {
		body[param] = value
		if file == "" || err != nil {
			return
		}
		var text []byte
		if text, err = os.ReadFile(file); err == nil {
			body[param] = strings.TrimSpace(string(text))
		}
	}
	p := a.Params
	switch a.Type {
	case "kubernetes":
		path := string(p["token_path"])
		if path == "" {
			path = ca.KubernetesTokenPath
		}
		body["role"] = string(p["role"])
		read("jwt", "", path)
	case "approle":
		read("role_id", string(p["role_id"]), string(p["role_id_file_path"]))
		read("secret_id", string(p["secret_id"]), string(p["secret_id_file_path"]))
	}
	if err != nil {
		return fmt.Errorf("login by %s: %w", a.Type, err)
	}
	mount := a.MountPath
	if mount == "" {
		mount = a.Type
	}
	var got struct{ Auth auth }
	if err := c.send(ctx, "", http.MethodPost, c.conf.Namespace, "auth/"+strings.Trim(mount, "/")+"/login", body, &got); err != nil {
		return fmt.Errorf("login by %s: %w", a.Type, err)
	}
	if got.Auth.ClientToken == "" {
		return fmt.Errorf("login by %s: the answer has no token", a.Type)
	}
	c.token = got.Auth.ClientToken
	c.livesLocked(now, got.Auth.LeaseDuration, got.Auth.Renewable)
	return nil
}

// send is one request. Its errors show neither the token nor the body.
func (c *client) send(ctx context.Context, token, method, namespace, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.conf.Address, "/")+"/v1/"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Request", "true")
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if namespace != "" {
		req.Header.Set("X-Vault-Namespace", namespace)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 != 2 {
		var said struct{ Errors []string }
		_ = json.Unmarshal(data, &said) // it may be a proxy's page
		return fmt.Errorf("%s %s: %w", method, path, &statusError{resp.StatusCode, fmt.Sprintf("%.500s", strings.Join(said.Errors, "; "))})
	}
	switch o := out.(type) {
	case nil:
		return nil
	case *string:
		*o = string(data)
		return nil
	}
	if len(data) == 0 {
		return nil // 204
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s %s: its answer isn't JSON as expected: %w", method, path, err)
	}
	return nil
}
