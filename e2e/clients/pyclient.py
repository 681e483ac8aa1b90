# SPDX-License-Identifier: Apache-2.0
"""Does with py-consul what programs in Python do with it: pyclient.py HOST PORT, on an agent that nobody else uses."""

import sys
import threading
import time

import consul

host, port = sys.argv[1], int(sys.argv[2])
c = consul.Consul(host=host, port=port)


def want(what, got, expected):
    if got != expected:
        raise SystemExit(f"{what}: {got!r}, want {expected!r}")


def until(what, f):
    end = time.monotonic() + 5
    while not (got := f()):
        if time.monotonic() > end:
            raise SystemExit(f"{what}: {got!r}")
        time.sleep(0.02)
    return got


def keys():
    want("no key", c.kv.get("py/none")[1], None)
    for key in ("py/a", "py/b/c", "py/ü %2F"):
        want("put", c.kv.put(key, key, flags=7), True)
        index, got = c.kv.get(key)
        want("get", (got["Value"].decode(), got["Flags"], got["Key"]), (key, 7, key))
    want("keys", c.kv.get("py/", keys=True, separator="/")[1], ["py/a", "py/b/", "py/ü %2F"])
    want("cas", (c.kv.put("py/a", "x", cas=1), c.kv.put("py/a", "x", cas=c.kv.get("py/a")[1]["ModifyIndex"])), (False, True))
    index, _ = c.kv.get("py/a")
    threading.Timer(0.2, lambda: consul.Consul(host=host, port=port).kv.put("py/a", "news")).start()
    began = time.monotonic()
    want("watch", c.kv.get("py/a", index=index, wait="5s")[1]["Value"], b"news")
    want("woken", time.monotonic() - began < 3, True)
    want("delete", (c.kv.delete("py/", recurse=True), c.kv.get("py/", recurse=True)[1]), (True, None))
    ops = [{"KV": {"Verb": "set", "Key": "py/t", "Value": "dA=="}}, {"KV": {"Verb": "get", "Key": "py/t"}}]
    want("transaction", [r["KV"]["Key"] for r in c.txn.put(ops)["Results"]], ["py/t", "py/t"])


def sessions():
    one, two = c.session.create(name="one", ttl=30, lock_delay=0), c.session.create(name="two", ttl=30, lock_delay=0)
    want("acquire", (c.kv.put("py/lock", "1", acquire=one), c.kv.put("py/lock", "2", acquire=two)), (True, False))
    want("holder", c.kv.get("py/lock")[1]["Session"], one)
    want("renew", c.session.renew(one)["ID"], one)
    want("release", (c.kv.put("py/lock", "1", release=one), c.kv.put("py/lock", "2", acquire=two)), (True, True))
    want("list", {s["Name"] for s in c.session.list()[1]}, {"one", "two"})
    want("destroy", (c.session.destroy(one), c.session.destroy(two), c.session.info(one)[1]), (True, True, None))
    want("lock ends", "Session" in c.kv.get("py/lock")[1], False)


def services():
    check = consul.Check.ttl("30s")
    want("register", c.agent.service.register("py", service_id="py1", port=81, tags=["v1"], meta={"a": "b"}, check=check), True)
    until("catalog", lambda: c.catalog.service("py")[1])
    want("critical", c.health.service("py", passing=True)[1], [])
    index, _ = c.health.service("py")
    want("pass", c.agent.check.ttl_pass("service:py1", "well"), True)
    until("passing", lambda: c.health.service("py", passing=True)[1])
    index, got = c.health.service("py", tag="v1")
    want("service", (got[0]["Service"]["Port"], got[0]["Service"]["Meta"]["a"], got[0]["Checks"][-1]["Status"] in ("passing",)), (81, "b", True))
    want("filter", c.health.service("py", filter_expr='"v2" in Service.Tags')[1], [])
    want("merged", len(c.health.service("py", merge_central_config=True)[1]), 1)
    want("agent's", c.agent.services()["py1"]["Service"], "py")
    want("names", c.catalog.services()[1]["py"], ["v1"])
    want("checks", c.health.checks("py")[1][0]["Output"], "well")
    query = c.query.create("py", name="pyq", ttl="10s")["ID"]
    want("query", [n["Service"]["ID"] for n in c.query.execute("pyq")["Nodes"]], ["py1"])
    want("query ends", c.query.delete(query), True)
    want("maintenance", c.agent.service.maintenance("py1", True, reason="pause"), True)
    until("left out", lambda: c.health.service("py", passing=True)[1] == [])
    want("deregister", c.agent.service.deregister("py1"), True)
    until("gone", lambda: c.catalog.service("py")[1] == [])
    want("external", c.catalog.register("pynode", "10.9.9.9", service={"Service": "pyext", "Port": 5}), True)
    want("its node", c.catalog.node("pynode")[1]["Node"]["Address"], "10.9.9.9")
    want("it goes", c.catalog.deregister("pynode"), True)


def rest():
    want("leader", ":" in c.status.leader(), True)
    want("peers", len(c.status.peers()), 1)
    want("datacenters", c.catalog.datacenters(), ["dc1"])
    want("self", c.agent.self()["Config"]["Datacenter"], "dc1")
    want("members", [m["Name"] for m in c.agent.members()], [c.agent.self()["Config"]["NodeName"]])
    want("config", c.config.set("service-defaults", "py", {"Protocol": "http"}), True)
    want("config back", c.config.get("service-defaults", "py")["Protocol"], "http")
    want("config gone", c.config.delete("service-defaults", "py"), True)
    event = c.event.fire("deploy", "1.2")
    until("event", lambda: [e for e in c.event.list("deploy")[1] if e["ID"] == event["ID"]])
    want("roots", len(c.connect.ca.roots()["Roots"]), 1)
    try:
        c.acl.token.list()
        raise SystemExit("ACLs are off, and tokens are listed")
    except consul.exceptions.ACLDisabled:
        pass
    try:
        c.session.create(ttl=1)
        raise SystemExit("a time to live of a second is taken")
    except (consul.exceptions.ConsulException, AssertionError):
        pass


for job in (keys, sessions, services, rest):
    job()
print("ok")
