// SPDX-License-Identifier: Apache-2.0

//go:build weftbug

package catalog

import "os"

// seeded says whether WEFT_BUG names the bug: see internal/failpoint.
func seeded(name string) bool { return os.Getenv("WEFT_BUG") == name }
