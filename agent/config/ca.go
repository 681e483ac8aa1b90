// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"time"

	"github.com/weftmesh/weft/ca"
)

// Authority is the configuration of the mesh's certificate authority. Leaves that live less than an hour are allowed here, for those who
// want to watch renewals.
func (c Connect) Authority() (ca.Config, error) {
	conf := ca.Config{Provider: cmp.Or(c.CAProvider, ca.BuiltinName)}
	if t := c.CAConfig.LeafCertTTL; t != 0 && t < time.Hour {
		conf.MinLeafCertTTL = t
	}
	conf, err := c.CAConfig.Over(conf)
	if err == nil {
		err = conf.Validate()
	}
	if err != nil {
		return conf, fmt.Errorf("connect.ca_provider and connect.ca_config: %w", err)
	}
	return conf, nil
}
