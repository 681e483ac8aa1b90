// SPDX-License-Identifier: Apache-2.0

package agent

import "time"

// Writes that tests of other routes wake by, or mustn't be woken by.
const (
	writeNode    = `PUT /v1/catalog/register {"Node":"ext1","Address":"10.0.1.1","NodeMeta":{"rev":"{n}"}}`
	writeOther   = `PUT /v1/catalog/register {"Node":"ext2","Address":"10.0.1.2","NodeMeta":{"rev":"{n}"}}`
	writeWeb     = `PUT /v1/catalog/register {"Node":"ext1","SkipNodeUpdate":true,"Service":{"ID":"web1","Service":"web","Port":80,"Tags":["a","t{n}"]}}`
	writeDB      = `PUT /v1/catalog/register {"Node":"ext2","SkipNodeUpdate":true,"Service":{"ID":"db1","Service":"db","Port":81,"Tags":["b","t{n}"]}}`
	writeProxy   = `PUT /v1/catalog/register {"Node":"ext1","SkipNodeUpdate":true,"Service":{"ID":"web1-proxy","Service":"web-proxy","Kind":"connect-proxy","Port":82,"Meta":{"rev":"{n}"},"Proxy":{"DestinationServiceName":"web","Upstreams":[{"DestinationName":"db"}]}}}`
	writeGateway = `PUT /v1/catalog/register {"Node":"ext2","SkipNodeUpdate":true,"Service":{"ID":"gw1","Service":"gw","Kind":"ingress-gateway","Port":83,"Meta":{"rev":"{n}"}}}`
	writeCheck   = `PUT /v1/catalog/register {"Node":"ext1","SkipNodeUpdate":true,"Check":{"CheckID":"alive","Name":"alive","Status":"passing","Output":"{n}","ServiceID":"web1"}}`
	writeCheck2  = `PUT /v1/catalog/register {"Node":"ext2","SkipNodeUpdate":true,"Check":{"CheckID":"alive","Name":"alive","Status":"critical","Output":"{n}","ServiceID":"db1"}}`
	writeKey     = `PUT /v1/kv/app/a {n}`
	writeKey2    = `PUT /v1/kv/other {n}`
	writeEntry   = `PUT /v1/config {"Kind":"service-defaults","Name":"web","Protocol":"http","Meta":{"rev":"{n}"}}`
	writeEntry2  = `PUT /v1/config {"Kind":"service-defaults","Name":"db","Meta":{"rev":"{n}"}}`
	writeRule    = `PUT /v1/connect/intentions/exact?source=web&destination=db {"Action":"allow","Description":"{n}"}`
	writeRule2   = `PUT /v1/connect/intentions/exact?source=db&destination=api {"Action":"allow","Description":"{n}"}`
	writeIngress = `PUT /v1/config {"Kind":"ingress-gateway","Name":"gw","Listeners":[{"Port":8080,"Protocol":"http","Services":[{"Name":"web","Hosts":["h{n}"]}]},{"Port":9000,"Services":[{"Name":"db"}]}]}`
	writeExport  = `PUT /v1/config {"Kind":"exported-services","Name":"default","Services":[{"Name":"web","Consumers":[{"Peer":"east{n}"}]},{"Name":"db","Consumers":[{"Peer":"west"}]}]}`
	writePeering = `POST /v1/peering/token {"PeerName":"east","Meta":{"rev":"{n}"}}`
	writePeer2   = `POST /v1/peering/token {"PeerName":"west","Meta":{"rev":"{n}"}}`
)

// fixture is what is there when the routes are asked.
var fixture = []string{
	writeNode, writeOther, writeWeb, writeDB, writeProxy, writeGateway, writeCheck, writeCheck2, writeKey, `PUT /v1/kv/app/b two`, writeKey2,
	writeEntry, writeEntry2, writeRule, writeRule2, writeIngress, writeExport, writePeering,
	`PUT /v1/catalog/register {"Node":"ext2","SkipNodeUpdate":true,"Service":{"ID":"native","Service":"api","Port":84,"Connect":{"Native":true}}}`,
	`PUT /v1/agent/service/register {"ID":"own1","Name":"own","Port":90,"Tags":["x"],"Check":{"CheckID":"beat","TTL":"1h","Status":"passing"},"Connect":{"SidecarService":{"Port":21000}}}`,
	`PUT /v1/agent/service/register {"ID":"two1","Name":"two","Port":91}`,
}

const (
	noWait = "waits for a change of its own answer alone: Consul wakes by whole tables"
	text   = "text/plain; charset=utf-8"
	// methodConfig is an auth method's, by a public key.
	methodConfig = `"Config":{"JWTValidationPubKeys":["-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----"]}`
)

