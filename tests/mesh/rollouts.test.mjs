/**
 * What is rolled out while clients pay: every payment that was promised buys, none is settled twice, and what was paid before is
 * remembered after.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makePayer } from "../../stage/client.mjs";
import { documents } from "./cluster.mjs";
import { openEdge, openIstio } from "./istio.mjs";
import { untilForSale } from "./selling.mjs";
import { eventually, openWorld, PANICKING } from "./world.mjs";

const CLIENTS = 3;

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/gateway"] });
const edge = await openEdge(world, istio);
const urls = () => edge.proxies.map(({ url }) => `${url}/weather`);
for (const url of urls()) await untilForSale(url);

const PLUGIN = "/apis/extensions.istio.io/v1alpha1/namespaces/default/wasmplugins/x402-gateway";
/** The plugin as it is shipped, but for a change. */
const plugin = (change) => {
  const [document] = documents("istio/gateway.yaml");
  change(document.spec, document);
  return document;
};

/**
 * Signs a payment and sends it until it is decided: while a proxy says that it is in flight, or busy, or is not there, it is sent
 * again, as an honest client does.
 *
 * @returns {Promise<{payment: string, nonce: string, bought: boolean}>} `bought` is false where the terms have changed since
 */
async function buy(url) {
  let payment;
  const payer = makePayer({
    send: async (input) => {
      const header = input.headers.get("payment-signature");
      if (header) {
        payment = header;
        return new Response(null, { status: 500 });
      }
      for (;;) {
        const answer = await fetch(url()).catch(() => null);
        if (answer?.status === 402) return answer;
        assert.ok(!answer || answer.status !== 200, "served unpaid");
        await sleep(100);
      }
    },
  });
  await payer.fetch(url());
  const { nonce } = JSON.parse(Buffer.from(payment, "base64")).payload.authorization;
  for (;;) {
    const answer = await fetch(url(), { headers: { "payment-signature": payment } }).catch(() => null);
    if (answer?.status === 200) return { payment, nonce, bought: true };
    if (answer?.status === 402) return { payment, nonce, bought: false };
    await sleep(200);
  }
}

/**
 * Lets clients pay while something is rolled out, and looks at the books.
 *
 * @param {() => Promise<unknown>} rollOut
 * @param {{mayRefuse?: boolean}} [options] `mayRefuse`: whether payments by terms of before may be refused after
 */
async function underLoad(rollOut, { mayRefuse = false } = {}) {
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  let over = false;
  const sold = [];
  let turn = 0;
  const client = async () => {
    while (!over) {
      const url = urls()[turn++ % urls().length];
      sold.push(await buy(() => (urls().includes(url) ? url : urls()[0])));
    }
  };
  const clients = Promise.all(Array.from({ length: CLIENTS }, client));
  await eventually(async () => sold.length >= 2 * CLIENTS, "the clients pay");
  await rollOut();
  const then = sold.length;
  await eventually(async () => sold.length >= then + 2 * CLIENTS, "the clients pay after it, too");
  over = true;
  await clients;
  const transfers = await world.chain.transfers(block);
  for (const { nonce, bought } of sold) {
    const moved = transfers.filter((transfer) => transfer.nonce === nonce).length;
    assert.equal(moved, bought ? 1 : 0, `a payment ${bought ? "that bought" : "that was refused"} was settled ${moved} times`);
  }
  if (!mayRefuse) assert.equal(sold.filter(({ bought }) => !bought).length, 0, "promised, and refused");
  for (const { payment } of sold) {
    const again = await fetch(urls()[0], { headers: { "payment-signature": payment } });
    assert.ok([402, 409].includes(again.status), `what bought once bought again: ${again.status}`);
  }
  assert.equal((await world.chain.transfers(block)).length, transfers.length, "settled twice");
}

/** Waits until what is sold is described so. */
const untilDescribed = (description) => Promise.all(urls().map((url) => untilForSale(url, { description })));

test("A new configuration", () =>
  underLoad(async () => {
    await cluster.apply(plugin(({ pluginConfig }) => (pluginConfig.routes[0].description = "configured anew")));
    await untilDescribed("configured anew");
  }));

test("A new price", () =>
  underLoad(async () => {
    await cluster.apply(plugin(({ pluginConfig }) => Object.assign(pluginConfig.routes[0], { price: "$0.002", description: "dearer" })));
    await untilDescribed("dearer");
  }, { mayRefuse: true }));

test("A new build of the module", async () => {
  await world.registry.push(PANICKING, "x402-proxy-wasm:0.1.1");
  await underLoad(async () => {
    await cluster.apply(plugin((spec) => {
      spec.url = "oci://registry.example.com/x402-proxy-wasm:0.1.1";
      Object.assign(spec.pluginConfig.routes[0], { price: "$0.002", description: "another build" });
    }));
    await untilDescribed("another build");
  });
});

test("A new facilitator", async () => {
  await underLoad(async () => {
    const entries = documents("istio/facilitator.yaml");
    const text = JSON.stringify(entries).replaceAll("facilitator.example.com", "other-facilitator.example.com").replaceAll("x402-facilitator", "x402-other");
    await cluster.apply(...JSON.parse(text));
    await cluster.apply(plugin(({ pluginConfig }) => {
      pluginConfig.facilitator = { cluster: "outbound|443||other-facilitator.example.com", url: "https://other-facilitator.example.com" };
      Object.assign(pluginConfig.routes[0], { price: "$0.002", description: "another facilitator" });
    }));
    await untilDescribed("another facilitator");
  });
});

test("From WasmPlugin to TrafficExtension", () =>
  underLoad(async () => {
    const [extension] = documents("istio/traffic-extension.yaml");
    Object.assign(extension.spec.wasm.pluginConfig.routes[0], { price: "$0.002", description: "by TrafficExtension" });
    await cluster.apply(extension);
    await sleep(1000);
    await cluster.remove(PLUGIN);
    await untilDescribed("by TrafficExtension");
  }));

test("A proxy that is replaced while it drains", () =>
  underLoad(async () => {
    const [old] = edge.proxies;
    await edge.start();
    // Nobody is sent to it any more: as when its endpoint is taken away.
    edge.proxies.splice(edge.proxies.indexOf(old), 1);
    await old.admin("/drain_listeners?graceful", "-X", "POST");
    await sleep(2000);
    await old.pod.stop();
  }));
