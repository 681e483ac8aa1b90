// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// A login in a browser: the agent says where the provider asks who it is, the browser comes back to a port of this machine with a code, and
// the agent gives a token for it. The port takes one request: one for its own name, with the state that only this login's browser has.

const (
	callbackPath = "/oidc/callback"
	callbackLife = 10 * time.Minute // the servers' patience too
)

// loginInBrowser gives the token's secret.
func loginInBrowser(c *ucli.Context, env Env, method string, meta map[string]string) (string, error) {
	address := c.String("oidc-callback-listen-addr")
	host, _, err := net.SplitHostPort(address)
	if ip, ipErr := netip.ParseAddr(host); err != nil || host != "localhost" && (ipErr != nil || !ip.IsLoopback()) {
		return "", usage("-oidc-callback-listen-addr %q: must be a port on this machine, such as localhost:8550: who else may come isn't who logs in", address)
	}
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	spec := listen.Spec{Name: "oidc_callback", Network: "tcp", Address: address, Limits: listen.Limits{MaxUnauthenticatedLoopback: 64, MaxBodyBytes: 1}}
	l, err := door.Stream(c.Context, spec)
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	b := &callback{host: net.JoinHostPort(host, port), nonce: rand.Text(), result: make(chan loggedIn, 1)}
	to, err := b.begin(c, env, method, meta)
	if err != nil {
		return "", errors.Join(err, l.Close())
	}
	b.end = func(ctx context.Context, code string) (string, error) {
		var t doc
		err := ask(c, env, http.MethodPost, "/v1/acl/oidc/callback", nil, doc{"AuthMethod": method, "State": b.state, "Code": code, "ClientNonce": b.nonce}, &t)
		return text(t["SecretID"]), err
	}
	ctx, cancel := context.WithTimeoutCause(c.Context, callbackLife, fmt.Errorf("nobody came back from the browser within %s", callbackLife))
	defer cancel()
	g := run.New(ctx)
	server := door.HTTPServer(spec, b)
	server.SetKeepAlivesEnabled(false)
	g.Go("callback", func(context.Context) error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	var got loggedIn
	g.Go("login", func(ctx context.Context) error {
		fmt.Fprintf(env.Stdout, "Complete the login via your OIDC provider. Launching browser to:\n\n    %s\n\n", to)
		if err := openBrowser(env, to); err != nil {
			fmt.Fprintf(env.Stderr, "No browser could be opened (%v): open the address above in one on this machine.\n", err)
		}
		select {
		case got = <-b.result:
		case <-ctx.Done():
			got.err = context.Cause(ctx)
		}
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(patience) != nil { // the page is on its way to the browser
			return server.Close()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return "", err
	}
	return got.secret, got.err
}

type loggedIn struct {
	secret string
	err    error
}

// callback answers the browser when it comes back.
type callback struct {
	host, state, nonce string
	end                func(ctx context.Context, code string) (string, error)
	result             chan loggedIn

	once sync.Once
}

// begin asks where the browser has to go.
func (b *callback) begin(c *ucli.Context, env Env, method string, meta map[string]string) (string, error) {
	var answer struct{ AuthURL string }
	body := doc{"AuthMethod": method, "RedirectURI": "http://" + b.host + callbackPath, "ClientNonce": b.nonce, "Meta": meta}
	if err := ask(c, env, http.MethodPost, "/v1/acl/oidc/auth-url", nil, body, &answer); err != nil {
		return "", err
	}
	u, err := url.Parse(answer.AuthURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("the agent gave %.100q as the provider's address, which is no web page's", answer.AuthURL)
	}
	if b.state = u.Query().Get("state"); b.state == "" {
		return "", errors.New("the agent gave a provider's address without a state, so that anybody could end this login")
	}
	return u.String(), nil
}

func (b *callback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	q := r.URL.Query()
	mode := r.Header.Get("Sec-Fetch-Mode")
	switch {
	case !strings.EqualFold(r.Host, b.host) && !guard.Off("C119"): // a name of somebody else's that leads here
		page(w, http.StatusForbidden, "This address is for a login of this machine alone.")
	case r.URL.Path != callbackPath:
		page(w, http.StatusNotFound, "Nothing is here.")
	case r.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		page(w, http.StatusMethodNotAllowed, "A browser comes here by itself.")
	case mode != "" && mode != "navigate" && !guard.Off("C119"): // a page asks, not a person
		page(w, http.StatusForbidden, "This address is for a browser's own window.")
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(b.state)) != 1 && !guard.Off("C119"):
		page(w, http.StatusForbidden, "This isn't the login that was begun here. Begin again with the address that weft login printed.")
	default:
		first := false
		b.once.Do(func() { first = true })
		if !first {
			page(w, http.StatusGone, "This login is done. You can close this window.")
			return
		}
		b.finish(w, r, q)
	}
}

// finish ends the login with what the provider said.
func (b *callback) finish(w http.ResponseWriter, r *http.Request, q url.Values) {
	var got loggedIn
	switch {
	case q.Get("error") != "":
		got.err = fmt.Errorf("the provider says %.100q", strings.TrimSpace(q.Get("error")+" "+q.Get("error_description")))
	case q.Get("code") == "":
		got.err = errors.New("the provider gave no code")
	default:
		got.secret, got.err = b.end(r.Context(), q.Get("code"))
	}
	if got.err == nil && got.secret == "" {
		got.err = errors.New("the agent gave no token")
	}
	if got.err != nil {
		page(w, http.StatusForbidden, "The login failed: "+got.err.Error())
	} else {
		page(w, http.StatusOK, "You are logged in. You can close this window.")
	}
	b.result <- got
}

func page(w http.ResponseWriter, code int, text string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, "<!DOCTYPE html><title>weft</title><p>%s</p>\n", html.EscapeString(text)) // the browser may be gone
}

// openBrowser starts what $BROWSER names, or what the system opens pages with, and doesn't wait for it.
func openBrowser(env Env, to string) error {
	argv := []string{"xdg-open"}
	if runtime.GOOS == "darwin" {
		argv = []string{"open"}
	}
	if named, _, _ := strings.Cut(env.Getenv("BROWSER"), ":"); named != "" {
		argv = strings.Fields(named)
	}
	placed := false
	for i, word := range argv {
		if strings.Contains(word, "%s") {
			argv[i], placed = strings.ReplaceAll(word, "%s", to), true
		}
	}
	if !placed {
		argv = append(argv, to)
	}
	cmd := exec.Command(cmp.Or(argv[0], "xdg-open"), argv[1:]...) //nolint:gosec // the user's own choice; no shell sees the address
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}
