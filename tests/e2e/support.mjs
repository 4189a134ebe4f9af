/**
 * What the end-to-end tests share: a stage per file, requests byte by byte, payments signed by hand so that any
 * part of them can be wrong, and a way to see what each party did since a given moment.
 *
 * A test file opens its backends and its gateways before its first test: once tests run, node takes a file without a test
 * under way for finished, and ends the backends.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { after } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { payerAccount, payTo } from "../../stage/accounts.mjs";
import { CHAIN_ID, NETWORK, NETWORK_V1, USDC } from "../../stage/chain.mjs";
import { startEtcd } from "../../stage/etcd.mjs";
import { startBackends, startStage } from "../../stage/stage.mjs";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { TRANSFER_TYPES } from "../eip712-types.mjs";

const PATIENCE_MS = 10_000;

// ---- Configuration ------------------------------------------------------------------------------------------------

/** The `defaults` of the stage: exact, USDC on Base Sepolia, to the stage's recipient. */
export const DEFAULTS = { pay_to: payTo, accepts: [{ scheme: "exact", network: "base-sepolia", asset: "USDC" }] };

/** The route of the recorded exchanges in `tests/vectors/wire`. */
export const WEATHER = {
  name: "weather",
  match: { methods: ["GET"], path: "/weather" },
  price: "$0.001",
  description: "Weather data",
  mime_type: "application/json",
};

/** A priced route that takes every method and echoes what the upstream saw. */
export const ANY = { name: "any", match: { path: "/any/{*rest}" }, price: "$0.002" };

/** As ANY, and the money moves before the upstream hears of the request. */
export const UPFRONT = { name: "upfront", match: { path: "/upfront/{*rest}" }, price: "$0.003", settle: "before" };

/**
 * A plugin configuration without its facilitator, which startStage adds.
 *
 * @param {object} [more] keys to add or replace
 */
export const pluginOf = (more = {}) => ({ defaults: DEFAULTS, routes: [WEATHER, ANY, UPFRONT], unmatched: "free", ...more });

/** An exchange recorded from the official packages. */
export const recorded = (name) =>
  JSON.parse(readFileSync(new URL(`../vectors/wire/${name}.json`, import.meta.url), "utf8"));

/** Returns an `edit` by which Envoy hands these variables of its own environment to the filter. */
export const handing =
  (...names) =>
  (bootstrap) => {
    const { http_filters } = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0].typed_config;
    const { config } = http_filters.find(({ name }) => name === "x402").typed_config;
    config.vm_config.environment_variables = { host_env_keys: names };
  };

/** Where the tests keep the ledger: `etcd` gives each gateway a fleet of its own in a real etcd. Otherwise shared data. */
const LEDGER = process.env.LEDGER;

let fleets = 0;

async function shareLedger(backends, plugin, { edit }) {
  backends.shared.etcd ??= startEtcd({ run: backends.run, size: 1 }).then((etcd) => (backends.atEnd(etcd.stop), etcd));
  const etcd = await backends.shared.etcd;
  const store = { etcd: { cluster: "etcd", fleet: `shop-${++fleets}` } };
  return {
    plugin: { ...plugin, ledger: { ...plugin.ledger, store } },
    edit: (bootstrap) => (etcd.edit(bootstrap), edit?.(bootstrap)),
  };
}

// ---- The stage ----------------------------------------------------------------------------------------------------

/**
 * Starts chain, official facilitator and upstream for a test file; they end with it.
 *
 * @param {Parameters<typeof startBackends>[0]} [options]
 * @returns {Promise<import("../../stage/stage.mjs").Backends & {atEnd: (end: () => Promise<void>) => void}>} what is
 *   given to `atEnd` is done before the backends stop, the last first
 */
export async function openBackends(options) {
  const backends = await startBackends({ label: "e2e", ...options });
  const endings = [backends.stop];
  after(async () => {
    const failures = [];
    for (const end of endings.reverse()) await end().catch((failure) => failures.push(failure));
    if (failures.length) throw failures[0];
  });
  return { ...backends, shared: {}, atEnd: (end) => endings.push(end) };
}

