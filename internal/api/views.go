// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"net/http"
	"strconv"

	"github.com/weftmesh/weft/catalog"
)

// The forms that both sides answer in alike. A service isn't among them: the agent's form of it is another one.

// CheckView is a check in the form of the health endpoints and of the agent.
type CheckView struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  map[string]any
	Namespace   string `json:",omitempty"`
	CreateIndex uint64
	ModifyIndex uint64
}

// ViewCheck is a check in that form.
func ViewCheck(c *catalog.Check) CheckView {
	v := CheckView{
		Node: c.Node, CheckID: c.CheckID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output, ServiceID: c.ServiceID,
		ServiceName: c.ServiceName, ServiceTags: c.ServiceTags, Type: c.Type, Interval: c.Interval, Timeout: c.Timeout,
		ExposedPort: c.ExposedPort, Definition: viewDefinition(&c.Definition), Namespace: Shown(c.Namespace), CreateIndex: c.CreateIndex, ModifyIndex: c.ModifyIndex,
	}
	if v.ServiceTags == nil {
		v.ServiceTags = []string{}
	}
	return v
}

// viewDefinition shows what is set, durations as strings.
func viewDefinition(d *catalog.CheckDefinition) map[string]any {
	v := map[string]any{}
	for name, text := range map[string]string{
		"HTTP": d.HTTP, "TLSServerName": d.TLSServerName, "Method": d.Method, "Body": d.Body, "TCP": d.TCP, "GRPC": d.GRPC,
		"UDP": d.UDP, "H2PING": d.H2PING, "OSService": d.OSService, "DockerContainerID": d.DockerContainerID, "Shell": d.Shell,
		"AliasNode": d.AliasNode, "AliasService": d.AliasService, "SessionName": d.SessionName,
	} {
		if text != "" {
			v[name] = text
		}
	}
	for name, set := range map[string]bool{
		"TLSSkipVerify": d.TLSSkipVerify, "GRPCUseTLS": d.GRPCUseTLS, "TCPUseTLS": d.TCPUseTLS, "H2PingUseTLS": d.H2PingUseTLS,
		"DisableRedirects": d.DisableRedirects,
	} {
		if set {
			v[name] = true
		}
	}
	if len(d.ScriptArgs) > 0 {
		v["ScriptArgs"] = d.ScriptArgs
	}
	if d.TTL > 0 {
		v["TTL"] = d.TTL.String()
	}
	if len(d.Header) > 0 {
		v["Header"] = d.Header
	}
	if d.Interval > 0 {
		v["Interval"] = d.Interval.String()
	}
	if d.Timeout > 0 {
		v["Timeout"] = d.Timeout.String()
	}
	if d.DeregisterCriticalServiceAfter > 0 {
		v["DeregisterCriticalServiceAfter"] = d.DeregisterCriticalServiceAfter.String()
	}
	return v
}

// RootsView is the trusted roots.
type RootsView struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []catalog.CARoot
}

func readRoots(t *catalog.Txn) (RootsView, error) {
	state, err := t.CA()
	if err != nil || state == nil {
		return RootsView{Roots: []catalog.CARoot{}}, err
	}
	return RootsView{state.ActiveRootID, state.TrustDomain(), append([]catalog.CARoot{}, state.Roots...)}, nil
}

// AnswerRoots answers with the trusted roots, as JSON or with ?pem as certificates.
func AnswerRoots(w http.ResponseWriter, r *Request, store *catalog.Store) error {
	q := r.URL.Query()
	pem := q.Has("pem")
	if v := q.Get("pem"); v != "" {
		var err error
		if pem, err = strconv.ParseBool(v); err != nil {
			return bad("The 'pem' query parameter must be a boolean value")
		}
	}
	if !pem {
		return Answer(w, r, store, readRoots)
	}
	v, meta, err := Query(r.Context(), store, r.Options, readRoots)
	if err != nil {
		return err
	}
	meta.Write(w.Header(), r.Options)
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	for _, root := range v.Roots {
		_, _ = io.WriteString(w, root.RootCert) // the client may be gone
	}
	return nil
}
