// SPDX-License-Identifier: Apache-2.0

//go:build weftbug

package failpoint

import "os"

// Bug says whether WEFT_BUG names it.
func Bug(b Seeded) bool { return os.Getenv("WEFT_BUG") == string(b) }
