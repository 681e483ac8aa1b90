// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// CertificateView is one certificate of this host with its remaining life.
type CertificateView struct {
	// Kind is "leaf" (of a service), "root", "intermediate" (which signs leaves), "node" (by which nodes know each other), or "https" or
	// "grpc" (of a listener's file).
	Kind        string
	Name        string // the service, the root's name, or the certificate's
	URI         string `json:",omitempty"`
	Serial      string
	ValidAfter  time.Time
	ValidBefore time.Time
	// Left is the share of its life that remains, from 1 to 0.
	Left float64
	// Status is passing, warning or critical.
	Status string
	Error  string `json:",omitempty"` // why it can't be renewed

	former bool // a root under which nothing is signed any more
	given  bool // by somebody who has to renew it
}

// Former says whether it is a root under which nothing is signed any more.
func (v *CertificateView) Former() bool { return v.former }

// LifeMarks are the shares of a certificate's life at which somebody is told, the most urgent last.
func LifeMarks() []float64 { return []float64{half, fifth, urgent} }

const (
	half   = 0.5  // a renewal that fails is worth a warning
	fifth  = 0.2  // who renews it by hand must begin
	late   = 0.08 // past the latest time at which weft renews a leaf or a root of its own
	urgent = 0.05
)

// status judges a certificate: critical with less than 5 % of its life left; warning with less than 50 % where its renewal fails, with
// less than 20 % where it is from a file, or should have been renewed by half, and with less than 8 % where weft renews late (a leaf with 10
// to 40 % left, its own root with 10). A root under which nothing is signed any more may end.
func (v *CertificateView) status() string {
	switch {
	case v.former:
		return catalog.HealthPassing
	case v.Left < urgent:
		return catalog.HealthCritical
	case v.Left < half && v.Error != "", v.Left < late, v.Left < fifth && (v.given || v.Kind == "intermediate" || v.Kind == "node"):
		return catalog.HealthWarning
	}
	return catalog.HealthPassing
}

// Given is a certificate that the agent shows and that isn't the mesh's.
type Given struct {
	Kind  string // "node", "https" or "grpc"
	Cert  *x509.Certificate
	Files bool // somebody else renews it
}

// Certificates lists every certificate of this host, as far as it is known.
func Certificates(c Config) ([]CertificateView, error) {
	var out []CertificateView
	state, err := c.Store.Read().CA()
	if state != nil {
		out = append(out, authorities(state)...)
	}
	if c.Leaves != nil {
		troubled := c.Leaves.Troubled()
		for key, l := range c.Leaves.All() {
			v := CertificateView{Kind: "leaf", Name: key.Name, URI: l.URI(), Serial: l.SerialNumber, ValidAfter: l.ValidAfter, ValidBefore: l.ValidBefore}
			if cause := troubled[key]; cause != nil {
				v.Error = cause.Error()
			}
			out = append(out, v)
		}
	}
	if c.Given != nil {
		for _, g := range c.Given() {
			v := certificate(g.Kind, g.Cert.Subject.CommonName, g.Cert)
			v.given = g.Files
			if v.Name == "" && len(g.Cert.DNSNames) > 0 {
				v.Name = g.Cert.DNSNames[0]
			}
			out = append(out, v)
		}
	}
	now := c.Now()
	for i := range out {
		v := &out[i]
		if life := v.ValidBefore.Sub(v.ValidAfter); life > 0 {
			v.Left = max(0, min(1, float64(v.ValidBefore.Sub(now))/float64(life)))
		}
		v.Status = v.status()
	}
	slices.SortFunc(out, func(a, b CertificateView) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name), strings.Compare(a.Serial, b.Serial))
	})
	return out, err
}

// authorities are the roots, and the intermediate that signs leaves.
func authorities(state *catalog.CAState) []CertificateView {
	var out []CertificateView
	for _, root := range state.Roots {
		out = append(out, CertificateView{
			Kind: "root", Name: root.Name, Serial: root.ID, ValidAfter: root.NotBefore, ValidBefore: root.NotAfter, former: !root.Active,
			given: state.Provider != "" && state.Provider != ca.BuiltinName,
		})
	}
	if cert, err := ca.ParseCert(state.IntermediateCert); err == nil { // else there is none of its own
		out = append(out, certificate("intermediate", cert.Subject.CommonName, cert))
	}
	return out
}

func certificate(kind, name string, cert *x509.Certificate) CertificateView {
	return CertificateView{Kind: kind, Name: name, Serial: cert.SerialNumber.Text(16), ValidAfter: cert.NotBefore, ValidBefore: cert.NotAfter}
}

// Worst is the worst status among certificates, and who have it, in words.
func Worst(certs []CertificateView) (status, text string) {
	status = catalog.HealthPassing
	var troubles []string
	for _, v := range certs {
		if v.Status == catalog.HealthPassing {
			continue
		}
		if status != catalog.HealthCritical {
			status = v.Status
		}
		t := fmt.Sprintf("%s: %s %s has %.0f %% of its life left, until %s", v.Status, v.Kind, v.Name, 100*v.Left, v.ValidBefore.UTC().Format(time.RFC3339))
		if v.Error != "" {
			t += "; it can't be renewed: " + v.Error
		}
		troubles = append(troubles, t)
	}
	if len(troubles) == 0 {
		return status, fmt.Sprintf("passing: %d certificates", len(certs))
	}
	return status, strings.Join(troubles, "\n")
}

// certificates answers with them all; with ?health as the agent's health answers do: 200, 429 for a warning, 503 for a critical one.
func (h *handlers) certificates(w http.ResponseWriter, r *api.Request) error {
	out, err := Certificates(h.c)
	if err != nil {
		return err
	}
	if !r.URL.Query().Has("health") {
		return api.WriteJSON(w, out)
	}
	status, text := Worst(out)
	if r.URL.Query().Get("format") != "text" {
		text = status
	}
	return answerHealth(w, r, statusCode(status), text, out)
}
