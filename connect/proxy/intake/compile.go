// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// Compile makes the configuration of resources by type and name, without a server. It is an error if one is refused, or if
// something that is referred to isn't among them.
func Compile(resources map[string]map[string]*anypb.Any, now func() time.Time) (*config.Snapshot, error) {
	w := newWorld(now)
	for _, t := range append([]string{secretType}, types...) {
		came := map[string]named{}
		for name, a := range resources[t] {
			came[name] = named{"1", a}
		}
		if err := w.update(t, came, nil); err != nil {
			return nil, fmt.Errorf("%s: %w", t, err)
		}
	}
	s := w.assemble()
	if s == nil {
		return nil, errors.New("something that is referred to isn't there")
	}
	return s, nil
}
