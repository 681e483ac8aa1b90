// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Three commands, one per server, no file edited, make a locked cluster of three; an agent comes in by a token of its own. Who has
// no token learns nothing, who has neither certificate nor gossip key isn't let in, and a restart needs no token.
func TestThreeCommandsToALockedCluster(t *testing.T) {
	enabled(t)
	dir, net := t.TempDir(), fmt.Sprintf("127.%d.%d.", 1+mrand.IntN(250), mrand.IntN(250))
	running := map[string]*process{}
	t.Cleanup(func() {
		for _, p := range running {
			p.kill()
		}
	})
	run := func(name string, n int, more ...string) {
		t.Helper()
		at := fmt.Sprint(net, n)
		p, err := start(name, filepath.Join(dir, name+".log"), binary(), append([]string{
			"agent", "-data-dir", filepath.Join(dir, name), "-node", name, "-bind", at, "-client", at,
		}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		running[name] = p
	}
	run("s1", 1, "-server", "-locked")
	var token string
	until(t, 20*time.Second, func() error {
		out, err := os.ReadFile(filepath.Join(dir, "s1.log"))
		if token = regexp.MustCompile(`weft-join-[\w-]+`).FindString(string(out)); token == "" {
			return fmt.Errorf("no token is printed: %w: %s", err, out)
		}
		return nil
	})
	run("s2", 2, "-server", "-join-token="+token)
	run("s3", 3, "-server", "-join-token="+token)

	env := []string{"WEFT_HTTP_ADDR=" + net + "1:8500"}
	var root string
	until(t, 20*time.Second, func() error {
		out, stderr, err := weft(env, "", "acl", "bootstrap")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		root = regexp.MustCompile(`SecretID:\s+(\S+)`).FindStringSubmatch(out)[1]
		return nil
	})
	as := func(token string, args ...string) (string, error) {
		out, stderr, err := weft(append(env, "WEFT_HTTP_TOKEN="+token), "", args...)
		if err != nil {
			return out, fmt.Errorf("%w: %s", err, stderr)
		}
		return out, nil
	}
	until(t, 40*time.Second, func() error {
		out, err := as(root, "operator", "raft", "list-peers")
		if err != nil || strings.Count(out, " true ") != 3 {
			return fmt.Errorf("not three voters: %w: %s", err, out)
		}
		return nil
	})
	mine, err := as(root, "plane", "token")
	if mine = strings.TrimSpace(mine); err != nil {
		t.Fatal(err)
	}
	run("a1", 101, "-join-token="+mine)
	until(t, 20*time.Second, func() error {
		out, err := as(root, "catalog", "nodes")
		for _, name := range []string{"s1", "s2", "s3", "a1"} {
			if err == nil && !strings.Contains(out, name) {
				err = fmt.Errorf("%s isn't there: %s", name, out)
			}
		}
		return err
	})
	if out, err := as("", "kv", "put", "a", "b"); err == nil {
		t.Errorf("a write without a token: %s", out)
	}
	run("a2", 102, "-join-token="+mine) // used up
	run("a3", 103, "-retry-join="+net+"1")
	until(t, 20*time.Second, func() error {
		if !running["a2"].ended() || !strings.Contains(tail(filepath.Join(dir, "a2.log"), 3), "used up") {
			return fmt.Errorf("a2: %s", tail(filepath.Join(dir, "a2.log"), 3))
		}
		if log := tail(filepath.Join(dir, "a3.log"), 200); !strings.Contains(log, "join") {
			return fmt.Errorf("a3 hasn't tried yet: %s", log)
		}
		return nil
	})
	if out, err := as(root, "members"); err != nil || strings.Contains(out, "a2") || strings.Contains(out, "a3") {
		t.Errorf("%v: %s", err, out)
	}
	running["s2"].kill()
	run("s2", 2, "-server", "-join-token="+token)
	until(t, 20*time.Second, func() error {
		out, err := as(root, "members")
		if err != nil || !regexp.MustCompile(`s2 .*alive`).MatchString(out) {
			return fmt.Errorf("s2 isn't back: %w: %s", err, out)
		}
		return nil
	})
	keptSecret(t, filepath.Join(dir, "s1", "plane", "identity.json"))
	keptSecret(t, filepath.Join(dir, "a1", "plane", "identity.json"))
}

func keptSecret(t *testing.T, file string) {
	t.Helper()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", file, info, err)
	}
}
