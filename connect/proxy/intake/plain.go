// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	rawBufferURL   = typePrefix + "extensions.transport_sockets.raw_buffer.v3.RawBuffer"
	socketMatchKey = "envoy.transport_socket_match"
	plainKey       = "weft_plain"
)

func plainMark(s *structpb.Struct) bool { return s.GetFields()[plainKey].GetBoolValue() }

// plainMatches takes the one match that is known: endpoints that are so marked are called in plain text.
func plainMatches(all []*clusterv3.Cluster_TransportSocketMatch) error {
	if len(all) == 0 {
		return nil
	}
	if m := all[0]; len(all) > 1 || len(m.GetMatch().GetFields()) != 1 || !plainMark(m.GetMatch()) || m.GetTransportSocket().GetTypedConfig().GetTypeUrl() != rawBufferURL {
		return fmt.Errorf("transport_socket_matches: this proxy knows %s alone, for plain text", plainKey)
	}
	return nil
}

// filterChains are a listener's. Two are one that takes plain text too: the first for TLS, the second for all else, and they
// differ in nothing but that.
func filterChains(chains []*listenerv3.FilterChain) (_ []*listenerv3.FilterChain, plainToo bool, err error) {
	if len(chains) != 2 {
		return chains, false, nil
	}
	byTLS := &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
	secure, plain := proto.Clone(chains[0]).(*listenerv3.FilterChain), proto.Clone(chains[1]).(*listenerv3.FilterChain)
	if !proto.Equal(secure.GetFilterChainMatch(), byTLS) || secure.GetTransportSocket() == nil || plain.GetTransportSocket() != nil {
		return chains, false, errors.New("filter_chains: of two, the first is for transport_protocol tls, with a transport socket, and the second for plain text")
	}
	secure.FilterChainMatch = nil
	bare := proto.Clone(secure).(*listenerv3.FilterChain)
	bare.TransportSocket, bare.TransportSocketConnectTimeout, bare.Name, plain.Name = nil, nil, "", ""
	if !proto.Equal(bare, plain) {
		return chains, false, errors.New("filter_chains: the two differ in more than TLS")
	}
	return []*listenerv3.FilterChain{secure}, true, nil
}
