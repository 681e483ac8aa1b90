// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"fmt"

	"github.com/weftmesh/weft/catalog"
)

// Asked says whether somebody else is asked about a request that the intentions allow, and why: of one that is asked about, which of
// several matches it was, with a comma before it.
func Asked(a *catalog.ExternalAuthorization, req Request) (asked bool, why string, err error) {
	if len(a.Requests) > 0 {
		at, err := firstMatch(a.Requests, req)
		if err != nil || at < 0 {
			return false, "none of Requests is about it", err
		}
		why = fmt.Sprintf(", Requests[%d]", at)
	}
	at, err := firstMatch(a.Except, req)
	if err != nil || at >= 0 {
		return false, fmt.Sprintf("Except[%d] is about it", at), err
	}
	return true, why, nil
}

// firstMatch is the place of the first that is about the request, -1 for none.
func firstMatch(list []catalog.IntentionHTTPPermission, req Request) (int, error) {
	for i := range list {
		if ok, err := PermissionMatches(&list[i], req); ok || err != nil {
			return i, err
		}
	}
	return -1, nil
}
