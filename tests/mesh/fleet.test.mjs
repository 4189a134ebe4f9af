/** The fleet in the mesh: replicas that share a ledger in etcd, through Istio's gateway and through Envoy Gateway. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { makePayer } from "../../stage/client.mjs";
import { documents } from "./cluster.mjs";
import { openEdge, openIstio } from "./istio.mjs";
import { ISTIO_CLUSTER, openLedger, storeAt } from "./ledger.mjs";
import { untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
const ledger = await openLedger(world);
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/ledger"] });
const [plugin] = documents("istio/gateway.yaml");
plugin.spec.pluginConfig.ledger = storeAt(ISTIO_CLUSTER);
await cluster.apply(plugin);
const edge = await openEdge(world, istio, "default", { replicas: 2, prepare: ledger.mount });
const urls = () => edge.proxies.map(({ url }) => `${url}/weather`);
for (const url of urls()) await untilForSale(url);

/** Sends a payment to each of these. @returns {Promise<number[]>} the states of all, in order of size */
const sendToAll = async (to, payment) => {
  const answers = await Promise.all(to.map((url) => fetch(url, { headers: { "payment-signature": payment } })));
  return answers.map(({ status }) => status).sort();
};

/** Pays at a URL. @returns {Promise<string>} the payment that bought */
async function buy(url) {
  const payer = makePayer();
  assert.equal((await payer.fetch(url)).status, 200);
  return payer.exchanges.at(-1).sent.get("payment-signature");
}

test("A payment buys once across both replicas, and its claim stands in etcd", async () => {
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  const payment = await buy(urls()[0]);
  for (const status of await sendToAll(urls(), payment)) assert.ok([402, 409].includes(status), `${status}`);
  assert.equal((await world.chain.transfers(block)).length, 1);
  assert.match(await ledger.ctl("get", "--prefix", "--keys-only", "x402:shop:c:"), /^x402:shop:c:[0-9a-f]{64}$/m);
});

test("Twenty copies of a payment at both replicas at once buy once", async () => {
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  const payer = makePayer({ send: async (input) => (input.headers.get("payment-signature") ? new Response(null, { status: 500 }) : fetch(input)) });
  await payer.fetch(urls()[0]);
  const payment = payer.exchanges.at(-1).sent.get("payment-signature");
  const states = await sendToAll(Array.from({ length: 20 }, (_, copy) => urls()[copy % 2]), payment);
  assert.equal(states.filter((status) => status === 200).length, 1, states.join(" "));
  assert.equal((await world.chain.transfers(block)).length, 1);
});

test("A replica that is replaced loses nothing: what was bought there is not sold again, and new payments buy", async () => {
  const [first] = edge.proxies;
  const payment = await buy(`${first.url}/weather`);
  edge.proxies.splice(0, 1);
  await first.pod.stop();
  await edge.start();
  for (const url of urls()) await untilForSale(url);
  for (const status of await sendToAll(urls(), payment)) assert.ok([402, 409].includes(status), `${status}`);
  for (const url of urls()) await buy(url);
});

test("A member of etcd that is gone is not missed", async () => {
  await ledger.members[0].stop();
  for (const url of [...urls(), ...urls()]) await buy(url);
});
