// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/logs"
)

var errDown = errors.New("down")

// Addresses are tried until one answers, and then no more.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		j, err := New(Config{
			Pool: "lan", Addresses: []string{"10.0.0.1", "db.internal:9301"}, Interval: 10 * time.Second, Log: logs.Discard(),
			Join: func(_ context.Context, a []string) (int, error) {
				if !slices.Equal(a, []string{"10.0.0.1", "db.internal:9301"}) {
					t.Errorf("joins %q", a)
				}
				switch tries++; tries {
				case 1:
					return 0, errDown
				case 2:
					return 0, gossip.ErrAlone
				}
				return 1, errDown
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := j.Run(t.Context()); err != nil || tries != 3 || time.Since(begin) != 20*time.Second {
			t.Errorf("%d tries in %v: %v", tries, time.Since(begin), err)
		}
	})
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, err := New(Config{
			Pool: "lan", Addresses: []string{"10.0.0.1"}, Max: 3, Log: logs.Discard(),
			Join: func(context.Context, []string) (int, error) { return 0, errDown },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Run(t.Context()); !errors.Is(err, ErrGaveUp) || !errors.Is(err, errDown) {
			t.Error(err)
		}
	})
}

func TestExec(t *testing.T) {
	for line, want := range map[string]string{
		"exec=echo 10.0.0.1 10.0.0.2; echo 10.0.0.3": "10.0.0.1 10.0.0.2 10.0.0.3",
		"provider=exec command='echo 10.0.0.4'":      "10.0.0.4",
		"exec=echo broken >&2; exit 3":               "",
		"exec=true":                                  "",
	} {
		j, err := New(Config{Pool: "lan", Addresses: []string{line}, Log: logs.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		got, err := j.sources[0].addresses(t.Context())
		if strings.Join(got, " ") != want || (want == "") != (err != nil) {
			t.Errorf("%s: %q, %v", line, got, err)
		}
		if strings.Contains(line, "broken") && !strings.Contains(err.Error(), "broken") {
			t.Errorf("what it said is lost: %v", err)
		}
	}
}

func TestBadAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"":                          "want an address",
		"10.0.0.1 10.0.0.2":         "want an address",
		"exec=":                     "wants a command",
		"provider=moon":             `"moon" is unknown`,
		"provider=exec command='x":  "no end",
		"provider=exec provider=up": "twice",
		"provider=exec secret":      "key=value",
	} {
		_, err := New(Config{Pool: "lan", Addresses: []string{address}, Log: logs.Discard()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
	if got := hide("provider=azure secret_access_key=abc"); strings.Contains(got, "abc") {
		t.Error(got)
	}
}
