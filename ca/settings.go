// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// The providers beside BuiltinName.
const (
	VaultName   = "vault"
	CommandName = "command"
)

// awsName is a provider of Consul's that weft has as a command.
const awsName = "aws-pca"

// DefaultCommandTimeout bounds one call of a signing command.
const DefaultCommandTimeout = 30 * time.Second

// KubernetesTokenPath is where a pod finds its own token.
const KubernetesTokenPath = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// VaultConfig says how a Vault, or what answers like one, is reached, and where its PKI engines are.
type VaultConfig struct {
	Address   string
	Namespace string
	// Token, or AuthMethod to have one given.
	Token      Secret
	AuthMethod VaultAuth
	// RootPKIPath and IntermediatePKIPath are mounts of engines of the kind pki; they are made where they aren't there.
	RootPKIPath         string
	RootPKINamespace    string
	IntermediatePKIPath string
	// IntermediatePKINamespace and RootPKINamespace are each instead of Namespace.
	IntermediatePKINamespace string
	CAFile, CAPath           string
	CertFile, KeyFile        string
	TLSServerName            string
	TLSSkipVerify            bool
}

// VaultAuth is a login. Params are role, token_path (kubernetes), role_id, role_id_file_path, secret_id and secret_id_file_path (approle).
type VaultAuth struct {
	Type      string // "kubernetes" or "approle"; "" for none
	MountPath string // the type's name by default
	Params    map[string]Secret
}

// place is what makes it another authority.
func (v VaultConfig) place() [5]string {
	return [5]string{
		v.Address, cmp.Or(v.RootPKINamespace, v.Namespace), v.RootPKIPath,
		cmp.Or(v.IntermediatePKINamespace, v.Namespace), v.IntermediatePKIPath,
	}
}

// CommandConfig is a program that signs (see package command for what it is told).
type CommandConfig struct {
	Argv    []string
	Timeout time.Duration
}

func (c Config) validateProvider() error {
	if c.Provider != BuiltinName && c.RootCert != "" {
		return fmt.Errorf("%w: RootCert and PrivateKey are for the provider %q, with %q the root is elsewhere", ErrConfig, BuiltinName, c.Provider)
	}
	switch c.Provider {
	case BuiltinName:
		return nil
	case VaultName:
		return c.Vault.validate()
	case CommandName:
		if len(c.Command.Argv) == 0 || !filepath.IsAbs(c.Command.Argv[0]) {
			return fmt.Errorf("%w: Command must be the absolute path of a program and its arguments", ErrConfig)
		}
		if c.Command.Timeout < 0 || c.Command.Timeout > 10*time.Minute {
			return fmt.Errorf("%w: CommandTimeout is %s, must be at most 10m", ErrConfig, c.Command.Timeout)
		}
		return nil
	}
	if c.Provider == awsName {
		return fmt.Errorf(`%w: Provider is %q, which is a program beside weft: install weft-ca-aws, and say Provider %q with Command ["/usr/local/bin/weft-ca-aws", "-arn", %q]`,
			ErrConfig, awsName, CommandName, cmp.Or(c.existingARN, "the root CA's ARN"))
	}
	return fmt.Errorf("%w: Provider is %q, must be %q, %q or %q", ErrConfig, c.Provider, BuiltinName, VaultName, CommandName)
}

var vaultParams = map[string][]string{
	"kubernetes": {"role", "token_path"},
	"approle":    {"role_id", "role_id_file_path", "secret_id", "secret_id_file_path"},
}

func (v VaultConfig) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	if u, err := url.Parse(v.Address); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return bad(`Address is %q, must be Vault's URL, such as "https://vault:8200"`, v.Address)
	}
	for name, path := range map[string]string{"RootPKIPath": v.RootPKIPath, "IntermediatePKIPath": v.IntermediatePKIPath} {
		clean := strings.Trim(path, "/")
		if clean == "" || strings.ContainsAny(clean, "?#%\\ ") || slices.ContainsFunc(strings.Split(clean, "/"), func(s string) bool { return s == "" || s == "." || s == ".." }) {
			return bad("%s is %q, must be the path of a PKI engine, such as \"pki\"", name, path)
		}
	}
	if strings.Trim(v.RootPKIPath, "/") == strings.Trim(v.IntermediatePKIPath, "/") && cmp.Or(v.RootPKINamespace, v.Namespace) == cmp.Or(v.IntermediatePKINamespace, v.Namespace) {
		return bad("RootPKIPath and IntermediatePKIPath are the same, %q", v.RootPKIPath)
	}
	a := v.AuthMethod
	switch {
	case (v.CertFile == "") != (v.KeyFile == ""):
		return bad("CertFile and KeyFile must be given together")
	case a.Type == "" && v.Token == "":
		return bad("Token or AuthMethod must be given")
	case a.Type == "":
		return nil
	case v.Token != "":
		return bad("Token and AuthMethod exclude each other")
	case vaultParams[a.Type] == nil:
		return bad(`AuthMethod.Type is %q, must be "kubernetes" or "approle"`, a.Type)
	}
	for _, k := range slices.Sorted(maps.Keys(a.Params)) {
		if !slices.Contains(vaultParams[a.Type], k) {
			return bad("AuthMethod.Params.%s isn't one of %s: %s", k, a.Type, strings.Join(vaultParams[a.Type], ", "))
		}
	}
	p := a.Params
	switch {
	case a.Type == "kubernetes" && p["role"] == "":
		return bad("AuthMethod.Params.role must be given")
	case a.Type == "approle" && (p["role_id"] == "") == (p["role_id_file_path"] == ""):
		return bad("AuthMethod.Params: role_id or role_id_file_path must be given")
	case a.Type == "approle" && p["secret_id"] != "" && p["secret_id_file_path"] != "":
		return bad("AuthMethod.Params: secret_id and secret_id_file_path exclude each other")
	}
	return nil
}

