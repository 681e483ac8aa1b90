// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/replica"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/durable"
)

// Config is what a Keeper is made of.
type Config struct {
	Path string // the copy
	Key  string // the file that holds the key
	// Node and Datacenter are whose copy it must be.
	Node, Datacenter string
	Store            *catalog.Store // the replica's
	Replica          *replica.Replica
	Leaves           *leaf.Manager
	Rand             io.Reader
	Now              func() time.Time
	Log              *slog.Logger
}

// Keeper keeps the copy as new as the replica.
type Keeper struct {
	c   Config
	key []byte
}

// The copy is written a moment after a change, so that changes that come together are one write, and so rarely that a large copy
// costs a twentieth of the time at most; and again while nothing changes, so that it says until when a server was heard.
const (
	settle   = time.Second
	rarely   = 20 // times what the last write took
	anywayIn = 10 * time.Minute
)

// New makes a keeper and, if there is a copy, brings what it holds into the replica and the leaves: all of it or nothing. A
// copy that is damaged, or another node's, is logged and left out. It starts nothing.
func New(c Config) (*Keeper, error) {
	key, err := loadKey(c.Key, c.Rand)
	if err != nil {
		return nil, err
	}
	k := &Keeper{c: c, key: key}
	switch held, err := k.restore(); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		c.Log.Error("the sealed copy isn't used: proxies wait for a server", "file", c.Path, "error", err)
	default:
		c.Log.Info("sealed copy read", "until", held.At, "topics", len(held.Topics), "leaves", len(held.Leaves))
	}
	return k, nil
}

func (k *Keeper) restore() (*Copy, error) {
	data, err := os.ReadFile(k.c.Path)
	if err != nil {
		return nil, err
	}
	held, err := open(k.key, data)
	if err != nil {
		return nil, err
	}
	if held.Node != k.c.Node || held.Datacenter != k.c.Datacenter {
		return nil, fmt.Errorf("%w: it is of node %q in %q, and this is %q in %q", ErrRefused, held.Node, held.Datacenter, k.c.Node, k.c.Datacenter)
	}
	if err := k.c.Store.ApplyItems(catalog.Update{
		Position: held.Position, Items: held.Items, Snapshot: held.Topics, Covered: held.Topics,
	}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	k.c.Replica.Restored(held.Topics, held.At)
	for _, l := range held.Leaves {
		k.c.Leaves.Restore(held.RootID, l.Service, l.Leaf)
	}
	return held, nil
}

// take makes a copy of what is known now.
func (k *Keeper) take() (*Copy, error) {
	txn := k.c.Store.Read()
	c := &Copy{
		Node: k.c.Node, Datacenter: k.c.Datacenter, At: k.c.Replica.Heard(), Position: txn.Position(), Topics: txn.CoveredTopics(),
	}
	withheld := k.c.Replica.Withheld() // is asked for anew
	c.Topics = slices.DeleteFunc(c.Topics, func(t catalog.Topic) bool { return withheld[t] })
	for _, t := range c.Topics {
		items, err := txn.Items(t)
		if err != nil {
			return nil, err
		}
		c.Items = append(c.Items, items...)
	}
	if state, err := txn.CA(); err == nil && state != nil {
		c.RootID = state.ActiveRootID
	}
	for service, l := range k.c.Leaves.All() {
		c.Leaves = append(c.Leaves, Leaf{service, l})
	}
	return c, nil
}

func (k *Keeper) write() error {
	c, err := k.take()
	if err != nil {
		return err
	}
	data, err := seal(k.key, k.c.Rand, c)
	if err != nil {
		return err
	}
	return durable.ReplaceIn(k.c.Path, data)
}

// Run writes the copy until ctx ends, and once more then. Nothing is written before a server was heard: what there is from
// before is better.
func (k *Keeper) Run(ctx context.Context) error {
	pause := func(d time.Duration) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	wait := settle
	for going := true; going; {
		replicaChanged, leafChanged := k.c.Replica.Changed(), k.c.Leaves.Changed()
		if k.c.Replica.Followed() {
			began := k.c.Now()
			if err := k.write(); err != nil {
				k.c.Log.Error("the sealed copy can't be written: a restart without a server has an older one, or none", "file", k.c.Path, "error", err)
			}
			wait = max(settle, rarely*k.c.Now().Sub(began))
		}
		anyway := time.NewTimer(anywayIn)
		select {
		case <-replicaChanged:
			going = pause(wait)
		case <-leafChanged:
			going = pause(wait)
		case <-anyway.C:
		case <-ctx.Done():
			going = false
		}
		anyway.Stop()
	}
	if !k.c.Replica.Followed() {
		return nil
	}
	if err := k.write(); err != nil {
		k.c.Log.Error("the sealed copy can't be written", "file", k.c.Path, "error", err)
	}
	return nil
}
