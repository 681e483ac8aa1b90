// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"os"
	"regexp"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/decode"
)

// The entries in the page about traffic are valid as they stand there.
func TestTrafficPage(t *testing.T) {
	page, err := os.ReadFile("../website/docs/traffic.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) < 7 {
		t.Fatalf("%d entries in the page", len(blocks))
	}
	for _, b := range blocks {
		doc, err := decode.Parse("traffic.hcl", b[1])
		if err != nil {
			t.Fatalf("%v\n%s", err, b[1])
		}
		entry, err := catalog.NewEntry(doc.Root.Field("kind").Text)
		if err != nil {
			t.Fatal(err)
		}
		doc.Root.Remove("kind")
		if err := doc.Into(entry); err != nil {
			t.Errorf("%v\n%s", err, b[1])
			continue
		}
		entry.Head().Scope = entry.Head().Default("dc1")
		entry.Normalize()
		if err := entry.Validate(); err != nil {
			t.Errorf("%v\n%s", err, b[1])
		}
	}
}