/**
 * Starts Envoy with the filter in front of the backends. It ends with the test file, which fails if the filter's VM
 * has crashed on the way.
 *
 * @param {import("../../stage/stage.mjs").Backends} backends
 * @param {object} [options] what startStage takes; `facilitator: "fake"` starts one that does as it is told
 * @returns {Promise<Gateway>}
 *
 * @typedef {object} Gateway what startStage gives, and:
 * @property {Awaited<ReturnType<typeof startFakeFacilitator>> | null} fake
 * @property {number} port of the gateway
 */
export async function openGateway(backends, { facilitator = "official", plugin = pluginOf(), ...options } = {}) {
  const fake = facilitator === "fake" ? await startFakeFacilitator() : null;
  if (fake) backends.atEnd(fake.stop);
  if (fake && plugin.facilitator) {
    plugin = { ...plugin, facilitator: { cluster: "facilitator", url: fake.url, ...plugin.facilitator } };
  } else if (plugin.facilitator) {
    plugin = { ...plugin, facilitator: { cluster: "facilitator", url: backends.facilitator.url, ...plugin.facilitator } };
  }
  const shared = LEDGER === "etcd" && typeof plugin === "object" ? await shareLedger(backends, plugin, options) : {};
  const stage = await startStage({ backends, plugin, facilitator: fake?.url ?? facilitator, ...options, ...shared });
  if (shared.plugin) await eventually(async () => /store answers/.test(stage.envoy.logs()), "the ledger's store to be reached");
  backends.atEnd(async () => {
    try {
      await assertAlive(stage);
    } finally {
      await stage.stop();
    }
  });
  return { ...stage, fake, port: stage.envoy.port };
}

/** Fails if the filter's VM has panicked, was loaded anew, or the host refused one of its calls. */
export async function assertAlive({ envoy }) {
  const reloads = await envoy.stats("vm_reload");
  for (const [name, value] of Object.entries(reloads)) assert.equal(value, 0, `${name}: the filter's VM has crashed`);
  // A callout that cannot be sent is the operator's mistake, and no crash.
  const isBad = (line) => /panicked|Uncaught|RuntimeError|host call (?!http_call)|assert failure/.test(line);
  const bad = envoy.logs().split("\n").filter(isBad);
  assert.deepEqual(bad, [], "Envoy's log speaks of a crash or a failed host call");
}

// ---- Requests -----------------------------------------------------------------------------------------------------

/**
 * A response, taken apart.
 *
 * @typedef {object} Answer
 * @property {number} status
 * @property {[string, string][]} headers names in lower case, values as Latin-1
 * @property {(name: string) => string | undefined} get all values of a header, joined
 * @property {Buffer} bytes the body
 * @property {string} text the body
 * @property {() => any} json the body
 * @property {object | null} terms PAYMENT-REQUIRED, decoded
 * @property {object | null} receipt PAYMENT-RESPONSE, decoded
 */

// Python's client takes nothing but padded standard base64, so nothing else is taken here.
function strictlyDecoded(header) {
  if (header === undefined) return null;
  const bytes = Buffer.from(header, "base64");
  assert.equal(bytes.toString("base64"), header, "a header is not padded standard base64");
  return JSON.parse(bytes.toString("utf8"));
}

// The body without its chunks' framing; null while its end is missing.
function dechunked(bytes) {
  const chunks = [];
  for (let at = 0; ; ) {
    const end = bytes.indexOf("\r\n", at);
    if (end < 0) return null;
    const size = parseInt(bytes.subarray(at, end).toString("latin1"), 16);
    const next = end + 2 + size + 2;
    if (bytes.length < next) return null;
    if (size === 0) return Buffer.concat(chunks);
    chunks.push(bytes.subarray(end + 2, end + 2 + size));
    at = next;
  }
}

