/** What two replicas with one ledger have to hold, whoever runs them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { makePayer } from "../../stage/client.mjs";
import { loadOn, replaceFirst } from "./load.mjs";
import { fetchAnew, signFor, untilForSale } from "./selling.mjs";

/** Sends a payment to each of these. @returns {Promise<number[]>} the states of all, in order of size */
const sendToAll = async (to, payment) => {
  const answers = await Promise.all(to.map((url) => fetchAnew(url, { headers: { "payment-signature": payment } })));
  return answers.map(({ status }) => status).sort();
};

/** Pays at a URL. @returns {Promise<string>} the payment that bought */
async function buy(url) {
  const payer = makePayer({ send: fetchAnew });
  assert.equal((await payer.fetch(url)).status, 200);
  return payer.exchanges.at(-1).sent.get("payment-signature");
}

/**
 * Declares the tests of a fleet.
 *
 * @param {object} fleet
 * @param {import("./world.mjs").World} fleet.world
 * @param {Awaited<ReturnType<typeof import("./ledger.mjs").openLedger>>} fleet.ledger
 * @param {{pod: import("./world.mjs").Pod, admin: Function}[]} fleet.proxies the replicas at the time
 * @param {() => Promise<unknown>} fleet.start starts another one and adds it
 * @param {(proxy: object) => string} fleet.urlOf what is for sale at one
 */
export function testFleet({ world, ledger, proxies, start, urlOf }) {
  const urls = () => proxies.map(urlOf);

  test("A payment buys once across both replicas, and its claim stands in etcd", async () => {
    const block = (await world.chain.client.getBlockNumber()) + 1n;
    const payment = await buy(urls()[0]);
    for (const status of await sendToAll(urls(), payment)) assert.ok([402, 409].includes(status), `${status}`);
    assert.equal((await world.chain.transfers(block)).length, 1);
    assert.match(await ledger.ctl("get", "--prefix", "--keys-only", "x402:shop:c:"), /^x402:shop:c:[0-9a-f]{64}$/m);
  });

  test("Twenty copies of a payment at both replicas at once buy once", async () => {
    const block = (await world.chain.client.getBlockNumber()) + 1n;
    const payment = await signFor(urls()[0], fetchAnew);
    const states = await sendToAll(Array.from({ length: 20 }, (_, copy) => urls()[copy % 2]), payment);
    assert.equal(states.filter((status) => status === 200).length, 1, states.join(" "));
    assert.equal((await world.chain.transfers(block)).length, 1);
  });

  test("A replica that is replaced while clients pay loses nothing: what was bought there is not sold again, and new payments buy", async () => {
    const payment = await buy(urls()[0]);
    const startAndSell = async () => {
      await start();
      await untilForSale(urls().at(-1));
    };
    await loadOn(world, urls, { send: fetchAnew })(() => replaceFirst(proxies, startAndSell));
    for (const status of await sendToAll(urls(), payment)) assert.ok([402, 409].includes(status), `${status}`);
    for (const url of urls()) await buy(url);
  });

  test("A member of etcd that is gone is not missed", async () => {
    await ledger.members[0].stop();
    for (const url of [...urls(), ...urls()]) await buy(url);
  });
}
