// SPDX-License-Identifier: Apache-2.0

// Package consultest writes snapshots in the documented form of Consul's, for tests: nothing of Consul's is run for it.
package consultest

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/server/archive"
)

// M is an object.
type M = map[string]any

// Record is one record of a state.
type Record struct {
	Sort  byte
	Value any
}

// Entry is a config entry as its record holds it: packed once more, behind its kind.
func Entry(kind string, entry M) Record {
	entry["Kind"] = kind
	packed := pack(pack(nil, kind), M{"Op": "upsert", "Datacenter": "dc1", "Entry": entry})
	return Record{22, packed}
}

// Time is a time as Consul's records hold it.
func Time(t time.Time) []byte {
	b, err := t.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return b
}

// State is the stream of a header and records.
func State(index uint64, records ...Record) []byte {
	out := pack(nil, M{"LastIndex": index})
	for _, r := range records {
		out = pack(append(out, r.Sort), r.Value)
	}
	return out
}

// Archive is a snapshot with a state in it.
func Archive(w io.Writer, index uint64, state []byte) error {
	meta := &raft.SnapshotMeta{Version: 1, ID: "2-1000-1", Index: index, Term: 2, Size: int64(len(state))}
	return archive.Write(w, meta, bytes.NewReader(state), time.Unix(1_700_000_000, 0))
}

// pack appends a value in MessagePack: of the old form, which has one sort of text and bytes.
func pack(out []byte, v any) []byte {
	switch t := v.(type) {
	case nil:
		return append(out, 0xc0)
	case bool:
		if t {
			return append(out, 0xc3)
		}
		return append(out, 0xc2)
	case int:
		return packInt(out, int64(t))
	case uint64:
		return binary.BigEndian.AppendUint64(append(out, 0xcf), t)
	case time.Duration:
		return packInt(out, int64(t))
	case float64:
		return binary.BigEndian.AppendUint64(append(out, 0xcb), math.Float64bits(t))
	case string:
		return packText(out, []byte(t))
	case []byte:
		return packText(out, t)
	case []any:
		out = binary.BigEndian.AppendUint16(append(out, 0xdc), uint16(len(t)))
		for _, item := range t {
			out = pack(out, item)
		}
		return out
	case M:
		if len(t) < 16 {
			out = append(out, 0x80|byte(len(t)))
		} else {
			out = binary.BigEndian.AppendUint16(append(out, 0xde), uint16(len(t)))
		}
		for _, name := range slices.Sorted(maps.Keys(t)) {
			out = pack(pack(out, name), t[name])
		}
		return out
	}
	panic("consultest: a value that a record has not")
}

func packInt(out []byte, n int64) []byte {
	if n >= 0 && n < 128 {
		return append(out, byte(n))
	}
	return binary.BigEndian.AppendUint64(append(out, 0xd3), uint64(n))
}

func packText(out, b []byte) []byte {
	switch {
	case len(b) < 32:
		out = append(out, 0xa0|byte(len(b)))
	case len(b) < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 0xda), uint16(len(b)))
	default:
		out = binary.BigEndian.AppendUint32(append(out, 0xdb), uint32(len(b)))
	}
	return append(out, b...)
}

