// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Lists grow from layer to layer, maps are laid over by key, blocks are merged field by field; a string stands for a list of one.
func TestLayers(t *testing.T) {
	dir := folder(t, map[string]string{
		"1.hcl":  "recursors = [\"192.0.2.1\"]\nretry_join = \"10.0.0.1\"\nnode_meta { a = \"1\" b = \"1\" }\ntls { defaults { ca_file = \"/ca\" cert_file = \"/c\" } }\n",
		"2.json": `{"recursors": ["192.0.2.2"], "node_meta": {"b": "2"}, "tls": [{"https": [{"cert_file": "/h"}]}]}`,
		"3.json": "",
		"4.hcl":  "verify_incoming = true\nkey_file = \"/k\"\nadvertise_addr_ipv4 = \"10.0.0.9\"\n",
	})
	c := Default()
	if _, err := c.LoadKeys("flags", map[string]any{"recursors": []any{"192.0.2.0"}}); err != nil {
		t.Fatal(err)
	}
	if w, err := c.Load(dir); err != nil || len(w) != 0 {
		t.Fatalf("%v, %v", w, err)
	}
	if _, err := c.LoadText("-hcl 1", "hcl", "ports { http = 1 dns = 2 }"); err != nil {
		t.Fatal(err)
	}
	https, rpc, grpc := c.TLS.HTTPSFiles(), c.TLS.RPCFiles(), c.TLS.GRPCFiles()
	for what, ok := range map[string]bool{
		"recursors":           slices.Equal(c.Recursors, []string{"192.0.2.0", "192.0.2.1", "192.0.2.2"}),
		"retry_join":          slices.Equal(c.RetryJoin, []string{"10.0.0.1"}),
		"node_meta":           len(c.NodeMeta) == 2 && c.NodeMeta["a"] == "1" && c.NodeMeta["b"] == "2",
		"ports":               c.Ports.HTTP == 1 && c.Ports.DNS == 2 && c.Ports.GRPC == 8502,
		"advertise":           c.AdvertiseAddr == "10.0.0.9",
		"tls.https":           https.CAFile == "/ca" && https.CertFile == "/h" && https.KeyFile == "/k" && True(https.VerifyIncoming),
		"tls.internal_rpc":    rpc.CertFile == "/c" && True(rpc.VerifyIncoming),
		"grpc isn't verified": grpc.CertFile == "/c" && !True(grpc.VerifyIncoming),
	} {
		if !ok {
			t.Errorf("%s: %+v", what, c)
		}
	}
}

// A format that is named holds for all files; else a file's name says it.
func TestFormat(t *testing.T) {
	dir := folder(t, map[string]string{"agent.conf": "node = \"x\"\n"})
	c := Default()
	if w, err := c.Load(dir); err != nil || len(w) != 1 || !strings.Contains(w[0], "agent.conf is skipped") {
		t.Errorf("%v, %v", w, err)
	}
	if _, err := c.LoadAs("hcl", filepath.Join(dir, "agent.conf")); err != nil || c.NodeName != "x" {
		t.Errorf("%q, %v", c.NodeName, err)
	}
	if _, err := c.LoadAs("toml", dir); err == nil {
		t.Error("toml was taken")
	}
}

// What the keys of the API's listeners can't be is said with the key.
func TestValidateWeb(t *testing.T) {
	for hcl, want := range map[string]string{
		`client_addr = "127.0.0.1 10.0.0.1"`:                                             "",
		`addresses { http = "127.0.0.1 unix:///run/a.sock" }`:                            "",
		`addresses { dns = "unix:///run/a.sock" }`:                                       `addresses.dns: "unix:///run/a.sock" isn't an IP address`,
		`http_config { block_endpoints = ["v1"] }`:                                       `http_config.block_endpoints: "v1"`,
		`http_config { allow_write_http_from = ["x"] }`:                                  "allow_write_http_from",
		`ports { https = 8501 }`:                                                         "tls.https: a TLS listener needs cert_file and key_file",
		"ports { https = 8501 }\ntls { https { cert_file = \"/n\" key_file = \"/n\" } }": "tls.https.cert_file: open /n",
		`tls { grpc { verify_outgoing = true } }`:                                        "verify_outgoing is not valid in the tls.grpc stanza",
		`tls { https { use_auto_cert = true } }`:                                         "use_auto_cert is only valid in the tls.grpc stanza",
		`ports { grpc_tls = 8503 }`:                                                      "tls.grpc: a TLS listener needs cert_file and key_file",
		"ports { grpc_tls = 8503 }\ntls { grpc { use_auto_cert = true } }":               "",
		`unix_sockets { mode = "9" }`:                                                    `unix_sockets.mode: "9"`,
		`unix_sockets { user = "nobody-of-this-name" }`:                                  "unix_sockets.user",
		`limits { http_max_conns_per_client = -2 }`:                                      "limits.http_max_conns_per_client",
		`watches = [{ type = "nodes" }]`:                                                 "watches[0]: want args",
		`watches = [{ type = "service" service = "a" tag = "x" args = ["y"] }]`:          "",
		`segment = "x"`:                     "network segments",
		`enable_local_script_checks = true`: "",
		"check {\n name = \"c\"\n args = [\"x\"]\n interval = \"1s\"\n}": "Scripts are disabled on this agent; to enable",
	} {
		c := Default()
		c.Server, c.DataDir = true, "/var/lib/weft"
		_, err := c.Load(folder(t, map[string]string{"a.hcl": hcl}))
		if err == nil {
			err = c.Validate()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", hcl, err, want)
		}
	}
}

// tls.grpc.use_auto_cert shows the certificate that the node got when it joined, and no file's; without one it is an error.
func TestUseAutoCert(t *testing.T) {
	files := TLS{Defaults: TLSPart{CertFile: "/none", KeyFile: "/none"}, GRPC: TLSPart{UseAutoCert: true}}
	joined := &tls.Certificate{}
	c, err := files.GRPCServer(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return joined, nil })
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.GetCertificate(nil); got != joined || err != nil || len(c.Certificates) != 0 || !slices.Equal(c.NextProtos, []string{"h2"}) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := files.GRPCServer(nil); err == nil || !strings.Contains(err.Error(), "tls.grpc.use_auto_cert") {
		t.Error(err)
	}
	files.GRPC.UseAutoCert = false
	if _, err := files.GRPCServer(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return joined, nil }); err == nil || !strings.Contains(err.Error(), "/none") {
		t.Error(err)
	}
}
