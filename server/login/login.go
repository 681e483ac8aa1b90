// SPDX-License-Identifier: Apache-2.0

// Package login proves who bears a token of somebody else's: a JWT, or a Kubernetes service account's; or who has logged in at an OpenID
// Connect provider. It says who it is; what they get, the binding rules say. It owns no goroutine.
package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/server/rest"
)

// The types of auth methods.
const (
	typeJWT        = "jwt"
	typeKubernetes = "kubernetes"
	typeOIDC       = "oidc"
)

// Config is what Methods are made of. Those of type oidc alone need more than Now.
type Config struct {
	Now  func() time.Time
	Rand io.Reader
	Log  *slog.Logger // nil: nothing is logged
	// Seal seals what a browser carries from one server to another for some minutes, by a key that all servers have; Open opens it. Neither
	// waits for anybody: strangers have them called.
	Seal, Open func(purpose string, data []byte) ([]byte, error)
}

// Methods verify bearer tokens and logins in browsers.
type Methods struct {
	c    Config
	keys keyCache
	used usedLogins
	busy map[string]chan struct{} // by type: a provider that is slow holds up nobody who logs in by another
}

// New makes Methods.
func New(c Config) *Methods {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	m := &Methods{
		c: c, keys: keyCache{now: c.Now, known: map[string]cachedKeys{}},
		used: usedLogins{until: map[string]time.Time{}}, busy: map[string]chan struct{}{},
	}
	for _, kind := range []string{typeJWT, typeKubernetes, typeOIDC} {
		m.busy[kind] = make(chan struct{}, atOnce)
	}
	return m
}

// Verify proves who bears a token. Its error says what isn't as it must be, and nothing of the token.
func (m *Methods) Verify(ctx context.Context, method *catalog.ACLAuthMethod, bearer string) (*rest.Bearer, error) {
	who, err := m.verify(ctx, method, bearer)
	m.note(method, err)
	return who, err
}

// elsewhere is why somebody else couldn't be asked. Strangers who log in hear that it is so: addresses within, and who answers there what, is for
// the log.
type elsewhere struct{ err error }

func (e *elsewhere) Error() string {
	return "no answer that could be used came; the server's log says more"
}

// note logs what a stranger isn't told.
func (m *Methods) note(method *catalog.ACLAuthMethod, err error) {
	if e := (*elsewhere)(nil); errors.As(err, &e) {
		m.c.Log.Warn("who an auth method has asked gives no answer", "method", method.Name, "error", e.err)
	}
}

func (m *Methods) verify(ctx context.Context, method *catalog.ACLAuthMethod, bearer string) (*rest.Bearer, error) {
	if bearer == "" {
		return nil, errors.New("no bearer token")
	}
	switch method.Type {
	case typeJWT:
		c, err := jwtConfigOf(method)
		if err != nil {
			return nil, err
		}
		if len(c.keys) == 0 { // else nobody is asked
			leave, err := m.enter(typeJWT)
			if err != nil {
				return nil, err
			}
			defer leave()
		}
		return m.verifyJWT(ctx, c, bearer)
	case typeKubernetes:
		c, err := kubernetesConfigOf(method)
		if err != nil {
			return nil, err
		}
		leave, err := m.enter(typeKubernetes)
		if err != nil {
			return nil, err
		}
		defer leave()
		return verifyKubernetes(ctx, c, bearer)
	case typeOIDC:
		return nil, errors.New("people log in by this auth method, in a browser: weft login -type oidc")
	}
	return nil, fmt.Errorf("no such type of auth method: %q", method.Type)
}

// Validate checks a method's configuration without asking anybody.
func Validate(method *catalog.ACLAuthMethod) error {
	var vars []string
	switch method.Type {
	case typeJWT, typeOIDC:
		configOf := jwtConfigOf
		if method.Type == typeOIDC {
			configOf = oidcConfigOf
		}
		c, err := configOf(method)
		if err != nil {
			return err
		}
		for _, to := range slices.Sorted(maps.Values(c.ClaimMappings)) {
			vars = append(vars, "value."+to)
		}
	case typeKubernetes:
		if _, err := kubernetesConfigOf(method); err != nil {
			return err
		}
		vars = []string{"serviceaccount.namespace", "serviceaccount.name", "serviceaccount.uid"}
	default:
		return fmt.Errorf("no auth method type %q: want jwt, oidc or kubernetes", method.Type)
	}
	return rest.CheckTokenNameFormat(method.TokenNameFormat, vars...)
}

// configInto decodes a method's Config strictly.
func configInto(method *catalog.ACLAuthMethod, dst any) error {
	doc := &decode.Document{File: "Config", Root: decode.FromAny(map[string]any(method.Config))}
	return doc.Into(dst)
}

// certificates wants the CA certificates of a place to be PEM, and the place to be named too.
func certificates(name, text, placeName, place string) error {
	switch {
	case text == "":
		return nil
	case place == "":
		return fmt.Errorf("%s has no effect without %s", name, placeName)
	case !x509.NewCertPool().AppendCertsFromPEM([]byte(text)):
		return fmt.Errorf("%s has no PEM certificate in it", name)
	}
	return nil
}