// ErrLocal says that a configuration names a file or a program of the server's that the server's own configuration doesn't.
var ErrLocal = errors.New("files and commands of a server come from its own configuration alone")

// AllowedBy refuses files and commands that the server's own configuration, own, doesn't name for the same purpose, and for files the same
// Address: who may only use the API must not make a server read a file, send it elsewhere, or run a program. Errors wrap ErrConfig and
// ErrLocal, and name the field.
func (c Config) AllowedBy(own Config) error {
	theirs := own.WithDefaults().local()
	mine := c.WithDefaults().local()
	for _, field := range slices.Sorted(maps.Keys(mine)) {
		if theirs[field] != mine[field] && !guard.Off("C116") {
			return fmt.Errorf("%w: %s: %w: put it there, as connect.ca_config, on every server", ErrConfig, field, ErrLocal)
		}
	}
	return nil
}

// local gives the fields that name something of the server's host, with all that must be the same there.
func (c Config) local() map[string]string {
	out := map[string]string{}
	switch c.Provider {
	case VaultName:
		files := map[string]string{"CAFile": c.Vault.CAFile, "CAPath": c.Vault.CAPath, "CertFile": c.Vault.CertFile, "KeyFile": c.Vault.KeyFile}
		for k, v := range c.Vault.AuthMethod.Params {
			if strings.HasSuffix(k, "_path") {
				files["AuthMethod.Params."+k] = string(v)
			}
		}
		if a := c.Vault.AuthMethod; a.Type == "kubernetes" && a.Params["token_path"] == "" {
			files["AuthMethod.Type kubernetes"] = KubernetesTokenPath
		}
		for field, value := range files {
			if value != "" {
				out[field] = value + " " + c.Vault.Address
			}
		}
	case CommandName:
		out["Command"] = strings.Join(c.Command.Argv, "\x00")
	}
	return out
}

// Settings are the keys of a provider's configuration as people write them, in files (connect.ca_config) and by the API: those of all
// providers beside each other, with Consul's names. What is unset leaves a Config as it is.
type Settings struct {
	LeafCertTTL         time.Duration
	IntermediateCertTTL time.Duration
	RootCertTTL         time.Duration
	PrivateKeyType      string
	PrivateKeyBits      int
	CSRMaxPerSecond     float64
	CSRMaxConcurrent    *int
	// Of the built-in one.
	RootCert   string
	PrivateKey string
	// Of Vault.
	Address, Token, Namespace         string
	AuthMethod                        AuthSettings
	RootPKIPath, RootPKINamespace     string
	IntermediatePKIPath               string
	IntermediatePKINamespace          string
	CAFile, CAPath, CertFile, KeyFile string
	TLSServerName                     string
	TLSSkipVerify                     *bool
	// Of Consul's aws-pca, which is told what to say instead.
	ExistingARN string
	// Of a signing command.
	Command        []string
	CommandTimeout time.Duration
}

// AuthSettings is a login at Vault.
type AuthSettings struct {
	Type      string
	MountPath string
	Params    map[string]string
}

