// SPDX-License-Identifier: Apache-2.0

// Package run joins goroutines that live and end together.
//
// A Group starts named children, cancels all of them on the first error, and
// waits until each has returned. It doesn't restart children and knows nothing
// of signals: the caller's context carries those. The Group owns the
// goroutines that it starts; none outlives Wait.
package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// ErrStopped is the cause (context.Cause) that children see when the group
// ends because Stop was called or because nothing was left to wait for.
var ErrStopped = errors.New("stopped")

// Group runs children until one fails, the parent context ends, or Stop is
// called. Make one with New; the zero Group is not usable.
type Group struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	disarm   func() bool   // keeps stopOrdered from starting; false once it has
	stopped  chan struct{} // closed when stopOrdered has returned
	children sync.WaitGroup

	mu      sync.Mutex
	err     error
	ending  bool       // stopOrdered has taken the list below
	ordered []*ordered // in order of start
}

// ordered is a child that is cancelled in its turn.
type ordered struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// New returns an empty group under ctx. Its children end when ctx does.
// Each group needs its Wait (or Stop), also one that started nothing.
func New(ctx context.Context) *Group {
	g := &Group{stopped: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	g.disarm = context.AfterFunc(g.ctx, g.stopOrdered)
	return g
}

// Context is what the children of Go get. It ends with the first error (which
// is then its cause), with the parent, by Stop, and when Wait returns.
func (g *Group) Context() context.Context { return g.ctx }

// Go starts f as a child called name. An error of f is wrapped with the name,
// becomes the group's if it is the first, and cancels every other child with
// it as the cause. A nil return ends only that child. An error that only says
// that the child's own context has ended counts as nil.
//
// Children may start further ones; others must not once Wait was called.
func (g *Group) Go(name string, f func(ctx context.Context) error) {
	g.children.Go(func() { g.run(name, g.ctx, f) })
}

// GoOrdered is Go for a child that has to stop in its turn: however the group
// ends, ordered children are cancelled one by one, the last started first, each
// after the one started next has returned. Started before those that use it, a
// server outlives them. Children of Go are cancelled at once and not waited
// for in this order.
//
// The child's context carries the values of the group's, but no deadline.
func (g *Group) GoOrdered(name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(g.ctx))
	c := &ordered{cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	late := g.ending
	if !late {
		g.ordered = append(g.ordered, c)
	}
	g.mu.Unlock()
	if late {
		cancel(context.Cause(g.ctx))
	}
	g.children.Go(func() {
		defer cancel(nil)
		defer close(c.done)
		g.run(name, ctx, f)
	})
}

// Stop ends the group without an error, and waits as Wait does.
func (g *Group) Stop() error {
	g.cancel(ErrStopped)
	return g.Wait()
}

// Wait blocks until every child has returned, and returns the first error, or
// nil where there was none: a parent context that ended is no error. The
// group can't be used again.
func (g *Group) Wait() error {
	g.children.Wait()
	if !g.disarm() {
		<-g.stopped
	}
	g.cancel(ErrStopped)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// stopOrdered runs once, when the group's context ends.
func (g *Group) stopOrdered() {
	defer close(g.stopped)
	g.mu.Lock()
	g.ending = true
	list := slices.Clone(g.ordered)
	g.mu.Unlock()
	for _, c := range slices.Backward(list) {
		c.cancel(context.Cause(g.ctx))
		<-c.done
	}
}

func (g *Group) run(name string, ctx context.Context, f func(context.Context) error) {
	err := Named(name, f)(ctx)
	if err == nil || ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return
	}
	g.mu.Lock()
	if g.err == nil {
		g.err = err
	}
	g.mu.Unlock()
	g.cancel(err)
}

// Named returns f with the name in front of its errors ("name: ..."), which
// errors.Is and errors.As still see through.
func Named(name string, f func(ctx context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := f(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
}
