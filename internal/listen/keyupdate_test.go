// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/memnet"
)

// handmade writes TLS 1.3 records of its own under a client's secret (RFC 8446 §5, §7), which crypto/tls gives nobody.
type handmade struct {
	t      *testing.T
	conn   net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func (r *handmade) expand(label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(append(info, "tls13 "+label...), 0)
	out, err := hkdf.Expand(sha256.New, r.secret, string(info), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *handmade) use(secret []byte) {
	r.secret = secret
	block, err := aes.NewCipher(r.expand("key", 16))
	if err == nil {
		r.aead, err = cipher.NewGCM(block)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.iv, r.seq = r.expand("iv", 12), 0
}

func (r *handmade) write(kind byte, p []byte) error {
	nonce := bytes.Clone(r.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, r.seq) {
		nonce[4+i] ^= b
	}
	r.seq++
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(p)+1+16))
	_, err := r.conn.Write(r.aead.Seal(head, nonce, append(bytes.Clone(p), kind), head))
	return err
}

// update asks for new keys on both sides.
func (r *handmade) update() error {
	err := r.write(22, []byte{24, 0, 0, 1, 1})
	r.use(r.expand("traffic upd", 32))
	return err
}

// A peer that changes its keys over and over is cut off after a few times in a row; one that does so between data goes on.
func TestC71_KeyUpdatesWithoutAnEndAreCutOff(t *testing.T) {
	cert, pool := certificate(t, "spiffe://td/a")
	for _, c := range []struct {
		name string
		data bool
	}{{"flood", false}, {"control: data between", true}} {
		t.Run(c.name, func(t *testing.T) {
			d, n := newDoor(t), memnet.New()
			l, err := d.MemStream(n, Spec{Name: "m", Address: "m", TLS: func() *tls.Config {
				return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			type end struct {
				bytes int64
				err   error
			}
			ended := make(chan end, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					ended <- end{0, err}
					return
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				got, err := io.Copy(io.Discard, conn)
				ended <- end{got, err}
			}()
			raw, err := n.DialContext(t.Context(), "m")
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			var keys strings.Builder
			client := tls.Client(raw, &tls.Config{RootCAs: pool, ServerName: "server", Certificates: []tls.Certificate{cert}, KeyLogWriter: &keys})
			if err := client.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := client.ConnectionState().CipherSuite; s != tls.TLS_AES_128_GCM_SHA256 {
				t.Fatalf("cipher suite %#x", s)
			}
			_, line, _ := strings.Cut(keys.String(), "CLIENT_TRAFFIC_SECRET_0 ")
			line, _, _ = strings.Cut(line, "\n")
			_, text, _ := strings.Cut(line, " ")
			secret, err := hex.DecodeString(text)
			if err != nil || len(secret) != 32 {
				t.Fatalf("no secret in %q", keys.String())
			}
			r := &handmade{t: t, conn: raw}
			r.use(secret)
			go func() { _, _ = io.Copy(io.Discard, raw) }() // the answers; ends with the connection
			const times = 200
			for range times {
				err := r.update()
				if c.data && err == nil {
					err = r.write(23, []byte("x"))
				}
				if err != nil {
					break
				}
			}
			if c.data {
				_ = r.write(21, []byte{1, 0}) // close_notify
			}
			got := <-ended
			if c.data && (got.err != nil || got.bytes != times) {
				t.Errorf("%d bytes and %v", got.bytes, got.err)
			}
			if !c.data && got.err == nil {
				t.Error("it wasn't cut off")
			}
		})
	}
}
