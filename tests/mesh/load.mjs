/** Clients that pay while something is rolled out, and the books afterwards. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { signFor } from "./selling.mjs";
import { eventually } from "./world.mjs";

const CLIENTS = 3;

/**
 * Signs a payment and sends it until it is decided: while a proxy says that it is in flight, or busy, or is not there, it is sent
 * again, as an honest client does.
 *
 * @param {() => string} url where it is sent to at the time
 * @param {typeof fetch} send
 * @returns {Promise<{payment: string, nonce: string, bought: boolean} | null>} `bought` is false where the terms have changed since, or
 *   nothing is sold there any more; null where that is so from the start
 */
async function buy(url, send) {
  const payment = await signFor(url(), async () => {
    for (;;) {
      const answer = await send(url()).catch(() => null);
      if ([402, 403].includes(answer?.status)) return answer;
      assert.ok(!answer || answer.status !== 200, "served unpaid");
      await sleep(100);
    }
  });
  if (!payment) return null;
  const { nonce } = JSON.parse(Buffer.from(payment, "base64")).payload.authorization;
  for (;;) {
    const answer = await send(url(), { headers: { "payment-signature": payment } }).catch(() => null);
    if (answer?.status === 200) return { payment, nonce, bought: true };
    if ([402, 403].includes(answer?.status)) return { payment, nonce, bought: false };
    await sleep(200);
  }
}

/**
 * Gives what lets clients pay while something is rolled out, and looks at the books: what bought was settled once, what was refused
 * was not, and nothing buys again.
 *
 * @param {import("./world.mjs").World} world
 * @param {() => string[]} urls where they pay at the time
 * @param {{send?: typeof fetch}} [options]
 * @returns {(rollOut: () => Promise<unknown>, options?: {mayRefuse?: (url: string) => boolean}) => Promise<{bought: string[]}>}
 *   `mayRefuse`: where payments by terms of before may be refused after; nowhere without it. `bought`: the payments that did
 */
export const loadOn = (world, urls, { send = fetch } = {}) => async (rollOut, { mayRefuse = () => false } = {}) => {
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  let over = false;
  const sold = [];
  let turn = 0;
  const client = async () => {
    while (!over) {
      const url = urls()[turn++ % urls().length];
      const purchase = await buy(() => (urls().includes(url) ? url : urls()[0]), send);
      if (purchase) sold.push({ url, ...purchase });
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
  for (const { url, nonce, bought } of sold) {
    const moved = transfers.filter((transfer) => transfer.nonce === nonce).length;
    assert.equal(moved, bought ? 1 : 0, `a payment ${bought ? "that bought" : "that was refused"} was settled ${moved} times`);
    assert.ok(bought || mayRefuse(url), `promised at ${url}, and refused`);
  }
  for (const { url, payment, bought } of sold) {
    for (const at of bought ? urls() : urls().filter((one) => one === url)) {
      const { status } = await send(at, { headers: { "payment-signature": payment } });
      assert.ok([402, 403, 409].includes(status), `what was decided once bought at ${at}: ${status}`);
    }
  }
  assert.equal((await world.chain.transfers(block)).length, transfers.length, "settled twice");
  return { bought: sold.filter(({ bought }) => bought).map(({ payment }) => payment) };
};

/**
 * Replaces the first of some proxies by another one, as a Deployment does.
 *
 * @param {{pod: import("./world.mjs").Pod, admin: Function}[]} proxies that are sent requests
 * @param {() => Promise<unknown>} start starts another one, and adds it
 */
export async function replaceFirst(proxies, start) {
  await start();
  // Nobody is sent to it any more: as when its endpoint is taken away.
  const first = proxies.shift();
  await first.admin("/drain_listeners?graceful", "-X", "POST");
  await sleep(2000);
  await first.pod.stop();
}
