// SPDX-License-Identifier: Apache-2.0

package xdstest

import (
	"fmt"

	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

const (
	authzFilter = "envoy.filters.http.ext_authz"
	authzMarks  = "weft.ext_authz.requests"
)

func readAuthz(f *hcmv3.HttpFilter) (*authzv3.ExtAuthz, error) {
	m := &authzv3.ExtAuthz{}
	return m, f.GetTypedConfig().UnmarshalTo(m)
}

// deciders notes the cluster of who is asked about requests.
func deciders(f *hcmv3.HttpFilter, clusters map[string]bool) error {
	if f.GetName() != authzFilter {
		return nil
	}
	m, err := readAuthz(f)
	if err != nil {
		return err
	}
	name := m.GetGrpcService().GetEnvoyGrpc().GetClusterName()
	if s := m.GetHttpService(); s != nil {
		name = s.GetServerUri().GetCluster()
	}
	clusters[name] = true
	return nil
}

// asked says whether somebody is asked about the request: by the marks where the filter wants them, else in any case.
func (s subject) asked(h *hcmv3.HttpConnectionManager) (bool, error) {
	marked := false
	for _, f := range h.GetHttpFilters() {
		switch f.GetName() {
		case authzMarks:
			m := &httprbacv3.RBAC{}
			if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
				return false, err
			}
			if m.GetRules() != nil || m.GetShadowRulesStatPrefix() != "ext_authz_" {
				return false, fmt.Errorf("%s isn't of the form that is known", authzMarks)
			}
			var err error
			if _, marked, err = decide(m.GetShadowRules(), s); err != nil {
				return false, err
			}
		case authzFilter:
			m, err := readAuthz(f)
			if err != nil || m.GetFilterEnabledMetadata() == nil {
				return err == nil, err
			}
			return marked, nil
		}
	}
	return false, nil
}