/** @returns {Answer} */
export function answerOf(status, headers, bytes) {
  const get = (name) => {
    const values = headers.filter(([key]) => key === name).map(([, value]) => value);
    return values.length ? values.join(", ") : undefined;
  };
  return {
    status,
    headers,
    get,
    bytes,
    text: bytes.toString("utf8"),
    json: () => JSON.parse(bytes.toString("utf8")),
    get terms() {
      return strictlyDecoded(get("payment-required"));
    },
    get receipt() {
      return strictlyDecoded(get("payment-response"));
    },
  };
}

/** A whole response to a request; null while its end is missing. @returns {Answer | null} */
export function parseAnswer(bytes, isHead) {
  const end = bytes.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [first, ...lines] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const status = Number(first.split(" ")[1]);
  const rest = bytes.subarray(end + 4);
  if (status < 200) return parseAnswer(rest, isHead);
  const headers = lines.map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  const value = (name) => headers.find(([key]) => key === name)?.[1];
  if (isHead || status === 204 || status === 304) return answerOf(status, headers, rest);
  const body = value("transfer-encoding") === "chunked" ? dechunked(rest) : rest.length < Number(value("content-length")) ? null : rest;
  return body && answerOf(status, headers, body);
}

/**
 * Opens a connection and sends bytes as they are.
 *
 * @param {number} port
 * @param {Buffer | string} bytes a string is sent as Latin-1
 * @returns {{socket: import("node:net").Socket, answer: Promise<Answer>}} the answer is rejected where the gateway
 *   closes the connection before it is complete
 */
export function sendBytes(port, bytes) {
  const request = typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes;
  const isHead = request.subarray(0, 5).toString("latin1") === "HEAD ";
  const socket = connect({ port, host: "127.0.0.1" });
  const answer = new Promise((resolve, reject) => {
    const chunks = [];
    const received = () => Buffer.concat(chunks);
    const fail = (why) => reject(new Error(`${why}: ${JSON.stringify(received().toString("latin1").slice(0, 300))}`));
    const late = setTimeout(() => (fail("no whole response in time"), socket.destroy()), PATIENCE_MS);
    socket.on("data", (chunk) => {
      chunks.push(chunk);
      // Looking for the end of a large body after every packet would take long.
      const length = Number(/content-length: (\d+)/i.exec(chunks[0].toString("latin1"))?.[1] ?? 0);
      if (length > 0 && chunks.reduce((sum, { length }) => sum + length, 0) < length && !isHead) return;
      const whole = parseAnswer(received(), isHead);
      if (!whole) return;
      resolve(whole);
      socket.destroy();
    });
    // Envoy may refuse a request before it has read all of it, and reset the connection then.
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(late);
      fail("the connection closed before the response was whole");
    });
  });
  answer.catch(() => {}); // Whoever hangs up does not ask for it.
  socket.write(request);
  return { socket, answer };
}

/**
 * Sends a request of HTTP/1.1 over a connection of its own, to the byte as it is given.
 *
 * @param {{port: number}} gateway
 * @param {string} target the request target, raw
 * @param {object} [options]
 * @param {string} [options.method]
 * @param {Record<string, string | string[]> | [string, string][]} [options.headers] Latin-1
 * @param {string | Buffer} [options.body] sent with its length
 * @param {string | Buffer} [options.rest] sent behind the head as it is, without a length
 * @param {string} [options.host]
 * @returns {ReturnType<typeof sendBytes>}
 */
