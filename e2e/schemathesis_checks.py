# SPDX-License-Identifier: Apache-2.0
"""A check for schemathesis: what weft answers with 5xx is one of the answers listed here, on the routes that have it; nothing else is."""

import re

import schemathesis

# Consul answers these bad requests with 500 and these texts, which its clients look for: routes, and the whole text.
CONSULS = [
    (r".*", r"No path to datacenter(: this cluster is dc1)?"),
    (r"/v1/connect/intentions/(exact|check)|/v1/weft/explain", r"required query parameter '(source|destination)' not set"),
    (r"/v1/connect/intentions/match", r"'by' parameter must be one of 'source' or 'destination'"),
    (r"/v1/connect/intentions.*", r"Cannot modify non-existent intention: .*|Bad intention.*|duplicate intention.*|SourceName.*|DestinationName.*"),
    (r"/v1/catalog/(de)?register", r"Must provide (node|address if SkipNodeUpdate is not set|service name \(Service\.Service\)).*"),
    (r"/v1/query(/\{id\})?", r"Must provide a Service name to query|Cannot modify non-existent prepared query: '.*'|ID must be empty.*|Bad .*|invalid session .*|"
        r"name '.*' aliases an existing query (name|ID)|Targets cannot .*|Template\.Type must .*|DNS TTL .*"),
    (r"/v1/operator/autopilot/(state|health)", r"autopilot doesn't work here: .*"),
    (r"/v1/operator/keyring", r"gossip isn't encrypted: there is no keyring"),
    (r"/v1/session/create", r"Session .*|invalid session .*|Missing node registration|CheckID .*"),
    (r"/v1/config", r"Connect.*|ExternalSNI.*|Protocol .*|Multiple services .*|discovery chain .*|invalid name .*|cannot .*|Bad .*"),
    (r"/v1/agent/check/(pass|warn|fail|update|deregister)/\{name\}", r"CheckID .*|Unknown check .*"),
    (r"/v1/coordinate/update", r"invalid coordinate.*"),
    (r"/v1/peering/.*", r"peering token .*"),
    (r"/v1/acl/.*", r"ACL .*|Cannot .*|Invalid .*|No such ACL .*"),
]

# Filters are answered with 500 where they can't be read, or don't fit what is listed; only where there is one.
FILTERS = r"Failed to (create boolean expression evaluator|filter the answer): .*"


@schemathesis.check
def answered_as_said(ctx, response, case):
    if response.status_code < 500:
        return
    text = response.text.strip()
    if response.status_code == 500:
        if "filter" in (case.query or {}) and re.fullmatch(FILTERS, text, re.DOTALL):
            return
        if any(re.fullmatch(routes, case.operation.path) and re.fullmatch(said, text, re.DOTALL) for routes, said in CONSULS):
            return
    raise AssertionError(f"{response.status_code}: {text[:300]}")
