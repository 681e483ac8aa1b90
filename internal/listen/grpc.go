// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
)

// GRPCCredentials returns transport credentials for a grpc.Server that serves
// connections of a Door. The handshake is done already; these hand its outcome
// to the handlers as credentials.TLSInfo (peer.FromContext), or, for plain
// connections, what says that they are and lets Caller find out whose. For
// servers only.
func GRPCCredentials() credentials.TransportCredentials { return grpcCreds{} }

type grpcCreds struct{}

// ErrServerOnly is returned where GRPCCredentials are used by a client.
var ErrServerOnly = errors.New("the credentials of a listener can't be used to dial")

func (grpcCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, ErrServerOnly
}

func (grpcCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return c, plainInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}, conn: c}, nil
	}
	info := credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
	if certs := info.State.PeerCertificates; len(certs) > 0 && len(certs[0].URIs) == 1 {
		info.SPIFFEID = certs[0].URIs[0]
	}
	return c, info, nil
}

// plainInfo is what is known of a connection without TLS.
type plainInfo struct {
	credentials.CommonAuthInfo
	conn net.Conn
}

// AuthType is the name of insecure credentials.
func (plainInfo) AuthType() string { return "insecure" }

func (grpcCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (grpcCreds) Clone() credentials.TransportCredentials { return grpcCreds{} }

// OverrideServerName does nothing: there is no server name here.
func (grpcCreds) OverrideServerName(string) error { return nil }
