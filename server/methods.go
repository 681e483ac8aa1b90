// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/seal"
)

// The secrets of auth methods, by which servers ask others who logs in, are sealed in the log as the CAs' keys are.

// sealedMethod is the purpose; the method's name follows.
const sealedMethod = "weft: the secrets of the auth method "

// sealMethod gives a method whose secrets are sealed.
func (s *Server) sealMethod(ctx context.Context, m *catalog.ACLAuthMethod) (*catalog.ACLAuthMethod, error) {
	return m.ChangeSecrets(func(secret string) (string, error) { return s.sealText(ctx, sealedMethod+m.Name, secret) })
}

// openMethod gives a method whose secrets are in clear.
func (s *Server) openMethod(ctx context.Context, m *catalog.ACLAuthMethod) (*catalog.ACLAuthMethod, error) {
	return m.ChangeSecrets(func(secret string) (string, error) { return s.unsealText(ctx, sealedMethod+m.Name, secret) })
}

// sealedLogin is the purpose of the keys that seal what browsers carry.
const sealedLogin = "weft: logins in browsers"

// sealForBrowser seals what a browser carries from one server to another, by a key that the servers share already: who asks is a stranger, and
// nobody else is asked for him.
func (s *Server) sealForBrowser(purpose string, data []byte) ([]byte, error) {
	key, ok := s.ring.Active()
	if !ok {
		return nil, fmt.Errorf("%w: the servers share no key yet", api.ErrNoLeader)
	}
	return key.For(sealedLogin).Seal(purpose, data, s.c.Rand)
}

// openFromBrowser opens what any of the servers sealed for a browser, and nothing that is in clear.
func (s *Server) openFromBrowser(purpose string, data []byte) ([]byte, error) {
	if _, sealed := seal.Is(data); !sealed {
		return nil, seal.ErrDamaged
	}
	return seal.Open(func(id string) (seal.Key, bool) {
		for _, k := range s.ring.Keys() {
			if k = k.For(sealedLogin); k.ID() == id {
				return k, true
			}
		}
		return seal.Key{}, false
	}, purpose, data)
}

// sealMethods seals what was written by an older weft, or came with a snapshot.
func (s *Server) sealMethods(ctx context.Context) error {
	return s.changeMethods(ctx, func(m *catalog.ACLAuthMethod) (*catalog.ACLAuthMethod, error) {
		clear := false
		next, err := m.ChangeSecrets(func(secret string) (string, error) {
			if strings.HasPrefix(secret, sealedText) {
				return secret, nil
			}
			clear = true
			return s.sealText(ctx, sealedMethod+m.Name, secret)
		})
		if !clear {
			return nil, err
		}
		return next, err
	})
}

// forgetMethodSecrets takes those secrets out that can't be opened: who logs in by such a method is refused until it has one again.
func (s *Server) forgetMethodSecrets(ctx context.Context) error {
	return s.changeMethods(ctx, func(m *catalog.ACLAuthMethod) (*catalog.ACLAuthMethod, error) {
		_, err := s.openMethod(ctx, m)
		if !errors.Is(err, seal.ErrNoKey) && !errors.Is(err, seal.ErrDamaged) {
			return nil, err
		}
		out, err := m.ChangeSecrets(func(string) (string, error) { return "", nil })
		s.c.Log.Warn("the restored auth method's secrets are thrown away: nobody logs in by it until it is written anew", "method", m.Name)
		return out, err
	})
}

// changeMethods writes the auth methods that change gives another form; nil leaves one as it is.
func (s *Server) changeMethods(ctx context.Context, change func(*catalog.ACLAuthMethod) (*catalog.ACLAuthMethod, error)) error {
	defer s.LockEntries()()
	all, err := s.store.Read().ACLList(catalog.ACLAuthMethods)
	if err != nil {
		return err
	}
	for _, o := range all {
		next, err := change(o.AuthMethod)
		if err == nil && next != nil {
			_, err = s.Propose(ctx, catalog.SetACL{Objects: []catalog.ACLObject{{AuthMethod: next}}})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
