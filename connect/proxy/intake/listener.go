// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamlogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/internal/listen"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// The URLs of the filters that are known.
const (
	tcpProxyURL     = typePrefix + "extensions.filters.network.tcp_proxy.v3.TcpProxy"
	netRBACURL      = typePrefix + "extensions.filters.network.rbac.v3.RBAC"
	connLimitURL    = typePrefix + "extensions.filters.network.connection_limit.v3.ConnectionLimit"
	hcmURL          = typePrefix + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tlsInspectorURL = typePrefix + "extensions.filters.listener.tls_inspector.v3.TlsInspector"
	localPeerURL    = "type.googleapis.com/weft.proxy.v1.LocalPeer"
	detectURL       = "type.googleapis.com/weft.proxy.v1.Detect"
	routerURL       = typePrefix + "extensions.filters.http.router.v3.Router"
	httpRBACURL     = typePrefix + "extensions.filters.http.rbac.v3.RBAC"
	grpcStatsURL    = typePrefix + "extensions.filters.http.grpc_stats.v3.FilterConfig"
	grpcWebURL      = typePrefix + "extensions.filters.http.grpc_web.v3.GrpcWeb"
	fileLogURL      = typePrefix + "extensions.access_loggers.file.v3.FileAccessLog"
	stdoutLogURL    = typePrefix + "extensions.access_loggers.stream.v3.StdoutAccessLog"
	stderrLogURL    = typePrefix + "extensions.access_loggers.stream.v3.StderrAccessLog"
)

func (w *world) compileListener(m *listenerv3.Listener) (*listener, error) {
	if err := only(m, listenerFields); err != nil {
		return nil, err
	}
	l := &config.Listener{Name: m.GetName()}
	if m.GetTrafficDirection() == corev3.TrafficDirection_INBOUND {
		l.Direction = config.Inbound
	}
	var err error
	if l.Network, l.Address, err = addressOf(m.GetAddress(), false); err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	l.Mode = m.GetAddress().GetPipe().GetMode()
	if m.GetUseOriginalDst().GetValue() {
		return nil, errors.New("use_original_dst: not known to this proxy")
	}
	for _, f := range m.GetListenerFilters() {
		if url := f.GetTypedConfig().GetTypeUrl(); url != tlsInspectorURL && url != originalDstURL {
			return nil, fmt.Errorf("listener filter %s: not known to this proxy", f.GetName())
		}
	}
	out := &listener{config: l}
	if captures(m) {
		return out, compileCaptured(l, m)
	}
	if m.GetFilterChainMatcher() != nil {
		return nil, errors.New("filter_chain_matcher: this proxy takes it beside original_dst alone")
	}
	others, err := byName(l, m)
	if err != nil || len(others) == 0 {
		return out, err
	}
	chains, plainToo, err := filterChains(others)
	if err != nil {
		return nil, err
	}
	l.PlainToo = plainToo
	if len(chains) != 1 {
		return nil, fmt.Errorf("filter_chains: this proxy takes one, and others by server_names; there are %d without", len(chains))
	}
	chain := chains[0]
	if err := only(chain, chainFields); err != nil {
		return nil, fmt.Errorf("filter_chains[0]: %w", err)
	}
	if err := only(chain.GetFilterChainMatch(), matchFields); err != nil {
		return nil, fmt.Errorf("filter_chains[0].filter_chain_match: %w", err)
	}
	if ts := chain.GetTransportSocket(); ts != nil {
		if l.TLS, out.secrets, err = w.serverTLS(ts); err != nil {
			return nil, err
		}
	}
	if err := compileChain(l, chain); err != nil {
		return nil, err
	}
	if l.Named != nil && (plainToo || l.TLS != nil || l.HTTP != nil || l.Authorize != nil || l.Local != nil || l.MaxConnections != 0) {
		return nil, errors.New("filter_chains: beside chains by server_names this proxy takes tcp_proxy alone")
	}
	if l.HTTP != nil {
		for _, p := range l.HTTP.Tokens {
			p.Remote = w.remoteKeys(p.Remote)
		}
	}
	return out, nil
}

// compileChain compiles a filter chain's filters.
func compileChain(l *config.Listener, chain *listenerv3.FilterChain) error {
	for _, f := range chain.GetFilters() {
		if err := compileFilter(l, f); err != nil {
			return fmt.Errorf("filter %s: %w", f.GetName(), err)
		}
	}
	if (l.TCP == nil) == (l.HTTP == nil) && !l.Detect || l.Detect && l.TCP == nil {
		return errors.New("filter_chains[0]: want exactly one of tcp_proxy and http_connection_manager, or weft.proxy.v1.Detect before tcp_proxy")
	}
	return nil
}

