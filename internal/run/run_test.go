// SPDX-License-Identifier: Apache-2.0

package run

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func untilDone(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestFirstErrorCancelsTheRestWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		g := New(context.Background())
		var cause error
		g.Go("waits", func(ctx context.Context) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return ctx.Err()
		})
		g.Go("fails", func(context.Context) error {
			time.Sleep(time.Second)
			return boom
		})
		err := g.Wait()
		if !errors.Is(err, boom) || err.Error() != "fails: boom" {
			t.Fatalf("Wait: %v", err)
		}
		if !errors.Is(cause, boom) {
			t.Fatalf("cause: %v", cause)
		}
	})
}

func TestOrderedChildrenStopLastStartedFirst(t *testing.T) {
	for _, how := range []string{"stop", "error", "parent"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(context.Background())
				defer cancel()
				g := New(parent)
				var order []string
				for i, name := range []string{"first", "second", "third"} {
					g.GoOrdered(name, func(ctx context.Context) error {
						<-ctx.Done()
						time.Sleep(time.Duration(i+1) * time.Second) // the last started takes longest
						order = append(order, name)
						return ctx.Err()
					})
				}
				boom := errors.New("boom")
				var err error
				switch how {
				case "stop":
					err = g.Stop()
				case "error":
					g.Go("bad", func(context.Context) error { return boom })
					err = g.Wait()
				case "parent":
					cancel()
					err = g.Wait()
				}
				if want := (how == "error"); errors.Is(err, boom) != want || (err != nil) != want {
					t.Fatalf("err = %v", err)
				}
				if want := []string{"third", "second", "first"}; !slices.Equal(order, want) {
					t.Fatalf("order = %v, want %v", order, want)
				}
			})
		})
	}
}

func TestWaitReturnsWhenChildrenEndByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(context.Background())
		g.GoOrdered("a", func(context.Context) error { return nil })
		g.Go("b", func(context.Context) error { return nil })
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(context.Cause(g.Context()), ErrStopped) {
			t.Fatalf("cause = %v", context.Cause(g.Context()))
		}
	})
}

func TestChildStartedWhileEndingIsCancelledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(context.Background())
		ran := false
		g.Go("starter", func(ctx context.Context) error {
			<-ctx.Done()
			synctest.Wait()
			g.GoOrdered("late", func(ctx context.Context) error {
				ran = true
				return untilDone(ctx)
			})
			return nil
		})
		if err := g.Stop(); err != nil || !ran {
			t.Fatalf("err = %v, ran = %v", err, ran)
		}
	})
}

func TestCancelledErrorOfItsOwnIsAFailure(t *testing.T) {
	g := New(context.Background())
	g.Go("inner", func(context.Context) error { return context.Canceled }) // the group has not ended
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v", err)
	}
}

func TestErrorOnTheWayDownIsKept(t *testing.T) {
	boom := errors.New("close failed")
	g := New(context.Background())
	g.GoOrdered("store", func(ctx context.Context) error { <-ctx.Done(); return boom })
	if err := g.Stop(); !errors.Is(err, boom) {
		t.Fatalf("err = %v", err)
	}
}
