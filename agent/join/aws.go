// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// aws lists the running instances of EC2 that have a tag: provider=aws tag_key=… tag_value=…
type aws struct {
	args    map[string]string
	client  *http.Client
	getenv  func(string) string
	private bool
	now     func() time.Time
}

func newAWS(args map[string]string, client *http.Client, getenv func(string) string, now func() time.Time) (source, error) {
	may := []string{"region", "access_key_id", "secret_access_key", "endpoint"}
	if err := known(args, []string{"tag_key", "tag_value"}, may); err != nil {
		return nil, err
	}
	p, err := private(args)
	return &aws{args, client, getenv, p, now}, err
}

// awsMetadata is the instance's own metadata service.
const awsMetadata = "http://169.254.169.254/latest/"

type awsCredentials struct {
	AccessKeyId, SecretAccessKey, Token string
}

func (a *aws) addresses(ctx context.Context) ([]string, error) {
	cred, region, err := a.identity(ctx)
	if err != nil {
		return nil, fmt.Errorf("provider=aws: %w", err)
	}
	endpoint := a.args["endpoint"]
	if endpoint == "" {
		endpoint = "https://ec2." + region + ".amazonaws.com/"
	}
	form := url.Values{
		"Action": {"DescribeInstances"}, "Version": {"2016-11-15"},
		"Filter.1.Name": {"tag:" + a.args["tag_key"]}, "Filter.1.Value.1": {a.args["tag_value"]},
		"Filter.2.Name": {"instance-state-name"}, "Filter.2.Value.1": {"running"},
	}
	var found []string
	for range maxPages {
		body := form.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		signAWS(req, []byte(body), cred, region, "ec2", a.now())
		data, err := send(a.client, req)
		if err != nil {
			return nil, fmt.Errorf("provider=aws: %w", err)
		}
		var page struct {
			Private []string `xml:"reservationSet>item>instancesSet>item>privateIpAddress"`
			Public  []string `xml:"reservationSet>item>instancesSet>item>ipAddress"`
			Next    string   `xml:"nextToken"`
		}
		if err := xml.Unmarshal(data, &page); err != nil {
			return nil, fmt.Errorf("provider=aws: the answer can't be read: %w", err)
		}
		if a.private {
			found = append(found, page.Private...)
		} else {
			found = append(found, page.Public...)
		}
		if page.Next == "" {
			return none(found, "provider=aws")
		}
		form.Set("NextToken", page.Next)
	}
	return nil, errPages
}

// identity finds credentials and region: in the settings, in the environment, else in the instance's metadata.
func (a *aws) identity(ctx context.Context) (cred awsCredentials, region string, err error) {
	cred = awsCredentials{AccessKeyId: a.args["access_key_id"], SecretAccessKey: a.args["secret_access_key"]}
	if cred.AccessKeyId == "" {
		cred = awsCredentials{a.getenv("AWS_ACCESS_KEY_ID"), a.getenv("AWS_SECRET_ACCESS_KEY"), a.getenv("AWS_SESSION_TOKEN")}
	}
	region = a.args["region"]
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if region == "" {
			region = a.getenv(name)
		}
	}
	if cred.AccessKeyId != "" && region != "" {
		return cred, region, nil
	}
	token, err := ask(ctx, a.client, http.MethodPut, awsMetadata+"api/token", "", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "300"})
	if err != nil {
		return cred, region, fmt.Errorf("no credentials or region in settings and environment, and no instance metadata: %w", err)
	}
	get := func(path string) (string, error) {
		data, err := ask(ctx, a.client, http.MethodGet, awsMetadata+path, "", map[string]string{"X-aws-ec2-metadata-token": string(token)})
		return strings.TrimSpace(string(data)), err
	}
	if region == "" {
		if region, err = get("meta-data/placement/region"); err != nil {
			return cred, region, err
		}
	}
	if cred.AccessKeyId != "" {
		return cred, region, nil
	}
	role, err := get("meta-data/iam/security-credentials/")
	if err != nil {
		return cred, region, fmt.Errorf("the instance has no role: %w", err)
	}
	role, _, _ = strings.Cut(role, "\n")
	text, err := get("meta-data/iam/security-credentials/" + role)
	if err != nil {
		return cred, region, err
	}
	if err := json.Unmarshal([]byte(text), &cred); err != nil || cred.AccessKeyId == "" {
		return cred, region, errors.New("the role's credentials can't be read")
	}
	return cred, region, nil
}

// signAWS signs a request: AWS Signature Version 4, over the headers that are set.
func signAWS(req *http.Request, body []byte, cred awsCredentials, region, service string, now time.Time) {
	at := now.UTC().Format("20060102T150405Z")
	day := at[:8]
	req.Header.Set("X-Amz-Date", at)
	signed := "content-type;host;x-amz-date"
	headers := "content-type:" + req.Header.Get("Content-Type") + "\nhost:" + req.URL.Host + "\nx-amz-date:" + at + "\n"
	if cred.Token != "" {
		req.Header.Set("X-Amz-Security-Token", cred.Token)
		signed += ";x-amz-security-token"
		headers += "x-amz-security-token:" + cred.Token + "\n"
	}
	path := req.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	query := strings.ReplaceAll(req.URL.Query().Encode(), "+", "%20")
	sum := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
	canonical := strings.Join([]string{req.Method, path, query, headers, signed, sum(body)}, "\n")
	scope := day + "/" + region + "/" + service + "/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + sum([]byte(canonical))
	mac := func(key []byte, data string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(data))
		return h.Sum(nil)
	}
	key := mac(mac(mac(mac([]byte("AWS4"+cred.SecretAccessKey), day), region), service), "aws4_request")
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		cred.AccessKeyId, scope, signed, hex.EncodeToString(mac(key, text))))
}