// byName compiles the filter chains that are chosen by server name, and gives the others.
func byName(l *config.Listener, m *listenerv3.Listener) (others []*listenerv3.FilterChain, err error) {
	seen := map[string]bool{}
	for i, chain := range m.GetFilterChains() {
		names := chain.GetFilterChainMatch().GetServerNames()
		if len(names) == 0 {
			others = append(others, chain)
			continue
		}
		inner := &config.Listener{}
		if err := errors.Join(only(chain, "name filters filter_chain_match metadata"), only(chain.GetFilterChainMatch(), "server_names")); err != nil {
			return nil, fmt.Errorf("filter_chains[%d]: %w", i, err)
		}
		for _, f := range chain.GetFilters() {
			if f.GetTypedConfig().GetTypeUrl() != tcpProxyURL {
				return nil, fmt.Errorf("filter_chains[%d]: filter %s: with server_names this proxy takes tcp_proxy alone", i, f.GetName())
			}
			if err := compileTCP(inner, f.GetTypedConfig()); err != nil {
				return nil, fmt.Errorf("filter_chains[%d]: filter %s: %w", i, f.GetName(), err)
			}
		}
		if inner.TCP == nil {
			return nil, fmt.Errorf("filter_chains[%d]: want tcp_proxy", i)
		}
		for _, n := range names {
			if seen[n] {
				return nil, fmt.Errorf("filter_chains[%d]: the server name %q has a chain already", i, n)
			}
			seen[n] = true
		}
		l.Named = append(l.Named, config.Named{Names: names, TCP: inner.TCP})
	}
	if m.GetDefaultFilterChain() != nil {
		others = append(others, m.GetDefaultFilterChain())
	}
	if l.Named != nil && (len(m.GetListenerFilters()) == 0 || m.GetContinueOnListenerFiltersTimeout()) {
		return nil, errors.New("filter_chains: server_names need the listener filter tls_inspector, which must end in time")
	}
	if len(others) == 0 && l.Named == nil {
		return nil, errors.New("filter_chains: there is none")
	}
	l.Peek = m.GetListenerFiltersTimeout().AsDuration()
	return others, nil
}

func compileFilter(l *config.Listener, f *listenerv3.Filter) error {
	switch url := f.GetTypedConfig().GetTypeUrl(); url {
	case tcpProxyURL:
		return compileTCP(l, f.GetTypedConfig())
	case hcmURL:
		return compileHTTP(l, f.GetTypedConfig())
	case netRBACURL:
		m, err := read[*netrbacv3.RBAC](f.GetTypedConfig())
		if err != nil {
			return err
		}
		if m.GetRules() == nil {
			p, err := auditPolicies(m.GetShadowRules(), m.GetShadowRulesStatPrefix())
			if p != nil {
				l.Authorize = append(l.Authorize, p)
			}
			return err // otherwise nothing but statistics
		}
		p, err := compilePolicies(m.GetRules(), m.GetShadowRules())
		if err != nil {
			return err
		}
		l.Authorize = append(l.Authorize, p)
		return nil
	case detectURL:
		m := &proxyv1.Detect{}
		if err := unpack(f.GetTypedConfig(), m); err != nil {
			return err
		}
		if l.HTTP != nil || m.GetHttp().GetTypeUrl() != hcmURL {
			return errors.New("http: want one http_connection_manager")
		}
		l.Detect = true
		return compileHTTP(l, m.GetHttp())
	case localPeerURL:
		m := &proxyv1.LocalPeer{}
		if err := unpack(f.GetTypedConfig(), m); err != nil {
			return err
		}
		l.Local = &listen.Processes{UIDs: m.GetUids(), Units: m.GetUnits(), Cgroups: m.GetCgroups()}
		return nil
	case connLimitURL:
		m, err := read[*limitv3.ConnectionLimit](f.GetTypedConfig())
		if err != nil {
			return err
		}
		l.MaxConnections = int(m.GetMaxConnections().GetValue())
		return nil
	default:
		return fmt.Errorf("%s isn't known to this proxy", url)
	}
}

