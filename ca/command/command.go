// SPDX-License-Identifier: Apache-2.0

// Package command has certificates of authorities signed by a program: an HSM's client, a company's own CA, anything that
// can be scripted. The program is started once for each question, without a shell and with an empty environment but for PATH and HOME,
// gets one JSON object on its standard input, and answers with one on its standard output. website/docs/ca.md has the form. It
// owns no goroutine beyond a call.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/weftmesh/weft/ca"
)

// Question is what the program reads.
type Question struct {
	Version     int    `json:"version"` // 1
	Operation   string `json:"operation"`
	TrustDomain string `json:"trust_domain"`
	Datacenter  string `json:"datacenter"`
	// CSR and TTLSeconds are of sign-intermediate, Certificate of cross-sign: the root to sign.
	CSR         string `json:"csr,omitempty"`
	TTLSeconds  int64  `json:"ttl_seconds,omitempty"`
	Certificate string `json:"certificate,omitempty"`
}

// The operations.
const (
	OpRoot             = "root"
	OpSignIntermediate = "sign-intermediate"
	OpCrossSign        = "cross-sign"
)

// Answer is what it writes: one of the two.
type Answer struct {
	Certificate string `json:"certificate"`
	// Error says what is wrong; "unsupported", to cross-sign, that it never does.
	Error string `json:"error"`
}

const (
	maxAnswer = 1 << 20
	maxStderr = 1 << 10
	unable    = "unsupported"
)

// New makes the provider. It starts nothing.
func New(rand io.Reader) *ca.Delegated { return ca.NewDelegated(ca.CommandName, signer{}, rand) }

type signer struct{}

var _ ca.RootSigner = signer{}

func (signer) Root(ctx context.Context, s ca.Setup) (string, error) {
	return ask(ctx, s, Question{Operation: OpRoot})
}

func (signer) SignIntermediate(ctx context.Context, s ca.Setup, csrPEM string, ttl time.Duration) (string, error) {
	return ask(ctx, s, Question{Operation: OpSignIntermediate, CSR: csrPEM, TTLSeconds: int64(ttl / time.Second)})
}

func (signer) CrossSign(ctx context.Context, s ca.Setup, rootPEM string) (string, error) {
	return ask(ctx, s, Question{Operation: OpCrossSign, Certificate: rootPEM})
}

// ask runs the program for one question.
func ask(ctx context.Context, s ca.Setup, q Question) (string, error) {
	conf := s.Config.WithDefaults().Command
	if len(conf.Argv) == 0 {
		return "", ca.Failed("command", q.Operation, errors.New("no command is configured"))
	}
	fail := func(err error) (string, error) { return "", ca.Failed(conf.Argv[0], q.Operation, err) }
	q.Version, q.TrustDomain, q.Datacenter = 1, string(s.TrustDomain), s.Datacenter
	in, err := json.Marshal(q)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, conf.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, conf.Argv[0], conf.Argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(append(in, '\n'))
	out, said := &bounded{left: maxAnswer}, &bounded{left: maxStderr}
	cmd.Stdout, cmd.Stderr = out, said
	// It and all that it has started end together, and what still holds its output is not waited for.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return fail(fmt.Errorf("it didn't answer within %s", conf.Timeout))
	}
	var a Answer
	dec := json.NewDecoder(bytes.NewReader(out.Bytes()))
	dec.DisallowUnknownFields()
	jsonErr := dec.Decode(&a)
	switch {
	case jsonErr == nil && a.Error == unable && q.Operation == OpCrossSign:
		return "", ca.ErrNoCrossSigning
	case jsonErr == nil && a.Error != "":
		return fail(fmt.Errorf("it says %.300q", a.Error))
	case runErr != nil:
		return fail(fmt.Errorf("%w; on its standard error: %.300q", runErr, strings.TrimSpace(said.String())))
	case out.over:
		return fail(fmt.Errorf("its answer is longer than %d bytes", maxAnswer))
	case jsonErr != nil:
		return fail(fmt.Errorf("its answer isn't the JSON object that was expected: %w", jsonErr))
	case a.Certificate == "":
		return fail(errors.New("its answer has neither certificate nor error"))
	}
	return a.Certificate, nil
}

// bounded keeps the beginning of what is written.
type bounded struct {
	bytes.Buffer
	left int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.Buffer.Write(p[:n])
	b.left -= n
	b.over = b.over || n < len(p)
	return len(p), nil
}
