// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// refusedOnce says whether an input got what smuggling must get: no answer but a refusal of the proxy's own, and the origin saw no
// request in whole, or, where the fault is in a body that was under way, one that it knows to be broken off.
func refusedOnce(status []string, log []seen) bool {
	for _, s := range log {
		if !strings.HasSuffix(s.body, " !") {
			return false
		}
	}
	return len(status) <= 1 && (len(status) == 0 || len(status[0]) == 3 && (status[0][0] == '4' || status[0] == "501"))
}

type smuggle struct {
	id string
	in string // "{end}" is what makes the rest of the input another request, if anybody reads it as one
	// want is what the origin sees where the input is not refused: one request.
	want   string
	either bool // it may be refused too
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: api\r\n\r\n"

func TestC42_LengthAndChunked(t *testing.T) { smuggles(t, "C42") }
func TestC43_ChunkedAndLength(t *testing.T) { smuggles(t, "C43") }
func TestC44_Encodings(t *testing.T)        { smuggles(t, "C44") }
func TestC45_Lengths(t *testing.T)          { smuggles(t, "C45") }
func TestC46_BareLFInChunks(t *testing.T)   { smuggles(t, "C46") }
func TestC47_ChunkExtensions(t *testing.T)  { smuggles(t, "C47") }
func TestC48_ChunkSizes(t *testing.T)       { smuggles(t, "C48") }
func TestC49_Trailers(t *testing.T)         { smuggles(t, "C49") }
func TestC50_Lines(t *testing.T)            { smuggles(t, "C50") }

// smuggles goes over HTTP/1.1, towards HTTP/1.1 and HTTP/2: an input is refused and the connection closed, or the
// origin sees exactly one request, and never the one that hides in it.
func smuggles(t *testing.T, id string) {
	t.Helper()
	for name, codec := range map[string]config.Codec{"h1": config.HTTP1, "h2": config.HTTP2} {
		o := newOrigin(t)
		r := sidecar(t, o.addr, codec)
		for i, c := range smuggling() {
			if n, _, _ := strings.Cut(c.id, " "); n != id && c.id != "C42 control" {
				continue
			}
			t.Run(name+" "+c.id, func(t *testing.T) {
				// A path of its own: what an earlier input left at the origin may come late.
				own := fmt.Sprintf("/%d", i)
				in := strings.ReplaceAll(strings.Replace(c.in, " / ", " "+own+" ", 1), "{end}", smuggled)
				want := strings.Replace(c.want, " / ", " "+own+" ", 1)
				got := rawly(t, r, in)
				if after := rawly(t, r, "GET /after HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"); fmt.Sprint(after) != "[200]" {
					t.Errorf("the next client: %v", after)
				}
				var log []seen
				for _, s := range o.take() {
					if s.uri == "/smuggled" {
						t.Errorf("%q: the origin saw what was smuggled", c.in)
					}
					if s.uri == own {
						log = append(log, s)
					}
				}
				switch {
				case c.want == "" && !refusedOnce(got, log):
					t.Errorf("%q: answered %v, the origin saw %v; want a refusal", c.in, got, log)
				case c.want != "" && !(c.either && refusedOnce(got, log)) && (len(log) != 1 || log[0].String() != want || got[0] != "200"):
					t.Errorf("%q: answered %v, the origin saw %v; want %q", c.in, got, log, want)
				}
			})
		}
	}
}

func smuggling() (all []smuggle) {
	post := func(fields string) string {
		return "POST / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n" + fields + "\r\n"
	}
	chunked := func(body string) string { return post("Transfer-Encoding: chunked\r\n") + body }
	add := func(id, want string, ins ...string) {
		for _, in := range ins {
			all = append(all, smuggle{id, in, want, strings.HasPrefix(id, "C53 early")})
		}
	}
	// The controls.
	add("C42 control", "POST / hello", post("Content-Length: 5\r\n")+"hello", chunked("5\r\nhello\r\n0\r\n\r\n"), chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"))
	add("C42 CL.TE", "", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n")+"0\r\n\r\n{end}")
	add("C43 TE.CL", "", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n")+"5c\r\n{end}\r\n0\r\n\r\n")
	for _, te := range encodings {
		add("C44 "+te, "", post(te+"\r\n")+"0\r\n\r\n{end}", post("Content-Length: 3\r\n"+te+"\r\n")+"0\r\n{end}")
	}
	add("C44 control", "POST / a", post("Transfer-Encoding: chunked\r\n")+"1\r\na\r\n0\r\n\r\n", post("transfer-ENCODING:\tChunked \r\n")+"1\r\na\r\n0\r\n\r\n")
	for _, cl := range []string{"+5", "5, 5", "5,6", "0x5", "-1", "18446744073709551616", "9223372036854775808", "5 5", "", "5a", "５", "1e1", "5\r\nContent-Length: 5", "5\r\nContent-Length: 6", "5\r\nX: y\r\nContent-Length: 0"} {
		add("C45 "+cl, "", post("Content-Length: "+cl+"\r\n")+"hello{end}")
	}
	add("C45 control", "POST / hello", post("Content-Length: 005\r\n")+"hello", post("content-length:5\r\n")+"hello")
	add("C46 bare LF", "", chunked("5\nhello\r\n0\r\n\r\n"), chunked("5\r\nhello\n0\r\n\r\n"), chunked("5\r\nhello\r\n0\n\r\n{end}"), chunked("5\r\nhello\r\n0\r\n\n{end}"))
	add("C47 extensions", "", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"), chunked("5;"+strings.Repeat("a", 20<<10)+"\r\nhello\r\n0\r\n\r\n"), chunked("5;a\nhello\r\n0\r\n\r\n"))
	add("C47 control", "POST / hello", chunked("5;a=b\r\nhello\r\n0\r\n\r\n"), chunked("5;a=\"b;c\"\r\nhello\r\n0;x\r\n\r\n"), chunked("5;a=\"\r\nhello\r\n0\r\n\r\n")) // no extension is passed on
	for _, size := range []string{"10000000000000005", "ffffffffffffffff", "-5", "+5", "0x5", "5 ", " 5", "", "5_0", "g", "00000000000000000000000000000000005"} {
		add("C48 size "+size, "", chunked(size+"\r\nhello\r\n0\r\n\r\n{end}"))
	}
	add("C48 end", "", chunked("5\r\nhelloXX0\r\n\r\n{end}"), chunked("5\r\nhello\r\n0\r\nX{end}"), chunked("5\r\nhell\r\n0\r\n\r\n"))
	add("C48 after", "POST / hello", chunked("5\r\nhello\r\n0\r\n\r\n{end}"), post("Content-Length: 5\r\n")+"hello{end}")
	for _, f := range []string{"Host: b", "Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close", "Trailer: x"} {
		add("C49 trailer "+f, "", chunked("5\r\nhello\r\n0\r\n"+f+"\r\n\r\n{end}"))
	}
	add("C49 control", "POST / hello", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"))
	add("C50", "",
		"POST / HTTP/1.1\r\nHost: api\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1\nHost: api\nContent-Length: 0\n\n",
		"POST / HTTP/1.1\r\nHost: api\r\nContent-Length : 40\r\n\r\n{end}", "POST / HTTP/1.1\r\nHost: api\r\n Content-Length: 40\r\n\r\n{end}",
		"POST / HTTP/1.1\r\n Host: api\r\n\r\n", "POST / HTTP/1.1\r\nHost: api\r\nX\x00: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: api\r\nX: a\x00b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: api\r\nX: a\r\r\nY: b\r\n\r\n", "POST / HTTP/1.1\r\nHost: api\r\n\rX: a\r\n\r\n", "POST\t/ HTTP/1.1\r\nHost: api\r\n\r\n",
		"POST / HTTP/1.1 \r\nHost: api\r\n\r\n", "POST / HTTP/1.1\r\nHost: api\r\nX: a\r\n\tb\r\n\r\n", "POST / HTTP/1.1\r\nHost: api\r\n: x\r\n\r\n",
	)
	for _, m := range []string{"GET", "DELETE", "OPTIONS"} {
		in := m + " / HTTP/1.1\r\nHost: api\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello{end}"
		add("C51 "+m, m+" / hello", in, m+" / HTTP/1.1\r\nHost: api\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{end}")
	}
	add("C53 early data", "POST / ", "POST / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n{end}")
	add("C53 CONNECT", "", "CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n{end}", "CONNECT / HTTP/1.1\r\nHost: api\r\n\r\n{end}")
	add("C54 h2c", "GET / ", "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{end}")
	return all
}

// encodings are forms of Transfer-Encoding that some reader takes for chunked and another one not.
var encodings = []string{
	"Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: \x0bchunked",
	"Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked", "Transfer-Encoding: identity",
	"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
	"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: gzip, chunked",
	"Transfer-Encoding: chunked, gzip", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked;a=b", "Transfer-Encoding: chunked; q=0.5",
	"Transfer-Encoding: \"chunked\"", "Transfer-Encoding: 'chunked'", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: \x00chunked",
	"Transfer-Encoding: chun\x00ked", "Transfer-Encoding: chunked\x0b", "Transfer-Encoding: chunked\x0c", "Transfer-Encoding: chunked\xa0",
	"Transfer-Encoding: \xa0chunked", "Transfer-Encoding: chunked\xc2\xa0", "Transfer-Encoding: chu", "Transfer-Encoding: chunked-x",
	"Transfer-Encoding: cow", "Transfer-Encoding:", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding: ,",
	"Transfer-Encoding:\r\n chunked", "Transfer-Encoding: chun\r\n ked", " Transfer-Encoding: chunked", "X: y\nTransfer-Encoding: chunked",
	"X: y\rTransfer-Encoding: chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding\x00: chunked", "Transfer-Encoding: chunked\r",
	"Transfer-Encoding: cHuNkEd, x", "Transfer-Encoding: \u017Fhunked", "Transfer-Encoding: chun\u212Aed", "Transfer\x2dEncoding: chunked\x7f",
}