func compileTCP(l *config.Listener, a *anypb.Any) error {
	m, err := read[*tcpv3.TcpProxy](a)
	if err != nil {
		return err
	}
	if err := only(m, tcpFields); err != nil {
		return err
	}
	t := &config.TCP{Cluster: m.GetCluster()}
	for _, c := range m.GetWeightedClusters().GetClusters() {
		t.Weighted = append(t.Weighted, config.WeightedCluster{Cluster: c.GetName(), Weight: c.GetWeight()})
	}
	if d := m.GetIdleTimeout(); d != nil {
		t.IdleTimeout = d.AsDuration()
	}
	t.MaxAge = m.GetMaxDownstreamConnectionDuration().AsDuration()
	if m.GetTunnelingConfig() != nil {
		return errors.New("tunneling_config: not known to this proxy")
	}
	t.Log, err = compileLogs(m.GetAccessLog())
	l.TCP = t
	return err
}

func compileHTTP(l *config.Listener, a *anypb.Any) error {
	m, err := read[*hcmv3.HttpConnectionManager](a)
	if err != nil {
		return err
	}
	if err := only(m, hcmFields); err != nil {
		return err
	}
	if m.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_DROP_HEADER {
		return errors.New("headers_with_underscores_action DROP_HEADER: not known to this proxy; use REJECT_REQUEST")
	}
	h := &config.HTTP{
		ServerName: m.GetServerName(), Normalize: m.GetNormalizePath().GetValue(), MergeSlashes: m.GetMergeSlashes(),
		EscapedSlashes: escaped(m.GetPathWithEscapedSlashesAction()), IdleTimeout: m.GetCommonHttpProtocolOptions().GetIdleTimeout().AsDuration(),
		StreamIdle: 5 * time.Minute, HeaderTimeout: m.GetRequestHeadersTimeout().AsDuration(), Trace: m.GetTracing() != nil,
		GenerateRequestID: m.GetGenerateRequestId() == nil || m.GetGenerateRequestId().GetValue(),
		MaxStreams:        int(m.GetHttp2ProtocolOptions().GetMaxConcurrentStreams().GetValue()),
		MaxAge:            m.GetCommonHttpProtocolOptions().GetMaxConnectionDuration().AsDuration(),
		MaxRequests:       int(m.GetCommonHttpProtocolOptions().GetMaxRequestsPerConnection().GetValue()),
		MaxHeadBytes:      int(m.GetMaxRequestHeadersKb().GetValue()) << 10,
		RejectUnderscores: m.GetCommonHttpProtocolOptions().GetHeadersWithUnderscoresAction() == corev3.HttpProtocolOptions_REJECT_REQUEST,
	}
	if h.Spans, err = compileSpans(m.GetTracing()); err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	if d := m.GetStreamIdleTimeout(); d != nil {
		h.StreamIdle = d.AsDuration()
	}
	switch m.GetCodecType() {
	case hcmv3.HttpConnectionManager_HTTP1:
		h.Codec = config.HTTP1
	case hcmv3.HttpConnectionManager_HTTP2:
		h.Codec = config.HTTP2
	case hcmv3.HttpConnectionManager_HTTP3:
		return errors.New("codec_type HTTP3: not known to this proxy")
	}
	h.ForwardClient = map[hcmv3.HttpConnectionManager_ForwardClientCertDetails]config.ForwardClient{
		hcmv3.HttpConnectionManager_SANITIZE: config.SanitizeClient, hcmv3.HttpConnectionManager_SANITIZE_SET: config.SanitizeSetClient,
		hcmv3.HttpConnectionManager_FORWARD_ONLY: config.ForwardOnlyClient, hcmv3.HttpConnectionManager_APPEND_FORWARD: config.AppendClient,
		hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY: config.AlwaysForwardClient,
	}[m.GetForwardClientCertDetails()]
	if d := m.GetSetCurrentClientCertDetails(); d != nil {
		if err := only(d, "subject uri dns"); err != nil {
			return fmt.Errorf("set_current_client_cert_details: %w", err)
		}
		h.ClientDetails = config.ClientDetails{Subject: d.GetSubject().GetValue(), URI: d.GetUri(), DNS: d.GetDns()}
	}
	for _, u := range m.GetUpgradeConfigs() {
		if u.GetUpgradeType() != "websocket" {
			return fmt.Errorf("upgrade_configs %q: only websocket is passed", u.GetUpgradeType())
		}
		h.Websocket = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	switch r := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		h.RouteName = r.Rds.GetRouteConfigName()
	case *hcmv3.HttpConnectionManager_RouteConfig:
		if h.Inline, err = compileRoutes(r.RouteConfig); err != nil {
			return err
		}
	default:
		return fmt.Errorf("route_specifier %T: not known to this proxy", r)
	}
	if err := compileHTTPFilters(h, m.GetHttpFilters()); err != nil {
		return err
	}
	if h.Fallbacks, err = fallbacks(m.GetLocalReplyConfig()); err != nil {
		return fmt.Errorf("local_reply_config: %w", err)
	}
	h.Log, err = compileLogs(m.GetAccessLog())
	l.HTTP = h
	return err
}

