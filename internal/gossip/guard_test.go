// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"compress/lzw"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/serf/serf"

	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/stormtest"
)

// bomb is a compressed message as memberlist would take it: a megabyte of zeros in some kilobytes.
func bomb(t testing.TB) []byte {
	var z bytes.Buffer
	w := lzw.NewWriter(&z, lzw.LSB, 8)
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	out := []byte{msgCompress, 0x82, 0xa4, 'A', 'l', 'g', 'o', 0, 0xa3, 'B', 'u', 'f', 0xda, byte(z.Len() >> 8), byte(z.Len())}
	return append(out, z.Bytes()...)
}

func compound(parts ...[]byte) []byte {
	out := []byte{msgCompound, byte(len(parts))}
	for _, p := range parts {
		out = append(out, byte(len(p)>>8), byte(len(p)))
	}
	return append(out, bytes.Join(parts, nil)...)
}

func TestC73_C124_Packets(t *testing.T) {
	ping := []byte{msgPing, 0x80}
	for name, row := range map[string]struct {
		packet []byte
		want   error
	}{
		"ping":               {ping, nil},
		"two":                {compound(ping, ping), nil},
		"checksum":           {append([]byte{msgCRC, 1, 2, 3, 4}, ping...), nil},
		"empty":              {nil, errTruncated},
		"bomb":               {bomb(t), errCompressed},
		"bomb in a compound": {compound(ping, bomb(t)), errCompressed},
		"bomb, checksum":     {append([]byte{msgCRC, 1, 2, 3, 4}, bomb(t)...), errCompressed},
		"nested":             {compound(compound(ping)), errNested},
		"cut lengths":        {[]byte{msgCompound, 4, 0, 1}, errTruncated},
		"cut parts":          {compound(ping, ping)[:8], errTruncated},
	} {
		if err := checkPacket(row.packet); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
}

func TestC124_Preambles(t *testing.T) {
	head := func(kind byte, field string, n ...byte) []byte {
		return append(append([]byte{kind, 0x81, 0xa0 | byte(len(field))}, field...), n...)
	}
	for name, row := range map[string]struct {
		head      []byte
		encrypted bool
		plain     bool
		more, ok  bool
	}{
		"nothing yet":         {nil, false, false, true, true},
		"push/pull":           {head(msgPushPull, "Nodes", 0xcd, 0x07, 0xd0), false, false, false, true},
		"half":                {head(msgPushPull, "Nodes", 0xcd, 0x07), false, false, true, true},
		"a million nodes":     {head(msgPushPull, "Nodes", 0xce, 0, 0x10, 0, 0), false, false, false, false},
		"much state":          {head(msgPushPull, "UserStateLen", 0xce, 0x7f, 0xff, 0xff, 0xff), false, false, false, false},
		"less than nothing":   {head(msgPushPull, "Nodes", 0xd3, 0xff, 0, 0, 0, 0, 0, 0, 0), false, false, false, false},
		"a strange field":     {head(msgPushPull, "Bomb", 1), false, false, false, false},
		"user message":        {head(msgUser, "UserMsgLen", 0xce, 0x7f, 0xff, 0xff, 0xff), false, false, false, false},
		"ping":                {[]byte{msgPing}, false, false, false, true},
		"compressed":          {bomb(t)[:40], false, false, false, false},
		"no such kind":        {[]byte{77}, false, false, false, false},
		"plain to encrypted":  {[]byte{msgPing}, true, false, false, false},
		"plain, changed over": {[]byte{msgPing}, true, true, false, true},
		"encrypted to plain":  {[]byte{msgEncrypt, 0, 0, 0, 9}, false, false, false, false},
		"encrypted":           {[]byte{msgEncrypt, 0, 0, 0, 9}, true, false, false, true},
		"encrypted, huge":     {[]byte{msgEncrypt, 0x7f, 0, 0, 9}, true, false, false, false},
		"GET / HTTP/1.1":      {[]byte("GET / HTTP/1.1\r\n"), false, false, false, false},
	} {
		more, err := checkPreamble(row.head, row.encrypted, row.plain)
		if more != row.more || (err == nil) != row.ok {
			t.Errorf("%s: more %v, %v", name, more, err)
		}
	}
}

// What is thrown at a pool doesn't end it, takes no memory to speak of, and makes nobody a member.
func TestC125_Forgery(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := memnet.New()
		network := Memory(mem)
		secret := config(network, 3)
		secret.Keys = [][]byte{make([]byte, 32)}
		plain, encrypted := start(t, config(network, 1)), start(t, secret)
		from, err := mem.ListenPacket("10.9.9.9:8301")
		if err != nil {
			t.Fatal(err)
		}
		// an alive message of somebody who has no tags, and one cut short
		alive := append([]byte{4, 0x86, 0xab}, "Incarnation\x01\xa4Node\xa4evil\xa4Addr\xa4\x0a\x09\x09\x09\xa4Port\xcd\x20\x6d\xa4Meta\xa0\xa3Vsn\xa6\x01\x05\x02\x02\x05\x04"...)
		for _, n := range []*node{plain, encrypted} {
			for _, p := range [][]byte{{}, alive, alive[:20], bomb(t), compound(compound(alive)), bytes.Repeat([]byte{msgCompound}, 60_000)} {
				if _, err := from.WriteTo(p, net.UDPAddrFromAddrPort(n.c.Advertise)); err != nil {
					t.Fatal(err)
				}
			}
			for _, head := range []string{"\x06\x81\xa5Nodes\xce\x7f\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n", "\x0a\xff\xff\xff\xff", ""} {
				c, err := mem.DialFrom(t.Context(), "10.9.9.9:1", n.c.Advertise.String())
				if err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(time.Minute))
				if _, err := io.WriteString(c, head); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(c)
				if err != nil || strings.Contains(string(answer), "n1") {
					t.Errorf("%q was answered: %q, %v", head, answer, err)
				}
				c.Close()
			}
			pass(time.Second)
			if list := n.Members(); len(list) != 1 {
				t.Errorf("members after it: %+v", list)
			}
		}
		honest := config(network, 2) // the control
		honest.Keys = secret.Keys
		if n, err := start(t, honest).Join(t.Context(), []string{encrypted.c.Advertise.String()}); n != 1 || err != nil {
			t.Errorf("a node with the key: %d, %v", n, err)
		}
		from.Close()
	})
}

