// SPDX-License-Identifier: Apache-2.0

// Command weft-ca-aws has the mesh's root in AWS Private CA: it is a signing command (ca_provider = "command") that weft starts for each
// question; website/docs/ca.md says how. It is a module of its own, so that weft doesn't carry the AWS SDK. It keeps nothing, and starts no
// goroutine of its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/schemas"
	"github.com/aws/smithy-go/transport/http/protocol/awsjson"
)

// question is what weft writes, answer what it reads: ca/command of weft.
type question struct {
	Version     int    `json:"version"`
	Operation   string `json:"operation"`
	TrustDomain string `json:"trust_domain"`
	Datacenter  string `json:"datacenter"`
	CSR         string `json:"csr"`
	TTLSeconds  int64  `json:"ttl_seconds"`
	Certificate string `json:"certificate"`
}

type answer struct {
	Certificate string `json:"certificate,omitempty"`
	Error       string `json:"error,omitempty"`
}

const usage = `weft-ca-aws -arn ARN [-endpoint URL] [-profile NAME] [-timeout 25s]
    answers one question of weft's, on standard input: connect { ca_provider = "command"  ca_config { command = ["/usr/local/bin/weft-ca-aws", "-arn", "…"] } }
weft-ca-aws create -region REGION -name "Common Name" [-years 10] [-key-algorithm EC_prime256v1] [-endpoint URL] [-profile NAME]
    makes a root CA, which costs money from then on, and prints its ARN
Credentials are found as by the AWS CLI: files in HOME, or the role of the instance.
`

// clock is what time it is, how long is waited, and at most between tries when AWS takes no more.
type clock struct {
	now     func() time.Time
	after   func(time.Duration) <-chan time.Time
	backoff time.Duration
}

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, clock{time.Now, time.After, 4 * time.Second}))
}

// run gives the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errout io.Writer, c clock) int {
	if len(args) > 0 && args[0] == "create" {
		made, err := runCreate(ctx, args[1:], errout, c)
		if err != nil {
			fmt.Fprintf(errout, "weft-ca-aws: %v\n", err)
			return 1
		}
		fmt.Fprintln(out, made)
		return 0
	}
	var a answer
	cert, err := runAnswer(ctx, args, in, errout, c)
	if a.Certificate = cert; err != nil {
		a = answer{Error: err.Error()}
	}
	if json.NewEncoder(out).Encode(a) != nil || err != nil {
		return 1
	}
	return 0
}

// place is where the authority is, and who asks.
type place struct{ endpoint, profile string }

func flags(name string, errout io.Writer, p *place) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(errout)
	f.Usage = func() { fmt.Fprint(errout, usage) }
	f.StringVar(&p.endpoint, "endpoint", "", "URL of a VPC endpoint")
	f.StringVar(&p.profile, "profile", "", "profile of ~/.aws/config")
	return f
}

func runAnswer(ctx context.Context, args []string, in io.Reader, errout io.Writer, c clock) (string, error) {
	var p place
	f := flags("weft-ca-aws", errout, &p)
	name := f.String("arn", "", "the root CA's ARN")
	timeout := f.Duration("timeout", 25*time.Second, "how long an answer may take; weft waits for command_timeout, 30s")
	if err := f.Parse(args); err != nil || f.NArg() > 0 {
		return "", errors.Join(err, errors.New("want weft-ca-aws -arn ARN [-endpoint URL] [-profile NAME] [-timeout 25s]"))
	}
	id, err := arn.Parse(*name)
	if err != nil || id.Service != "acm-pca" || id.Region == "" || !strings.HasPrefix(id.Resource, "certificate-authority/") {
		return "", fmt.Errorf("-arn %q isn't that of a CA: arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID", *name)
	}
	var q question
	if err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(&q); err != nil {
		return "", fmt.Errorf("the question on standard input can't be read: %w", err)
	}
	if q.Version != 1 {
		return "", fmt.Errorf("weft asks in version %d of the form, this program knows 1: bring one that is as new as weft", q.Version)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("AWS gave no answer within %s", *timeout))
	defer cancel()
	client, err := connect(ctx, p, id.Region, c)
	if err != nil {
		return "", err
	}
	s := &signer{pca: client, arn: *name, partition: id.Partition, clock: c}
	cert, err := s.answer(ctx, q)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return cert, err
}

// connect makes the client of a region. AWS is asked for credentials when they are first needed.
func connect(ctx context.Context, p place, region string, c clock) (*acmpca.Client, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRegion(region),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 6, c.backoff })
		}),
	}
	if p.profile != "" {
		options = append(options, config.WithSharedConfigProfile(p.profile))
	}
	if p.endpoint != "" {
		u, err := url.Parse(p.endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "127.0.0.1") {
			return nil, fmt.Errorf("-endpoint %q must begin with https://", p.endpoint)
		}
	}
	conf, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("the AWS configuration: %w", err)
	}
	return acmpca.NewFromConfig(conf, func(o *acmpca.Options) {
		o.Protocol = awsjson.New11(schemas.ACMPrivateCA) // the API as it is documented
		o.HTTPClient = &http.Client{Transport: http.DefaultTransport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		if p.endpoint != "" {
			o.BaseEndpoint = &p.endpoint
		}
	}), nil
}
