// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Load is an open-loop client: it sends at its rate whether or not answers come, while fewer than mostUnderWay of them are still to
// come, and never sends anything again.
type Load struct {
	t      *testing.T
	url    string
	client *http.Client
	end    context.CancelFunc
	all    sync.WaitGroup
	seq    atomic.Int64
	good   atomic.Int64 // answered well
	bad    atomic.Int64 // not

	mu      sync.Mutex // guards results
	results map[string]result
}

// result is what became of one request.
type result struct {
	begun, ended time.Time
	err          error // nil: answered 200 with its own id
}

// mostUnderWay keeps a machine that can't do the rate from being driven into a pile of requests that all end by the client's own time-out,
// whatever the proxies do. At thousands of requests a second a pause of a tenth of a second needs hundreds.
const mostUnderWay = 256

// once hides that a body could be sent again, so that the client can't.
type once struct{ io.Reader }

// load sends rate requests per second to url until the load is stopped, at the latest when the test ends.
func load(t *testing.T, url string, rate int) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{
		t: t, url: url, end: cancel, results: map[string]result{},
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: mostUnderWay, DisableCompression: true}},
	}
	under := make(chan struct{}, mostUnderWay)
	l.all.Go(func() {
		tick := time.NewTicker(max(time.Millisecond, time.Second/time.Duration(rate)))
		defer tick.Stop()
		began, sent := time.Now(), 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				// What is due by the clock: a ticker drops what nobody took in time.
				due := int(time.Since(began).Seconds() * float64(rate))
				for ; sent < due && len(under) < mostUnderWay; sent++ {
					under <- struct{}{} // filled here alone
					l.all.Go(func() { defer func() { <-under }(); l.send() })
				}
				sent = due
			}
		}
	})
	t.Cleanup(l.stop)
	return l
}

func (l *Load) send() {
	id := fmt.Sprintf("n%d", l.seq.Add(1))
	r := result{begun: time.Now()}
	r.err = l.exchange(id)
	r.ended = time.Now()
	if r.err == nil {
		l.good.Add(1)
	} else {
		l.bad.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.results[id] = r
}

func (l *Load) exchange(id string) error {
	req, err := http.NewRequest(http.MethodPost, l.url, once{strings.NewReader(id)})
	if err != nil {
		return err
	}
	req.ContentLength = int64(len(id))
	req.Header.Set(idHeader, id)
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s (%s): %s", resp.Status, resp.Header.Get("X-Weft-Reason"), body)
	case string(body) != id || resp.Header.Get(idHeader) != id:
		return fmt.Errorf("answered with %q and header %q", body, resp.Header.Get(idHeader))
	}
	return nil
}

// stop sends nothing more and waits for what is under way.
func (l *Load) stop() {
	l.end()
	l.all.Wait()
	l.client.CloseIdleConnections()
}

// done is how many requests have been answered well.
func (l *Load) done() int { return int(l.good.Load()) }

// more waits until n more requests have been answered well.
func (l *Load) more(n int) {
	l.t.Helper()
	from := l.done()
	until(l.t, 20*time.Second, func() error {
		if got := l.done() - from; got < n {
			return fmt.Errorf("%d of %d more requests were answered; so far: %w", got, n, l.failures(nil))
		}
		return nil
	})
}

// failures are the requests that failed and aren't excused.
func (l *Load) failures(excused func(id string, r result) bool) error {
	if l.bad.Load() == 0 { // asked often, of results by the hundred thousand
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var texts []string
	for id, r := range l.results {
		if r.err != nil && (excused == nil || !excused(id, r)) {
			texts = append(texts, fmt.Sprintf("%s (begun %s, after %s): %v", id, r.begun.Format("05.000"), r.ended.Sub(r.begun).Round(time.Millisecond), r.err))
		}
	}
	if texts == nil {
		return nil
	}
	sort.Strings(texts)
	shown := texts[:min(len(texts), 8)]
	return fmt.Errorf("%d of %d requests failed:\n%s", len(texts), len(l.results), strings.Join(shown, "\n"))
}

// agree compares the client's log with the backends', once the load is stopped: what was answered arrived exactly once, nothing
// arrived twice, and nothing failed. Requests that are excused may have failed, and may have arrived anywhere.
func (l *Load) agree(excused func(id string, r result) bool, backends ...*Backend) error {
	l.stop()
	seen := map[string]int{}
	for _, b := range backends {
		b.mu.Lock()
		for id, n := range b.seen {
			seen[id] += n
		}
		b.mu.Unlock()
	}
	faults := []error{l.failures(excused)}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, r := range l.results {
		if excused != nil && excused(id, r) {
			continue
		}
		if n := seen[id]; r.err == nil && n != 1 || n > 1 {
			faults = append(faults, fmt.Errorf("request %s reached the backends %d times", id, n))
		}
	}
	if len(l.results) == 0 {
		faults = append(faults, errors.New("no request was sent"))
	}
	return errors.Join(faults...)
}