// answerMax bounds what another server's answer may hold.
const answerMax = 1 << 20

// askTimeout bounds the wait for one.
const askTimeout = 10 * time.Second

// ask makes a request of another server's, and decodes its JSON.
func ask(ctx context.Context, method, to, caCert, bearer string, body io.Reader, dst any) error {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	code, data, err := send(req, caCert)
	switch {
	case err != nil:
		return err
	case code/100 != 2:
		return &elsewhere{fmt.Errorf("%s answered %d %s", to, code, http.StatusText(code))}
	}
	if err := json.Unmarshal(data, dst); err != nil {
		return &elsewhere{fmt.Errorf("%s answered otherwise than in the JSON that is wanted: %w", to, err)}
	}
	return nil
}

// send gives the code and the body of the answer. It follows no redirect to another place, and none with a body.
func send(req *http.Request, caCert string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(req.Context(), askTimeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	if caCert != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(caCert)) {
			return 0, nil, errors.New("the CA certificate has no PEM certificate in it")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		away := to.URL.Host != via[0].URL.Host || to.URL.Scheme != via[0].URL.Scheme // who answers mustn't choose whom this host asks
		if (away || len(via) > 3 || via[0].Method != http.MethodGet) && !guard.Off("C117") {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return 0, nil, &elsewhere{err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, answerMax+1))
	if err == nil && len(data) > answerMax {
		err = fmt.Errorf("%s answered with more than %d bytes", req.URL, answerMax)
	}
	if err != nil {
		err = &elsewhere{err}
	}
	return resp.StatusCode, data, err
}

// kubernetesConfig is that of a kubernetes method.
type kubernetesConfig struct {
	Host, CACert, ServiceAccountJWT string
	MapNamespaces                   bool
	ConsulNamespacePrefix           string
	ConsulNamespaceOverrides        map[string]string
}

func kubernetesConfigOf(method *catalog.ACLAuthMethod) (*kubernetesConfig, error) {
	var c kubernetesConfig
	if err := configInto(method, &c); err != nil {
		return nil, err
	}
	switch {
	case c.Host == "":
		return nil, errors.New("Config.Host is required: the API server's URL")
	case secureURL("Config.Host", c.Host) != nil:
		return nil, secureURL("Config.Host", c.Host)
	case c.CACert == "" && strings.HasPrefix(c.Host, "https://"):
		return nil, errors.New("Config.CACert is required: the API server's CA certificates, PEM")
	case certificates("Config.CACert", c.CACert, "Config.Host", c.Host) != nil:
		return nil, certificates("Config.CACert", c.CACert, "Config.Host", c.Host)
	case c.ServiceAccountJWT == "":
		return nil, errors.New("Config.ServiceAccountJWT is required: who may review tokens")
	case c.MapNamespaces:
		return nil, errors.New("Config.MapNamespaces: tokens are of no namespace: bind a policy with a block namespace \"…\" { … } instead")
	}
	return &c, nil
}

// verifyKubernetes asks the API server whose token it is (authentication.k8s.io/v1, TokenReview).
func verifyKubernetes(ctx context.Context, c *kubernetesConfig, bearer string) (*rest.Bearer, error) {
	type review struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Token string `json:"token"`
		} `json:"spec"`
		Status struct {
			Authenticated bool   `json:"authenticated"`
			Error         string `json:"error"`
			User          struct {
				Username string   `json:"username"`
				UID      string   `json:"uid"`
				Groups   []string `json:"groups"`
			} `json:"user"`
		} `json:"status"`
	}
	var q, a review
	q.APIVersion, q.Kind, q.Spec.Token = "authentication.k8s.io/v1", "TokenReview", bearer
	data, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	host := strings.TrimSuffix(c.Host, "/")
	if err := ask(ctx, http.MethodPost, host+"/apis/authentication.k8s.io/v1/tokenreviews", c.CACert, c.ServiceAccountJWT, strings.NewReader(string(data)), &a); err != nil {
		return nil, fmt.Errorf("the API server didn't review the token: %w", err)
	}
	if a.Status.Error != "" || !a.Status.Authenticated {
		return nil, errors.New("the API server doesn't take the token")
	}
	parts := strings.Split(a.Status.User.Username, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" || !slices.Contains(a.Status.User.Groups, "system:serviceaccounts") {
		return nil, errors.New("the token isn't a service account's")
	}
	namespace, name, uid := parts[2], parts[3], a.Status.User.UID
	// An annotation of the service account may give another name to the service.
	var account struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := ask(ctx, http.MethodGet, host+"/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name, c.CACert, c.ServiceAccountJWT, nil, &account); err != nil {
		return nil, fmt.Errorf("the service account can't be read: %w", err)
	}
	if other := account.Metadata.Annotations["consul.hashicorp.com/service-name"]; other != "" {
		name = other
	}
	fields := map[string]any{"serviceaccount": map[string]string{"namespace": namespace, "name": name, "uid": uid}}
	return &rest.Bearer{Fields: fields, Vars: map[string]string{
		"serviceaccount.namespace": namespace, "serviceaccount.name": name, "serviceaccount.uid": uid,
	}}, nil
}
