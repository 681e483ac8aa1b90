// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history has clients and units: some keys, and pairs of keys.
const (
	clients = 9
	keys    = 4
	pairs   = 2 // two keys each: eight keys in all
	units   = keys + pairs
)

// history is what clients asked and were told.
type history struct {
	c     *cluster
	name  string // all keys begin with it
	began time.Time
	gate  sync.RWMutex // held while nobody may ask
	back  bool         // a snapshot is restored: indexes go back

	mu     sync.Mutex
	ops    []porcupine.Operation
	index  map[string]uint64 // of values
	count  int               // operations whose outcome is known
	cas    int               // of these, with a check …
	failed int               // … which failed
	faults []string          // what is wrong at once, without any search
}

func newHistory(c *cluster, name string) *history {
	return &history{c: c, name: name, began: time.Now(), index: map[string]uint64{}}
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.faults) < 20 {
		h.faults = append(h.faults, fmt.Sprintf(format, args...))
	}
}

// path is a key's: of a pair, "a" and "b".
func (h *history) path(unit int, part string) string {
	if unit < keys {
		return fmt.Sprintf("%s/k%d", h.name, unit)
	}
	return fmt.Sprintf("%s/p%d%s", h.name, unit, part)
}

// add notes an operation. One whose outcome is unknown returns at the end of time.
func (h *history) add(client int, in input, call int64, out output) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := h.now()
	if !out.known {
		end = math.MaxInt64
	} else {
		h.count++
		if in.verb == cas || in.verb == removeCAS {
			h.cas++
			if !out.done {
				h.failed++
			}
		}
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

// learn notes the index of a value: it is always the same, and no other's.
func (h *history) learn(value string, index uint64) {
	if value == "" || index == 0 {
		return
	}
	h.mu.Lock()
	before := h.index[value]
	h.index[value] = index
	h.mu.Unlock()
	if before != 0 && before != index {
		h.fault("the value %s was seen with ModifyIndex %d and %d", value, before, index)
	}
	if other, ok := h.c.seen.taken(index, h.name+" "+value); !ok {
		h.fault("%s %s and %s have the same ModifyIndex %d", h.name, value, other, index)
	}
}

func (h *history) progress() (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// indexes are the ModifyIndexes that were seen in a cluster, and whose they are.
type indexes struct {
	mu sync.Mutex
	of map[uint64]string
}

func newIndexes() *indexes { return &indexes{of: map[uint64]string{}} }

func (x *indexes) taken(index uint64, by string) (other string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if other, ok := x.of[index]; ok && other != by {
		return other, false
	}
	x.of[index] = by
	return "", true
}

// client asks one server after the other's failure; what it knows of units it uses for check-and-set.
type client struct {
	h     *history
	n, at int // its number, and the server that it asks, from 0
	seen  [units]struct {
		value string
		index uint64
	}
	last map[string]uint64 // the highest X-Consul-Index, by server and unit
	rand *rand.Rand
}

// requestTime is how long a client waits: longer than a server holds a request that finds no leader would only make histories long.
const requestTime = 4 * time.Second

func (h *history) client(n int) *client {
	return &client{h: h, n: n, at: n % h.c.expect, last: map[string]uint64{}, rand: rand.New(rand.NewPCG(rand.Uint64(), uint64(n)))}
}

// run asks until ctx ends. What is on its way then is waited for.
func (c *client) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		c.h.gate.RLock()
		ok := c.one(i)
		c.h.gate.RUnlock()
		if !ok {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// one does one operation; false: it failed.
func (c *client) one(i int) bool {
	u := c.rand.IntN(units)
	value := fmt.Sprintf("%d.%d", c.n, i)
	known := c.seen[u]
	p := c.rand.IntN(100)
	switch {
	case p < 36:
		return c.get(u)
	case p < 50:
		return c.write(input{unit: u, verb: put, value: value}, 0)
	case p < 55:
		return c.write(input{unit: u, verb: remove}, 0)
	case p < 60 && known.value != "":
		return c.write(input{unit: u, verb: removeCAS, expected: known.value}, known.index)
	case p < 85: // with what is known from before
		return c.write(input{unit: u, verb: cas, value: value, expected: known.value}, known.index)
	default: // a reader that then writes what depends on what it read
		if !c.get(u) {
			return false
		}
		known = c.seen[u]
		return c.write(input{unit: u, verb: cas, value: value, expected: known.value}, known.index)
	}
}

// send asks the client's server. sent is false if it is certain that no server has seen the request.
func (c *client) send(method, path, body string) (code int, text string, header http.Header, sent bool, err error) {
	s := c.h.c.servers[c.at]
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	code, text, header, err = ask(ctx, s.client, method, path, body)
	if err == nil && code < 500 {
		return code, text, header, true, nil
	}
	var op *net.OpError
	undialled := errors.As(err, &op) && op.Op == "dial" || errors.Is(err, syscall.ECONNREFUSED)
	if err == nil {
		err = fmt.Errorf("%d %s", code, text)
	}
	c.at = (c.at + 1) % c.h.c.expect
	return code, text, header, !undialled, err
}

type kvAnswer struct {
	Key         string
	Value       []byte
	ModifyIndex uint64
}

// get reads by default, consistently, or in a transaction.
func (c *client) get(u int) bool {
	if u >= keys && c.rand.IntN(2) == 0 || c.rand.IntN(6) == 0 {
		return c.getInTransaction(u)
	}
	call := c.h.now()
	path := "/v1/kv/" + c.h.path(u, []string{"a", "b"}[c.rand.IntN(2)])
	if c.rand.IntN(2) == 0 {
		path += "?consistent"
	}
	at := c.h.c.servers[c.at].name() + path
	code, text, header, _, err := c.send("GET", path, "")
	var list []kvAnswer
	switch {
	case err != nil:
		return false // a read that failed says nothing
	case code == http.StatusNotFound:
	case code != http.StatusOK || json.Unmarshal([]byte(text), &list) != nil || len(list) != 1:
		c.h.fault("GET %s: %d %s", path, code, text)
		return false
	}
	if index, err := strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64); err != nil || index == 0 || index < c.last[at] && !c.h.back {
		c.h.fault("%s: the index is %q and was %d", at, header.Get("X-Consul-Index"), c.last[at])
	} else {
		c.last[at] = index
	}
	c.read(u, call, list)
	return true
}

// read notes what was read.
func (c *client) read(u int, call int64, list []kvAnswer) {
	out := output{known: true}
	if len(list) > 0 {
		out.value, out.index = string(list[0].Value), list[0].ModifyIndex
	}
	c.seen[u].value, c.seen[u].index = out.value, out.index
	c.h.learn(out.value, out.index)
	c.h.add(c.n, input{unit: u, verb: get}, call, out)
}

type txnOp struct {
	Verb, Key string
	Value     []byte `json:",omitempty"`
	Index     uint64 `json:",omitempty"`
}

// transaction does operations together; code is 409 where one didn't hold.
func (c *client) transaction(ops ...txnOp) (code int, results []kvAnswer, sent bool, err error) {
	var body []map[string]txnOp
	for _, op := range ops {
		body = append(body, map[string]txnOp{"KV": op})
	}
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, false, err
	}
	code, text, _, sent, err := c.send("PUT", "/v1/txn", string(data))
	if err != nil || code == http.StatusConflict {
		return code, nil, sent, err
	}
	var answer struct{ Results []struct{ KV kvAnswer } }
	if code != http.StatusOK || json.Unmarshal([]byte(text), &answer) != nil {
		c.h.fault("PUT /v1/txn %s: %d %s", data, code, text)
		return code, nil, sent, errors.New(text)
	}
	for _, r := range answer.Results {
		results = append(results, r.KV)
	}
	return code, results, sent, nil
}

func (c *client) getInTransaction(u int) bool {
	call := c.h.now()
	ops := []txnOp{{Verb: "get-or-empty", Key: c.h.path(u, "a")}}
	if u >= keys {
		ops = append(ops, txnOp{Verb: "get-or-empty", Key: c.h.path(u, "b")})
	}
	_, results, _, err := c.transaction(ops...)
	if err != nil {
		return false
	}
	if len(results) != len(ops) || len(results) == 2 && string(results[0].Value) != string(results[1].Value) {
		c.h.fault("a transaction read %+v: both keys are only ever written together", results)
	}
	var list []kvAnswer
	if len(results) > 0 && len(results[0].Value) > 0 {
		list = results[:1]
	}
	c.read(u, call, list)
	return true
}

// write does a put, a delete or their form with a check; index is that of what is expected.
func (c *client) write(in input, index uint64) bool {
	call := c.h.now()
	var out output
	var sent bool
	var err error
	if in.unit >= keys || c.rand.IntN(5) == 0 {
		out, sent, err = c.writeInTransaction(in, index)
	} else {
		out, sent, err = c.writeAlone(in, index)
	}
	if err != nil {
		if sent {
			c.h.add(c.n, in, call, output{})
		}
		return false
	}
	switch {
	case in.verb == put || in.verb == cas && out.done:
		c.h.learn(in.value, out.index)
		if out.index > 0 {
			c.seen[in.unit].value, c.seen[in.unit].index = in.value, out.index
		}
	case in.verb == remove || in.verb == removeCAS && out.done:
		c.seen[in.unit].value, c.seen[in.unit].index = "", 0
	}
	c.h.add(c.n, in, call, out)
	return true
}

func (c *client) writeAlone(in input, index uint64) (output, bool, error) {
	method, path := "PUT", "/v1/kv/"+c.h.path(in.unit, "")
	switch in.verb {
	case remove, removeCAS:
		method = "DELETE"
	}
	switch in.verb {
	case cas, removeCAS:
		path += fmt.Sprintf("?cas=%d", index)
	}
	code, text, _, sent, err := c.send(method, path, in.value)
	if err != nil {
		return output{}, sent, err
	}
	done := len(text) >= 4 && text[:4] == "true"
	if code != http.StatusOK || !done && (in.verb == put || in.verb == remove) {
		c.h.fault("%s %s: %d %s", method, path, code, text)
	}
	return output{known: true, done: done}, sent, nil
}

func (c *client) writeInTransaction(in input, index uint64) (output, bool, error) {
	a, b := c.h.path(in.unit, "a"), c.h.path(in.unit, "b")
	first, second := txnOp{Verb: "set", Key: a, Value: []byte(in.value)}, txnOp{Verb: "set", Key: b, Value: []byte(in.value)}
	switch in.verb {
	case remove:
		first, second = txnOp{Verb: "delete", Key: a}, txnOp{Verb: "delete", Key: b}
	case removeCAS:
		first, second = txnOp{Verb: "delete-cas", Key: a, Index: index}, txnOp{Verb: "delete", Key: b}
	case cas:
		first.Verb, first.Index = "cas", index
	}
	ops := []txnOp{first}
	if in.unit >= keys {
		ops = append(ops, second)
	}
	code, results, sent, err := c.transaction(ops...)
	if err != nil {
		return output{}, sent, err
	}
	out := output{known: true, done: code == http.StatusOK}
	if !out.done && (in.verb == put || in.verb == remove) {
		c.h.fault("a transaction without a condition failed: %+v", ops)
	}
	for _, r := range results {
		if r.ModifyIndex > 0 {
			out.index = r.ModifyIndex
		}
	}
	if len(results) == 2 && results[0].ModifyIndex != results[1].ModifyIndex {
		c.h.fault("one transaction has two indexes: %+v", results)
	}
	return out, sent, nil
}
