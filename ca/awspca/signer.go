// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"
	"github.com/aws/smithy-go"
)

// The operations of a signing command.
const (
	opRoot             = "root"
	opSignIntermediate = "sign-intermediate"
	opCrossSign        = "cross-sign"
)

// shortLived is how long certificates of a CA in that mode may live.
const shortLived = 7 * 24 * time.Hour

// signer answers for one CA.
type signer struct {
	pca            *acmpca.Client
	arn, partition string
	clock          clock
}

// template is the ARN of one of AWS's forms of certificates.
func (s *signer) template(name string) *string {
	return aws.String("arn:" + s.partition + ":acm-pca:::template/" + name + "/V1")
}

func (s *signer) answer(ctx context.Context, q question) (string, error) {
	switch q.Operation {
	case opRoot:
		return s.root(ctx)
	case opSignIntermediate:
		return s.signIntermediate(ctx, []byte(q.CSR), time.Duration(q.TTLSeconds)*time.Second)
	case opCrossSign:
		return "", errors.New("unsupported") // AWS signs requests, for which the other root's key would be needed
	}
	return "", fmt.Errorf("weft asks for %q, which this program doesn't know: bring one that is as new as weft", q.Operation)
}

// authority gives the CA, if it is a root that signs.
func (s *signer) authority(ctx context.Context) (*types.CertificateAuthority, error) {
	out, err := s.pca.DescribeCertificateAuthority(ctx, &acmpca.DescribeCertificateAuthorityInput{CertificateAuthorityArn: &s.arn})
	if err != nil {
		return nil, explain("look at the CA", err)
	}
	ca := out.CertificateAuthority
	switch {
	case ca == nil || ca.CertificateAuthorityConfiguration == nil:
		return nil, errors.New("AWS says nothing of the CA")
	case ca.Type != types.CertificateAuthorityTypeRoot:
		return nil, fmt.Errorf("the CA is a %s one, and the mesh's root must be a ROOT: name another, or make one with weft-ca-aws create", ca.Type)
	case ca.Status != types.CertificateAuthorityStatusActive:
		return nil, fmt.Errorf("the CA is %s: it must be ACTIVE to sign", ca.Status)
	}
	return ca, nil
}

func (s *signer) root(ctx context.Context) (string, error) {
	if _, err := s.authority(ctx); err != nil {
		return "", err
	}
	out, err := s.pca.GetCertificateAuthorityCertificate(ctx, &acmpca.GetCertificateAuthorityCertificateInput{CertificateAuthorityArn: &s.arn})
	if err != nil {
		return "", explain("get the root", err)
	}
	return aws.ToString(out.Certificate), nil
}

// signIntermediate has an intermediate of path length 0 signed, with the request's subject, key and names.
func (s *signer) signIntermediate(ctx context.Context, csr []byte, ttl time.Duration) (string, error) {
	if block, _ := pem.Decode(csr); block == nil || ttl <= 0 {
		return "", errors.New("the question has no request, or no time")
	}
	ca, err := s.authority(ctx)
	if err != nil {
		return "", err
	}
	if ca.UsageMode == types.CertificateAuthorityUsageModeShortLivedCertificate && ttl > shortLived {
		return "", fmt.Errorf("the CA is for certificates of %s at most: set IntermediateCertTTL to that and LeafCertTTL to a third, or use a CA of the mode GENERAL_PURPOSE", shortLived)
	}
	end := s.clock.now().Add(ttl)
	if ca.NotAfter != nil && end.After(*ca.NotAfter) { // clocks differ
		end = *ca.NotAfter
	}
	return s.issue(ctx, ca.CertificateAuthorityConfiguration.SigningAlgorithm, csr, "SubordinateCACertificate_PathLen0", end)
}

// issue orders a certificate and waits until it is made.
func (s *signer) issue(ctx context.Context, algorithm types.SigningAlgorithm, csr []byte, template string, end time.Time) (string, error) {
	sum := sha256.Sum256(csr)
	ordered, err := s.pca.IssueCertificate(ctx, &acmpca.IssueCertificateInput{
		CertificateAuthorityArn: &s.arn, Csr: csr, SigningAlgorithm: algorithm, TemplateArn: s.template(template),
		Validity:         &types.Validity{Type: types.ValidityPeriodTypeAbsolute, Value: aws.Int64(end.Unix())},
		IdempotencyToken: aws.String(hex.EncodeToString(sum[:16])), // asked twice, it is paid once
	})
	if err != nil {
		return "", explain("sign", err)
	}
	wait := 250 * time.Millisecond
	for {
		got, err := s.pca.GetCertificate(ctx, &acmpca.GetCertificateInput{CertificateAuthorityArn: &s.arn, CertificateArn: ordered.CertificateArn})
		if err == nil {
			return aws.ToString(got.Certificate), nil
		}
		var pending *types.RequestInProgressException
		if !errors.As(err, &pending) {
			return "", explain("get the certificate", err)
		}
		select {
		case <-s.clock.after(wait):
			wait = min(2*wait, 3*time.Second)
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// explain says what AWS refused, and what to do about it.
func explain(what string, err error) error {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("%s: AWS can't be asked: %w", what, err)
	}
	remedy := ""
	switch api.ErrorCode() {
	case "ExpiredTokenException", "ExpiredToken", "RequestExpired":
		remedy = ": the credentials have ended; give the instance a role, or bring new ones"
	case "UnrecognizedClientException", "InvalidSignatureException", "InvalidClientTokenId", "MissingAuthenticationTokenException":
		remedy = ": the credentials are wrong, or this machine's clock is"
	case "AccessDeniedException":
		remedy = ": the policy that is needed is in website/docs/ca.md"
	case "ResourceNotFoundException", "InvalidArnException":
		remedy = ": look at the ARN, and whose account the credentials are of"
	case "ThrottlingException", "Throttling", "LimitExceededException":
		remedy = ": AWS takes no more just now; weft asks again"
	}
	return fmt.Errorf("%s: AWS says %s: %s%s", what, api.ErrorCode(), api.ErrorMessage(), remedy)
}
