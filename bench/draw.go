// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"strings"
)

// draw shows the processor time of each request (or the throughput, where the contender has no process) as bars, a block for
// each work, the range of the rounds as a line. It is an SVG.
func draw(all []work, results map[string]map[string][]figures) string {
	const width, left, bar, gap, title = 760, 130, 16, 6, 34
	colours := map[string]string{"builtin": "#2a6f97", "host": "#61a5c2", "envoy": "#bc6c25", "envoy-tuned": "#dda15e", "haproxy": "#6c757d", "relay": "#adb5bd"}
	var b strings.Builder
	y := 10
	for _, w := range all {
		by := results[w.name]
		top := 0.0
		for _, rounds := range by {
			for _, x := range column(rounds, "CPU µs") {
				top = max(top, x)
			}
		}
		if top == 0 {
			continue
		}
		fmt.Fprintf(&b, `<text x="10" y="%d" font-weight="bold">%s: processor time per request, µs, both sides together</text>`+"\n", y+18, html.EscapeString(w.name))
		y += title
		for _, who := range contenders {
			m, low, high := middle(column(by[who.name], "CPU µs"))
			if m == 0 {
				continue
			}
			scale := float64(width-left-90) / top
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+13, who.name)
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, m*scale, bar, colours[who.name])
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#222"/>`, left+low*scale, y+bar/2, left+high*scale, y+bar/2)
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", left+high*scale+6, y+13, number(m))
			y += bar + gap
		}
		y += 10
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13"><rect width="100%%" height="100%%" fill="white"/>`+"\n%s</svg>\n", width, y+10, b.String())
}