// Whole is a state with something of every sort that weft takes, and of some that it doesn't.
func Whole() []byte {
	node := func(name string, parts M) Record {
		m := M{"Datacenter": "dc1", "ID": "", "Node": name, "Address": "10.0.0.9", "TaggedAddresses": M{"lan": "10.0.0.9"}, "NodeMeta": M{"rack": "r1"}}
		maps.Copy(m, parts)
		return Record{0, m}
	}
	indexes := func(m M) M {
		m["CreateIndex"], m["ModifyIndex"] = uint64(7), uint64(8)
		return m
	}
	session := "5d7c1c2e-0000-4000-8000-000000000001"
	return State(1000,
		node("n9", nil),
		node("n9", M{"Service": indexes(M{
			"Kind": "", "ID": "web1", "Service": "web", "Tags": []any{"a"}, "Address": "", "Meta": M{"v": "1"}, "Port": 80, "Weights": M{"Passing": 1, "Warning": 1},
			"EnableTagOverride": false, "Proxy": M{"DestinationServiceName": "", "Config": nil, "EnvoyExtensions": []any{}}, "Connect": M{"Native": false, "SidecarService": nil},
		})}),
		node("n9", M{"Service": indexes(M{
			"Kind": "connect-proxy", "ID": "web1-sidecar-proxy", "Service": "web-sidecar-proxy", "Port": 21000,
			"Proxy": M{
				"DestinationServiceName": "web", "DestinationServiceID": "web1", "LocalServicePort": 80, "Config": M{"protocol": "http"},
				"Upstreams": []any{M{"DestinationType": "service", "DestinationName": "db", "LocalBindPort": 9191, "CentrallyConfigured": true}},
			},
		})}),
		node("n9", M{"Check": indexes(M{"Node": "n9", "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Output": "Agent alive and reachable"})}),
		node("n9", M{"Checks": []any{M{"Node": "n9", "CheckID": "service:web1", "Name": "up", "Status": "passing", "ServiceID": "web1", "ServiceName": "web", "Type": "ttl"}}}),
		node("far", M{"PeerName": "east"}),
		Record{3, indexes(M{"ID": session, "Name": "s", "Node": "n9", "LockDelay": 15 * time.Second, "Behavior": "release", "TTL": "", "NodeChecks": []any{"serfHealth"}, "Checks": []any{"serfHealth"}})},
		Record{17, indexes(M{
			"AccessorID": "aaaaaaaa-0000-4000-8000-000000000001", "SecretID": "bbbbbbbb-0000-4000-8000-000000000001", "Description": "Bootstrap Token (Global Management)",
			"Policies": []any{M{"ID": "00000000-0000-0000-0000-000000000001", "Name": "global-management"}}, "Local": false, "CreateTime": Time(time.Unix(1_600_000_000, 0)), "Hash": []byte{1, 2, 3},
		})},
		Record{17, indexes(M{
			"AccessorID": "aaaaaaaa-0000-4000-8000-000000000002", "SecretID": "bbbbbbbb-0000-4000-8000-000000000002",
			"Policies": []any{M{"ID": "cccccccc-0000-4000-8000-000000000001"}}, "CreateTime": Time(time.Unix(1_600_000_001, 0)), "ExpirationTime": nil,
		})},
		Record{19, indexes(M{"ID": "cccccccc-0000-4000-8000-000000000001", "Name": "keys", "Rules": `key_prefix "app/" { policy = "read" }`, "Syntax": 0, "Hash": []byte{4}})},
		Record{19, indexes(M{"ID": "00000000-0000-0000-0000-000000000001", "Name": "global-management", "Rules": `acl = "write"`})},
		Record{2, indexes(M{"Key": "app/a", "Value": []byte("one\x00two"), "Flags": uint64(1 << 63), "LockIndex": uint64(0), "Session": ""})},
		Record{2, indexes(M{"Key": "app/lock", "Value": nil, "Flags": uint64(0), "LockIndex": uint64(1), "Session": session})},
		Record{5, M{"Key": "gone", "Index": uint64(9)}},
		Record{7, indexes(M{"ID": "dddddddd-0000-4000-8000-000000000001", "Name": "q", "Session": "", "Token": "", "Template": M{"Type": ""}, "Service": M{"Service": "web", "OnlyPassing": true}, "DNS": M{"TTL": "10s"}})},
		Record{9, indexes(M{"CleanupDeadServers": true, "LastContactThreshold": 300 * time.Millisecond, "MaxTrailingLogs": uint64(99), "ServerStabilizationTime": 10 * time.Second})},
		Record{13, indexes(M{"ID": "x", "Name": "Consul CA Primary Cert", "Active": true, "NotBefore": Time(time.Unix(1_600_000_000, 0))})},
		Record{15, indexes(M{"ClusterID": "eeeeeeee-0000-4000-8000-000000000001", "Provider": "consul", "Config": M{}})},
		Record{16, M{"Key": "kvs", "Value": uint64(12)}},
		Entry("service-defaults", indexes(M{"Name": "web", "Protocol": "http", "ExternalSNI": "", "EnvoyExtensions": []any{M{"Name": "builtin/lua"}}})),
		Entry("service-resolver", indexes(M{"Name": "web", "ConnectTimeout": 3 * time.Second, "Subsets": M{"v1": M{"Filter": "Service.Meta.v == 1"}}})),
		Entry("service-intentions", indexes(M{"Name": "web", "Sources": []any{
			M{"Name": "shop", "Action": "allow", "Precedence": 9, "Type": "consul", "LegacyID": "", "LegacyCreateTime": nil}, M{"Name": "*", "Action": "deny", "Precedence": 8, "Type": "consul"},
		}})),
	)
}
