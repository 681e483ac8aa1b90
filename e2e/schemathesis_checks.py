# SPDX-License-Identifier: Apache-2.0
"""A check for schemathesis: what weft answers with 500, as Consul does, says what was wrong with the request; nothing else is 5xx."""

import schemathesis

# Consul answers many bad requests with 500 and these texts, which its clients look for.
CONSULS = (
    "No path to datacenter", "required query parameter", "'by' parameter must be", "Must provide ", "Cannot ", "Failed to ", "Invalid ", "Bad ",
    "autopilot doesn't work here", "CheckID ", "invalid session", "Session ", "ID must be empty", "cannot ", "failed to ", "agent: No node",
    "gossip isn't encrypted", "peering token", "ACL", "No such ", "service ", "the name ", "Template", "Targets", "DNS TTL", "duplicate intention",
    "this agent isn't in the WAN pool", "Multiple services", "discovery chain", "proxy-defaults", "Connect", "ExternalSNI", "Protocol", "the datacenter ",
)


@schemathesis.check
def answered_as_said(ctx, response, case):
    if response.status_code == 503 and response.text:
        return  # not now, and why
    if response.status_code >= 500 and not response.text.strip().startswith(CONSULS):
        raise AssertionError(f"{response.status_code}: {response.text[:300]}")
