// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/seal"
)

// servers know one token, "good", while up.
type servers struct {
	down, gone atomic.Bool
	asked      atomic.Int32
	slow       time.Duration
}

func (s *servers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	time.Sleep(s.slow) // virtual
	switch {
	case s.down.Load():
		http.Error(w, "no server can be reached", http.StatusServiceUnavailable)
	case r.Header.Get("X-Consul-Token") != "good" || s.gone.Load():
		http.Error(w, "ACL not found", http.StatusForbidden)
	default:
		fmt.Fprint(w, `{"AccessorID":"a1","Rules":["service \"web\" { policy = \"write\" }"]}`)
	}
}

func make1(t *testing.T, s *servers, change func(*Config)) *Tokens {
	t.Helper()
	c := Config{Enabled: true, Servers: s, Node: "n1", Default: acl.Deny, Now: time.Now}
	if change != nil {
		change(&c)
	}
	out, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func may(t *testing.T, tokens *Tokens, secret string) error {
	t.Helper()
	s, err := tokens.Resolve(t.Context(), secret)
	if err != nil {
		return err
	}
	return s.Allow(api.Permission{Resource: "service", Access: api.Write}, "web")
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{slow: 10 * time.Millisecond}
		tokens := make1(t, s, nil)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := may(t, tokens, "good"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("50 at once asked %d times", n)
		}
		s.gone.Store(true)
		time.Sleep(29 * time.Second)
		if err := may(t, tokens, "good"); err != nil {
			t.Errorf("within its time: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := may(t, tokens, "good"); !errors.Is(err, api.ErrTokenUnknown) {
			t.Errorf("a revoked token after its time: %v", err)
		}
		s.gone.Store(false)
		time.Sleep(time.Second)
		if err := may(t, tokens, "good"); err != nil {
			t.Errorf("that nobody had it was remembered for more than a second: %v", err)
		}
	})
}

func TestDownPolicies(t *testing.T) {
	for policy, want := range map[DownPolicy][2]bool{ // known before, unknown
		Extend: {true, false}, Async: {true, false}, Allow: {true, true}, Deny: {false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &servers{}
			tokens := make1(t, s, func(c *Config) { c.Down = policy })
			if err := may(t, tokens, "good"); err != nil {
				t.Fatal(err)
			}
			s.down.Store(true)
			time.Sleep(time.Hour)
			for i, secret := range []string{"good", "never seen"} {
				err := may(t, tokens, secret)
				if (err == nil) != want[i] {
					t.Errorf("%s, %s: %v", policy, secret, err)
				}
				if err != nil && !errors.Is(err, api.ErrDenied) {
					t.Errorf("%s, %s: %v isn't a denial", policy, secret, err)
				}
			}
		})
	}
	if _, err := New(Config{Now: time.Now, Down: "maybe"}); err == nil || !strings.Contains(err.Error(), "acl.down_policy") {
		t.Errorf("an odd down policy: %v", err)
	}
}

// A file that is sealed shows no token, opens by its key alone, and one in clear is read and sealed by the next change.
func TestSealedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	key, err := seal.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bare, sealed := File{Path: path}, File{Path: path, Seal: &seal.Outer{Key: key, Source: "a file"}}
	for _, f := range []File{bare, sealed} {
		if err := f.Save(map[Kind]string{Default: "canary"}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if inClear := strings.Contains(string(data), "canary"); err != nil || inClear != (f.Seal == nil) {
			t.Errorf("in clear: %v, %v", inClear, err)
		}
		if m, err := sealed.Load(); err != nil || m[Default] != "canary" {
			t.Errorf("%v, %v", m, err)
		}
	}
	if _, err := bare.Load(); !errors.Is(err, seal.ErrNoKey) {
		t.Errorf("without the key: %v", err)
	}
}

func TestOwnTokens(t *testing.T) {
	file := File{Path: filepath.Join(t.TempDir(), "a", "tokens.json")}
	s := &servers{}
	tokens := make1(t, s, func(c *Config) { c.Own, c.Store = map[Kind]string{Default: "good", Recovery: "rescue"}, file })
	if tokens.Own(Agent) != "good" || tokens.Own(Replication) != "" || tokens.Or("x") != "x" || tokens.Or("") != "good" {
		t.Error("the default stands for what isn't set, but for recovery and replication")
	}
	if err := may(t, tokens, ""); err != nil {
		t.Errorf("without a token the default counts: %v", err)
	}
	if err := tokens.Set(Agent, "other"); err != nil {
		t.Fatal(err)
	}
	again := make1(t, s, func(c *Config) { c.Store = file })
	if again.Own(Agent) != "other" {
		t.Errorf("after a restart: %q", again.Own(Agent))
	}
	s.down.Store(true)
	subject, err := tokens.Resolve(t.Context(), "rescue")
	if err != nil {
		t.Fatal(err)
	}
	if err := subject.Allow(api.Permission{Resource: "agent", Access: api.Write}, "n1"); err != nil {
		t.Error(err)
	}
	if subject.Allow(api.Permission{Resource: "service", Access: api.Write}, "web") == nil {
		t.Error("the recovery token may write services")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	s := &servers{}
	tokens := make1(t, s, nil)
	for i := range maxKnown + 100 {
		_ = may(t, tokens, fmt.Sprint(i)) // refused
	}
	if n := len(tokens.known); n > maxKnown {
		t.Errorf("%d are remembered", n)
	}
}
