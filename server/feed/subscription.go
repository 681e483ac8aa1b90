// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// subscription is one stream: what was sent, up to where, and what is wanted. Its loop owns it.
type subscription struct {
	s      *Server
	stream weftv1.Feed_SubscribeServer
	node   string
	watch  *catalog.Watch

	req       *weftv1.SubscribeRequest
	expired   bool   // the interests weren't stated again in time
	asked     bool   // an answer is due even if there is nothing in it
	stale     bool   // what is wanted has to be worked out anew
	granted   uint64 // the last change of tokens and policies that what is wanted goes by
	position  catalog.Position
	sent      map[catalog.Topic]bool // covered at the other end
	wanted    map[catalog.Topic]bool
	lacking   []catalog.Topic // wanted and not sent
	refused   []*weftv1.InterestError
	denied    map[catalog.Topic]bool // an interest needs it, and its token may not read it
	perToken  map[string]map[catalog.Topic]bool
	pieces    chan *weftv1.SubscribeResponse // to the goroutine that sends; closed at the end
	delivered chan error
}

func newSubscription(s *Server, stream weftv1.Feed_SubscribeServer, first *weftv1.SubscribeRequest) *subscription {
	u := &subscription{
		s: s, stream: stream, node: first.GetNode(), watch: s.c.Store.Watch(), req: first, asked: true, stale: true,
		sent: map[catalog.Topic]bool{}, pieces: make(chan *weftv1.SubscribeResponse), delivered: make(chan error, 1),
	}
	u.watch.Add(catalog.ACLChangedTopic()) // a token that is revoked ends what it follows
	// What the agent holds counts, if it is of this catalog's history.
	if position := wire.PositionFrom(first.GetPosition()); position.Epoch == s.c.Store.Position().Epoch {
		u.position = position
		for _, t := range wire.TopicsFrom(first.GetHeld()) {
			u.sent[t] = true
			u.watch.Add(t)
		}
	}
	return u
}

func (u *subscription) close() {
	close(u.pieces)
	u.watch.Close()
}

// sender gives each piece to gRPC, which blocks until the agent has taken most of it.
func (u *subscription) sender() {
	for piece := range u.pieces {
		u.delivered <- u.stream.Send(piece)
	}
}