// compileHTTPFilters takes the filters that the proxy does; a filter that it doesn't know might protect, so it is refused
// even where it calls itself optional.
func compileHTTPFilters(h *config.HTTP, filters []*hcmv3.HttpFilter) error {
	var marks *config.Policies
	for _, f := range filters {
		switch url := f.GetTypedConfig().GetTypeUrl(); url {
		case routerURL, grpcStatsURL, corsURL: // cors does what routes say
		case jwtURL:
			tokens, err := compileTokens(f.GetTypedConfig())
			if err != nil {
				return fmt.Errorf("http filter %s: %w", f.GetName(), err)
			}
			h.Tokens = append(h.Tokens, tokens...)
		case rateLimitURL:
			if l, err := compileLimit(f.GetTypedConfig()); err != nil || l != nil {
				return errors.Join(fmt.Errorf("http filter %s: rate limits are read from routes only", f.GetName()), err)
			}
		case sessionURL:
			m, err := read[*sessionv3.StatefulSession](f.GetTypedConfig())
			if err == nil {
				err = only(m, "")
			}
			if err != nil {
				return fmt.Errorf("http filter %s: sessions are read from routes only: %w", f.GetName(), err)
			}
		case faultURL:
			m, err := compileFault(f.GetTypedConfig())
			if err == nil && (m.Delay != 0 || m.AbortStatus != 0 || m.Rate != 0) {
				err = errors.New("faults are read from routes only")
			}
			if err != nil {
				return fmt.Errorf("http filter %s: %w", f.GetName(), err)
			}
		case adaptiveURL:
			if err := compileAdaptive(h, f.GetTypedConfig()); err != nil {
				return fmt.Errorf("http filter %s: %w", f.GetName(), err)
			}
		case grpcWebURL:
			h.GRPCWeb = true
		case httpRBACURL:
			if err := compileHTTPRules(h, f.GetTypedConfig(), &marks); err != nil {
				return fmt.Errorf("http filter %s: %w", f.GetName(), err)
			}
		case extAuthzURL:
			if h.Ask != nil {
				return fmt.Errorf("http filter %s: this proxy asks one program", f.GetName())
			}
			ask, err := compileAsk(f.GetTypedConfig(), marks)
			if err != nil {
				return fmt.Errorf("http filter %s: %w", f.GetName(), err)
			}
			h.Ask = ask
		default:
			return fmt.Errorf("http filter %s (%s) isn't known to this proxy", f.GetName(), url)
		}
	}
	return nil
}

func escaped(a hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction) config.EscapedSlashes {
	switch a {
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		return config.RejectEscaped
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		return config.UnescapeRedirect
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		return config.UnescapeForward
	}
	return config.KeepEscaped
}

func compileLogs(logs []*accesslogv3.AccessLog) (*config.AccessLog, error) {
	if len(logs) == 0 {
		return nil, nil
	}
	a := logs[0].GetTypedConfig()
	switch a.GetTypeUrl() {
	case fileLogURL:
		m, err := read[*filelogv3.FileAccessLog](a)
		if err != nil {
			return nil, err
		}
		return logFormat(m.GetPath(), m.GetLogFormat())
	case stdoutLogURL:
		m, err := read[*streamlogv3.StdoutAccessLog](a)
		if err != nil {
			return nil, err
		}
		return logFormat("/dev/stdout", m.GetLogFormat())
	case stderrLogURL:
		m, err := read[*streamlogv3.StderrAccessLog](a)
		if err != nil {
			return nil, err
		}
		return logFormat("/dev/stderr", m.GetLogFormat())
	}
	return nil, fmt.Errorf("access log %s: not known to this proxy", a.GetTypeUrl())
}

func logFormat(path string, f *corev3.SubstitutionFormatString) (*config.AccessLog, error) {
	out := &config.AccessLog{Path: path, Text: f.GetTextFormatSource().GetInlineString()}
	if j := f.GetJsonFormat(); j != nil {
		out.JSON = map[string]string{}
		for k, v := range j.GetFields() {
			s, ok := v.GetKind().(*structpb.Value_StringValue)
			if !ok {
				return nil, fmt.Errorf("access log field %q: only strings", k)
			}
			out.JSON[k] = s.StringValue
		}
	}
	return out, nil
}