// Over lays the settings over a configuration. Those of another provider than the one that is in c are an error, and so is another
// address of a Vault without the credentials for it. Errors wrap ErrConfig.
func (s Settings) Over(c Config) (Config, error) {
	c = c.WithDefaults()
	if s.PrivateKeyType != "" && s.PrivateKeyType != c.PrivateKeyType {
		c.PrivateKeyType, c.PrivateKeyBits = s.PrivateKeyType, 0
	}
	c.LeafCertTTL = cmp.Or(s.LeafCertTTL, c.LeafCertTTL)
	c.IntermediateCertTTL = cmp.Or(s.IntermediateCertTTL, c.IntermediateCertTTL)
	c.RootCertTTL = cmp.Or(s.RootCertTTL, c.RootCertTTL)
	c.PrivateKeyBits = cmp.Or(s.PrivateKeyBits, c.PrivateKeyBits)
	c.CSRMaxPerSecond = cmp.Or(s.CSRMaxPerSecond, c.CSRMaxPerSecond)
	if s.CSRMaxConcurrent != nil {
		c.CSRMaxConcurrent = *s.CSRMaxConcurrent
	}
	if s.RootCert != "" || s.PrivateKey != "" {
		c.RootCert, c.PrivateKey = s.RootCert, Secret(s.PrivateKey)
	}
	for _, other := range []struct {
		provider, key string
		given         bool
	}{
		{BuiltinName, "RootCert", s.RootCert != "" || s.PrivateKey != ""},
		{VaultName, "Address", s.Address != ""},
		{VaultName, "Token", s.Token != ""},
		{VaultName, "AuthMethod", s.AuthMethod.Type != "" || len(s.AuthMethod.Params) > 0},
		{VaultName, "RootPKIPath", s.RootPKIPath != ""},
		{VaultName, "IntermediatePKIPath", s.IntermediatePKIPath != ""},
		{awsName, "ExistingARN", s.ExistingARN != ""},
		{CommandName, "Command", len(s.Command) > 0 || s.CommandTimeout != 0},
	} {
		if other.given && other.provider != c.Provider {
			return c, fmt.Errorf("%w: %s is a key of the provider %q, the provider is %q", ErrConfig, other.key, other.provider, c.Provider)
		}
	}
	c.existingARN = s.ExistingARN
	if len(s.Command) > 0 {
		c.Command.Argv = s.Command
	}
	c.Command.Timeout = cmp.Or(s.CommandTimeout, c.Command.Timeout)
	var err error
	c.Vault, err = s.overVault(c.Vault)
	return c, err
}

func (s Settings) overVault(v VaultConfig) (VaultConfig, error) {
	credentials := s.Token != "" || s.AuthMethod.Type != ""
	if s.Address != "" && v.Address != "" && s.Address != v.Address && !credentials {
		return v, fmt.Errorf("%w: Address is another one: say Token or AuthMethod for it too", ErrConfig)
	}
	v.Address = cmp.Or(s.Address, v.Address)
	v.Namespace = cmp.Or(s.Namespace, v.Namespace)
	v.RootPKIPath = cmp.Or(s.RootPKIPath, v.RootPKIPath)
	v.RootPKINamespace = cmp.Or(s.RootPKINamespace, v.RootPKINamespace)
	v.IntermediatePKIPath = cmp.Or(s.IntermediatePKIPath, v.IntermediatePKIPath)
	v.IntermediatePKINamespace = cmp.Or(s.IntermediatePKINamespace, v.IntermediatePKINamespace)
	v.CAFile = cmp.Or(s.CAFile, v.CAFile)
	v.CAPath = cmp.Or(s.CAPath, v.CAPath)
	v.CertFile = cmp.Or(s.CertFile, v.CertFile)
	v.KeyFile = cmp.Or(s.KeyFile, v.KeyFile)
	v.TLSServerName = cmp.Or(s.TLSServerName, v.TLSServerName)
	if s.TLSSkipVerify != nil {
		v.TLSSkipVerify = *s.TLSSkipVerify
	}
	if credentials {
		v.Token, v.AuthMethod = Secret(s.Token), VaultAuth{Type: s.AuthMethod.Type, MountPath: s.AuthMethod.MountPath}
		if len(s.AuthMethod.Params) > 0 {
			v.AuthMethod.Params = map[string]Secret{}
			for k, p := range s.AuthMethod.Params {
				v.AuthMethod.Params[k] = Secret(p)
			}
		}
	}
	return v, nil
}

// View is the configuration in the API's form, without secrets.
func (c Config) View() map[string]any {
	c = c.WithDefaults()
	v := map[string]any{
		"LeafCertTTL": c.LeafCertTTL.String(), "IntermediateCertTTL": c.IntermediateCertTTL.String(), "RootCertTTL": c.RootCertTTL.String(),
		"PrivateKeyType": c.PrivateKeyType, "PrivateKeyBits": c.PrivateKeyBits, "CSRMaxPerSecond": c.CSRMaxPerSecond, "CSRMaxConcurrent": c.CSRMaxConcurrent,
	}
	switch c.Provider {
	case VaultName:
		for key, value := range map[string]string{
			"Address": c.Vault.Address, "Namespace": c.Vault.Namespace, "RootPKIPath": c.Vault.RootPKIPath, "RootPKINamespace": c.Vault.RootPKINamespace,
			"IntermediatePKIPath": c.Vault.IntermediatePKIPath, "IntermediatePKINamespace": c.Vault.IntermediatePKINamespace,
			"CAFile": c.Vault.CAFile, "CAPath": c.Vault.CAPath, "CertFile": c.Vault.CertFile, "KeyFile": c.Vault.KeyFile, "TLSServerName": c.Vault.TLSServerName,
		} {
			if value != "" {
				v[key] = value
			}
		}
		if c.Vault.TLSSkipVerify {
			v["TLSSkipVerify"] = true
		}
	case CommandName:
		v["Command"], v["CommandTimeout"] = c.Command.Argv, c.Command.Timeout.String()
	}
	return v
}
