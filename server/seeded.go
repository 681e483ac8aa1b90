// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"

	"github.com/weftmesh/weft/catalog"
)

// skipOne is the bug failpoint.SkipOne: a write of a key that begins a batch is answered and not applied.
func skipOne(batch []catalog.LogEntry, at []int, out []any) ([]catalog.LogEntry, []int) {
	if !bytes.Contains(batch[0].Data, []byte("\x62kv")) { // as CBOR has the command's name
		return batch, at
	}
	out[at[0]] = catalog.Result{Index: batch[0].Index, Value: catalog.KVResult{}}
	return batch[1:], at[1:]
}
