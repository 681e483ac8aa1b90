// SPDX-License-Identifier: Apache-2.0

// Does with the npm packages consul and @creditkarma/consul-client what programs in Node.js do with them: jsclient.js HOST PORT, on an
// agent that nobody else uses.

const assert = require("node:assert/strict");
const { createRequire } = require("node:module");
const modules = createRequire(process.env.WEFT_NODE_MODULES + "/");
const Consul = modules("consul");
const { KvStore, Catalog } = modules("@creditkarma/consul-client");

const [host, port] = [process.argv[2], Number(process.argv[3])];
const c = new Consul({ host, port });

async function until(what, f) {
  for (const end = Date.now() + 5000; ; ) {
    const got = await f();
    if (got) return got;
    if (Date.now() > end) throw new Error(what);
    await new Promise((done) => setTimeout(done, 20));
  }
}

// next resolves with what a watch sees next; wanted, with the first that has what is wanted: a write on the way to it may be seen by itself.
const next = (watch) => wanted(watch, () => true);
const wanted = (watch, has) =>
  new Promise((seen, failed) => (watch.on("change", (got) => has(got) && seen(got)), watch.once("error", failed)));

async function keys() {
  assert.equal(await c.kv.get("js/none"), undefined);
  for (const key of ["js/a", "js/b/c", "js/ü %2F"]) {
    assert.equal(await c.kv.set({ key, value: key, flags: 7 }), true);
    const got = await c.kv.get(key);
    assert.deepEqual([got.Key, got.Value, got.Flags], [key, key, 7]);
  }
  assert.deepEqual(await c.kv.keys({ key: "js/", separator: "/" }), ["js/a", "js/b/", "js/ü %2F"]);
  const { ModifyIndex } = await c.kv.get("js/a");
  assert.ok(!(await c.kv.set({ key: "js/a", value: "x", cas: "1" }))); // it gives undefined for false
  assert.equal(await c.kv.set({ key: "js/a", value: "x", cas: String(ModifyIndex) }), true);
  const watch = c.watch({ method: c.kv.get, options: { key: "js/a", wait: "5s" } });
  assert.equal((await next(watch)).Value, "x");
  const change = next(watch);
  await c.kv.set("js/a", "news");
  assert.equal((await change).Value, "news");
  watch.end();
  assert.equal((await c.kv.get({ key: "js/a", buffer: true })).Value.length, 4);
  const done = await c.transaction.create([{ KV: { Verb: "set", Key: "js/t", Value: "dA==" } }, { KV: { Verb: "get", Key: "js/t" } }]);
  assert.deepEqual(done.Results.map((r) => r.KV.Key), ["js/t", "js/t"]);
  await c.kv.del({ key: "js/", recurse: true });
  assert.equal(await c.kv.get({ key: "js/", recurse: true }), undefined);
}

async function sessions() {
  const make = async (name) => (await c.session.create({ name, ttl: "30s", lockdelay: "0s" })).ID;
  const [one, two] = [await make("one"), await make("two")];
  assert.equal(await c.kv.set({ key: "js/lock", value: "1", acquire: one }), true);
  assert.ok(!(await c.kv.set({ key: "js/lock", value: "2", acquire: two })));
  assert.equal((await c.kv.get("js/lock")).Session, one);
  assert.equal((await c.session.renew(one))[0].ID, one);
  assert.equal(await c.kv.set({ key: "js/lock", value: "1", release: one }), true);
  assert.equal(await c.kv.set({ key: "js/lock", value: "2", acquire: two }), true);
  assert.deepEqual((await c.session.list()).map((s) => s.Name).sort(), ["one", "two"]);
  await c.session.destroy(two);
  await c.session.destroy(one);
  assert.equal((await c.kv.get("js/lock")).Session, undefined);
}

async function services() {
  const watch = c.watch({ method: c.health.service, options: { service: "js", passing: true, wait: "5s" } });
  assert.deepEqual(await next(watch), []);
  const change = wanted(watch, (found) => found.length > 0); // the instance comes as critical, which this watch doesn't show
  await c.agent.service.register({ name: "js", id: "js1", port: 81, tags: ["v1"], meta: { a: "b" }, checks: [{ ttl: "30s", status: "critical" }] });
  await c.agent.check.pass({ id: "service:js1", note: "well" });
  const [seen] = await change;
  assert.deepEqual([seen.Service.Port, seen.Service.Meta.a, seen.Checks.at(-1).Status], [81, "b", "passing"]);
  watch.end();
  assert.equal((await c.catalog.service.nodes("js"))[0].ServiceID, "js1");
  assert.deepEqual((await c.catalog.service.list()).js, ["v1"]);
  assert.equal((await c.agent.service.list()).js1.Service, "js");
  assert.equal((await c.agent.check.list())["service:js1"].Output, "well");
  assert.equal((await c.health.checks("js"))[0].Status, "passing");
  assert.ok((await c.health.state("passing")).some((k) => k.ServiceID === "js1"));
  const { ID } = await c.query.create({ name: "jsq", service: { service: "js" } });
  assert.deepEqual((await c.query.execute("jsq")).Nodes.map((n) => n.Service.ID), ["js1"]);
  await c.query.destroy(ID);
  await c.agent.service.maintenance({ id: "js1", enable: true, reason: "pause" });
  await until("left out", async () => (await c.health.service({ service: "js", passing: true })).length === 0);
  await c.agent.service.deregister("js1");
  await until("gone", async () => (await c.catalog.service.nodes("js")).length === 0);
}

async function rest() {
  assert.ok((await c.status.leader()).includes(":"));
  assert.equal((await c.status.peers()).length, 1);
  assert.deepEqual(await c.catalog.datacenters(), ["dc1"]);
  const self = await c.agent.self();
  assert.deepEqual((await c.agent.members()).map((m) => m.Name), [self.Config.NodeName]);
  assert.equal((await c.catalog.node.list())[0].Node, self.Config.NodeName);
  const fired = await c.event.fire({ name: "deploy", payload: "1.2" });
  await until("event", async () => (await c.event.list("deploy")).some((e) => e.ID === fired.ID));
  await assert.rejects(c.session.create({ ttl: "1s" }), /Invalid Session TTL|TTL/);
}

// The other package calls the agent by the name "consul", whatever its address is.
async function named() {
  const at = [`http://${host}:${port}`];
  const [kv, catalog] = [new KvStore(at), new Catalog(at)];
  assert.equal(await kv.get({ path: "named/none" }), null);
  assert.equal(await kv.set({ path: "named/a" }, { n: 1 }), true);
  const watch = kv.watch({ path: "named/a" });
  const seen = new Promise((done, failed) => watch.onValue((v) => v.n === 2 && done(), failed));
  assert.equal(await kv.set({ path: "named/a" }, { n: 2 }), true);
  await seen;
  watch.destroy();
  assert.equal(await kv.delete({ path: "named/a" }), true);
  await catalog.registerEntity({ Node: "elsewhere", Address: "10.1.1.1", Service: { Service: "named", Address: "10.1.1.2", Port: 80 } });
  assert.equal(await catalog.resolveAddress("named"), "10.1.1.2:80");
}

(async () => {
  for (const job of [keys, sessions, services, rest, named]) await job();
  console.log("ok");
  process.exit(0); // a watch may wait still
})().catch((err) => {
  console.error(err);
  process.exit(1);
});
