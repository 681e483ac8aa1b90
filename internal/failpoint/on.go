// SPDX-License-Identifier: Apache-2.0

//go:build weftfail

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type action struct {
	what  string
	sleep time.Duration
	at    int // the number of the hit, from 1
	hits  int
}

var (
	mu      sync.Mutex
	actions = sync.OnceValue(func() map[Point]*action {
		out := map[Point]*action{}
		for _, part := range strings.Split(os.Getenv("WEFT_FAIL"), ";") {
			if part == "" {
				continue
			}
			point, a, err := parse(part)
			if err != nil {
				panic(fmt.Sprintf("WEFT_FAIL: %q: %v", part, err))
			}
			out[point] = a
		}
		return out
	})
)

func parse(part string) (Point, *action, error) {
	name, what, ok := strings.Cut(part, "=")
	if !ok {
		return "", nil, fmt.Errorf("want POINT=ACTION")
	}
	a := &action{at: 1}
	what, at, counted := strings.Cut(what, "@")
	if counted {
		n, err := strconv.Atoi(at)
		if err != nil {
			return "", nil, err
		}
		a.at = n
	}
	a.what = what
	if d, ok := strings.CutPrefix(what, "sleep:"); ok {
		var err error
		if a.sleep, err = time.ParseDuration(d); err != nil {
			return "", nil, err
		}
		a.what = "sleep"
	}
	for _, p := range Points() {
		if p == Point(name) {
			return p, a, nil
		}
	}
	return "", nil, fmt.Errorf("there is no such point")
}

// Due counts a hit, and says what is to happen now: "" is nothing.
func due(p Point) (what string, sleep time.Duration) {
	a := actions()[p]
	if a == nil {
		return "", 0
	}
	mu.Lock()
	defer mu.Unlock()
	a.hits++
	if a.hits != a.at {
		return "", 0
	}
	return a.what, a.sleep
}

// Hit does what WEFT_FAIL says of the place.
func Hit(p Point) error {
	what, sleep := due(p)
	switch what {
	case "":
		return nil
	case "crash":
		fmt.Fprintf(os.Stderr, "failpoint %s: crash\n", p)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it can't fail
		select {}
	case "sleep":
		fmt.Fprintf(os.Stderr, "failpoint %s: sleep\n", p)
		time.Sleep(sleep)
		return nil
	case "error":
		fmt.Fprintf(os.Stderr, "failpoint %s: error\n", p)
		return fmt.Errorf("failpoint %s: %w", p, syscall.EIO)
	}
	panic(fmt.Sprintf("WEFT_FAIL: %s: there is no action %q", p, what))
}

// Ahead says whether the next hit of the place does something: code that only tests need asks it before it goes half the way.
func Ahead(p Point) bool {
	a := actions()[p]
	if a == nil {
		return false
	}
	mu.Lock()
	defer mu.Unlock()
	if a.hits+1 != a.at {
		a.hits++
		return false
	}
	return true
}
