// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// known refuses settings that a provider doesn't have, and wants those that it must have.
func known(args map[string]string, must, may []string) error {
	all := slices.Concat(must, may, []string{"addr_type"})
	for k := range args {
		if k != "provider" && !slices.Contains(all, k) {
			return fmt.Errorf("provider=%s has no setting %q: it has %s", args["provider"], k, strings.Join(all, ", "))
		}
	}
	for _, k := range must {
		if args[k] == "" {
			return fmt.Errorf("provider=%s wants %s=", args["provider"], k)
		}
	}
	return nil
}

// private says whether a machine's private or public address is asked for.
func private(args map[string]string) (bool, error) {
	switch t := args["addr_type"]; t {
	case "", "private_v4", "private_ip":
		return true, nil
	case "public_v4", "public_ip":
		return false, nil
	default:
		return false, fmt.Errorf("addr_type=%s: want private_v4 or public_v4", t)
	}
}

// ask makes a request and gives its answer's body. Errors name the host, and no secret.
func ask(ctx context.Context, client *http.Client, method, url, body string, header map[string]string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	return send(client, req)
}

func send(client *http.Client, req *http.Request) ([]byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %.200s", req.URL.Host, resp.Status, strings.TrimSpace(string(data)))
	}
	return data, nil
}

// maxAnswer bounds one page of a cloud's list, maxPages how many there may be.
const (
	maxAnswer = 16 << 20
	maxPages  = 100
)

var errPages = errors.New("the list has more pages than a list of machines can have")

// askJSON is ask for JSON.
func askJSON(ctx context.Context, client *http.Client, method, url, body string, header map[string]string, out any) error {
	data, err := ask(ctx, client, method, url, body, header)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	return nil
}

// none is the error of a list that has nothing in it.
func none(found []string, what string) ([]string, error) {
	if len(found) == 0 {
		return nil, fmt.Errorf("%s lists no machine that fits", what)
	}
	return found, nil
}
