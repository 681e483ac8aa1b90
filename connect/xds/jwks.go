// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/weftmesh/weft/catalog"
)

const (
	fetchTimeout = 5 * time.Second
	keysFor      = 5 * time.Minute // that fetched keys are taken for the newest
	// systemRoots are the certificates that a host trusts: where Debian, and the images made of it, have them.
	systemRoots = "/etc/ssl/certs/ca-certificates.crt"
)

// fetched has a proxy fetch a provider's keys by itself, before its listener opens, and again and again. An Envoy needs a cluster
// for that; weft's own proxy goes by the URI.
func (r *renderer) fetched(p *catalog.JWTProvider, out *jwtv3.JwtProvider) error {
	remote := p.JSONWebKeySet.Remote
	u, err := url.Parse(remote.URI)
	if err != nil {
		return fmt.Errorf("JSONWebKeySet.Remote.URI: %w", err)
	}
	name := "jwks_" + p.Name
	timeout := millis(fetchTimeout, int64(remote.RequestTimeoutMs))
	out.JwksSourceSpecifier = &jwtv3.JwtProvider_RemoteJwks{RemoteJwks: &jwtv3.RemoteJwks{
		HttpUri: &corev3.HttpUri{
			Uri: remote.URI, HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: name}, Timeout: durationpb.New(timeout),
		},
		CacheDuration: durationpb.New(cmp.Or(remote.CacheDuration, keysFor)), AsyncFetch: &jwtv3.JwksAsyncFetch{},
	}}
	if r.in.Abilities.Weft {
		return nil
	}
	return r.keyServer(name, u, remote)
}

// keyServer is the cluster by which an Envoy fetches keys.
func (r *renderer) keyServer(name string, u *url.URL, remote *catalog.RemoteJWKS) error {
	port := 80
	if u.Scheme == "https" {
		port = 443
	}
	if p := u.Port(); p != "" {
		var err error
		if port, err = strconv.Atoi(p); err != nil {
			return err
		}
	}
	c := &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(connectTimeout), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS},
		DnsLookupFamily: clusterv3.Cluster_V4_PREFERRED,
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(u.Hostname(), port)}}}},
		}}},
	}
	if k := remote.JWKSCluster; k != nil && k.ConnectTimeout > 0 {
		c.ConnectTimeout = durationpb.New(k.ConnectTimeout)
	}
	if net.ParseIP(u.Hostname()) != nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	}
	if u.Scheme == "https" {
		san := tlsv3.SubjectAltNameMatcher_DNS
		if net.ParseIP(u.Hostname()) != nil {
			san = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		}
		tls, err := transportSocket(&tlsv3.UpstreamTlsContext{Sni: u.Hostname(), CommonTlsContext: &tlsv3.CommonTlsContext{
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: systemRoots}},
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: san, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: u.Hostname()}},
				}},
			}},
		}})
		if err != nil {
			return err
		}
		c.TransportSocket = tls
	}
	return r.add(ClusterType, name, c)
}
