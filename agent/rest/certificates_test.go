// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"strings"
	"testing"
)

func TestCertificateStatus(t *testing.T) {
	for _, tc := range []struct {
		v    CertificateView
		want string
	}{
		{CertificateView{Kind: "leaf", Left: 0.11}, "passing"},
		{CertificateView{Kind: "leaf", Left: 0.07}, "warning"},
		{CertificateView{Kind: "leaf", Left: 0.04}, "critical"},
		{CertificateView{Kind: "leaf", Left: 0.6, Error: "no server"}, "passing"},
		{CertificateView{Kind: "leaf", Left: 0.4, Error: "no server"}, "warning"},
		{CertificateView{Kind: "root", Left: 0.19}, "passing"},
		{CertificateView{Kind: "root", Left: 0.19, given: true}, "warning"},
		{CertificateView{Kind: "intermediate", Left: 0.3}, "passing"},
		{CertificateView{Kind: "intermediate", Left: 0.19}, "warning"},
		{CertificateView{Kind: "node", Left: 0.19}, "warning"},
		{CertificateView{Kind: "https", Left: 0.3, given: true}, "passing"},
		{CertificateView{Kind: "https", Left: 0.19, given: true}, "warning"},
		{CertificateView{Kind: "https", Left: 0.04, given: true}, "critical"},
		{CertificateView{Kind: "root", former: true}, "passing"},
		{CertificateView{}, "critical"},
	} {
		if got := tc.v.status(); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.v, got, tc.want)
		}
	}
}

func TestWorst(t *testing.T) {
	well, ill := CertificateView{Kind: "leaf", Name: "a", Status: "passing"}, CertificateView{Kind: "leaf", Name: "b", Status: "warning", Error: "no server"}
	dying := CertificateView{Kind: "https", Name: "c", Status: "critical"}
	for _, tc := range []struct {
		certs  []CertificateView
		status string
		text   string
	}{
		{nil, "passing", "0 certificates"},
		{[]CertificateView{well, well}, "passing", "2 certificates"},
		{[]CertificateView{well, ill}, "warning", "it can't be renewed: no server"},
		{[]CertificateView{dying, ill}, "critical", "https c has"},
		{[]CertificateView{ill, dying, well}, "critical", "leaf b has"},
	} {
		if status, text := Worst(tc.certs); status != tc.status || !strings.Contains(text, tc.text) {
			t.Errorf("%v: %s, %s", tc.certs, status, text)
		}
	}
}
