// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/internal/gossip"
)

const (
	// coordinateEvery is how often this node looks whether it has moved, with few nodes; with many all of them together send
	// coordinateRate a second.
	coordinateEvery = 15 * time.Second
	coordinateRate  = 64
	// coordinateMoved is how far a node has to move, in seconds, until it is worth telling.
	coordinateMoved = 0.0005
	// coordinateAnew is how often it is told all the same: a server may have lost it.
	coordinateAnew = 10 * time.Minute
)

// sendCoordinates tells the servers where this node is in the network, when it has moved.
func (a *Agent) sendCoordinates(ctx context.Context) error {
	var sent gossip.Coordinate
	var at time.Time
	for {
		every := max(coordinateEvery, time.Duration(len(a.c.LAN.Members()))*time.Second/coordinateRate)
		timer := time.NewTimer(every/2 + time.Duration(a.c.Jitter()*float64(every)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		now, ok := a.c.LAN.Coordinate()
		if !ok || !at.IsZero() && moved(sent, now) < coordinateMoved && a.c.Now().Sub(at) < coordinateAnew {
			continue
		}
		if err := a.tellCoordinate(ctx, now); err != nil {
			a.c.Log.Debug("the servers couldn't be told where this node is", "error", err)
			continue
		}
		sent, at = now, a.c.Now()
	}
}

// moved is how much farther from others a node may have become.
func moved(a, b gossip.Coordinate) float64 {
	if len(a.Vec) != len(b.Vec) {
		return math.Inf(1)
	}
	sum := 0.0
	for i := range a.Vec {
		d := a.Vec[i] - b.Vec[i]
		sum += d * d
	}
	return math.Sqrt(sum) + math.Abs(a.Height-b.Height) + math.Abs(a.Adjustment-b.Adjustment)
}

func (a *Agent) tellCoordinate(ctx context.Context, c gossip.Coordinate) error {
	body, err := json.Marshal(map[string]any{"Node": a.c.NodeName, "Segment": "", "Coord": c})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, coordinateEvery)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://127.0.0.1/v1/coordinate/update", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.RemoteAddr = "127.0.0.1:0"
	if token := a.c.Tokens.Own(tokens.Agent); token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	w := &status{header: http.Header{}, code: http.StatusOK}
	a.c.Servers.ServeHTTP(w, req)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.code != http.StatusOK {
		return fmt.Errorf("%d %s", w.code, bytes.TrimSpace(w.body[:min(len(w.body), 200)]))
	}
	return nil
}

// status keeps an answer's code, and the beginning of its body.
type status struct {
	header http.Header
	code   int
	body   []byte
}

func (s *status) Header() http.Header { return s.header }

func (s *status) WriteHeader(code int) {
	if code >= 200 {
		s.code = code
	}
}

func (s *status) Write(p []byte) (int, error) {
	if room := 1024 - len(s.body); room > 0 {
		s.body = append(s.body, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
