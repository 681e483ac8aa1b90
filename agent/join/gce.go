// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// gce lists the running instances of Compute Engine that have a network tag: provider=gce tag_value=…, as the service account of
// the instance that weft runs on.
type gce struct {
	args    map[string]string
	client  *http.Client
	private bool
	zones   *regexp.Regexp
}

func newGCE(args map[string]string, client *http.Client) (source, error) {
	if err := known(args, []string{"tag_value"}, []string{"project_name", "zone_pattern"}); err != nil {
		return nil, err
	}
	zones, err := regexp.Compile(args["zone_pattern"])
	if err != nil {
		return nil, fmt.Errorf("zone_pattern: %w", err)
	}
	p, err := private(args)
	return &gce{args, client, p, zones}, err
}

const gceMetadata = "http://metadata.google.internal/computeMetadata/v1/"

func (g *gce) addresses(ctx context.Context) ([]string, error) {
	found, err := g.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("provider=gce: %w", err)
	}
	return none(found, "provider=gce")
}

func (g *gce) list(ctx context.Context) ([]string, error) {
	flavor := map[string]string{"Metadata-Flavor": "Google"}
	project := g.args["project_name"]
	if project == "" {
		data, err := ask(ctx, g.client, http.MethodGet, gceMetadata+"project/project-id", "", flavor)
		if err != nil {
			return nil, fmt.Errorf("project_name isn't set, and there is no metadata: %w", err)
		}
		project = strings.TrimSpace(string(data))
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := askJSON(ctx, g.client, http.MethodGet, gceMetadata+"instance/service-accounts/default/token", "", flavor, &token); err != nil {
		return nil, fmt.Errorf("the instance's service account: %w", err)
	}
	type instance struct {
		Status string
		Tags   struct{ Items []string }

		NetworkInterfaces []struct {
			NetworkIP     string
			AccessConfigs []struct{ NatIP string }
		}
	}
	var found []string
	q := url.Values{"filter": {"status = RUNNING"}}
	for range maxPages {
		var page struct {
			Items         map[string]struct{ Instances []instance }
			NextPageToken string
		}
		err := askJSON(ctx, g.client, http.MethodGet,
			"https://compute.googleapis.com/compute/v1/projects/"+url.PathEscape(project)+"/aggregated/instances?"+q.Encode(), "",
			map[string]string{"Authorization": "Bearer " + token.AccessToken}, &page)
		if err != nil {
			return nil, err
		}
		for zone, of := range page.Items {
			if !g.zones.MatchString(strings.TrimPrefix(zone, "zones/")) {
				continue
			}
			for _, i := range of.Instances {
				if !slices.Contains(i.Tags.Items, g.args["tag_value"]) || i.Status != "RUNNING" || len(i.NetworkInterfaces) == 0 {
					continue
				}
				first := i.NetworkInterfaces[0]
				switch {
				case g.private:
					found = append(found, first.NetworkIP)
				case len(first.AccessConfigs) > 0:
					found = append(found, first.AccessConfigs[0].NatIP)
				}
			}
		}
		if page.NextPageToken == "" {
			slices.Sort(found)
			return found, nil
		}
		q.Set("pageToken", page.NextPageToken)
	}
	return nil, errPages
}
