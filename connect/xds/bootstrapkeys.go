// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// Keys are what a proxy's config says of its bootstrap by Consul's keys that begin with "envoy_".
type Keys struct {
	tags, sinks, clusters, listeners []object
	stats, tracing                   object // stats replaces the bootstrap's stats_config
	flush                            time.Duration
	statsAddress                     string // host:port of a listener with the admin page's statistics
}

// KeysOf reads a proxy's config. Addresses of statsd may hold ${NAME}, and be one $NAME, which lookup gives (the environment).
func KeysOf(config catalog.Opaque, lookup func(string) string) (k Keys, err error) {
	if _, ok := config["envoy_bootstrap_json_tpl"]; ok {
		return k, errors.New("envoy_bootstrap_json_tpl: a bootstrap of weft's proves by a secret whose it is, so it can't be replaced as a whole: " +
			"add to it by envoy_extra_static_clusters_json, envoy_extra_static_listeners_json, envoy_extra_stats_sinks_json, envoy_stats_config_json and envoy_tracing_json")
	}
	var errs []error
	take := func(key string, read func(text string) error) {
		v, ok := config[key]
		if !ok {
			return
		}
		text, ok := v.(string)
		if !ok {
			errs = append(errs, fmt.Errorf("%s: want a text", key))
		} else if err := read(text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	objects := func(list *[]object) func(string) error {
		return func(text string) error { return json.Unmarshal([]byte("["+text+"]"), list) }
	}
	take("envoy_extra_static_clusters_json", objects(&k.clusters))
	take("envoy_extra_static_listeners_json", objects(&k.listeners))
	take("envoy_extra_stats_sinks_json", objects(&k.sinks))
	take("envoy_stats_config_json", func(text string) error { return json.Unmarshal([]byte(text), &k.stats) })
	take("envoy_tracing_json", func(text string) error { return json.Unmarshal([]byte(text), &k.tracing) })
	take("envoy_stats_flush_interval", func(text string) (err error) {
		if k.flush, err = time.ParseDuration(text); err == nil && k.flush < time.Millisecond {
			err = fmt.Errorf("%s: want a millisecond or more", text)
		}
		return err
	})
	take("envoy_stats_bind_addr", func(text string) error {
		k.statsAddress = text
		_, err := address(text)
		return err
	})
	take("envoy_statsd_url", func(text string) error { return k.sink("Statsd", text, lookup) })
	take("envoy_dogstatsd_url", func(text string) error { return k.sink("DogStatsd", text, lookup) })
	errs = append(errs, k.fixedTags(config["envoy_stats_tags"]))
	return k, errors.Join(errs...)
}

func (k *Keys) fixedTags(v any) error {
	if v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		return errors.New(`envoy_stats_tags: want a list of texts "name=value"`)
	}
	for _, each := range list {
		text, _ := each.(string)
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return fmt.Errorf(`envoy_stats_tags: %v: want "name=value"`, each)
		}
		k.tags = append(k.tags, object{"tag_name": name, "fixed_value": value})
	}
	return nil
}

// sink sends the statistics to a statsd: udp://host:port, or for DogStatsd unix:///path too.
func (k *Keys) sink(kind, text string, lookup func(string) string) error {
	given := text
	text = os.Expand(text, lookup)
	u, err := url.Parse(text)
	if err != nil || text == "" {
		return fmt.Errorf("%q, with the environment's values %q, is no URL", given, text)
	}
	var at object
	switch {
	case u.Scheme == "udp":
		host, port := u.Hostname(), cmp.Or(u.Port(), "8125")
		if at, err = address(net.JoinHostPort(host, port)); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		at["socket_address"].(object)["protocol"] = "UDP"
	case u.Scheme == "unix" && kind == "DogStatsd":
		at = object{"pipe": object{"path": u.Path}}
	default:
		return fmt.Errorf("%s: want udp://address:port (envoy_dogstatsd_url: or unix:///path)", text)
	}
	k.sinks = append(k.sinks, object{"name": "envoy.stat_sinks." + strings.ReplaceAll(strings.ToLower(kind), "dogstatsd", "dog_statsd"), "typed_config": object{
		"@type": "type.googleapis.com/envoy.config.metrics.v3." + kind + "Sink", "address": at,
	}})
	return nil
}

// over puts what the keys say into a bootstrap.
func (k *Keys) over(bootstrap object) {
	stats := bootstrap["stats_config"].(object)
	stats["stats_tags"] = append(stats["stats_tags"].([]object), k.tags...)
	if k.stats != nil {
		bootstrap["stats_config"] = k.stats
	}
	if k.tracing != nil {
		bootstrap["tracing"] = k.tracing
	}
	if k.flush > 0 {
		bootstrap["stats_flush_interval"] = fmt.Sprintf("%.3fs", k.flush.Seconds())
	}
	if k.sinks != nil {
		bootstrap["stats_sinks"] = k.sinks
	}
	static := bootstrap["static_resources"].(object)
	static["clusters"] = append(static["clusters"].([]object), k.clusters...)
	if listeners, _ := static["listeners"].([]object); len(listeners)+len(k.listeners) > 0 {
		static["listeners"] = append(listeners, k.listeners...)
	}
}
