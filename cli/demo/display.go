// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// edge is what flowed from one service to another, counted since the sidecar started.
type edge struct {
	total, good float64
	buckets     map[float64]float64 // requests that took at most so many seconds
}

// display shows the rates of the last interval, each second on a terminal, each five elsewhere.
func (d *Demo) display(ctx context.Context) error {
	every := 5 * time.Second
	if d.c.Terminal {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	before := map[string]edge{}
	lines := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := d.scrape(ctx)
		var b strings.Builder
		if d.c.Terminal && lines > 0 {
			fmt.Fprintf(&b, "\x1b[%dA\x1b[J", lines) // back over the last table
		}
		table := render(before, now, every)
		lines = strings.Count(table, "\n")
		b.WriteString(table)
		if _, err := io.WriteString(d.c.Out, b.String()); err != nil {
			return err
		}
		before = now
	}
}

// render is the table of the edges in which something flowed.
func render(before, now map[string]edge, every time.Duration) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "edge\trequests/s\tsuccess\tp50\tp95\tp99")
	for _, name := range slices.Sorted(maps.Keys(now)) {
		n, o := now[name], before[name]
		total := n.total - o.total
		if total <= 0 {
			fmt.Fprintf(t, "%s\t0\t-\t-\t-\t-\n", name)
			continue
		}
		recent := map[float64]float64{}
		for le, count := range n.buckets {
			recent[le] = count - o.buckets[le]
		}
		fmt.Fprintf(t, "%s\t%.1f\t%.1f %%\t%s\t%s\t%s\n", name, total/every.Seconds(), 100*(n.good-o.good)/total,
			quantile(recent, 0.50), quantile(recent, 0.95), quantile(recent, 0.99))
	}
	_ = t.Flush() // a strings.Builder takes everything
	return b.String() + "\n"
}

// quantile reads a quantile off a cumulative histogram, by its buckets' bounds.
func quantile(buckets map[float64]float64, q float64) string {
	bounds := slices.Sorted(maps.Keys(buckets))
	if len(bounds) == 0 {
		return "-"
	}
	total := buckets[bounds[len(bounds)-1]]
	if total == 0 {
		return "-"
	}
	last := 0.0
	for _, le := range bounds {
		if buckets[le] >= q*total {
			if math.IsInf(le, 1) {
				return ">" + seconds(last)
			}
			return "≤" + seconds(le)
		}
		last = le
	}
	return "-"
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}

// scrape reads the sidecars' metrics of what they send out.
func (d *Demo) scrape(ctx context.Context) map[string]edge {
	edges := map[string]edge{}
	for _, port := range d.ports.Admin {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		req, err := http.NewRequestWithContext(sctx, http.MethodGet, "http://"+local(port)+"/metrics", nil)
		if err == nil {
			if resp, err := http.DefaultClient.Do(req); err == nil {
				read(resp.Body, edges)
				_ = resp.Body.Close() // it was only read
			}
		}
		cancel()
	}
	return edges
}

// read adds up the lines of the two metrics that the table shows.
func read(body io.Reader, edges map[string]edge) {
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		name, labels, value, ok := parse(lines.Text())
		if !ok || labels["direction"] != "outbound" {
			continue
		}
		key := labels["source"] + " -> " + labels["destination"]
		e := edges[key]
		if e.buckets == nil {
			e.buckets = map[float64]float64{}
		}
		switch name {
		case "weft_proxy_requests_total":
			e.total += value
			if c := labels["class"]; c == "2xx" || c == "3xx" {
				e.good += value
			}
		case "weft_proxy_request_seconds_bucket":
			if le, err := strconv.ParseFloat(labels["le"], 64); err == nil {
				e.buckets[le] += value
			}
		case "weft_proxy_connections_total":
			e.total += value
			if labels["result"] == "ok" {
				e.good += value
			}
		default:
			continue
		}
		edges[key] = e
	}
}

// parse reads one line of the Prometheus text format; the values of our labels hold no quotes.
func parse(line string) (name string, labels map[string]string, value float64, ok bool) {
	head, rest, found := strings.Cut(line, "{")
	if !found || strings.HasPrefix(line, "#") {
		return "", nil, 0, false
	}
	inside, after, found := strings.Cut(rest, "}")
	if !found {
		return "", nil, 0, false
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(after), 64)
	labels = map[string]string{}
	for pair := range strings.SplitSeq(inside, ",") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			labels[k] = strings.Trim(v, `"`)
		}
	}
	return head, labels, value, err == nil
}
