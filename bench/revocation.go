// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Where the nodes of the revocation bench listen: addresses of loopback that nobody else is likely to use.
const (
	revocationServer = "127.77.3.1"
	revocationAgent  = "127.77.3.2"
)

// revocation measures how long after a token is deleted an agent without a server refuses it, on a connection that stays open.
func revocation(ctx context.Context, weft string, n int) error {
	dir, err := os.MkdirTemp("", "weft-revocation")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	run := func(name, at string, args ...string) (string, error) {
		logFile := filepath.Join(dir, name+".log")
		out, err := os.Create(logFile)
		if err != nil {
			return "", err
		}
		cmd := exec.CommandContext(ctx, weft, append([]string{"agent", "-node", name, "-data-dir", filepath.Join(dir, name), "-bind", at, "-client", at}, args...)...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		return logFile, cmd.Start()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	logFile, err := run("s1", revocationServer, "-server", "-locked")
	if err != nil {
		return err
	}
	if err := await(ctx, func() error {
		data, err := os.ReadFile(logFile)
		if err == nil && !regexp.MustCompile(`weft-join-\S+`).Match(data) {
			err = fmt.Errorf("the server isn't ready: %s", data)
		}
		return err
	}); err != nil {
		return err
	}
	server, agent := "http://"+revocationServer+":8500", "http://"+revocationAgent+":8500"
	var boot struct{ SecretID string }
	if err := call(ctx, "PUT", server+"/v1/acl/bootstrap", "", "", &boot); err != nil {
		return err
	}
	root := boot.SecretID
	var join struct{ Token string }
	if err := call(ctx, "POST", server+"/v1/weft/join/tokens", root, "{}", &join); err != nil {
		return err
	}
	if _, err := run("a1", revocationAgent, "-join-token="+join.Token); err != nil {
		return err
	}
	if err := call(ctx, "PUT", server+"/v1/acl/policy", root, `{"Name":"agents","Rules":"agent_prefix \"\" { policy = \"read\" }"}`, nil); err != nil {
		return err
	}
	var took []time.Duration
	for range n {
		d, err := revokeOnce(ctx, server, agent, root)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	summary("token deleted → agent refuses it", took)
	return nil
}

// revokeOnce makes a token, uses it, deletes it, and says how long it was good for after that.
func revokeOnce(ctx context.Context, server, agent, root string) (time.Duration, error) {
	var token struct{ AccessorID, SecretID string }
	if err := call(ctx, "PUT", server+"/v1/acl/token", root, `{"Policies":[{"Name":"agents"}]}`, &token); err != nil {
		return 0, err
	}
	use := func() error { return call(ctx, "GET", agent+"/v1/agent/self", token.SecretID, "", nil) }
	if err := await(ctx, use); err != nil {
		return 0, err
	}
	if err := call(ctx, "DELETE", server+"/v1/acl/token/"+token.AccessorID, root, "", nil); err != nil {
		return 0, err
	}
	begin := time.Now()
	for {
		err := use()
		if errors.Is(err, errRefused) {
			return time.Since(begin), nil
		}
		if time.Since(begin) > time.Minute {
			return 0, fmt.Errorf("a minute after its deletion the token is still good: %w", err)
		}
	}
}

// errRefused is an answer of 403.
var errRefused = errors.New("refused")

// await tries until it succeeds, for half a minute.
func await(ctx context.Context, f func() error) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
}

func call(ctx context.Context, method, url, token, body string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Consul-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusForbidden {
		return fmt.Errorf("%w: %s %s: %s", errRefused, method, url, bytes.TrimSpace(data))
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, url, resp.StatusCode, bytes.TrimSpace(data))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}
