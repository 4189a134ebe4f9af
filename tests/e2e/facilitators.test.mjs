/**
 * Several facilitators: two official ones on one chain, of which one is ended in the middle of everything, and what the log
 * says of each of them and of the nodes. Fakes stand for faults that a real one does not show on demand.
 */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { startFacilitator } from "../../stage/facilitator.mjs";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { assertServed, assertUnknown, openGateway, openBackends, pay, paymentFor, pluginOf, since } from "./support.mjs";

const backends = await openBackends();
const second = await startFacilitator({ port: backends.ports.spare1, rpcUrl: backends.chain.rpcUrl });
backends.atEnd(second.stop);

const clusterAt = (url) => ({ address: "127.0.0.1", port: Number(new URL(url).port) });

/** A gateway whose filter has these facilitators, in this order: [cluster, URL, further keys]. */
const gatewayWith = (list, more = {}, clusters = {}) => {
  const facilitators = list.map(([cluster, url, keys]) => ({ cluster, url, timeout: "2s", ...keys }));
  return openGateway(backends, {
    plugin: { ...pluginOf(more), facilitators },
    clusters: { ...Object.fromEntries(list.map(([cluster, url]) => [cluster, clusterAt(url)])), ...clusters },
  });
};

const until = async (what, holds) => {
  for (let tries = 0; tries < 300; tries++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(`in vain was waited for ${what}`);
};

test("Where one of two official facilitators is ended in the middle of everything, every payment buys its one response", async () => {
  const first = await startFacilitator({ port: backends.ports.spare2, rpcUrl: backends.chain.rpcUrl });
  let isEnded = false;
  backends.atEnd(async () => isEnded || first.stop());
  const gateway = await gatewayWith([["first", first.url], ["second", second.url]]);
  const mark = await since(gateway);
  const payments = await Promise.all(Array.from({ length: 12 }, (_, i) => paymentFor(gateway, i % 2 ? "/any/x" : "/upfront/x")));
  const answers = payments.map(async (payment, i) => {
    const target = i % 2 ? "/any/x" : "/upfront/x";
    if (i === 4) {
      isEnded = true;
      await first.stop();
    }
    // What is not certain is asked for again, with the same payment.
    for (let tries = 0; ; tries++) {
      const answer = await pay(gateway, target, payment);
      if (answer.status === 200 || tries > 20) return answer;
      assert.ok([409, 502, 503, 504].includes(answer.status), `${answer.status}: never terms after money`);
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  });
  const served = await Promise.all(answers);
  for (const answer of served) assertServed(answer);
  assert.equal(new Set(served.map((answer) => answer.receipt.transaction)).size, payments.length, "each settled once");
  assert.equal(mark.seen().length, payments.length);
  assert.ok(second.count("/settle") > 0, "the second has settled");
});

test("A facilitator that fails again and again is asked last, until it answers again", async () => {
  const fake = await startFakeFacilitator();
  backends.atEnd(fake.stop);
  const gateway = await gatewayWith([["fake", fake.url, { max_failures: 2 }], ["second", second.url]]);
  fake.script("/supported", ...Array(40).fill({ status: 503, json: {} }));
  for (const path of ["/verify", "/settle"]) fake.script(path, ...Array(4).fill({ status: 503, json: {} }));
  const asks = () => fake.calls.filter(({ path }) => path === "/verify").length;
  for (let i = 0; i < 2; i++) assertServed(await pay(gateway, "/any/x", await paymentFor(gateway, "/any/x")));
  await until("the line of the log", () => gateway.envoy.logs().includes('calls in a row of the facilitator "fake" have failed'));
  assert.match(await gateway.envoy.admin("/stats/prometheus"), /x402_facilitators_failing\{[^}]*facilitator="fake"[^}]*\} 1/);
  const asked = asks();
  assertServed(await pay(gateway, "/any/x", await paymentFor(gateway, "/any/x")));
  assert.equal(asks(), asked, "it is not asked");
  fake.reset();
  await until("its answer", () => gateway.envoy.logs().includes('the facilitator "fake" answers again'));
});

test("The log says of each facilitator and node whether it was reached, and what it is", async () => {
  const gateway = await gatewayWith([["second", second.url], ["nowhere", "http://127.0.0.1:9"]], {
    rpc: { "base-sepolia": { cluster: "chain", url: backends.chain.rpcUrl }, base: { cluster: "no-such-cluster", url: backends.chain.rpcUrl } },
    routes: [
      { name: "any", match: { path: "/any/{*rest}" }, price: "$0.002" },
      {
        name: "base",
        match: { path: "/base" },
        price: "$0.002",
        accepts: [{ scheme: "exact", network: "base", asset: "USDC" }],
      },
    ],
  }, { chain: clusterAt(backends.chain.rpcUrl) });
  const log = (text) => until(text, () => gateway.envoy.logs().includes(text));
  await log(`the facilitator "second" at ${new URL(second.url).host} (cluster second) answers (200), and supports `);
  await log('the facilitator "nowhere" does not say what it supports: http://127.0.0.1:9/supported (cluster nowhere) ');
  await log("(cluster chain) is one of chain 84532");
  await log('the cluster "no-such-cluster" cannot be called');
});

test("A node of another chain is never believed", async () => {
  const fake = await startFakeFacilitator();
  // A fake in front of the real node, which says that it is of another chain.
  const impostor = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const answer = await fetch(backends.chain.rpcUrl, { method: "POST", headers: { "content-type": "application/json" }, body: Buffer.concat(chunks) });
    const text = (await answer.text()).replaceAll('"0x14a34"', '"0x1"');
    response.writeHead(200, { "content-type": "application/json" }).end(text);
  });
  await new Promise((resolve) => impostor.listen(0, "127.0.0.1", resolve));
  backends.atEnd(() => new Promise((resolve) => impostor.close(resolve)));
  const node = `http://127.0.0.1:${impostor.address().port}`;
  backends.atEnd(fake.stop);
  const gateway = await openGateway(backends, {
    facilitator: fake.url,
    plugin: {
      ...pluginOf({ rpc: { "base-sepolia": { cluster: "chain", url: node } } }),
      facilitator: { cluster: "facilitator", url: fake.url, timeout: "0.5s" },
    },
    clusters: { chain: clusterAt(node) },
  });
  fake.script("/settle", { instead: "close" });
  assertUnknown(await pay(gateway, "/upfront/x", await paymentFor(gateway, "/upfront/x")), 502);
  await until("the line of the log", () => gateway.envoy.logs().includes("is not one of chain 84532 (eth_chainId)"));
});