// serve sends what is due, and waits for more, until the stream ends.
func (u *subscription) serve(ctx context.Context) error {
	requests, ended := make(chan *weftv1.SubscribeRequest, 1), make(chan error, 1)
	go receive(u.stream, requests, ended) // ends with the stream, which ends when its handler returns
	go u.sender()
	lease := time.NewTimer(u.s.c.Lease)
	defer lease.Stop()
	if err := u.penalty(ctx); err != nil {
		return err
	}
	for {
		if err := u.catchUp(ctx); err != nil {
			return err
		}
		select {
		case <-u.watch.Woken():
		case req := <-requests:
			lease.Reset(u.s.c.Lease)
			if u.expired || !sameInterests(u.req, req) {
				u.asked, u.stale = true, true
			}
			u.req, u.expired = req, false
		case <-lease.C:
			u.expired, u.asked, u.stale = true, true, true
		case err := <-ended:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// penalty waits as long as an agent has to that was too slow more than once.
func (u *subscription) penalty(ctx context.Context) error {
	wait := u.s.strikes.wait(u.node)
	if wait <= 0 {
		return nil
	}
	u.s.c.Log.Warn("an agent is too slow for its feed, it waits", "node", u.node, "wait", wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// catchUp sends piece after piece until the agent has been told all that there is.
func (u *subscription) catchUp(ctx context.Context) error {
	for more := true; more; {
		leave := func() {}
		if u.s.c.Store.Read().ACLChanged() != u.granted {
			u.stale = true
		}
		if u.stale || len(u.lacking) > 0 {
			var err error
			if leave, err = u.s.pace.enter(ctx); err != nil {
				return err
			}
		}
		var piece *weftv1.SubscribeResponse
		var err error
		piece, more, err = u.next(ctx)
		if err == nil && piece != nil {
			err = u.send(ctx, piece)
		}
		leave()
		if err != nil {
			return err
		}
	}
	return nil
}

// errSlow ends the stream of an agent that doesn't take what it is sent.
var errSlow = status.Error(codes.ResourceExhausted, "this agent takes what it follows too slowly; it can go on from where it was on a new stream")

func (u *subscription) send(ctx context.Context, piece *weftv1.SubscribeResponse) error {
	u.pieces <- piece
	stall := time.NewTimer(u.s.c.Stall)
	defer stall.Stop()
	select {
	case err := <-u.delivered:
		return err
	case <-stall.C:
		u.s.strikes.note(u.node)
		return errSlow
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// next makes the next piece of what the agent has to be told to get from what it has to what the catalog holds now: first the
// changes of what it has, then, once these are all told, the topics that it lacks. It is nil where there is nothing to tell;
// more says that there is something after it.
func (u *subscription) next(ctx context.Context) (piece *weftv1.SubscribeResponse, more bool, err error) {
	txn := u.s.c.Store.Read()
	items, renew, upTo, ok := txn.ChangesOf(u.sent, u.position, u.s.c.PieceBytes)
	if !ok {
		renew = slices.Collect(maps.Keys(u.sent)) // another history: nothing that it holds counts
	}
	for _, t := range renew {
		delete(u.sent, t)
	}
	if u.stale || slices.ContainsFunc(items, func(i catalog.Item) bool { return decides(i.Topic) }) || slices.ContainsFunc(renew, decides) {
		more = u.compute(ctx, txn)
	} else {
		u.lacking = append(renew, u.lacking...)
	}
	resp := &weftv1.SubscribeResponse{Position: wire.Position(upTo), Errors: u.refused, Withheld: u.withheld()}
	bytes := 0
	for _, item := range items {
		if u.wanted[item.Topic] {
			resp.Items = append(resp.Items, wire.Item(item))
			bytes += itemSize(item)
		}
	}
	if upTo == txn.Position() {
		if err := u.addTopics(txn, resp, bytes); err != nil {
			return nil, false, err
		}
	}
	for _, t := range renew { // what isn't renewed in this very piece isn't true any more, and comes later
		if !u.sent[t] {
			resp.Dropped = append(resp.Dropped, wire.Topic(t))
		}
	}
	for t := range u.sent {
		if !u.wanted[t] {
			resp.Dropped = append(resp.Dropped, wire.Topic(t))
			delete(u.sent, t)
		}
	}
	u.position = upTo
	more = more || len(u.lacking) > 0 || upTo != txn.Position()
	if !u.asked && len(resp.Items)+len(resp.Covered)+len(resp.Dropped) == 0 {
		return nil, more, nil
	}
	u.asked = false
	return resp, more, nil
}

// addTopics puts topics that are lacking into a piece, whole, until it is full. A topic that is larger than a piece has one
// of its own.
func (u *subscription) addTopics(txn *catalog.Txn, resp *weftv1.SubscribeResponse, bytes int) error {
	for len(u.lacking) > 0 {
		t := u.lacking[0]
		content, err := txn.Items(t)
		if err != nil {
			return err
		}
		size := 0
		for _, item := range content {
			size += itemSize(item)
		}
		if bytes > 0 && bytes+size > u.s.c.PieceBytes {
			return nil
		}
		for _, item := range content {
			resp.Items = append(resp.Items, wire.Item(item))
		}
		resp.Replaced, resp.Covered = append(resp.Replaced, wire.Topic(t)), append(resp.Covered, wire.Topic(t))
		u.sent[t], u.lacking, bytes = true, u.lacking[1:], bytes+size
	}
	return nil
}

// itemSize is about what an item takes in a message.
func itemSize(i catalog.Item) int { return len(i.Record) + len(i.ID) + 100 }

// decides says whether a topic's change may alter which topics are needed.
func decides(t catalog.Topic) bool {
	return t.Kind == catalog.TopicEntry || t.Kind == catalog.TopicEntries || t.Kind == catalog.TopicVirtuals
}

// compute works out the topics that the interests need, and which of them are lacking. It says whether something is watched
// that wasn't: what changed in between is seen by another look.
func (u *subscription) compute(ctx context.Context, txn *catalog.Txn) (look bool) {
	before, denied := u.wanted, u.denied
	u.granted, u.denied = txn.ACLChanged(), map[catalog.Topic]bool{}
	u.wanted, u.refused, u.perToken, u.stale = map[catalog.Topic]bool{catalog.CATopic(): true}, nil, map[string]map[catalog.Topic]bool{}, false
	for n, i := range u.req.GetInterests() {
		var err error
		switch {
		case u.expired:
			err = fmt.Errorf("not stated again for %s: nobody seems to need it any more", u.s.c.Lease)
		case n >= u.s.c.MaxInterests:
			err = fmt.Errorf("at most %d interests are served on one stream", u.s.c.MaxInterests)
		default:
			err = u.interest(ctx, txn, i)
		}
		if err != nil {
			u.refused = append(u.refused, &weftv1.InterestError{Id: i.GetId(), Message: err.Error()})
		}
	}
	u.asked = u.asked || !maps.Equal(denied, u.denied)
	u.lacking = nil
	for t := range u.wanted {
		if !u.sent[t] {
			u.lacking = append(u.lacking, t)
		}
		look = u.watch.Add(t) || look
	}
	for _, old := range []map[catalog.Topic]bool{before, u.sent} {
		for t := range old {
			if !u.wanted[t] {
				u.watch.Remove(t)
			}
		}
	}
	return look
}

// withheld are the topics that were denied to all who need them.
func (u *subscription) withheld() []*weftv1.Topic {
	var out []catalog.Topic
	for t := range u.denied {
		if !u.wanted[t] {
			out = append(out, t)
		}
	}
	return wire.Topics(out)
}

// want takes a topic in, within what its token may follow.
func (u *subscription) want(token string, t catalog.Topic) error {
	mine := u.perToken[token]
	if mine == nil {
		mine = map[catalog.Topic]bool{}
		u.perToken[token] = mine
	}
	if !mine[t] && len(mine) >= u.s.c.MaxTopics {
		return fmt.Errorf("its token follows %d topics on this stream already, which is the most", len(mine))
	}
	mine[t], u.wanted[t] = true, true
	return nil
}

func (u *subscription) interest(ctx context.Context, txn *catalog.Txn, i *weftv1.Interest) error {
	for _, t := range wire.TopicsFrom(i.GetTopics()) {
		t, err := t.Canonical(txn.Datacenter())
		if err == nil {
			err = u.s.allow(ctx, i.GetToken(), readPermission(t), t.Key.Namespace, t.Key.Name)
		}
		if err == nil {
			err = u.want(i.GetToken(), t)
		}
		if err != nil {
			return err
		}
	}
	if len(i.GetProxy()) == 0 {
		return nil
	}
	var proxy catalog.Service
	if err := catalog.FromCanonical(i.GetProxy(), &proxy); err != nil {
		return fmt.Errorf("the proxy's registration can't be read: %w", err)
	}
	if proxy.Proxy == nil {
		return fmt.Errorf("service %q isn't a proxy", proxy.ID)
	}
	if err := u.s.allow(ctx, i.GetToken(), serviceWrite, proxy.Namespace, proxy.Proxy.DestinationServiceName); err != nil {
		return err
	}
	if u.s.c.Closure == nil {
		return errors.New("this server can't tell what a proxy needs: ask for topics")
	}
	reading := txn.With().Record()
	err := u.s.c.Closure(reading, &proxy)
	for _, t := range reading.Topics() {
		if foreign(t, &proxy) {
			if denied := u.s.allow(ctx, i.GetToken(), serviceRead, t.Key.Namespace, t.Key.Name); denied != nil {
				err = errors.Join(err, fmt.Errorf("the proxy needs %s, which its token may not read: %w", t, denied))
				u.denied[t] = true
				continue
			}
		}
		if werr := u.want(i.GetToken(), t); werr != nil {
			return werr
		}
	}
	return err // with the topics read so far: what is wrong with the configuration is seen at the proxy too
}

// foreign says whether a topic is none of those that a proxy's token may follow since it may write the service: another's instances, which the
// health API shows to who may read them alone, too, and whatever is of another namespace than the proxy's. What is for all namespaces is for
// every proxy.
func foreign(t catalog.Topic, proxy *catalog.Service) bool {
	own := proxy.Scope.Name(proxy.Proxy.DestinationServiceName).Fold()
	own.Namespace = cmp.Or(own.Namespace, catalog.DefaultNamespace)
	switch t.Kind {
	case catalog.TopicCA, catalog.TopicNode, catalog.TopicNodes:
		return false
	case catalog.TopicService, catalog.TopicConnect:
		return t.Key.Name != own.Name || t.Key.Namespace != own.Namespace
	case catalog.TopicEntry:
		switch t.Entry {
		case catalog.KindProxyDefaults, catalog.KindMesh, catalog.KindJWTProvider:
			return false
		}
	}
	return t.Key.Namespace != own.Namespace && t.Key.Namespace != catalog.Wildcard
}

func readPermission(t catalog.Topic) api.Permission {
	switch t.Kind {
	case catalog.TopicCA:
		return api.Permission{}
	case catalog.TopicNode: // with its services in all namespaces
		return nodeWrite
	case catalog.TopicNodes:
		return nodeRead
	}
	return serviceRead
}
