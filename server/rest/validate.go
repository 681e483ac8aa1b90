// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"fmt"

	"github.com/weftmesh/weft/catalog"
)

// CheckService says what is wrong with an instance that is about to be ordered; errors wrap catalog.ErrInvalid.
func CheckService(s *catalog.Service) error {
	port := func(what string, p, least int) error {
		if p < least || p > 65535 {
			return fmt.Errorf("%w: service %q: %s is %d, want %d to 65535", catalog.ErrInvalid, s.ID, what, p, least)
		}
		return nil
	}
	if err := port("Port", s.Port, 0); err != nil {
		return err
	}
	for _, p := range s.Ports {
		if p.Name == "" {
			return fmt.Errorf("%w: service %q: a port in Ports has no Name", catalog.ErrInvalid, s.ID)
		}
		if err := port("Ports."+p.Name, p.Port, 1); err != nil {
			return err
		}
	}
	if s.Weights.Passing < 0 || s.Weights.Warning < 0 {
		return fmt.Errorf("%w: service %q: Weights must not be negative", catalog.ErrInvalid, s.ID)
	}
	if s.Kind == catalog.KindConnectProxy && (s.Proxy == nil || s.Proxy.DestinationServiceName == "") {
		return fmt.Errorf("%w: service %q: Proxy.DestinationServiceName must be set for a %s", catalog.ErrInvalid, s.ID, s.Kind)
	}
	if s.Proxy == nil {
		return nil
	}
	if err := s.Proxy.Validate(); err != nil {
		return fmt.Errorf("service %q: %w", s.ID, err)
	}
	return nil
}

// CheckCheck does the same for a check.
func CheckCheck(c *catalog.Check) error {
	switch c.Status {
	case catalog.HealthPassing, catalog.HealthWarning, catalog.HealthCritical:
		return nil
	}
	return fmt.Errorf("%w: check %q: Status is %q, want passing, warning or critical", catalog.ErrInvalid, c.CheckID, c.Status)
}
