// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"
)

// algorithms are the keys that weft's proxies verify, and what signs with each.
var algorithms = map[string]types.SigningAlgorithm{
	"EC_prime256v1": types.SigningAlgorithmSha256withecdsa, "EC_secp384r1": types.SigningAlgorithmSha384withecdsa,
	"RSA_2048": types.SigningAlgorithmSha256withrsa, "RSA_4096": types.SigningAlgorithmSha512withrsa,
}

// runCreate makes a root CA, signs it with itself, and gives its ARN.
func runCreate(ctx context.Context, args []string, errout io.Writer, c clock) (string, error) {
	var p place
	f := flags("weft-ca-aws create", errout, &p)
	region := f.String("region", "", "where")
	name := f.String("name", "", "the root's common name")
	years := f.Int("years", 10, "how long it lives")
	key := f.String("key-algorithm", "EC_prime256v1", "its key")
	if err := f.Parse(args); err != nil {
		return "", err
	}
	signs, known := algorithms[*key]
	if *region == "" || *name == "" || f.NArg() > 0 || !known || *years < 1 {
		return "", errors.New("want weft-ca-aws create -region REGION -name \"Common Name\"; -key-algorithm is EC_prime256v1, EC_secp384r1, RSA_2048 or RSA_4096")
	}
	client, err := connect(ctx, p, *region, c)
	if err != nil {
		return "", err
	}
	made, err := client.CreateCertificateAuthority(ctx, &acmpca.CreateCertificateAuthorityInput{
		CertificateAuthorityType: types.CertificateAuthorityTypeRoot,
		CertificateAuthorityConfiguration: &types.CertificateAuthorityConfiguration{
			KeyAlgorithm: types.KeyAlgorithm(*key), SigningAlgorithm: signs, Subject: &types.ASN1Subject{CommonName: name},
		},
		Tags: []types.Tag{{Key: aws.String("weft"), Value: aws.String("mesh-root")}},
	})
	if err != nil {
		return "", explain("make the CA", err)
	}
	s := &signer{pca: client, arn: aws.ToString(made.CertificateAuthorityArn), clock: c}
	id, err := arn.Parse(s.arn)
	if err != nil {
		return "", fmt.Errorf("AWS made the CA %q, which is no ARN: %w", s.arn, err)
	}
	s.partition = id.Partition
	if err := s.install(ctx, signs, *years); err != nil {
		return "", fmt.Errorf("the CA %s is made, but not ready (delete it, or finish it in AWS's console): %w", s.arn, err)
	}
	return s.arn, nil
}

// install gives a new CA its own certificate.
func (s *signer) install(ctx context.Context, signs types.SigningAlgorithm, years int) error {
	var csr string
	for {
		out, err := s.pca.GetCertificateAuthorityCsr(ctx, &acmpca.GetCertificateAuthorityCsrInput{CertificateAuthorityArn: &s.arn})
		if err == nil {
			csr = aws.ToString(out.Csr)
			break
		}
		var pending *types.RequestInProgressException
		if !errors.As(err, &pending) {
			return explain("get its request", err)
		}
		select {
		case <-s.clock.after(time.Second): // its key is being made
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	cert, err := s.issue(ctx, signs, []byte(csr), "RootCACertificate", s.clock.now().AddDate(years, 0, 0))
	if err != nil {
		return err
	}
	_, err = s.pca.ImportCertificateAuthorityCertificate(ctx, &acmpca.ImportCertificateAuthorityCertificateInput{
		CertificateAuthorityArn: &s.arn, Certificate: []byte(strings.TrimSpace(cert)),
	})
	if err != nil {
		return explain("install its certificate", err)
	}
	return nil
}
