// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/tokens"
)

// reloadable are the fields of config.Config that Reload puts in force; those of the others that differ need a restart.
var reloadable = []string{
	"Services", "Checks", "NodeMeta", "DNSConfig", "Recursors", "Domain", "AltDomain", "TranslateWANAddrs", "TLS", "Watches", "HTTPConfig",
	"DiscardCheckOutput", "LogLevel", "DiscoveryMaxStale",
}

// Reload puts other settings in force, as far as a running agent can, and logs the names of those that need a restart. They must be
// valid. With an error, what comes after the step that failed stays as it was; registrations are taken all or none.
func (a *Agent) Reload(s config.Config) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	a.settings.Limits.Rates = s.Limits.Rates // whoever bounds by them takes them himself
	if needs := differing(&a.settings, &s); len(needs) > 0 {
		a.c.Log.Warn("settings that have changed need a restart", "settings", needs)
	}
	next := a.settings
	to, from := reflect.ValueOf(&next).Elem(), reflect.ValueOf(&s).Elem()
	for _, name := range reloadable {
		to.FieldByName(name).Set(from.FieldByName(name))
	}
	if err := a.loadTLS(&next); err != nil {
		return err
	}
	if a.dns != nil {
		if err := a.dns.Configure(next.Zones()); err != nil {
			return err
		}
	}
	warnings, err := a.state.Configure(next.Services, next.Checks, a.c.Tokens.Own(tokens.ConfigFile))
	if err != nil {
		return err
	}
	for _, w := range warnings {
		a.c.Log.Warn("configuration", "warning", w)
	}
	a.state.SetMeta(next.NodeMeta)
	a.state.DiscardOutput(next.DiscardCheckOutput)
	a.watches.Set(next.Watches)
	a.guard.Store(&next)
	a.settings = next
	a.c.Log.Info("configuration reloaded", "services", len(next.Services), "checks", len(next.Checks), "watches", len(next.Watches))
	return nil
}

// differing are the names of the settings that differ and that Reload doesn't change.
func differing(before, after *config.Config) []string {
	var out []string
	b, c := reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem()
	for i := range b.NumField() {
		f := b.Type().Field(i)
		if !slices.Contains(reloadable, f.Name) && f.Name != "NodeName" && f.Name != "NodeID" && f.Name != "Ports" &&
			!reflect.DeepEqual(b.Field(i).Interface(), c.Field(i).Interface()) {
			out = append(out, f.Name)
		}
	}
	return out
}

var errNoReload = errors.New("this agent has no files to read again")

// readAgain reads the configuration anew and puts it in force.
func (a *Agent) readAgain() error {
	if a.c.ReadAgain == nil {
		return errNoReload
	}
	if err := a.c.ReadAgain(); err != nil {
		return fmt.Errorf("the configuration stays as it was: %w", err)
	}
	return nil
}