// rows are how each route is tested, by its name. TestEveryRoute goes through them in the order of the routes.
var rows = map[string]row{
	// The agent's own.
	"GET /v1/agent/self":     {tier: 1, want: `"Config":\{.*"Datacenter":"dc1".*"NodeName":"n1".*"Version":"1.2.3".*"Member":\{"Name":"n1".*"xDS":\{"Port":-1,"Ports":\{"Plaintext":-1,"TLS":-1\}`, differs: "DebugConfig has the main settings alone; BuildDate isn't known"},
	"GET /v1/agent/services": {tier: 1, want: `"own1":\{"ID":"own1","Service":"own","Tags":\["x"\]`, filter: "Service == own", kept: `"own1"`, gone: `"two1"`},
	"GET /v1/agent/service/{name}": {
		tier: 1, ask: "/v1/agent/service/two1", want: `"ContentHash":"`, wake: `PUT /v1/agent/service/register {"ID":"two1","Name":"two","Port":91,"Meta":{"rev":"{n}"}}`,
		still: `PUT /v1/agent/service/register {"ID":"three1","Name":"three","Meta":{"rev":"{n}"}}`,
	},
	"GET /v1/agent/checks":             {tier: 1, want: `"beat":\{"Node":"n1","CheckID":"beat".*"Status":"passing"`, filter: "CheckID == beat", kept: `"beat"`, gone: `"service:own1-sidecar-proxy:1"`},
	"GET /v1/agent/members":            {tier: 1, want: `\[\{"Name":"n1","Addr":"10.0.0.1","Port":8301,.*"Status":1`, filter: "Name != n1", kept: `[`, gone: `"n1"`, bad: map[string]string{"wan=x": "400 Invalid value for ?wan"}},
	"PUT /v1/agent/join/{address}":     {tier: 2, ask: "/v1/agent/join/10.9.9.9", code: 500, also: "TestAgentJoinsAndForgets", want: `10.9.9.9`},
	"PUT /v1/agent/token/{name}":       {tier: 2, ask: "/v1/agent/token/dns", body: `{"Token":""}`, bad: map[string]string{}},
	"PUT /v1/agent/reload":             {tier: 2},
	"PUT /v1/agent/leave":              {tier: 2},
	"PUT /v1/agent/force-leave/{name}": {tier: 2, ask: "/v1/agent/force-leave/none", code: 500, also: "TestAgentJoinsAndForgets", want: `agent: No node found with name 'none'`, bad: map[string]string{"prune=x": "400 Invalid value for ?prune"}},
	"PUT /v1/event/fire/{name}":        {tier: 2, ask: "/v1/event/fire/deploy?service=web", body: "v{n}", want: `"ID":"[^"]+","Name":"deploy","Payload":"`, bad: map[string]string{"node=(": "400 "}},
	"GET /v1/event/list":               {tier: 1, before: []string{`PUT /v1/event/fire/deploy x`}, ask: "/v1/event/list?name=deploy", want: `"Name":"deploy"`, wake: `PUT /v1/event/fire/deploy y`, still: `PUT /v1/event/fire/other z`},
	"GET /v1/agent/monitor":            {tier: 2, kind: text, bad: map[string]string{"loglevel=loud": "400 Unknown log level: loud", "logjson=x": "400 Invalid value for ?logjson"}},
	"GET /v1/agent/host":               {tier: 3, want: `"CPU":\{.*"Memory":`, differs: "memory and load are the kernel's own text"},
	"GET /debug/pprof/{name}":          {tier: 3, ask: "/debug/pprof/heap", code: 404, also: "TestProfiles", want: "enable_debug", differs: "with `enable_debug` alone, whoever asks: a token doesn't open it"},
	"GET /v1/agent/metrics":            {tier: 1, want: `\{"Timestamp":"[^"]+ UTC","Gauges":\[\{"Name":.*"Points":\[\],"Counters":\[\{.*"Samples":\[\{`, differs: "the figures have weft's names; Prometheus' form is always on, also by the Accept header; Rate, Min, Max and Stddev are 0"},
	"GET /v1/agent/metrics/stream":     {tier: 3, want: `^\{"Timestamp":"[^"]+ UTC","Gauges":`},
	"GET /v1/agent/version":            {tier: 3, want: `"HumanVersion":"1.2.3"`},
	"GET /v1/agent/health/service/id/{name}": {
		tier: 1, ask: "/v1/agent/health/service/id/two1", want: `\{"AggregatedStatus":"passing","Service":\{.*"Checks":\[`, header: map[string]string{"X-Consul-Reason": "passing"},
	},
	"GET /v1/agent/health/service/name/{name}": {tier: 1, ask: "/v1/agent/health/service/name/none", code: 404, also: "TestViews", kind: "application/json", want: `^\[\]$`, header: map[string]string{"X-Consul-Reason": "ServiceName none Not Found"}},
	"PUT /v1/agent/service/register":           {tier: 1, body: `{"ID":"r1","Name":"r","Port":1}`, bad: map[string]string{"replace-existing-checks=x": "400 Invalid value for ?replace-existing-checks"}},
	"PUT /v1/agent/service/deregister/{name}":  {tier: 1, ask: "/v1/agent/service/deregister/r1"},
	"PUT /v1/agent/service/maintenance/{name}": {tier: 1, ask: "/v1/agent/service/maintenance/own1?enable=false", bad: map[string]string{"": "400 Missing value for enable", "enable=x": "400 Invalid value for ?enable"}},
	"PUT /v1/agent/maintenance":                {tier: 2, ask: "/v1/agent/maintenance?enable=false", bad: map[string]string{"": "400 Missing value for enable", "enable=x": "400 Invalid value for ?enable"}},
	"PUT /v1/agent/check/register":             {tier: 1, body: `{"ID":"c1","Name":"c","TTL":"1h","ServiceID":"own1"}`},
	"PUT /v1/agent/check/deregister/{name}":    {tier: 1, ask: "/v1/agent/check/deregister/c1"},
	"PUT /v1/agent/check/pass/{name}":          {tier: 1, ask: "/v1/agent/check/pass/beat?note=well"},
	"PUT /v1/agent/check/warn/{name}":          {tier: 1, ask: "/v1/agent/check/warn/beat"},
	"PUT /v1/agent/check/fail/{name}":          {tier: 1, ask: "/v1/agent/check/fail/beat"},
	"PUT /v1/agent/check/update/{name}":        {tier: 1, ask: "/v1/agent/check/update/beat", body: `{"Status":"passing","Output":"{n}"}`},
	"GET /v1/agent/connect/ca/roots": {
		tier: 1, want: `"ActiveRootID":"[^"]+","TrustDomain":"[^"]+","Roots":\[\{`, wake: `PUT /v1/connect/ca/configuration {"Config":{"PrivateKeyBits":384},"ForceWithoutCrossSigning":true}`, still: writeEntry,
	},
	"GET /v1/agent/connect/ca/leaf/{name}": {
		tier: 1, settle: time.Hour, ask: "/v1/agent/connect/ca/leaf/own", want: `"CertPEM":"-----BEGIN CERTIFICATE.*"PrivateKeyPEM":"-----BEGIN .*"Service":"own"`,
		wake: `PUT /v1/connect/ca/configuration {"Config":{"PrivateKeyBits":256},"ForceWithoutCrossSigning":true}`, still: writeEntry,
	},
	"POST /v1/agent/connect/authorize":   {tier: 1, body: `{"Target":"own","ClientCertURI":"spiffe://x.consul/ns/default/dc/dc1/svc/web"}`, want: `"Authorized":(true|false),"Reason":"`},
	"PUT /v1/agent/services/register":    {body: `{"Services":[{"Name":"m1"},{"Name":"m2"}]}`, differs: "many registrations as one: all or nothing"},
	"GET /v1/agent/connect/proxy/{name}": {ask: "/v1/agent/connect/proxy/own1-sidecar-proxy", want: `"ProxyID":"own1-sidecar-proxy","Service":"own".*"Secret":"`, differs: "how a proxy of this host reaches xDS"},
	"GET /v1/agent/connect/proxies":      {want: `"ProxyID":"own1-sidecar-proxy"`, differs: "what this host's proxies have"},
	"GET /v1/agent/connect/certificates": {want: `"Kind":"root"`, differs: "all certificates with their remaining time"},
	"GET /v1/openapi.json":               {want: `"openapi":"3.1.0"`, differs: "this table, for programs"},

	// Any server's.
	"GET /v1/status/leader":       {tier: 1, want: `^"127.0.0.1:8300"$`},
	"GET /v1/status/peers":        {tier: 1, want: `^\["127.0.0.1:8300"\]$`},
	"PUT /v1/catalog/register":    {tier: 1, body: `{"Node":"ext3","Address":"10.0.1.3","Service":{"Service":"gone"}}`, want: `^true$`},
	"PUT /v1/catalog/deregister":  {tier: 1, body: `{"Node":"ext3"}`, want: `^true$`},
	"GET /v1/catalog/datacenters": {tier: 1, want: `^\["dc1"\]$`},
	"GET /v1/catalog/nodes":       {tier: 1, want: `"Node":"ext1","Address":"10.0.1.1","Datacenter":"dc1"`, wake: writeNode, still: writeWeb, filter: "Node == ext1", kept: `"ext1"`, gone: `"ext2"`, differs: noWait},
	"GET /v1/catalog/services":    {tier: 1, want: `"web":\["a"`, wake: writeWeb, still: writeCheck, filter: "ServiceName == web", kept: `"web":`, gone: `"db":`, differs: noWait},
	"GET /v1/catalog/service/{name}": {
		tier: 1, ask: "/v1/catalog/service/web", want: `"Node":"ext1".*"ServiceID":"web1","ServiceName":"web".*"ServicePort":80`, wake: writeWeb, still: writeDB,
		filter: `Node == none`, kept: `[`, gone: `"ext1"`, bad: map[string]string{"passing=x": "400 Invalid value for ?passing"},
	},
	"GET /v1/catalog/connect/{name}":       {tier: 1, ask: "/v1/catalog/connect/web", want: `"ServiceID":"web1-proxy".*"ServiceTaggedAddresses":\{"consul-virtual":\{"Address":"240.0.0.1","Port":82\}\}`, wake: writeProxy, still: writeDB, filter: `Node == none`, kept: `[`, gone: `"ext1"`},
	"GET /v1/catalog/node/{name}":          {tier: 1, ask: "/v1/catalog/node/ext1", want: `\{"Node":\{.*"Services":\{"web1":`, wake: writeWeb, still: writeDB, filter: "Service == web", kept: `"web1"`, gone: `"web1-proxy"`},
	"GET /v1/catalog/node-services/{name}": {tier: 2, ask: "/v1/catalog/node-services/ext1", want: `\{"Node":\{.*"Services":\[\{`, wake: writeWeb, still: writeDB, filter: "Service == web", kept: `"web1"`, gone: `"web1-proxy"`},
	"GET /v1/health/node/{name}":           {tier: 1, ask: "/v1/health/node/ext1", want: `"CheckID":"alive"`, wake: writeCheck, still: writeCheck2, filter: "CheckID == none", kept: `[`, gone: `"alive"`},
	"GET /v1/health/checks/{name}":         {tier: 1, ask: "/v1/health/checks/web", want: `"CheckID":"alive"`, wake: writeCheck, still: writeCheck2, filter: "CheckID == none", kept: `[`, gone: `"alive"`},
	"GET /v1/health/service/{name}": {
		tier: 1, ask: "/v1/health/service/web", want: `\[\{"Node":\{.*"Service":\{.*"Checks":\[\{`, wake: writeCheck, still: writeCheck2, filter: `Node.Node == none`, kept: `[`, gone: `"ext1"`,
		bad: map[string]string{"passing=x": "400 Invalid value for ?passing"},
	},
	"GET /v1/health/connect/{name}": {tier: 1, ask: "/v1/health/connect/web", want: `"ID":"web1-proxy".*"TaggedAddresses":\{"consul-virtual":\{"Address":"240.0.0.1","Port":82\}\}`, wake: writeProxy, still: writeCheck2, filter: `Node.Node == none`, kept: `[`, gone: `"ext1"`, bad: map[string]string{"passing=x": "400 Invalid value for ?passing"}},
	"GET /v1/health/state/{name}":   {tier: 1, ask: "/v1/health/state/critical", want: `"Node":"ext2","CheckID":"alive"`, wake: writeCheck2, still: writeCheck, filter: "Node != ext2", kept: `[`, gone: `"ext2"`, differs: noWait},
	"PUT /v1/config":                {tier: 1, body: `{"Kind":"service-defaults","Name":"api","Protocol":"http"}`, want: `^true$`, bad: map[string]string{"cas=x": "400 Invalid cas"}},
	"GET /v1/config/{kind}":         {tier: 1, ask: "/v1/config/service-defaults", want: `"Kind":"service-defaults"`, wake: writeEntry, still: writeRule, filter: "Name == web", kept: `"Name":"web"`, gone: `"Name":"db"`},
	"GET /v1/config/{kind}/{name}":  {tier: 1, ask: "/v1/config/service-defaults/web", want: `"Protocol":"http"`, wake: writeEntry, still: writeEntry2},
	"DELETE /v1/config/{kind}/{name}": {
		tier: 1, ask: "/v1/config/service-defaults/api", want: `^\{\}$`, bad: map[string]string{"cas=x": "400 Invalid cas"},
	},
	"GET /v1/connect/intentions":       {tier: 1, want: `"SourceName":"web","DestinationNS":"default","DestinationName":"db"`, wake: writeRule, still: writeEntry, filter: "SourceName == web", kept: `"SourceName":"web"`, gone: `"SourceName":"db"`},
	"POST /v1/connect/intentions":      {tier: 1, body: `{"SourceName":"old","DestinationName":"cache","Action":"allow"}`, want: `\{"ID":"([^"]+)"\}`, keep: "intention"},
	"GET /v1/connect/intentions/exact": {tier: 1, ask: "/v1/connect/intentions/exact?source=web&destination=db", want: `"Action":"allow"`, wake: writeRule, still: writeRule2, bad: map[string]string{"source=web": "500 required query parameter 'destination' not set"}},
	"PUT /v1/connect/intentions/exact": {tier: 1, ask: "/v1/connect/intentions/exact?source=x&destination=y", body: `{"Action":"deny"}`, want: `^true$`},
	"DELETE /v1/connect/intentions/exact": {
		tier: 1, ask: "/v1/connect/intentions/exact?source=x&destination=y", want: `^true$`,
	},
	"GET /v1/connect/intentions/match":   {tier: 1, ask: "/v1/connect/intentions/match?by=destination&name=db", want: `^\{"db":\[\{`, wake: writeRule, still: writeRule2, bad: map[string]string{"by=x&name=y": "500 'by' parameter must be one of 'source' or 'destination'"}},
	"GET /v1/connect/intentions/check":   {tier: 1, ask: "/v1/connect/intentions/check?source=web&destination=db", want: `^\{"Allowed":true\}$`, wake: `PUT /v1/connect/intentions/exact?source=web&destination=db {"Action":"deny"}`, still: writeRule2},
	"GET /v1/connect/intentions/{id}":    {tier: 3, ask: "/v1/connect/intentions/{intention}", want: `"ID":"`, wake: `PUT /v1/connect/intentions/{intention} {"SourceName":"old","DestinationName":"cache","Action":"deny","Description":"{n}"}`, still: writeRule2},
	"PUT /v1/connect/intentions/{id}":    {tier: 3, ask: "/v1/connect/intentions/{intention}", body: `{"SourceName":"old","DestinationName":"cache","Action":"allow"}`, want: `"ID":"`},
	"DELETE /v1/connect/intentions/{id}": {tier: 3, ask: "/v1/connect/intentions/{intention}", want: `^true$`},
	"GET /v1/connect/ca/roots":           {tier: 1, ask: "/v1/connect/ca/roots?pem=false", want: `"ActiveRootID":"`, bad: map[string]string{"pem=x": "400 The 'pem' query parameter must be a boolean value"}, wake: `PUT /v1/connect/ca/configuration {"Config":{"PrivateKeyBits":384},"ForceWithoutCrossSigning":true}`, still: writeEntry},
	"GET /v1/connect/ca/configuration":   {tier: 2, want: `\{"Config":\{.*"Provider":"consul"`, wake: `PUT /v1/connect/ca/configuration {"Config":{"PrivateKeyBits":256},"ForceWithoutCrossSigning":true}`, still: writeEntry, differs: "secrets aren't shown: keys, tokens, passwords"},
	"PUT /v1/connect/ca/configuration":   {tier: 2, body: `{"Provider":"consul","Config":{"LeafCertTTL":"72h"}}`},

	"GET /v1/operator/raft/configuration":      {tier: 2, want: `\{"Index":\d+,"Servers":\[\{"ID":"`},
	"DELETE /v1/operator/raft/peer":            {tier: 2, code: 400, also: "TestOperatorRoutes", want: `Must specify either \?id with the server's ID or \?address`},
	"POST /v1/operator/raft/transfer-leader":   {tier: 2, code: 404, also: "TestOperatorRoutes", want: `.`},
	"GET /v1/operator/autopilot/configuration": {tier: 2, want: `"CleanupDeadServers":true,"LastContactThreshold":"200ms"`},
	"PUT /v1/operator/autopilot/configuration": {tier: 2, body: `{"CleanupDeadServers":true}`, want: `^true$`, bad: map[string]string{"cas=x": "400 Error parsing cas value"}},
	"GET /v1/operator/autopilot/health":        {tier: 2, want: `"FailureTolerance":0,"Healthy":true,"Servers":\[\{"ID":"[^"]+".*"SerfStatus":"alive".*"Leader":true.*"Healthy":true,"Voter":true`},
	"GET /v1/operator/autopilot/state":         {tier: 2, want: `"Healthy":true,"Leader":"([^"]+)".*"Status":"leader".*"NodeType":"voter".*"Voters":\["[^"]+"\]`},
	"GET /v1/snapshot":                         {tier: 2, kind: "application/x-gzip", want: `^\x1f`, differs: "the archive is weft's own: Consul can't restore it"},
	"PUT /v1/snapshot":                         {tier: 2, body: "odd", code: 400, also: "TestC123_SecretsAreSealed", want: ".", differs: "Consul's archives are taken too, and a report is answered then"},
	"GET /v1/discovery-chain/{name}":           {tier: 1, ask: "/v1/discovery-chain/web", want: `\{"Chain":\{"AutoVirtualIPs":\["240.0.0.1"\].*"ServiceName":"web"`, wake: `PUT /v1/config {"Kind":"service-resolver","Name":"web","ConnectTimeout":"{n}s"}`, still: writeEntry2},
	"GET /v1/kv/{name...}": {
		tier: 1, ask: "/v1/kv/app/a", want: `^\[\{"LockIndex":0,"Key":"app/a","Flags":0,"Value":"`, wake: writeKey, still: `PUT /v1/kv/app/b {n}`,
		differs: "of an absent key or prefix the index is that of its deletion, or 1, so that nothing that happens elsewhere wakes who waits; a locked key has a `FencingIndex`",
	},
	"PUT /v1/kv/{name...}": {
		tier: 1, ask: "/v1/kv/app/new", body: "{n}", want: `^true$`,
		bad: map[string]string{"cas=x": "400 Invalid cas", "flags=x": "400 Invalid flags", "cas=1&acquire=x": "400 Conflicting flags: ", "acquire=none": "500 invalid session"},
	},
	"DELETE /v1/kv/{name...}":      {tier: 1, ask: "/v1/kv/app/new", want: `^true$`, bad: map[string]string{"cas=x": "400 Invalid cas", "cas=1&recurse": "400 Conflicting flags: "}},
	"PUT /v1/session/create":       {tier: 1, body: `{"Node":"ext1","Name":"s"}`, want: `\{"ID":"([^"]+)"\}`, keep: "session"},
	"PUT /v1/session/destroy/{id}": {tier: 1, ask: "/v1/session/destroy/none", want: `^true$`},
	"PUT /v1/session/renew/{id}":   {tier: 1, ask: "/v1/session/renew/{session}", want: `^\[\{"ID":"{session}"`},
	"GET /v1/session/info/{id}":    {tier: 1, ask: "/v1/session/info/{session}", want: `^\[\{"ID":"{session}","Name":"s","Node":"ext1"`, still: `PUT /v1/session/create {"Node":"ext1"}`, wake: `PUT /v1/session/destroy/{session}`},
	"GET /v1/session/list":         {tier: 1, want: `^\[`, wake: `PUT /v1/session/create {"Node":"ext1"}`, still: writeKey},
	"GET /v1/session/node/{name}":  {tier: 1, ask: "/v1/session/node/ext1", want: `^\[\{`, wake: `PUT /v1/session/create {"Node":"ext1"}`, still: `PUT /v1/session/create {"Node":"ext2"}`},
	"GET /v1/query":                {tier: 1, want: `^\[\]$`, wake: `POST /v1/query {"Name":"q0","Service":{"Service":"db"}}`, still: writeKey},
	"POST /v1/query":               {tier: 1, body: `{"Name":"q{n}","Service":{"Service":"web"}}`, want: `\{"ID":"([^"]+)"\}`, keep: "query"},
	"GET /v1/query/{id}":           {tier: 1, ask: "/v1/query/{query}", want: `^\[\{"ID":"{query}"`, wake: `PUT /v1/query/{query} {"Name":"r{n}","Service":{"Service":"web"}}`, still: `POST /v1/query {"Name":"q-{n}","Service":{"Service":"db"}}`},
	"PUT /v1/query/{id}":           {tier: 1, ask: "/v1/query/{query}", body: `{"Name":"named","Service":{"Service":"web"}}`},
	"GET /v1/query/{id}/execute":   {tier: 1, before: []string{`POST /v1/query {"Name":"named2","Service":{"Service":"web"}}`}, ask: "/v1/query/named2/execute", want: `\{"Service":"web","Nodes":\[\{"Node":\{`, wake: writeWeb, still: writeDB, bad: map[string]string{"limit=x": "400 "}},
	"GET /v1/query/{id}/explain":   {tier: 3, ask: "/v1/query/named2/explain", want: `\{"Query":\{"ID":"{made}"`, wake: `PUT /v1/query/{made} {"Name":"named2","Service":{"Service":"web","Tags":["a"]}}`, still: writeWeb},
	"DELETE /v1/query/{id}":        {tier: 1, ask: "/v1/query/{query}"},
	"POST /v1/discovery-chain/{name}": {
		tier: 1, ask: "/v1/discovery-chain/web", body: `{"OverrideConnectTimeout":"7s"}`, want: `"ConnectTimeout":"7s"`, wake: `PUT /v1/config {"Kind":"service-resolver","Name":"web","ConnectTimeout":"{n}s","RequestTimeout":"{n}s"}`, still: writeEntry2,
	},
	"GET /v1/catalog/gateway-services/{name}": {tier: 2, ask: "/v1/catalog/gateway-services/gw", want: `"Gateway":\{"Name":"gw"\},"Service":\{"Name":"web"\}`, wake: writeIngress, still: writeEntry2, filter: "Service.Name == web", kept: `"Name":"web"`, gone: `"Name":"db"`},
	"GET /v1/health/ingress/{name}":           {tier: 1, ask: "/v1/health/ingress/web", want: `"Service":"gw"`, wake: writeGateway, still: writeCheck, filter: `Node.Node == none`, kept: `[`, gone: `"ext2"`},
	"GET /v1/exported-services":               {tier: 2, want: `"Service":"web","Consumers":\{"Peers":\["east`, wake: writeExport, still: writeEntry2, filter: "Service == web", kept: `"web"`, gone: `"db"`},
	"GET /v1/operator/usage":                  {tier: 2, want: `\{"Usage":\{"dc1":\{"Nodes":\d+,"Services":`, wake: `PUT /v1/catalog/register {"Node":"ext{n}","Address":"10.0.2.1"}`, still: writeWeb},

	"GET /v1/internal/ui/nodes":                         {tier: 3, want: `"Services":\[\{"ID":"`, wake: writeWeb, still: writeKey, filter: "Node == ext1", kept: `"ext1"`, gone: `"ext2"`},
	"GET /v1/internal/ui/node/{name}":                   {tier: 3, ask: "/v1/internal/ui/node/ext1", want: `"Node":"ext1"`, wake: writeWeb, still: writeDB},
	"GET /v1/internal/ui/services":                      {tier: 3, want: `"Name":"web","Datacenter":"dc1"`, wake: writeWeb, still: writeKey, filter: "Name == web", kept: `"Name":"web"`, gone: `"Name":"db"`},
	"GET /v1/internal/ui/exported-services":             {tier: 3, want: `"Service":"web"`, wake: writeExport, still: writeEntry2, filter: "Service == web", kept: `"web"`, gone: `"db"`},
	"GET /v1/internal/ui/catalog-overview":              {tier: 3, want: `"Checks":\[\{`, wake: `PUT /v1/catalog/register {"Node":"more{n}","Address":"10.0.2.1"}`, still: writeKey},
	"GET /v1/internal/ui/service-topology/{name}":       {tier: 3, ask: "/v1/internal/ui/service-topology/web", want: `"Upstreams":\[\{"Name":"db"`, wake: `PUT /v1/config {"Kind":"service-defaults","Name":"web","Protocol":"grpc"}`, still: writeKey},
	"GET /v1/internal/ui/gateway-services-nodes/{name}": {tier: 3, ask: "/v1/internal/ui/gateway-services-nodes/gw", want: `"Name":"db"`, wake: writeDB, still: writeKey},
	"GET /v1/internal/ui/gateway-intentions/{name}":     {tier: 3, ask: "/v1/internal/ui/gateway-intentions/gw", want: `"DestinationName":"db"`, wake: writeRule, still: writeKey},
	"PUT /v1/internal/service-virtual-ip":               {tier: 2, body: `{"Service":"web","ManualVIPs":["10.5.0.1"]}`, want: `^\{"Found":true,"UnassignedFrom":\[\]\}`},
	"GET /v1/internal/federation-states":                {tier: 3, want: `^\[\]$`, differs: "always empty: there is no federation through mesh gateways"},
	"GET /v1/internal/federation-states/mesh-gateways":  {tier: 3, want: `^\{\}$`, differs: "always empty, as above"},
	"POST /v1/peering/token":                            {tier: 2, body: `{"PeerName":"north"}`, want: `\{"PeeringToken":"`, differs: "nothing passes between the clusters yet"},
	"POST /v1/peering/establish":                        {tier: 2, body: `{"PeerName":"south","PeeringToken":"x"}`, code: 500, also: "TestPeering", want: "failed to decode peering token", differs: "as above"},
	"GET /v1/peering/{name}":                            {tier: 2, ask: "/v1/peering/east", want: `"Name":"east".*"State":"PENDING"`, wake: writePeering, still: writePeer2, differs: "as above"},
	"DELETE /v1/peering/{name}":                         {tier: 2, ask: "/v1/peering/north", differs: "it is gone at once"},
	"GET /v1/peerings":                                  {tier: 2, want: `"Name":"east"`, wake: writePeering, still: writeKey, differs: "as above"},
	"PUT /v1/txn":                                       {tier: 1, body: `[{"KV":{"Verb":"get","Key":"app/a"}}]`, want: `\{"Results":\[\{"KV":\{.*"Errors":null`, differs: "errors name the node, service or check that they are about"},
	"PUT /v1/coordinate/update":                         {tier: 3, body: `{"Node":"ext1","Coord":{"Vec":[0.1,0,0,0,0,0,0,0],"Error":1,"Adjustment":0,"Height":0.00001}}`},
	"GET /v1/coordinate/datacenters":                    {tier: 2, want: `"Datacenter":"dc1","AreaID":"wan"`},
	"GET /v1/coordinate/nodes":                          {tier: 2, want: `^\[`, wake: `PUT /v1/coordinate/update {"Node":"ext1","Coord":{"Vec":[0.{n},0,0,0,0,0,0,0],"Error":1,"Adjustment":0,"Height":0.00001}}`, still: writeNode},
	"GET /v1/coordinate/node/{name}":                    {tier: 2, ask: "/v1/coordinate/node/ext1", want: `"Node":"ext1"`, wake: `PUT /v1/coordinate/update {"Node":"ext1","Coord":{"Vec":[0.{n},0,0,0,0,0,0,0],"Error":1,"Adjustment":0,"Height":0.00001}}`, still: `PUT /v1/coordinate/update {"Node":"ext2","Coord":{"Vec":[0.{n},0,0,0,0,0,0,0],"Error":1,"Adjustment":0,"Height":0.00001}}`},
	"PUT /v1/namespace":                                 {tier: 2, body: `{"Name":"team-a","Description":"d"}`, want: `^\{"Name":"team-a","Description":"d","CreateIndex":\d+`, differs: "free; names are lower-case; ACL defaults by namespace are refused"},
	"GET /v1/namespace/{name}":                          {tier: 2, ask: "/v1/namespace/team-a", want: `"Name":"team-a"`, wake: `PUT /v1/namespace/team-a {"Description":"{n}"}`, still: `PUT /v1/acl/token {"Description":"{n}"}`, differs: "as above"},
	"PUT /v1/namespace/{name}":                          {tier: 2, ask: "/v1/namespace/team-a", body: `{"Meta":{"a":"b"}}`, want: `"Meta":\{"a":"b"\}`, differs: "as above"},
	"DELETE /v1/namespace/{name}":                       {tier: 2, ask: "/v1/namespace/team-a", differs: "one that isn't empty is refused; an empty one is gone at once"},
	"GET /v1/namespaces":                                {tier: 2, before: []string{`PUT /v1/namespace {"Name":"kept"}`}, want: `^\[\{"Name":"default"`, wake: `PUT /v1/namespace/kept {"Description":"{n}"}`, still: writeKey, filter: "Name == default", kept: `"default"`, gone: `"kept"`, differs: "as above"},
	"GET /v1/operator/keyring":                          {tier: 2, want: `"WAN":true.*"WAN":false`, bad: map[string]string{"relay-factor=6": "400 Invalid relay-factor"}},
	"POST /v1/operator/keyring":                         {tier: 2, body: `{"Key":"CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg="}`},
	"PUT /v1/operator/keyring":                          {tier: 2, body: `{"Key":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}`},
	"DELETE /v1/operator/keyring":                       {tier: 2, body: `{"Key":"CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg="}`},

	"PUT /v1/acl/bootstrap":           {tier: 1, body: `{}`, code: 403, also: "TestACLBootstrap", want: `Permission denied: ACL bootstrap no longer allowed \(reset index: \d+\)`},
	"GET /v1/acl/replication":         {tier: 2, want: `"Enabled":false`},
	"POST /v1/acl/login":              {tier: 1, body: `{"AuthMethod":"none","BearerToken":"x"}`, code: 403, also: "TestLoginRoutes", want: `ACL not found`},
	"POST /v1/acl/oidc/auth-url":      {tier: 2, body: `{"AuthMethod":"none","RedirectURI":"http://localhost:8550/oidc/callback"}`, code: 403, also: "TestOIDCLogin", want: `ACL not found`, differs: "free of charge; who begins a login and what he may end, the browser carries, sealed: any server ends it"},
	"POST /v1/acl/oidc/callback":      {tier: 2, body: `{"AuthMethod":"none","State":"s","Code":"c"}`, code: 403, also: "TestOIDCLogin", want: `ACL not found`, differs: "free of charge"},
	"POST /v1/acl/logout":             {tier: 1, code: 403, also: "TestLoginRoutes", want: `Permission denied: token wasn't created via login`},
	"PUT /v1/acl/token":               {tier: 1, body: `{"Description":"d"}`, want: `"AccessorID":"([^"]+)"`, keep: "token"},
	"GET /v1/acl/token/self":          {tier: 1, want: `"AccessorID":"([^"]+)".*"SecretID":"` + managing + `"`, keep: "self"},
	"GET /v1/acl/token/{id}":          {tier: 1, ask: "/v1/acl/token/{token}", want: `"AccessorID":"{token}"`},
	"PUT /v1/acl/token/{id}":          {tier: 1, ask: "/v1/acl/token/{token}", body: `{"Description":"e"}`, want: `"Description":"e"`},
	"PUT /v1/acl/token/{id}/clone":    {tier: 1, ask: "/v1/acl/token/{self}/clone", body: `{"Description":"f"}`, want: `"Description":"f"`},
	"DELETE /v1/acl/token/{id}":       {tier: 1, ask: "/v1/acl/token/{token}", want: `^true$`},
	"PUT /v1/acl/policy":              {tier: 1, body: `{"Name":"p","Rules":"key_prefix \"\" { policy = \"read\" }"}`, want: `"ID":"([^"]+)"`, keep: "policy"},
	"GET /v1/acl/policy/{id}":         {tier: 1, ask: "/v1/acl/policy/{policy}", want: `"Name":"p"`},
	"PUT /v1/acl/policy/{id}":         {tier: 1, ask: "/v1/acl/policy/{policy}", body: `{"Name":"p2","Rules":""}`, want: `"Name":"p2"`},
	"DELETE /v1/acl/policy/{id}":      {tier: 1, ask: "/v1/acl/policy/{policy}", want: `^true$`},
	"GET /v1/acl/policy/name/{id}":    {tier: 1, ask: "/v1/acl/policy/name/global-management", want: `"ID":"00000000-0000-0000-0000-000000000001"`},
	"PUT /v1/acl/role":                {tier: 1, body: `{"Name":"r","ServiceIdentities":[{"ServiceName":"web"}]}`, want: `"ID":"([^"]+)"`, keep: "role"},
	"GET /v1/acl/role/{id}":           {tier: 1, ask: "/v1/acl/role/{role}", want: `"Name":"r"`},
	"PUT /v1/acl/role/{id}":           {tier: 1, ask: "/v1/acl/role/{role}", body: `{"Name":"r2","ServiceIdentities":[{"ServiceName":"web"}]}`, want: `"Name":"r2"`},
	"DELETE /v1/acl/role/{id}":        {tier: 1, ask: "/v1/acl/role/{role}", want: `^true$`},
	"GET /v1/acl/role/name/{id}":      {tier: 1, before: []string{`PUT /v1/acl/role {"Name":"named","ServiceIdentities":[{"ServiceName":"web"}]}`}, ask: "/v1/acl/role/name/named", want: `"Name":"named"`},
	"PUT /v1/acl/auth-method":         {tier: 1, body: `{"Name":"m","Type":"jwt",` + methodConfig + `}`, want: `"Name":"m"`},
	"GET /v1/acl/auth-method/{id}":    {tier: 1, ask: "/v1/acl/auth-method/m", want: `"Name":"m"`},
	"PUT /v1/acl/auth-method/{id}":    {tier: 1, ask: "/v1/acl/auth-method/m", body: `{"Name":"m","Type":"jwt","Description":"d",` + methodConfig + `}`, want: `"Description":"d"`},
	"DELETE /v1/acl/auth-method/{id}": {tier: 1, ask: "/v1/acl/auth-method/m", want: `^true$`},
	"PUT /v1/acl/binding-rule": {
		tier: 1, before: []string{`PUT /v1/acl/auth-method {"Name":"bm","Type":"jwt",` + methodConfig + `}`}, body: `{"AuthMethod":"bm","BindType":"service","BindName":"web"}`,
		want: `"ID":"([^"]+)"`, keep: "rule",
	},
	"GET /v1/acl/binding-rule/{id}":                 {tier: 1, ask: "/v1/acl/binding-rule/{rule}", want: `"ID":"{rule}"`},
	"PUT /v1/acl/binding-rule/{id}":                 {tier: 1, ask: "/v1/acl/binding-rule/{rule}", body: `{"AuthMethod":"bm","BindType":"service","BindName":"db"}`, want: `"BindName":"db"`},
	"DELETE /v1/acl/binding-rule/{id}":              {tier: 1, ask: "/v1/acl/binding-rule/{rule}", want: `^true$`},
	"GET /v1/acl/tokens":                            {tier: 1, want: `"AccessorID":"00000000-0000-0000-0000-000000000002"`},
	"GET /v1/acl/policies":                          {tier: 1, want: `"Name":"global-management"`},
	"GET /v1/acl/roles":                             {tier: 1, want: `^\[`},
	"GET /v1/acl/binding-rules":                     {tier: 1, want: `^\[`},
	"GET /v1/acl/auth-methods":                      {tier: 1, want: `^\[`},
	"GET /v1/acl/templated-policies":                {tier: 2, want: `"builtin/service":`},
	"GET /v1/acl/templated-policy/name/{id...}":     {tier: 2, ask: "/v1/acl/templated-policy/name/builtin/service", want: `"TemplateName":"builtin/service"`},
	"POST /v1/acl/templated-policy/preview/{id...}": {tier: 2, ask: "/v1/acl/templated-policy/preview/builtin/service", body: `{"Name":"web"}`, want: `"Rules":"`},

	"GET /v1/weft/acl/resolve": {want: `.`, differs: "what a token grants, for agents"},
	"GET /v1/weft/acl/changed": {want: `^\{"Index":\d+\}$`, differs: "when a token last changed, for agents", wake: `PUT /v1/acl/token/{self} {"Description":"{n}"}`, still: `PUT /v1/acl/token {"Description":"{n}"}`},

	"POST /v1/weft/join":               {body: `{"Node":"x1","CSR":"x","Secret":"x"}`, code: 400, also: "TestJoinTokens", want: "no request for a certificate", differs: "the way into a locked cluster"},
	"POST /v1/weft/join/tokens":        {body: `{"TTL":"10m"}`, want: `^\{"ID":"([^"]+)","Token":"weft-join-`, keep: "join", differs: "as above"},
	"GET /v1/weft/join/tokens":         {want: `^\[\{"ID":"{join}"`, differs: "as above"},
	"DELETE /v1/weft/join/tokens/{id}": {ask: "/v1/weft/join/tokens/{join}", want: `^true$`, differs: "as above"},
	"PUT /v1/weft/ca/revoke":           {body: `{"Serial":"0A:0b","Reason":"lost"}`, want: `^\{"Serial":"0a:0b","Reason":"lost","Time":"`, differs: "certificates that end before their time"},
	"GET /v1/weft/ca/revoked":          {want: `^\[\{"Serial":"0a:0b"`, differs: "as above", wake: `PUT /v1/weft/ca/revoke {"Serial":"0c"}`, still: writeEntry},
	"GET /v1/weft/proxies":             {want: `^\[`, differs: "what every proxy should have and has", bad: map[string]string{"write=x": "400 Invalid write"}},
	"PUT /v1/weft/ca/intermediate":     {body: `{"CSR":"x"}`, code: 400, also: "TestOneTrustOverDatacenters", want: "only the servers of other datacenters", differs: "what servers of other datacenters ask"},
	"GET /v1/weft/entries":             {want: `^\["`, wake: `PUT /v1/config {"Kind":"service-defaults","Name":"{n}","Protocol":"http"}`, still: `PUT /v1/kv/{n} x`, differs: "all config entries, in the form in which weft keeps them"},
	"GET /v1/weft/explain":             {ask: "/v1/weft/explain?source=web&destination=db&method=GET&path=/", want: `"Ways":\[`, wake: `PUT /v1/connect/intentions/exact?source=web&destination=db {"Action":"deny"}`, still: writeRule2, differs: "where a request goes and why"},
}
