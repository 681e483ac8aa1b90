// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// codec is the stream's: gRPC's own would make descriptors and coders of all that a node's description could hold (see decode).
type codec struct{}

// Name is the content subtype, the ordinary one.
func (codec) Name() string { return "proto" }

// Marshal encodes a request.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*discoveryv3.DeltaDiscoveryRequest)
	if !ok {
		return nil, fmt.Errorf("%T isn't sent", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(encode(r))}, nil
}

// Unmarshal decodes a response.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T isn't received", v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return decode(b.ReadOnlyData(), m)
}

// encode is a request's wire form, of the fields that are sent.
func encode(r *discoveryv3.DeltaDiscoveryRequest) []byte {
	var b []byte
	if n := r.GetNode(); n != nil {
		node := text(text(text(nil, 1, n.GetId()), 2, n.GetCluster()), 6, n.GetUserAgentName())
		b = message(b, 1, text(node, 7, n.GetUserAgentVersion()))
	}
	b = text(b, 2, r.GetTypeUrl())
	for _, s := range r.GetResourceNamesSubscribe() {
		b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), s)
	}
	for _, s := range r.GetResourceNamesUnsubscribe() {
		b = protowire.AppendString(protowire.AppendTag(b, 4, protowire.BytesType), s)
	}
	for name, version := range r.GetInitialResourceVersions() {
		b = message(b, 5, text(text(nil, 1, name), 2, version))
	}
	b = text(b, 6, r.GetResponseNonce())
	if e := r.GetErrorDetail(); e != nil {
		code := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(e.GetCode())) //nolint:gosec // two's complement
		b = message(b, 7, text(code, 2, e.GetMessage()))
	}
	return b
}

func text(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func message(b []byte, n protowire.Number, inner []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), inner)
}
