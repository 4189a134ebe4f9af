/** What it means to sell: asked of every form in which the filter comes. */
import assert from "node:assert/strict";
import { request as requestHttp } from "node:http";
import { join } from "node:path";
import { payerAccount } from "../../stage/accounts.mjs";
import { BASE } from "../../stage/chain.mjs";
import { makePayer } from "../../stage/client.mjs";
import { makeAuthority } from "./certificates.mjs";
import { directory, eventually } from "./world.mjs";

/**
 * `fetch` over a connection of its own each time: where a listener is replaced, connections of before are served as before until they
 * are drained.
 */
export async function fetchAnew(input, init) {
  const request = new Request(input, init);
  const body = Buffer.from(await request.arrayBuffer());
  const headers = { ...Object.fromEntries(request.headers), ...(body.length && { "content-length": body.length }) };
  return new Promise((resolve, reject) => {
    const sent = requestHttp(request.url, { agent: false, method: request.method, headers }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        const pairs = Array.from({ length: response.rawHeaders.length / 2 }, (_, i) => [response.rawHeaders[2 * i], response.rawHeaders[2 * i + 1]]);
        resolve(new Response(chunks.length ? Buffer.concat(chunks) : null, { status: response.statusCode, headers: pairs }));
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

/** The official error of a payment that has bought its response. */
export const USED = "invalid_exact_evm_nonce_already_used";

/**
 * Signs a payment, and does not send it.
 *
 * @param {string} url
 * @param {(input: Request) => Promise<Response>} ask gives the terms
 * @returns {Promise<string | undefined>} the payment; undefined where there were no terms
 */
export async function signFor(url, ask) {
  let payment;
  const payer = makePayer({
    send: async (input) => {
      payment = input.headers.get("payment-signature") ?? undefined;
      return payment ? new Response(null, { status: 500 }) : ask(input);
    },
  });
  await payer.fetch(url);
  return payment;
}

/** Does something over several connections at once: one after another, they may all be one worker's. */
const atOnce = (act) => Promise.all(Array.from({ length: 8 }, act));

/**
 * Waits until a URL is for sale at every worker of a proxy: a configuration, and what the facilitator supports, take their time to
 * arrive.
 *
 * @param {string} url
 * @param {{send?: typeof fetch, init?: RequestInit, description?: string}} [options] `description`: what the terms say, by which
 *   configurations are told apart
 */
export function untilForSale(url, { send = fetchAnew, init, description } = {}) {
  const isMeant = async () => {
    const { status, headers } = await send(url, init);
    const terms = JSON.parse(Buffer.from(headers.get("payment-required") ?? "", "base64").toString() || "null");
    return status === 402 && (description === undefined || terms?.resource.description === description);
  };
  let times = 0;
  return eventually(async () => {
    times = (await atOnce(isMeant)).every(Boolean) ? times + 1 : 0;
    return times > 1;
  }, `${url} is for sale${description ? ` as "${description}"` : ""}`);
}

/**
 * Fails unless a URL is sold: terms for who does not pay, a response for who does by the official client, one settlement on the
 * chain, and nothing for the same payment again.
 *
 * @param {import("./world.mjs").World} world
 * @param {string} url
 * @param {object} [options]
 * @param {typeof fetch} [options.send]
 * @param {RequestInit} [options.init]
 * @returns {Promise<{payment: string, body: any}>} the payment's header, and what it bought
 */
export async function assertSells(world, url, { send = fetchAnew, init } = {}) {
  const unpaid = await send(url, init);
  assert.equal(unpaid.status, 402, await unpaid.text());
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  const payer = makePayer({ send });
  const served = await payer.fetch(url, init);
  const text = await served.text();
  assert.equal(served.status, 200, text);
  const { sent, receipt } = payer.exchanges.at(-1);
  assert.equal(receipt.success, true);
  assert.equal((await world.chain.transfers(block)).length, 1, "one payment, one settlement");
  const payment = sent.get("payment-signature");
  const again = await send(url, { ...init, headers: { ...init?.headers, "payment-signature": payment } });
  assert.equal(again.status, 402, await again.text());
  assert.equal((await world.chain.transfers(block)).length, 1, "the same payment was settled again");
  return { payment, body: JSON.parse(text) };
}

/** What somebody would answer who is not the facilitator, and would like to be believed. */
async function pretend(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const payer = payerAccount.address;
  const answers = {
    "/verify": { isValid: true, payer },
    "/settle": { success: true, payer, transaction: `0x${"11".repeat(32)}`, network: BASE.network },
  };
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify(answers[request.url] ?? { kinds: [] }));
}

/**
 * Fails unless a proxy believes the facilitator alone: others at its name and port are refused, whatever certificate they show, and the
 * log says why.
 *
 * @param {import("./world.mjs").World} world
 * @param {string} url
 * @param {() => string} log the proxy's
 * @param {{send?: typeof fetch}} [options]
 */
export async function assertBelievesTheFacilitatorAlone(world, url, log, { send = fetchAnew } = {}) {
  const { authority, front } = world;
  const stranger = makeAuthority(join(directory, "stranger"));
  const name = "facilitator.example.com";
  const impostors = {
    "another's name": [() => front.show(authority.issue("other", "localhost")), /its certificate is for another name/],
    "an unknown authority": [() => front.show(stranger.issue("own", name)), /nobody who is trusted vouches for its certificate/],
    "an expired certificate": [() => front.show(authority.issue("old", name, { expired: true })), /its certificate has expired/],
    "plain text": [() => front.undress(), /it does not speak TLS/],
  };
  front.answers = pretend;
  try {
    for (const [what, [dress, reason]] of Object.entries(impostors)) {
      await dress();
      const [block, from] = [(await world.chain.client.getBlockNumber()) + 1n, log().length];
      const payer = makePayer({ send });
      const answer = await payer.fetch(url);
      assert.ok(answer.status >= 500, `${what} is believed: ${answer.status} ${await answer.text()}`);
      const said = () => log().slice(from).split("\n").filter((line) => /x402/.test(line) && reason.test(line));
      await eventually(async () => said().length > 0, `the log names ${what}`, undefined, 20_000);
      assert.deepEqual(await world.chain.transfers(block), []);
    }
  } finally {
    front.answers = null;
    await front.restore();
  }
  await eventually(async () => (await makePayer({ send }).fetch(url)).status === 200, "the facilitator itself is believed");
}

/** Of a request that makes the build PANICKING panic, and no other. */
export const PROVOKE = { headers: { "x-provoke-panic": "request" } };

/** Pays while the filter is told to panic: nothing may be served; then waits until it is there again, and it sells. */
export async function assertOutlivesPanic(world, url, log, { send = fetchAnew } = {}) {
  await untilForSale(url, { send });
  await assertSells(world, url, { send });
  const payer = makePayer({
    send: (input) => {
      const isPaid = input.headers.has("payment-signature");
      return send(input, isPaid ? { headers: { ...Object.fromEntries(input.headers), ...PROVOKE.headers } } : {});
    },
  });
  const from = log().length;
  const answer = await payer.fetch(url).catch(() => null);
  assert.ok(!answer || answer.status >= 500, `${answer?.status}: served by a filter that panicked`);
  const since = () => log().slice(from).match(/provoked at request[^]*/)?.[0];
  await eventually(async () => since(), "the filter panics");
  const states = new Set();
  await eventually(async () => {
    // The worker where it panicked loads it anew when it is asked.
    const answers = await atOnce(() => send(url));
    for (const { status } of answers) states.add(status);
    // What it says then; some logs hold warnings alone.
    return answers.every(({ status }) => status === 402) && /x402: (configured|routes)/.test(since());
  }, "the filter is loaded anew");
  await untilForSale(url, { send });
  assert.ok(![...states].some((status) => status < 400), `unpaid: ${[...states]}`);
  await assertSells(world, url, { send });
}

/** Fails unless a model's answer is sold for what its tokens cost at the prices of `envoyfilter.yaml`. */
export async function assertSellsByTheToken(world, url) {
  const body = JSON.stringify({ model: "gpt-4o", max_tokens: 1000, messages: [{ role: "user", content: "How much is the fish?" }] });
  const init = { method: "POST", headers: { "content-type": "application/json" }, body };
  await untilForSale(url, { init });
  const block = (await world.chain.client.getBlockNumber()) + 1n;
  const { body: bought } = await assertSells(world, url, { init });
  const [{ value }] = await world.chain.transfers(block);
  const { prompt_tokens: input, completion_tokens: output } = bought.usage;
  assert.equal(value, BigInt(Math.ceil(input * 2.5 + output * 10)), "what the tokens cost, in millionths of a dollar");
}
