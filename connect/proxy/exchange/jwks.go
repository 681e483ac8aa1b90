// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

const maxKeySet = 1 << 20

// fetchKeys fetches the keys of tokens that are due.
func (e *Engine) fetchKeys(now time.Time) {
	for _, l := range e.current().listeners {
		if l.config.HTTP == nil {
			continue
		}
		for _, p := range l.config.HTTP.Tokens {
			if r := p.Remote; r != nil && r.Due(now) {
				e.spawn(func(ctx context.Context) { e.fetch(ctx, r) }, func() {})
			}
		}
	}
}

func (e *Engine) fetch(ctx context.Context, r *config.RemoteKeys) {
	data, err := e.get(ctx, r)
	if err := r.Fetched(data, err, time.Now()); err != nil {
		e.config.Log.Warn("the keys of tokens can't be fetched, those that were stay", "uri", r.URI, "error", err)
	}
}

func (e *Engine) get(ctx context.Context, r *config.RemoteKeys) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URI, nil)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DialContext: e.config.Dial, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", r.URI, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxKeySet))
}
