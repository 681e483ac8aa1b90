// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"context"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/internal/api"
)

// Conn gives each call on a connection to the servers the agent's own token.
func (t *Tokens) Conn(inner grpc.ClientConnInterface) grpc.ClientConnInterface {
	return &conn{inner, t}
}

type conn struct {
	grpc.ClientConnInterface
	tokens *Tokens
}

func (c *conn) with(ctx context.Context) context.Context {
	if token := c.tokens.Own(Agent); token != "" {
		return api.WithToken(ctx, token)
	}
	return ctx
}

// Invoke makes a unary call.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(c.with(ctx), method, args, reply, opts...)
}

// NewStream begins a stream.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(c.with(ctx), desc, method, opts...)
}
