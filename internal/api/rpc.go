// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// TokenHeader carries the caller's token, in HTTP requests and in the metadata of gRPC calls.
const TokenHeader = "x-consul-token"

// WithToken gives an outgoing gRPC call its caller's token. A call about one registration carries that registration's own
// besides, in its message.
func WithToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, TokenHeader, token)
}

// RPCToken is the token that an incoming gRPC call carries, "" for none.
func RPCToken(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, TokenHeader); len(v) > 0 {
		return v[0]
	}
	return ""
}

// AuthorizeRPC is nil if the caller of a gRPC call has this permission on the resource of this name.
func AuthorizeRPC(ctx context.Context, r Resolver, p Permission, name string) error {
	subject, err := r.Resolve(ctx, RPCToken(ctx))
	if err != nil {
		return err
	}
	return subject.Allow(p, name)
}