// More streams than a node has peers that ask at once are refused.
func TestStreamLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := memnet.New()
		n := start(t, config(Memory(mem), 1))
		refused := 0
		var open []net.Conn
		for range 2 * maxStreams {
			c, err := mem.DialContext(t.Context(), n.c.Advertise.String())
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		for _, c := range open {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
				refused++
			}
			defer c.Close()
		}
		if refused != maxStreams {
			t.Errorf("%d of %d refused", refused, 2*maxStreams)
		}
	})
}

func FuzzTags(f *testing.F) {
	f.Add([]byte("\xff\x82\xa4role\xa4node\xa2dc\xa3dc1"))
	f.Add([]byte("\xff\xde\x00\x01\xda\x00\x02id\xd9\x00"))
	stormtest.Fuzz(f, func(t *testing.T, meta []byte) {
		tags, err := decodeTags(meta)
		if err != nil {
			return
		}
		m := Member{Name: "n.dc1"}
		m.fromTags(tags)
		size := 0
		for k, v := range tags {
			size += len(k) + len(v)
		}
		if size > len(meta) {
			t.Errorf("%d bytes of tags from %d", size, len(meta))
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte{msgPing, 0x80})
	f.Add(compound([]byte{msgPing, 0x80}, []byte{msgUser, 1}))
	f.Add(bomb(f))
	stormtest.Fuzz(f, func(t *testing.T, b []byte) {
		if checkPacket(b) == nil && b[0] == msgCompress {
			t.Error("a compressed message passes")
		}
		if _, err := checkPreamble(b, false, false); err == nil && len(b) > 0 && (b[0] == msgCompress || b[0] == msgEncrypt) {
			t.Error("a stream of this kind passes")
		}
	})
}

func FuzzKeyring(f *testing.F) {
	f.Add([]byte(`["AAAAAAAAAAAAAAAAAAAAAA=="]`))
	stormtest.Fuzz(f, func(t *testing.T, b []byte) {
		keys, err := parseKeyring(b)
		if err == nil && len(keys) == 0 {
			t.Error("an empty keyring is taken")
		}
		for _, k := range keys {
			if err := CheckKey(k); err != nil {
				t.Error(err)
			}
		}
	})
}

// Whom a join turned away is told even where a member of the same name, this node itself, is seen to come at the same moment.
func TestRefusalStands(t *testing.T) {
	p, err := New(config(Memory(memnet.New()), 2))
	if err != nil {
		t.Fatal(err)
	}
	come := func(i int) {
		p.learn(serf.EventMemberJoin, &serf.Member{Name: "n2", Addr: net.IPv4(10, 0, 0, byte(i)).To4(), Port: 8301, Tags: map[string]string{tagID: id(i)}})
	}
	turned := &RefuseError{Name: "n2", Address: "10.0.0.2:8301", Reason: ErrNameTaken}
	_ = p.refuse(turned)
	come(9)
	if err := p.refusal(); !errors.Is(err, ErrNameTaken) {
		t.Errorf("after another n2 came: %v", err)
	}
	come(2)
	if err := p.refusal(); err != nil {
		t.Errorf("after it came itself: %v", err)
	}
}
