// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/internal/stormtest"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// decoded are the types that decode is held to the library's reading of.
func decoded() []proto.Message {
	return []proto.Message{
		&clusterv3.Cluster{}, &endpointv3.ClusterLoadAssignment{}, &listenerv3.Listener{}, &routev3.RouteConfiguration{}, &tlsv3.Secret{},
		&hcmv3.HttpConnectionManager{}, &tlsv3.DownstreamTlsContext{}, &rbacv3.RBAC{}, &structpb.Struct{}, &proxyv1.LocalPeer{},
		&discoveryv3.DeltaDiscoveryResponse{}, &wrapperspb.DoubleValue{}, &wrapperspb.FloatValue{}, &wrapperspb.Int64Value{},
	}
}

// filled sets every field, of a oneof the which-th.
func filled(m protoreflect.Message, which, depth int) {
	value := func(fd protoreflect.FieldDescriptor, fresh func() protoreflect.Value) (protoreflect.Value, bool) {
		switch fd.Kind() {
		case protoreflect.MessageKind:
			if depth == 0 {
				return protoreflect.Value{}, false
			}
			v := fresh()
			filled(v.Message(), which, depth-1)
			return v, true
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true), true
		case protoreflect.EnumKind:
			vs := fd.Enum().Values()
			return protoreflect.ValueOfEnum(vs.Get(vs.Len() - 1).Number()), true
		case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
			return protoreflect.ValueOfInt32(-7), true
		case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
			return protoreflect.ValueOfInt64(-1 << 40), true
		case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
			return protoreflect.ValueOfUint32(1 << 31), true
		case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
			return protoreflect.ValueOfUint64(1 << 63), true
		case protoreflect.FloatKind:
			return protoreflect.ValueOfFloat32(1.5), true
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(-2.5), true
		case protoreflect.StringKind:
			return protoreflect.ValueOfString("ä" + string(fd.Name())), true
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte{0, 255}), true
		}
		panic(fd.Kind())
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if one := fd.ContainingOneof(); one != nil && one.Fields().Get(which%one.Fields().Len()) != fd {
			continue
		}
		switch {
		case fd.IsMap():
			all := m.NewField(fd).Map()
			if v, ok := value(fd.MapValue(), all.NewValue); ok {
				k, _ := value(fd.MapKey(), nil)
				all.Set(k.MapKey(), v)
				m.Set(fd, protoreflect.ValueOfMap(all))
			}
		case fd.IsList():
			list := m.NewField(fd).List()
			for range 2 {
				if v, ok := value(fd, list.NewElement); ok {
					list.Append(v)
				}
			}
			m.Set(fd, protoreflect.ValueOfList(list))
		default:
			if v, ok := value(fd, func() protoreflect.Value { return m.NewField(fd) }); ok {
				m.Set(fd, v)
			}
		}
	}
}

// agrees says whether decode and the library make the same of b, and only sees the fields that the library sees.
func agrees(t *testing.T, of proto.Message, b []byte) {
	t.Helper()
	want, got := of.ProtoReflect().New().Interface(), of.ProtoReflect().New().Interface()
	werr := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, want)
	gerr := decode(b, got)
	if (werr == nil) != (gerr == nil) {
		t.Fatalf("%T %x: %v, the library says %v", of, b, gerr, werr)
	}
	if werr != nil {
		return
	}
	if !proto.Equal(want, got) {
		t.Fatalf("%T %x: %v, want %v", of, b, got, want)
	}
	var set []string
	want.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		set = append(set, string(fd.Name()))
		return true
	})
	for _, name := range set {
		if err := only(got, strings.Join(set, " ")); err != nil {
			t.Fatalf("%T: %v, of %v", of, err, set)
		}
		others := strings.Join(slices.DeleteFunc(slices.Clone(set), func(s string) bool { return s == name }), " ")
		if err := only(got, others); err == nil || err.Error() != fmt.Sprintf("%s: not known to this proxy", name) {
			t.Fatalf("%T with %s: %v", of, name, err)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, of := range decoded() {
		for which := range 12 {
			m := of.ProtoReflect().New()
			filled(m, which, 3)
			b, err := proto.Marshal(m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			agrees(t, of, b)
			agrees(t, of, append(b, b...)) // what comes twice is put together, or counts as it came last
			agrees(t, of, b[:len(b)-1])
			agrees(t, of, nil)
		}
	}
}

// FuzzDecode takes any bytes as any of the messages: decode makes of them what the library does.
func FuzzDecode(f *testing.F) {
	all := decoded()
	for i, of := range all {
		m := of.ProtoReflect().New()
		filled(m, i, 2)
		b, err := proto.Marshal(m.Interface())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Add(uint8(9), []byte{10, 2, 1, 2, 8, 3, 13, 1, 2, 3, 4, 128, 128, 128, 128, 16, 0}) // packed and not, of another wire type, a number out of range
	stormtest.Fuzz(f, func(t *testing.T, kind uint8, b []byte) { agrees(t, all[int(kind)%len(all)], b) })
}

func TestCodec(t *testing.T) {
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{},
		{
			Node: &corev3.Node{
				Id: "web-sidecar-proxy", Cluster: "web", UserAgentName: "weft",
				UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.2.3"},
			},
			TypeUrl: clusterType, ResourceNamesSubscribe: []string{"*", ""}, InitialResourceVersions: map[string]string{"a": "1", "b": ""},
		},
		{TypeUrl: secretType, ResourceNamesUnsubscribe: []string{"a", "b"}, ResponseNonce: "7", ErrorDetail: &status.Status{Code: 3, Message: "no"}},
	} {
		data, err := codec{}.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got discoveryv3.DeltaDiscoveryRequest
		if err := proto.Unmarshal(data.Materialize(), &got); err != nil || !proto.Equal(&got, r) {
			t.Errorf("%v: %v, want %v", err, &got, r)
		}
	}
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: clusterType, Nonce: "1", Resources: []*discoveryv3.Resource{{Name: "a", Version: "2"}}}
	b, err := proto.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	var got discoveryv3.DeltaDiscoveryResponse
	if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &got); err != nil || !proto.Equal(&got, resp) {
		t.Errorf("%v: %v", err, &got)
	}
}
