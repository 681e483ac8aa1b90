// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// Meta is what goes with an answer read from a catalog.
type Meta struct {
	Index       uint64
	KnownLeader bool
	LastContact time.Duration
	Consistency string // "leader", "consistent" or "stale"
}

// Query runs a read on a catalog, and where the request blocks, again until the answer's index has passed the request's, or
// its time is over; then the answer is what it was. Only changes of what was read wake it: the topics that the read recorded.
// An index that the catalog hasn't reached (after a restore) doesn't block, nor one before deletions that were forgotten since.
func Query[T any](ctx context.Context, store *catalog.Store, o Options, read func(*catalog.Txn) (T, error)) (T, Meta, error) {
	return query(ctx, store, o, read, nil)
}

// query is Query for answers that have a sum: what a reader who waits would see as no change doesn't wake it, though something that
// was read has changed. While it waits it keeps nothing of what it read.
func query[T any](ctx context.Context, store *catalog.Store, o Options, read func(*catalog.Txn) (T, error), sum func(T) uint64) (T, Meta, error) {
	var end <-chan time.Time
	if o.Index > 0 {
		o.bound(0, o.Wait)
		timer := time.NewTimer(o.Wait + rand.N(o.Wait/16+1)) // watchers that began together shouldn't end together
		defer timer.Stop()
		end = timer.C
	}
	seen, waited, over := uint64(0), false, false
	for {
		txn := store.Read().Record()
		out, err := read(txn)
		meta := Meta{Index: max(txn.ResultIndex(), 1), KnownLeader: true, Consistency: "leader"}
		absent := errors.Is(err, catalog.ErrNotFound) // what isn't there can be waited for
		if (err != nil && !absent) || o.Index == 0 || over || o.Index > max(txn.Index(), 1) || txn.Regressed(o.Index) {
			return out, meta, err
		}
		now := uint64(0) // nothing has this sum
		if sum != nil && err == nil {
			now = sum(out) | 1
		}
		if unchanged := waited && now != 0 && now == seen; meta.Index > o.Index && !unchanged {
			return out, meta, err
		}
		seen, waited = now, true
		over = store.WaitChangeUntil(ctx, txn, end) != nil
	}
}

// Write puts the meta data into an answer's header.
func (m Meta) Write(h http.Header, o Options) {
	h.Set("X-Consul-Index", strconv.FormatUint(max(m.Index, 1), 10))
	if o.Freshness != nil {
		m.KnownLeader, m.LastContact = o.Freshness()
	}
	h.Set("X-Consul-KnownLeader", strconv.FormatBool(m.KnownLeader))
	h.Set("X-Consul-Query-Backend", "blocking-query")
	h.Set("X-Consul-LastContact", strconv.FormatInt(m.LastContact.Milliseconds(), 10))
	switch {
	case o.Stale:
		h.Set("X-Consul-Effective-Consistency", "stale")
	case o.Consistent:
		h.Set("X-Consul-Effective-Consistency", "consistent")
	default:
		h.Set("X-Consul-Effective-Consistency", m.Consistency)
	}
}

// Asked is a read that asks anew, each time but the first, whether its caller may still: its token may be revoked while it waits.
func Asked[T any](r *Request, read func(*catalog.Txn) (T, error)) func(*catalog.Txn) (T, error) {
	waited := false
	return func(t *catalog.Txn) (T, error) {
		if waited {
			if err := r.Again(); err != nil {
				var zero T
				return zero, err
			}
		}
		waited = true
		return read(t)
	}
}

// Answer runs a query for a request and writes its answer as JSON, headers and all.
func Answer[T any](w http.ResponseWriter, r *Request, store *catalog.Store, read func(*catalog.Txn) (T, error)) error {
	seed := maphash.MakeSeed()
	read = Asked(r, read)
	body, meta, err := query(r.Context(), store, r.Options, func(t *catalog.Txn) ([]byte, error) {
		out, err := read(t)
		if err != nil {
			return nil, err
		}
		return encodeJSON(w, out)
	}, func(body []byte) uint64 { return maphash.Bytes(seed, body) })
	meta.Write(w.Header(), r.Options)
	if err != nil {
		return err
	}
	writeBody(w, http.StatusOK, body)
	return nil
}
