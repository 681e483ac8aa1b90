// SPDX-License-Identifier: Apache-2.0

package join

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/logs"
)

// cloud answers by method, host and path; each answer is a list of pages.
type cloud struct {
	t     *testing.T
	pages map[string][]string
	asked []*http.Request
}

func (c *cloud) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	c.asked = append(c.asked, r)
	key := r.Method + " " + r.URL.Host + r.URL.Path
	if len(c.pages[key]) == 0 {
		w.WriteHeader(http.StatusNotFound)
	} else {
		_, _ = w.WriteString(c.pages[key][0])
		c.pages[key] = c.pages[key][1:]
	}
	return w.Result(), nil
}

func discover(t *testing.T, c *cloud, env map[string]string, address string) (string, error) {
	t.Helper()
	j, err := New(Config{
		Pool: "lan", Addresses: []string{address}, HTTP: c, Getenv: func(k string) string { return env[k] },
		Now: func() time.Time { return time.Unix(1_700_000_000, 0) }, Log: logs.Discard(),
	})
	if err != nil {
		return "", err
	}
	found, err := j.sources[0].addresses(t.Context())
	return strings.Join(found, " "), err
}

func TestAWS(t *testing.T) {
	page := func(next string, ips ...string) string {
		out := "<DescribeInstancesResponse><reservationSet><item><instancesSet>"
		for _, ip := range ips {
			out += "<item><privateIpAddress>" + ip + "</privateIpAddress><ipAddress>5" + ip + "</ipAddress></item>"
		}
		return out + "</instancesSet></item></reservationSet><nextToken>" + next + "</nextToken></DescribeInstancesResponse>"
	}
	c := &cloud{t: t, pages: map[string][]string{
		"PUT 169.254.169.254/latest/api/token":                               {"tok"},
		"GET 169.254.169.254/latest/meta-data/placement/region":              {"eu-west-1"},
		"GET 169.254.169.254/latest/meta-data/iam/security-credentials/":     {"role\n"},
		"GET 169.254.169.254/latest/meta-data/iam/security-credentials/role": {`{"AccessKeyId":"AK","SecretAccessKey":"s","Token":"session"}`},
		"POST ec2.eu-west-1.amazonaws.com/":                                  {page("more", "10.0.0.1"), page("", "10.0.0.2")},
	}}
	got, err := discover(t, c, nil, "provider=aws tag_key=weft tag_value=server")
	if got != "10.0.0.1 10.0.0.2" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	last := c.asked[len(c.asked)-1]
	if last.Header.Get("X-Amz-Security-Token") != "session" || !strings.Contains(last.Header.Get("Authorization"), "Credential=AK/20231114/eu-west-1/ec2/aws4_request") {
		t.Errorf("%v", last.Header)
	}
	c.pages["POST ec2.us-east-1.amazonaws.com/"] = []string{page("", "4.4.4.4"), page("")}
	env := map[string]string{"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
	if got, err := discover(t, c, env, "provider=aws tag_key=weft tag_value=server addr_type=public_v4"); got != "54.4.4.4" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := discover(t, c, env, "provider=aws tag_key=weft tag_value=server"); err == nil || !strings.Contains(err.Error(), "no machine") {
		t.Error(err)
	}
	if _, err := discover(t, c, nil, "provider=aws tag_key=weft tag_value=server"); err == nil || !strings.Contains(err.Error(), "no instance metadata") {
		t.Error(err)
	}
}

// AWS's published example of a signature.
func TestSignAWS(t *testing.T) {
	req := httptest.NewRequest("GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	signAWS(req, nil, awsCredentials{AccessKeyId: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}, "us-east-1", "iam",
		time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	if got := req.Header.Get("Authorization"); !strings.HasSuffix(got, "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7") {
		t.Error(got)
	}
}

func TestGCE(t *testing.T) {
	page := `{"items":{"zones/eu-a":{"instances":[{"status":"RUNNING","tags":{"items":["weft"]},"networkInterfaces":[{"networkIP":"10.0.0.2","accessConfigs":[{"natIP":"1.1.1.2"}]}]},
		{"status":"RUNNING","tags":{"items":["other"]},"networkInterfaces":[{"networkIP":"10.0.0.3"}]}]},
		"zones/us-a":{"instances":[{"status":"RUNNING","tags":{"items":["weft"]},"networkInterfaces":[{"networkIP":"10.0.0.4"}]}]}}NEXT}`
	c := &cloud{t: t, pages: map[string][]string{
		"GET metadata.google.internal/computeMetadata/v1/project/project-id":                      {"proj"},
		"GET metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token": {`{"access_token":"t"}`},
		"GET compute.googleapis.com/compute/v1/projects/proj/aggregated/instances":                {strings.Replace(page, "NEXT", `,"nextPageToken":"n"`, 1), strings.Replace(page, "NEXT", "", 1)},
	}}
	if got, err := discover(t, c, nil, "provider=gce tag_value=weft zone_pattern=eu-.*"); got != "10.0.0.2 10.0.0.2" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if last := c.asked[len(c.asked)-1]; last.Header.Get("Authorization") != "Bearer t" || last.URL.Query().Get("pageToken") != "n" {
		t.Errorf("%v %v", last.URL, last.Header)
	}
}

func TestAzure(t *testing.T) {
	nics := `{"value":[{"tags":{"weft":"server"},"properties":{"ipConfigurations":[{"properties":{"privateIPAddress":"10.0.0.7"}}]}},
		{"tags":{"weft":"client"},"properties":{"ipConfigurations":[{"properties":{"privateIPAddress":"10.0.0.8"}}]}}]NEXT}`
	const list = "GET management.azure.com/subscriptions/sub/providers/Microsoft.Network/networkInterfaces"
	c := &cloud{t: t, pages: map[string][]string{
		"GET 169.254.169.254/metadata/identity/oauth2/token":   {`{"access_token":"managed"}`},
		"POST login.microsoftonline.com/ten/oauth2/v2.0/token": {`{"access_token":"principal"}`},
		list: {strings.Replace(nics, "NEXT", "", 1), strings.Replace(nics, "NEXT", `,"nextLink":"https://evil.example/x"`, 1)},
		"GET management.azure.com/subscriptions/sub/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets/s/networkInterfaces": {strings.Replace(nics, "NEXT", "", 1)},
	}}
	if got, err := discover(t, c, nil, "provider=azure subscription_id=sub tag_name=weft tag_value=server"); got != "10.0.0.7" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	got, err := discover(t, c, map[string]string{"ARM_CLIENT_SECRET": "x"}, "provider=azure subscription_id=sub tenant_id=ten client_id=c resource_group=g vm_scale_set=s")
	if got != "10.0.0.7 10.0.0.8" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c.pages["GET 169.254.169.254/metadata/identity/oauth2/token"] = []string{`{"access_token":"managed"}`}
	if _, err := discover(t, c, nil, "provider=azure subscription_id=sub tag_name=weft tag_value=server"); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Error(err)
	}
}

func TestBadProviders(t *testing.T) {
	for address, want := range map[string]string{
		"provider=aws tag_key=a":                                               "wants tag_value=",
		"provider=aws tag_key=a tag_value=b color=red":                         `no setting "color"`,
		"provider=aws tag_key=a tag_value=b addr_type=public_v9":               "addr_type",
		"provider=gce tag_value=a zone_pattern=(":                              "zone_pattern",
		"provider=azure subscription_id=s":                                     "tag_name=",
		"provider=azure subscription_id=s tag_name=a secret_access_key=hidden": "tag_name=",
	} {
		_, err := discover(t, &cloud{t: t}, nil, address)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "=hidden") {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}
