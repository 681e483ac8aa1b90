// SPDX-License-Identifier: Apache-2.0

//go:build weftunguarded

package guard

import "os"

// Off says whether a guard is taken away.
func Off(input string) bool { return os.Getenv("WEFT_UNGUARDED") == input }