export function send(gateway, target, { method = "GET", headers = {}, body, rest, host = `127.0.0.1:${gateway.port}` } = {}) {
  const pairs = Array.isArray(headers)
    ? headers
    : Object.entries(headers).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
  const payload = Buffer.from(rest ?? body ?? "");
  const lines = [
    `${method} ${target} HTTP/1.1`,
    `host: ${host}`,
    "connection: close",
    ...pairs.map(([name, value]) => `${name}: ${value}`),
    ...(body === undefined ? [] : [`content-length: ${payload.length}`]),
  ];
  return sendBytes(gateway.port, Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`, "latin1"), payload]));
}

/**
 * Sends a request and waits for the whole answer.
 *
 * @param {Parameters<typeof send>} args
 * @returns {Promise<Answer>}
 */
export const ask = (...args) => send(...args).answer;

/**
 * Opens a connection of HTTP/2.
 *
 * @param {{port: number}} gateway
 * @returns {{ask: (headers: object, body?: string | Buffer) => Promise<Answer | null>, close: () => void}} `ask` takes
 *   pseudo-headers as they are given; null where Envoy takes the request for a breach of the protocol
 */
export function openHttp2({ port }) {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  session.on("error", () => {});
  const ask = (headers, body) =>
    new Promise((resolve) => {
      const stream = session.request({ ":method": body === undefined ? "GET" : "POST", ...headers });
      const chunks = [];
      let head;
      stream.on("response", (received) => (head = received));
      stream.on("data", (chunk) => chunks.push(chunk));
      stream.on("error", () => {});
      stream.on("close", () => {
        const pairs = Object.entries(head ?? {}).map(([name, value]) => [name, String(value)]);
        resolve(head ? answerOf(head[":status"], pairs, Buffer.concat(chunks)) : null);
      });
      stream.end(body);
    });
  return { ask, close: () => session.destroy() };
}

// ---- Payments -----------------------------------------------------------------------------------------------------

/** Now, in whole seconds since the epoch. */
export const now = () => Math.floor(Date.now() / 1000);

/** Asks for a priced path without paying. @returns {Promise<object>} its terms */
export async function quote(gateway, target, options) {
  const answer = await ask(gateway, target, options);
  assert.equal(answer.status, 402, `${target} is not for sale: ${answer.text}`);
  return answer.terms;
}

/**
 * Signs a payment by hand, in the shape in which the official client sends it.
 *
 * @param {object} entry of `accepts`
 * @param {object} [changes]
 * @param {import("viem").LocalAccount} [changes.account] who signs
 * @param {object} [changes.authorization] fields in place of the honest ones; they are signed
 * @param {object} [changes.domain] fields of the EIP-712 domain in place of the honest ones
 * @param {object} [changes.resource]
 */
export async function signPayment(entry, { account = payerAccount, authorization = {}, domain = {}, resource } = {}) {
  const message = {
    from: account.address,
    to: entry.payTo,
    value: entry.amount,
    validAfter: "0",
    validBefore: String(now() + entry.maxTimeoutSeconds),
    nonce: `0x${randomBytes(32).toString("hex")}`,
    ...authorization,
  };
  const signature = await account.signTypedData({
    domain: {
      name: entry.extra.name,
      version: entry.extra.version,
      chainId: CHAIN_ID,
      verifyingContract: entry.asset,
      ...domain,
    },
    types: TRANSFER_TYPES,
    primaryType: "TransferWithAuthorization",
    message,
  });
  return { x402Version: 2, payload: { authorization: message, signature }, resource, accepted: entry };
}

/** Asks for the terms of a path and signs a payment for the first entry. */
export async function paymentFor(gateway, target, { method, host, ...changes } = {}) {
  const { accepts, resource } = await quote(gateway, target, { method, host });
  return signPayment(accepts[0], { resource, ...changes });
}

/** A header's value: JSON (or a text, as it is) in padded standard base64. */
export const encoded = (value) =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64");

/** The header of a payment. */
export const paying = (payment) => ({ "payment-signature": encoded(payment) });

/** Sends a request with a payment. */
export const pay = (gateway, target, payment, { headers = {}, ...options } = {}) =>
  ask(gateway, target, { ...options, headers: { ...headers, ...paying(payment) } });

// ---- What the others saw ------------------------------------------------------------------------------------------

/**
 * Notes the moment; afterwards tells what has happened since.
 *
 * @param {Gateway} gateway
 * @returns {Promise<{seen: () => import("../../stage/inference.mjs").Seen[], calls: (path?: string) => object[],
 *   transfers: () => Promise<import("../../stage/chain.mjs").Transfer[]>}>} `calls` are those about payments, or those of a path
 */
export async function since(gateway) {
  const facilitator = gateway.fake ?? gateway.facilitator;
  const [seen, calls] = [gateway.inference.seen.length, facilitator.calls.length];
  const block = (await gateway.chain.client.getBlockNumber()) + 1n;
  return {
    seen: () => gateway.inference.seen.slice(seen),
    calls: (path) => facilitator.calls.slice(calls).filter((call) => isWanted(call, path)),
    transfers: () => gateway.chain.transfers(block),
  };
}

/** Whether a call is one of a path, or one about a payment where no path is given. */
const isWanted = (call, path) => (path === undefined ? call.path !== "/supported" : call.path === path);

/** The values of a header that the upstream saw, in order. */
export const headerSeen = (seen, name) =>
  seen.headers.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value);

/** Waits until a condition holds. */
export async function eventually(condition, what, patience = PATIENCE_MS) {
  const deadline = Date.now() + patience;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`it did not come to pass that ${what}`);
    await sleep(5);
  }
}

/**
 * Waits until every worker answers with terms: each learns for itself who settles. So many connections that none of two or four
 * workers is left out by chance.
 */
export async function everyWorkerSells(gateway, path, options) {
  const answers = () => Promise.all(Array.from({ length: 32 }, () => ask(gateway, path, options).catch(() => ({}))));
  const sells = async () => (await answers()).every(({ status }) => status === 402);
  await eventually(sells, "every worker knows who settles", 30_000);
}

/** Lets the upstream answer in another way while `action` runs. */
export async function withUpstream(gateway, intercept, action) {
  gateway.inference.intercept = intercept;
  try {
    return await action();
  } finally {
    gateway.inference.intercept = null;
  }
}

/** A promise, and the function that fulfils it. */
export function latch() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { opened, open };
}

// ---- What is expected ---------------------------------------------------------------------------------------------

/** Every answer of the filter itself: JSON, not to be stored, readable for scripts of other origins. */
export function assertOwnAnswer(answer, status) {
  assert.equal(answer.status, status, `${answer.status}: ${answer.text}`);
  assert.equal(answer.get("content-type"), "application/json");
  assert.equal(answer.get("cache-control"), "no-store");
  assert.match(answer.get("access-control-expose-headers"), /PAYMENT-REQUIRED.*PAYMENT-RESPONSE/);
  assert.equal(answer.get("x-request-number"), undefined, "something of the upstream's answer came through");
}

/** Terms, and why the request was not served. */
export function assertTerms(answer, error) {
  assertOwnAnswer(answer, 402);
  assert.equal(answer.terms.error, error);
  assert.ok(answer.terms.accepts.length > 0);
  assert.equal(answer.json().x402Version, 1);
  assert.equal(answer.receipt, null);
}

/** An error that is no invitation to pay. */
export function assertNoTerms(answer, status) {
  assertOwnAnswer(answer, status);
  assert.equal(answer.get("payment-required"), undefined, "an honest client would pay a second time");
  const { error, accepts } = answer.json();
  assert.equal(typeof error, "string");
  assert.equal(accepts, undefined, "a client of version 1 would pay a second time");
}

/** Nobody knows what became of the payment: 502 or 504, come again, and no terms. */
export function assertUnknown(answer, status) {
  assertNoTerms(answer, status);
  assert.match(answer.get("retry-after") ?? "", /^\d+$/);
}

/** Served, with a receipt. */
export function assertServed(answer, { payer = payerAccount.address, transaction = /^0x[0-9a-f]{64}$/ } = {}) {
  assert.equal(answer.status, 200, `${answer.status}: ${answer.text} ${JSON.stringify(answer.terms)}`);
  const { transaction: moved, ...receipt } = answer.receipt;
  assert.deepEqual(receipt, { success: true, payer, network: NETWORK });
  if (typeof transaction === "string") assert.equal(moved, transaction);
  else assert.match(moved, transaction);
  assert.equal(answer.get("payment-required"), undefined);
  assert.match(answer.get("access-control-expose-headers"), /PAYMENT-RESPONSE/);
}

export { NETWORK, NETWORK_V1, USDC, CHAIN_ID, payerAccount, payTo };
