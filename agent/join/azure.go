// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// azure lists the network interfaces that have a tag (provider=azure tag_name=… tag_value=…), or those of a scale set
// (resource_group=… vm_scale_set=…): as a service principal, or as the machine's managed identity.
type azure struct {
	args   map[string]string
	client *http.Client
	secret string
}

func newAzure(args map[string]string, client *http.Client, getenv func(string) string) (source, error) {
	err := known(args, []string{"subscription_id"},
		[]string{"tag_name", "tag_value", "resource_group", "vm_scale_set", "tenant_id", "client_id", "secret_access_key"})
	if err != nil {
		return nil, err
	}
	if p, err := private(args); err != nil || !p {
		return nil, errors.Join(err, errors.New("provider=azure lists private addresses"))
	}
	tag, set := args["tag_name"] != "" && args["tag_value"] != "", args["resource_group"] != "" && args["vm_scale_set"] != ""
	if tag == set {
		return nil, errors.New("provider=azure wants tag_name= and tag_value=, or resource_group= and vm_scale_set=")
	}
	secret := args["secret_access_key"]
	if secret == "" {
		secret = getenv("ARM_CLIENT_SECRET")
	}
	return &azure{args, client, secret}, nil
}

const azureManagement = "https://management.azure.com"

func (a *azure) addresses(ctx context.Context) ([]string, error) {
	found, err := a.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("provider=azure: %w", err)
	}
	return none(found, "provider=azure")
}

func (a *azure) list(ctx context.Context) ([]string, error) {
	token, err := a.token(ctx)
	if err != nil {
		return nil, err
	}
	next := azureManagement + "/subscriptions/" + url.PathEscape(a.args["subscription_id"])
	if set := a.args["vm_scale_set"]; set != "" {
		next += "/resourceGroups/" + url.PathEscape(a.args["resource_group"]) + "/providers/Microsoft.Compute/virtualMachineScaleSets/" +
			url.PathEscape(set) + "/networkInterfaces?api-version=2018-10-01"
	} else {
		next += "/providers/Microsoft.Network/networkInterfaces?api-version=2023-09-01"
	}
	var found []string
	for range maxPages {
		var page struct {
			Value []struct {
				Tags       map[string]string
				Properties struct {
					IPConfigurations []struct {
						Properties struct{ PrivateIPAddress string }
					}
				}
			}
			NextLink string
		}
		if err := askJSON(ctx, a.client, http.MethodGet, next, "", map[string]string{"Authorization": "Bearer " + token}, &page); err != nil {
			return nil, err
		}
		for _, nic := range page.Value {
			if name := a.args["tag_name"]; name != "" && nic.Tags[name] != a.args["tag_value"] {
				continue
			}
			for _, c := range nic.Properties.IPConfigurations {
				if ip := c.Properties.PrivateIPAddress; ip != "" {
					found = append(found, ip)
				}
			}
		}
		if page.NextLink == "" {
			return found, nil
		}
		if next = page.NextLink; !strings.HasPrefix(next, azureManagement+"/") {
			return nil, errors.New("the list goes on at another host")
		}
	}
	return nil, errPages
}

func (a *azure) token(ctx context.Context) (string, error) {
	var out struct {
		AccessToken string `json:"access_token"`
	}
	if a.secret == "" {
		err := askJSON(ctx, a.client, http.MethodGet,
			"http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource="+url.QueryEscape(azureManagement+"/"), "",
			map[string]string{"Metadata": "true"}, &out)
		if err != nil {
			return "", fmt.Errorf("there is no secret_access_key, and no managed identity: %w", err)
		}
		return out.AccessToken, nil
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {a.args["client_id"]}, "client_secret": {a.secret}, "scope": {azureManagement + "/.default"},
	}
	err := askJSON(ctx, a.client, http.MethodPost,
		"https://login.microsoftonline.com/"+url.PathEscape(a.args["tenant_id"])+"/oauth2/v2.0/token", form.Encode(),
		map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, &out)
	return out.AccessToken, err
}
