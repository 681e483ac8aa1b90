// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/weftmesh/weft/cli/apiclient"
)

// The numbers by which Consul's clients know the keys of a lock and of a semaphore.
const (
	lockFlags      = 0x2ddccbc058a50c18
	semaphoreFlags = 0xe0f69a2baa414de0
)

// slotOf is a lock, or one of a semaphore's slots.
type slotOf interface {
	acquire(ctx context.Context) error
	// held waits for something newer than index, and says whether the slot is still ours.
	held(ctx context.Context, index string) (held bool, next string, err error)
	// release gives the slot up, and removes what nobody needs.
	release(ctx context.Context)
}

func newer(index string) url.Values {
	q := url.Values{"consistent": {""}}
	if index != "" {
		q.Set("index", index)
	}
	return q
}

// mutex is one key that one session holds.
type mutex struct {
	cl           *apiclient.Client
	key, session string
}

func (m *mutex) put(ctx context.Context, how string) (done bool, err error) {
	q := url.Values{how: {m.session}, "flags": {strconv.FormatUint(lockFlags, 10)}}
	_, err = m.cl.Do(ctx, http.MethodPut, kvPath(m.key), q, []byte{}, &done)
	return done, err
}

func (m *mutex) read(ctx context.Context, index string) (*kvPair, string, error) {
	var pairs []kvPair
	header, err := m.cl.Do(ctx, http.MethodGet, kvPath(m.key), newer(index), nil, &pairs)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		return nil, header.Get("X-Consul-Index"), nil
	}
	if err != nil || len(pairs) == 0 {
		return nil, "", err
	}
	return &pairs[0], header.Get("X-Consul-Index"), nil
}

func (m *mutex) acquire(ctx context.Context) error {
	index := ""
	for {
		pair, next, err := m.read(ctx, index)
		if err != nil {
			return err
		}
		if pair != nil && pair.Flags != lockFlags {
			return fmt.Errorf("key %s is in use by something that isn't a lock", m.key)
		}
		if pair != nil && pair.Session != "" && pair.Session != m.session {
			index = next
			continue
		}
		done, err := m.put(ctx, "acquire")
		if err != nil || done {
			return err
		}
		index = ""
		if !pause(ctx, lockRetry) { // in lock delay
			return context.Cause(ctx)
		}
	}
}

func (m *mutex) held(ctx context.Context, index string) (bool, string, error) {
	pair, next, err := m.read(ctx, index)
	return pair != nil && pair.Session == m.session, next, err
}

func (m *mutex) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lockGrace)
	defer cancel()
	_, _ = m.put(ctx, "release") // the session ends next
	if pair, _, err := m.read(ctx, ""); err == nil && pair != nil && pair.Session == "" {
		q := url.Values{"cas": {strconv.FormatUint(pair.ModifyIndex, 10)}}
		_, _ = m.cl.Do(ctx, http.MethodDelete, kvPath(m.key), q, nil, nil) // somebody else may have it by now
	}
}

// semaphore is a key with the list of those who hold a slot, and a key of each contender's own, which goes with its session.
type semaphore struct {
	cl              *apiclient.Client
	prefix, session string
	limit           int
}

// holders is what the list's key holds.
type holders struct {
	Limit   int
	Holders map[string]bool
}

// read gives the list without those who are gone, its index for check-and-set (0: there is none), and the prefix's.
func (s *semaphore) read(ctx context.Context, index string) (list holders, cas uint64, next string, err error) {
	q := newer(index)
	q.Set("recurse", "")
	var pairs []kvPair
	header, err := s.cl.Do(ctx, http.MethodGet, kvPath(s.prefix), q, nil, &pairs)
	if err != nil && !apiclient.IsStatus(err, http.StatusNotFound) {
		return list, 0, "", err
	}
	list.Limit = s.limit
	alive := map[string]bool{}
	for _, p := range pairs {
		switch {
		case p.Key == s.prefix+".lock":
			if p.Flags != semaphoreFlags {
				return list, 0, "", fmt.Errorf("key %s is in use by something that isn't a semaphore", p.Key)
			}
			cas = p.ModifyIndex
			if err := json.Unmarshal(p.Value, &list); err != nil {
				return list, 0, "", fmt.Errorf("key %s: %w", p.Key, err)
			}
		case p.Session != "":
			alive[p.Session] = true
		}
	}
	if list.Limit != s.limit {
		return list, 0, "", fmt.Errorf("the semaphore has %d slots, and -n is %d", list.Limit, s.limit)
	}
	held := map[string]bool{}
	for id := range list.Holders {
		if alive[id] {
			held[id] = true
		}
	}
	list.Holders = held
	return list, cas, header.Get("X-Consul-Index"), nil
}

func (s *semaphore) write(ctx context.Context, list holders, cas uint64) (done bool, err error) {
	q := url.Values{"cas": {strconv.FormatUint(cas, 10)}, "flags": {strconv.FormatUint(semaphoreFlags, 10)}}
	_, err = s.cl.Do(ctx, http.MethodPut, kvPath(s.prefix+".lock"), q, list, &done)
	return done, err
}

func (s *semaphore) acquire(ctx context.Context) error {
	q := url.Values{"acquire": {s.session}, "flags": {strconv.FormatUint(semaphoreFlags, 10)}}
	var mine bool
	if _, err := s.cl.Do(ctx, http.MethodPut, kvPath(s.prefix+s.session), q, []byte{}, &mine); err != nil || !mine {
		return fmt.Errorf("the contender's key %s can't be had: %w", s.prefix+s.session, err)
	}
	index := ""
	for {
		list, cas, next, err := s.read(ctx, index)
		if err != nil {
			return err
		}
		if len(list.Holders) >= s.limit {
			index = next
			continue
		}
		list.Holders[s.session] = true
		done, err := s.write(ctx, list, cas)
		if err != nil || done {
			return err
		}
		index = "" // another was faster
	}
}

func (s *semaphore) held(ctx context.Context, index string) (bool, string, error) {
	list, _, next, err := s.read(ctx, index)
	return list.Holders[s.session], next, err
}

func (s *semaphore) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lockGrace)
	defer cancel()
	for {
		list, cas, _, err := s.read(ctx, "")
		if err != nil || cas == 0 || !list.Holders[s.session] {
			break // with the session the slot goes too
		}
		delete(list.Holders, s.session)
		if done, err := s.write(ctx, list, cas); err != nil || done {
			break
		}
	}
	_, _ = s.cl.Do(ctx, http.MethodDelete, kvPath(s.prefix+s.session), nil, nil, nil) // the same
}
