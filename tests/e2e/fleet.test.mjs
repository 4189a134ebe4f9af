/** Two Envoys that share one ledger in etcd: every money rule of the single proxy holds across both. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createSIWxPayload, encodeSIWxHeader } from "@x402/extensions/sign-in-with-x";
import { appendPaymentIdentifierToExtensions, generatePaymentId } from "@x402/extensions/payment-identifier";
import { accounts } from "../../stage/accounts.mjs";
import { startEtcd } from "../../stage/etcd.mjs";
import { startStage } from "../../stage/stage.mjs";
import { layCable } from "./cable.mjs";
import { channelsOn, makeChannelPayer, signChannelPayment, freshSalt } from "./channels-support.mjs";
import { signPermit2Payment } from "./permit2.mjs";
import { assertSpent, payAtLast, servedOf, told, USED } from "./fleet-support.mjs";
import { FACILITATOR_URL, startRelay } from "./relay.mjs";
import {
  ask,
  assertNoTerms,
  assertServed,
  assertTerms,
  DEFAULTS,
  eventually,
  everyWorkerSells,
  latch,
  openBackends,
  openGateway,
  pay,
  payerAccount,
  paying,
  paymentFor,
  quote,
  send,
  signPayment,
  UPFRONT,
  withUpstream,
} from "./support.mjs";

const EXPIRED = "invalid_exact_evm_payload_authorization_valid_before";
const CHAT = "/v1/chat/completions";
const HOST = "shop.example.com";

const AFTER = { name: "after", match: { path: "/after/{*rest}" }, price: "$0.002" };
const JOINT = { name: "joint", match: { path: "/joint/{*rest}" }, price: "$0.002", settle: "concurrent" };
const BY_CHANNEL = [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }];
const UPTO = [{ scheme: "upto", network: "base-sepolia", asset: "USDC" }];
const SIGN_IN = { sign_in_with_x: { lasts: "3600s", statement: "Read on" } };
const routes = [
  UPFRONT,
  AFTER,
  JOINT,
  {
    name: "chat",
    match: { methods: ["POST"], path: CHAT },
    price: { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } }, max_output_tokens: 1000, minimum: "$0.00001" },
    accepts: UPTO,
  },
  { name: "named", match: { path: "/named/{*rest}" }, price: "$0.001", extensions: { payment_identifier: "optional" } },
  { name: "articles", match: { path: "/articles/{*rest}" }, price: "$0.001", extensions: SIGN_IN },
  { name: "calls", match: { path: "/calls/{*rest}" }, price: "$0.001", bundle: { calls: 6, price: "$0.004", lasts: "3600s" } },
  { name: "crowd", match: { path: "/crowd/{*rest}" }, price: "$0.001", bundle: { calls: 40, price: "$0.03", lasts: "3600s" } },
  { name: "channel", match: { path: "/channel/{*rest}" }, price: "$0.01", accepts: BY_CHANNEL },
];
const pluginFor = (fleet, more = {}) => ({
  facilitator: { cluster: "facilitator", url: FACILITATOR_URL, timeout: "3s", ...more },
  defaults: DEFAULTS,
  channels: { claim_every: "3s" },
  routes,
  unmatched: "free",
  ledger: { store: { etcd: { cluster: "etcd", fleet, timeout: "1s" } } },
});

const backends = await openBackends({ chunkDelay: 5, balances: { [payerAccount.address]: 500_000_000n } });
const { chain, inference } = backends;
const etcd = await startEtcd({ run: backends.run });
backends.atEnd(etcd.stop);
const relays = await Promise.all([1, 2, 3].map(() => startRelay(backends.facilitator)));
for (const relay of relays) backends.atEnd(relay.stop);
const [relayA, relayB, forgetful] = relays;

// The longer these are waited for, the longer is what a killed proxy held its own.
const withNode = { rpc: { "base-sepolia": { cluster: "chain", url: chain.rpcUrl, timeout: "1s", confirmations: 1 } } };
const stageOf = ({ fleet = "shop", relay, node = true, edit = etcd.edit, facilitator, more }) => ({
  plugin: { ...pluginFor(fleet, facilitator), ...(node && withNode), ...more },
  facilitator: relay.url,
  concurrency: 2,
  allowOnHeadersStopIteration: true,
  clusters: { chain: chain.port },
  edit: (bootstrap) => edit(bootstrap),
});
const reached = ({ envoy }) => eventually(async () => /store answers/.test(envoy.logs()), "the store is reached", 20_000);
const isReady = async (gateway) => {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: chatBody() };
  await everyWorkerSells(gateway, "/channel/x");
  await everyWorkerSells(gateway, CHAT, post);
};

const [a, b] = [await openGateway(backends, stageOf({ relay: relayA })), await openGateway(backends, stageOf({ relay: relayB }))];
// Another fleet in the same store, whose facilitator says yes as often as it is asked, and without a node to look into.
const [c, d] = [1, 2].map(() => ({ fleet: "stall", relay: forgetful, node: false, facilitator: { verify: "local" } }));
const [stallA, stallB] = [await openGateway(backends, stageOf(c)), await openGateway(backends, stageOf(d))];
forgetful.remembers = true;
for (const gateway of [a, b, stallA, stallB]) {
  await reached(gateway);
  await isReady(gateway);
}

// ---- What happened since -------------------------------------------------------------------------------------------

/** Notes the moment; afterwards tells what has happened since at all of them. */
async function since() {
  const [seen, calls, block] = [inference.seen.length, relays.map((relay) => relay.calls.length), (await chain.client.getBlockNumber()) + 1n];
  return {
    seen: () => inference.seen.slice(seen),
    calls: (path) => relays.flatMap((relay, index) => relay.calls.slice(calls[index])).filter((call) => call.path === path),
    transfers: () => chain.transfers(block),
  };
}

/** Sends a payment to each of these in turn until one of them serves it. */
async function payAtEither(gateways, path, payment) {
  let answers = [];
  const isServed = async () => {
    answers = await Promise.all(gateways.map((gateway) => pay(gateway, path, payment)));
    for (const { status, text, terms } of answers) if (status !== 200) assert.equal(terms, null, text);
    return servedOf(answers).length > 0;
  };
  await eventually(isServed, "the payment is served", 20_000);
  return answers;
}

const post = (gateway, text, headers = {}) =>
  ask(gateway, CHAT, { method: "POST", host: HOST, body: text, headers: { "content-type": "application/json", ...headers } });

function chatBody(more = {}) {
  return JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "a b c d e f" }], max_tokens: 100, ...more });
}

const chatPayment = async (gateway, text) => signPermit2Payment((await post(gateway, text)).terms.accepts[0]);

// ---- One payment, one response --------------------------------------------------------------------------------------

for (const route of ["upfront", "after", "joint"]) {
  test(`a payment that settled at one proxy buys nothing at the other (${route})`, async () => {
    const payment = await paymentFor(a, `/${route}/x`);
    const mark = await since();
    assertServed(await pay(a, `/${route}/x`, payment));
    for (const gateway of [b, a, b]) await assertSpent(gateway, `/${route}/x`, payment);
    assert.equal(mark.seen().length, 1, "the upstream ran for one of them");
    assert.equal((await mark.transfers()).length, 1);
    assert.equal(mark.calls("/settle").length, 1);
  });

  test(`the same payment at both at once buys one response (${route})`, async () => {
    for (let round = 0; round < 8; round++) {
      const [payment, mark] = [await paymentFor(a, `/${route}/x`), await since()];
      const answers = await Promise.all([a, b, a, b].map((gateway) => pay(gateway, `/${route}/x`, payment)));
      assert.equal(servedOf(answers).length, 1, told(answers));
      assert.equal((await mark.transfers()).length, 1);
      assert.equal(mark.seen().length, 1, "the loser's upstream did not run");
    }
  });

  test(`a facilitator that repeats its yes sells nothing twice (${route})`, async () => {
    for (let round = 0; round < 4; round++) {
      const [payment, mark] = [await paymentFor(stallA, `/${route}/x`), await since()];
      const answers = await Promise.all([stallA, stallB].map((gateway) => pay(gateway, `/${route}/x`, payment)));
      assert.equal(servedOf(answers).length, 1, told(answers));
      for (const gateway of [stallA, stallB]) await assertSpent(gateway, `/${route}/x`, payment);
      assert.equal((await mark.transfers()).length, 1);
    }
  });
}

test("the same payment in other words at both at once buys one response", async () => {
  const reversed = (value) =>
    Array.isArray(value) || typeof value !== "object" || value === null
      ? value
      : Object.fromEntries(Object.entries(value).reverse().map(([key, one]) => [key, reversed(one)]));
  const upper = (payment) => {
    const copy = structuredClone(payment);
    const { authorization } = copy.payload;
    for (const name of ["from", "to", "nonce"]) authorization[name] = `0x${authorization[name].slice(2).toUpperCase()}`;
    return copy;
  };
  const words = {
    padded: (payment) => Buffer.from(JSON.stringify(payment)).toString("base64"),
    unpadded: (payment) => Buffer.from(JSON.stringify(payment)).toString("base64").replace(/=+$/, ""),
    urlsafe: (payment) => Buffer.from(JSON.stringify(payment)).toString("base64url"),
    indented: (payment) => Buffer.from(JSON.stringify(payment, null, 3)).toString("base64"),
    reversed: (payment) => Buffer.from(JSON.stringify(reversed(payment))).toString("base64"),
    upper: (payment) => Buffer.from(JSON.stringify(upper(payment))).toString("base64"),
    more: (payment) => Buffer.from(JSON.stringify({ ...payment, something: Math.random() })).toString("base64"),
  };
  for (const route of ["upfront", "after"]) {
    const [payment, mark] = [await paymentFor(a, `/${route}/x`), await since()];
    const headers = Object.values(words).map((word) => ({ "payment-signature": word(payment) }));
    const asked = headers.flatMap((one) => [a, b].map((gateway) => ask(gateway, `/${route}/x`, { headers: one })));
    const answers = await Promise.all(asked);
    assert.equal(servedOf(answers).length, 1, told(answers));
    assert.equal((await mark.transfers()).length, 1);
    for (const one of headers) for (const gateway of [a, b]) assert.notEqual((await ask(gateway, `/${route}/x`, { headers: one })).status, 200);
    assert.equal(mark.seen().length, 1);
  }
});

// ---- Settled at one, delivered at the other -------------------------------------------------------------------------

for (const route of ["upfront", "joint"]) {
  test(`what the upstream failed to give at one proxy is delivered at the other, once (${route})`, async () => {
    const [payment, mark] = [await paymentFor(a, `/${route}/x`), await since()];
    const failed = await withUpstream(a, (_, response) => void response.writeHead(500).end("no"), () => pay(a, `/${route}/x`, payment));
    assert.equal(failed.status, 500);
    assert.equal(failed.get("payment-required"), undefined);
    const answers = await payAtEither([b, a], `/${route}/x`, payment);
    assert.equal(servedOf(answers).length, 1, told(answers));
    for (const gateway of [a, b]) await assertSpent(gateway, `/${route}/x`, payment);
    const transfers = await mark.transfers();
    assert.equal(transfers.length, 1);
    assertServed(servedOf(answers)[0], { transaction: transfers[0].transaction });
  });
}

for (const route of ["upfront", "after", "joint"]) {
  test(`what was settled for a client that has left is delivered at the other proxy, once (${route})`, async () => {
    const [payment, mark, held] = [await paymentFor(a, `/${route}/x`), await since(), latch()];
    relayA.delay("/settle", held.opened);
    const { socket } = send(a, `/${route}/x`, { headers: paying(payment) });
    await eventually(async () => (await mark.transfers()).length === 1, "the money has moved");
    socket.destroy();
    // Whoever comes while nobody has let go of it is to wait, and is not asked to pay again.
    const early = await pay(b, `/${route}/x`, payment);
    assert.equal(early.terms, null, early.text);
    held.open();
    const answer = early.status === 200 ? early : await payAtLast(b, `/${route}/x`, payment);
    assertServed(answer);
    for (const gateway of [a, b]) await assertSpent(gateway, `/${route}/x`, payment);
    assert.equal((await mark.transfers()).length, 1);
  });

  test(`a settlement whose answer one proxy lost is found and delivered at the other (${route})`, async () => {
    const [payment, mark] = [await paymentFor(a, `/${route}/x`), await since()];
    relayA.lose("/settle");
    const first = await pay(a, `/${route}/x`, payment);
    if (first.status !== 200) assertNoTerms(first, first.status);
    const answers = first.status === 200 ? [first] : await payAtEither([b, a], `/${route}/x`, payment);
    assert.equal(servedOf(answers).length, 1, told(answers));
    assert.equal((await mark.transfers()).length, 1);
  });

  test(`… and with no node to ask, by a facilitator that repeats its yes (${route})`, async () => {
    const [payment, mark] = [await paymentFor(stallA, `/${route}/x`), await since()];
    forgetful.lose("/settle");
    const first = await pay(stallA, `/${route}/x`, payment);
    if (first.status !== 200) assertNoTerms(first, first.status);
    const answers = first.status === 200 ? [first] : await payAtEither([stallB, stallA], `/${route}/x`, payment);
    assert.equal(servedOf(answers).length, 1, told(answers));
    assert.equal((await mark.transfers()).length, 1);
  });
}

test("a settlement of upto whose answer was lost gets no fresh terms at the other proxy", async () => {
  const text = chatBody();
  const [payment, mark] = [await chatPayment(stallA, text), await since()];
  forgetful.remembers = false;
  forgetful.lose("/settle");
  const first = await post(stallA, text, paying(payment));
  assertNoTerms(first, first.status);
  const answers = [first];
  for (const gateway of [stallB, stallA, stallB]) {
    const again = await post(gateway, text, paying(payment));
    answers.push(again);
    assert.equal(again.terms, null, told(answers));
  }
  forgetful.remembers = true;
  const last = await eventually(async () => {
    const answer = await post(stallB, text, paying(payment));
    answers.push(answer);
    assert.equal(answer.terms, null, told(answers));
    return answer.status === 200 ? answer : sleep(100, null);
  }, "it is delivered once the facilitator says what became of it", 20_000);
  assert.ok(last.receipt.success);
  assert.equal((await mark.transfers()).length, 1);
});

// ---- Tokens ---------------------------------------------------------------------------------------------------------

for (const [how, more] of [["JSON", {}], ["a stream", { stream: true, stream_options: { include_usage: true } }]]) {
  test(`an inference that is paid by what it used is given once, where both are asked at once (${how})`, async () => {
    for (let round = 0; round < 4; round++) {
      const text = chatBody(more);
      const [payment, mark] = [await chatPayment(a, text), await since()];
      const answers = await Promise.all([a, b, b, a].map((gateway) => post(gateway, text, paying(payment))));
      assert.equal(servedOf(answers).length, 1, told(answers));
      for (const answer of answers) if (![200, 402].includes(answer.status)) assert.equal(answer.terms, null, answer.text);
      assert.equal(mark.seen().length, 1, "the model ran for one of them");
      assert.equal((await mark.transfers()).length, 1);
    }
  });
}

test("a stream that runs at one proxy is not sold at the other, neither meanwhile nor behind it", async () => {
  const text = chatBody({ stream: true, stream_options: { include_usage: true } });
  const [payment, mark, goOn] = [await chatPayment(a, text), await since(), latch()];
  const stream = async (request, response) => {
    for await (const chunk of request) void chunk;
    response.writeHead(200, { "content-type": "text/event-stream" });
    const event = (more) => `data: ${JSON.stringify({ id: "1", object: "chat.completion.chunk", model: "fake-echo-1", choices: [], ...more })}\n\n`;
    response.write(event({ choices: [{ index: 0, delta: { role: "assistant", content: "one" }, finish_reason: null }] }));
    await goOn.opened;
    response.write(event({ usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 } }));
    response.end("data: [DONE]\n\n");
  };
  const meanwhile = [];
  const first = await withUpstream(a, stream, async () => {
    const answer = post(a, text, paying(payment));
    await eventually(() => mark.seen().length === 1, "the stream runs");
    for (const gateway of [b, a, b, b]) meanwhile.push(await post(gateway, text, paying(payment)));
    // Longer than a claim is held without a word.
    goOn.open();
    return answer;
  });
  assert.equal(first.status, 200, first.text);
  // What it buys is on its way already.
  for (const answer of meanwhile) assert.ok([402, 409].includes(answer.status), told(meanwhile));
  // At another proxy than the one that spent it, it counts as in flight at first.
  for (const gateway of [b, a]) {
    const answer = await post(gateway, text, paying(payment));
    if (answer.status === 409) assertNoTerms(answer, 409);
    else assert.equal(answer.status, 402, answer.text);
  }
  assert.equal(mark.seen().length, 1);
  assert.equal((await mark.transfers()).length, 1);
});

// ---- Names, rights, bundles -----------------------------------------------------------------------------------------

test("a payment's name counts at both", async () => {
  const named = async (gateway, id) => {
    const { accepts, resource, extensions } = (await ask(gateway, "/named/x")).terms;
    return { ...(await signPayment(accepts[0], { resource })), extensions: appendPaymentIdentifierToExtensions(structuredClone(extensions), id) };
  };
  const [id, mark] = [generatePaymentId(), await since()];
  const payment = await named(a, id);
  assertServed(await pay(a, "/named/x", payment));
  await assertSpent(b, "/named/x", payment);
  for (const gateway of [b, a]) assert.equal((await pay(gateway, "/named/x", await named(gateway, id))).status, 409);
  // Two payments of one name at once: one is taken.
  const other = generatePaymentId();
  const answers = await Promise.all([a, b].map(async (gateway) => pay(gateway, "/named/x", await named(gateway, other))));
  assert.equal(servedOf(answers).length, 1, told(answers));
  assert.equal((await mark.transfers()).length, 2);
});

const siwx = async (gateway, path, account = payerAccount) => {
  const { extensions } = await quote(gateway, path, { host: HOST });
  const { info, supportedChains } = extensions["sign-in-with-x"];
  return encodeSIWxHeader(await createSIWxPayload({ ...info, ...supportedChains[0] }, account, `http://${HOST}${path}`));
};
const signIn = (gateway, path, proof) => ask(gateway, path, { host: HOST, headers: { "sign-in-with-x": proof } });

test("a right that was bought at one proxy is good at the other, and so is its challenge, once", async () => {
  const path = "/articles/one";
  const { accepts, resource } = await quote(a, path, { host: HOST });
  assertServed(await pay(a, path, await signPayment(accepts[0], { resource }), { host: HOST }));
  assert.equal((await signIn(b, path, await siwx(b, path))).status, 200, "A's right is good at B");
  assert.equal((await signIn(b, path, await siwx(a, path))).status, 200, "A's challenge is good at B");
  assert.equal((await signIn(a, path, await siwx(b, path))).status, 200, "B's challenge is good at A");
  assert.equal((await signIn(b, path, await siwx(a, path, accounts[5]))).status, 402, "a stranger has no right");
  for (let round = 0; round < 5; round++) {
    const proof = await siwx(a, path);
    const answers = await Promise.all([a, b, a, b].map((gateway) => signIn(gateway, path, proof)));
    assert.equal(servedOf(answers).length, 1, told(answers));
    for (const gateway of [a, b]) assertTerms(await signIn(gateway, path, proof), "invalid_siwx_nonce");
  }
});

test("a bundle that was bought at one proxy is used up at both, and no call is taken twice", async () => {
  const path = "/calls/x";
  const { accepts, resource } = await quote(a, path, { host: HOST });
  const [entry, mark] = [accepts.find(({ extra }) => extra?.bundle), await since()];
  const first = await pay(a, path, await signPayment(entry, { resource }), { host: HOST });
  assert.equal(first.status, 200, first.text);
  assert.equal(first.get("x-x402-remaining"), "5");
  const one = await signIn(b, path, await siwx(b, path));
  assert.deepEqual([one.status, one.get("x-x402-remaining")], [200, "4"]);
  const proofs = await Promise.all(Array.from({ length: 12 }, () => siwx(a, path)));
  const answers = await Promise.all(proofs.map((proof, index) => signIn(index % 2 ? a : b, path, proof)));
  assert.equal(servedOf(answers).length, 4, told(answers));
  assert.equal((await signIn(a, path, await siwx(a, path))).status, 402);
  assert.equal(mark.seen().length, 6);
  assert.equal((await mark.transfers()).length, 1);
});

test("of a bundle that is used by a crowd at once, at both, no call is lost", async () => {
  const path = "/crowd/x";
  const { accepts, resource } = await quote(a, path, { host: HOST });
  const [entry, mark] = [accepts.find(({ extra }) => extra?.bundle), await since()];
  const first = await pay(a, path, await signPayment(entry, { resource }), { host: HOST });
  assert.equal(first.get("x-x402-remaining"), "39", first.text);
  const come = async (_, index) => {
    for (;;) {
      const answer = await signIn(index % 2 ? a : b, path, await siwx(a, path));
      // So many at a time may take longer than the store is waited for.
      if (answer.status !== 503) return answer;
    }
  };
  const answers = await Promise.all(Array.from({ length: 45 }, come));
  assert.equal(servedOf(answers).length, 39, told(answers));
  assert.equal(mark.seen().length, 40, "the upstream has not worked for nothing");
  for (const answer of answers.filter(({ status }) => status !== 200)) assertTerms(answer, "Payment required");
});

test("an expired payment that nobody knows is no lost move", async () => {
  const fenced = async () => Object.values(await a.envoy.stats(/store_fenced/)).reduce((sum, value) => sum + value, 0);
  const [{ accepts }, before] = [await quote(a, "/upfront/x"), await fenced()];
  const validBefore = String(Math.floor(Date.now() / 1000) - 20);
  for (let time = 0; time < 3; time++) assertTerms(await pay(a, "/upfront/x", await signPayment(accepts[0], { authorization: { validBefore } })), EXPIRED);
  assert.equal(await fenced(), before);
});

// ---- Channels -------------------------------------------------------------------------------------------------------

const on = channelsOn(chain);

test("a channel's vouchers are taken at both by turns, and are never stale", async () => {
  const payer = makeChannelPayer({ chain });
  const mark = await since();
  for (let call = 1; call <= 9; call++) {
    const gateway = call % 2 ? a : b;
    const before = payer.exchanges.length;
    const response = await payer.fetch(`${gateway.url}/channel/x`);
    assert.equal(response.status, 200, await response.text());
    const { receipt } = payer.exchanges.at(-1);
    assert.equal(receipt.extra.channelState.chargedCumulativeAmount, String(10_000 * call));
    assert.ok(payer.exchanges.length - before <= 2, "no third try: the voucher was not stale");
  }
  assert.equal(mark.calls("/verify").length, 1, "the deposit alone was verified");
  assert.equal(mark.seen().filter(({ path }) => path === "/channel/x").length, 9);
});

test("vouchers of one channel at both at once: charges add up", async () => {
  const [{ accepts }] = [await quote(a, "/channel/x")];
  const [entry, salt, mark] = [accepts[0], freshSalt(), await since()];
  const buy = (gateway, payment) => pay(gateway, "/channel/x", payment);
  const config = { salt };
  const opened = await buy(a, await signChannelPayment(entry, { type: "deposit", total: 10_000, config }));
  assert.equal(opened.status, 200, opened.text);
  let charged = 10_000;
  for (let round = 0; round < 8; round++) {
    const payment = await signChannelPayment(entry, { total: charged + 10_000, config });
    const answers = await Promise.all([a, b].map((gateway) => buy(gateway, payment)));
    // The same voucher twice: the other one waits, and is then told that it is used; or it is told that there is one under way.
    assert.equal(servedOf(answers).length, 1, told(answers));
    for (const answer of answers) assert.ok([200, 402, 409].includes(answer.status), told(answers));
    charged += 10_000;
    assert.equal(servedOf(answers)[0].receipt.extra.channelState.chargedCumulativeAmount, String(charged));
  }
  assert.equal(mark.seen().filter(({ path }) => path === "/channel/x").length, 9);
  const last = await buy(b, await signChannelPayment(entry, { total: charged + 10_000, config }));
  assert.equal(last.status, 200, last.text);
});

// ---- What it costs --------------------------------------------------------------------------------------------------

test("replays of a spent payment, free routes and unpaid requests never reach etcd", async () => {
  const path = "/upfront/x";
  const payment = await paymentFor(a, path);
  assertServed(await pay(a, path, payment));
  for (const gateway of [a, b]) await assertSpent(gateway, path, payment);
  const asked = async () => {
    const counts = await Promise.all([a, b].map(({ envoy }) => envoy.stats("^cluster.etcd.upstream_rq_total$")));
    return counts.reduce((sum, one) => sum + Object.values(one)[0], 0);
  };
  const count = 300;
  const before = await asked();
  const started = Date.now();
  for (let round = 0; round < count / 20; round++) {
    const replays = Array.from({ length: 20 }, (_, index) => pay(index % 2 ? a : b, path, payment));
    for (const answer of await Promise.all(replays)) {
      if (answer.status === 409) assertNoTerms(answer, 409);
      else assertTerms(answer, USED);
    }
    await Promise.all([a, b].flatMap((gateway) => [ask(gateway, "/healthz"), ask(gateway, path)]));
  }
  // What the proxies ask by themselves, for the keeper of the channels, is some questions a second.
  const seconds = (Date.now() - started) / 1000;
  const more = (await asked()) - before;
  assert.ok(more <= 10 + 6 * seconds && more < count / 2, `${count} replays in ${seconds} s, and etcd was asked ${more} times`);
});

// ---- A store that does not answer -----------------------------------------------------------------------------------

test("with the store out of reach at the start nothing is sold, free routes go their way, and it comes back by itself", async () => {
  const cable = await layCable(etcd.members.map(({ port }) => port));
  backends.atEnd(cable.stop);
  cable.cut();
  const gateway = await openGateway(backends, stageOf({ relay: relayA, edit: (bootstrap) => etcd.edit(bootstrap, { ports: cable.ports }) }));
  const [payment, mark] = [await paymentFor(a, "/upfront/x"), await since()];
  assert.equal((await ask(gateway, "/healthz")).status, 200);
  for (const path of ["/upfront/x", "/after/x"]) {
    const answer = await pay(gateway, path, payment);
    assertNoTerms(answer, 503);
    assert.match(answer.get("retry-after"), /^\d+$/);
    assertNoTerms(await ask(gateway, path), 503);
  }
  assert.equal(mark.calls("/settle").length, 0);
  assert.equal(mark.seen().filter(({ path }) => path !== "/healthz").length, 0);
  cable.mend();
  const mended = Date.now();
  assertServed(await payAtLast(gateway, "/upfront/x", payment));
  assert.ok(Date.now() - mended < 10_000, `it took ${Date.now() - mended} ms`);
  // And in the middle of its life.
  for (const state of ["cut", "silence"]) {
    const [next, later] = [await paymentFor(gateway, "/after/x"), await since()];
    cable[state]();
    const refused = await pay(gateway, "/after/x", next);
    assertNoTerms(refused, 503);
    assert.match(refused.get("retry-after"), /^\d+$/);
    // Of other payments, whose settlements went unheard before, some are still looked into.
    const { nonce } = next.payload.authorization;
    assert.equal(later.calls("/settle").filter(({ request }) => JSON.stringify(request).includes(nonce)).length, 0);
    assert.equal((await ask(gateway, "/after/x")).status, 402, "whoever has not paid is told the price all the same");
    assert.equal((await ask(gateway, "/healthz")).status, 200);
    cable.mend();
    assertServed(await payAtLast(gateway, "/after/x", next));
    assert.equal((await later.transfers()).filter((transfer) => transfer.nonce === nonce).length, 1);
  }
});

test("without the client's certificate nothing is sold, and the log says why", async () => {
  const edit = (bootstrap) => {
    etcd.edit(bootstrap);
    const { transport_socket: socket } = bootstrap.static_resources.clusters.find(({ name }) => name === "etcd");
    delete socket.typed_config.common_tls_context.tls_certificates;
  };
  const gateway = await openGateway(backends, stageOf({ relay: relayA, edit }));
  const [payment, mark] = [await paymentFor(a, "/upfront/x"), await since()];
  assertNoTerms(await pay(gateway, "/upfront/x", payment), 503);
  assert.equal(mark.calls("/settle").length, 0);
  await eventually(() => /ledger's store \(cluster "etcd"\) gave no answer that counts/.test(gateway.envoy.logs()), "the log says so");
  assertServed(await pay(a, "/upfront/x", payment));
});

test("a user who may no more touch the records sells nothing, the log says why, and it comes back by itself", async () => {
  const [payment, mark] = [await paymentFor(a, "/upfront/x"), await since()];
  etcd.ctl("user", "revoke-role", "x402-gate", "x402");
  try {
    const refused = await pay(a, "/upfront/x", payment);
    assertNoTerms(refused, 503);
    assert.match(refused.get("retry-after"), /^\d+$/);
  } finally {
    etcd.ctl("user", "grant-role", "x402-gate", "x402");
  }
  assert.match(a.envoy.logs(), /gave no answer that counts \(grpc-status 7: [^)]*permission denied/);
  assert.equal(mark.calls("/settle").length, 0);
  assertServed(await payAtLast(b, "/upfront/x", payment));
  assert.equal((await mark.transfers()).length, 1);
});

// ---- A proxy that dies ----------------------------------------------------------------------------------------------

/** A proxy of the fleet that may be killed. */
async function openMortal(what = { relay: relayA }) {
  const stage = await startStage({ backends, ...stageOf(what) });
  backends.atEnd(stage.stop);
  const gateway = { ...stage, port: stage.envoy.port };
  await reached(gateway);
  await isReady(gateway);
  return {
    ...gateway,
    kill: async () => {
      process.kill(stage.envoy.pid, "SIGKILL");
      await stage.envoy.onEnd;
    },
  };
}

test("a proxy that is killed and started anew sells nothing twice, and delivers what was settled", async () => {
  const mortal = await openMortal();
  const paths = ["/upfront/x", "/after/x", "/joint/x"];
  const mark = await since();
  const spent = await Promise.all(paths.map((path) => paymentFor(mortal, path)));
  for (const [index, path] of paths.entries()) assertServed(await pay(mortal, path, spent[index]));
  const owed = await paymentFor(mortal, "/upfront/x");
  const failing = (_, response) => void response.writeHead(500).end("no");
  assert.equal((await withUpstream(mortal, failing, () => pay(mortal, "/upfront/x", owed))).status, 500);
  const [underWay, held] = [await paymentFor(mortal, "/upfront/x"), latch()];
  relayA.delay("/settle", held.opened);
  const { socket } = send(mortal, "/upfront/x", { headers: paying(underWay) });
  await eventually(async () => (await mark.transfers()).length === 5, "the money has moved");
  await mortal.kill();
  socket.destroy();
  held.open();

  const born = await openGateway(backends, stageOf({ relay: relayA }));
  await reached(born);
  for (const [index, path] of paths.entries()) await assertSpent(born, path, spent[index]);
  assertServed(await payAtLast(born, "/upfront/x", owed));
  for (const gateway of [a, born]) await assertSpent(gateway, "/upfront/x", owed);
  assertNoTerms(await pay(b, "/upfront/x", underWay), 409);
  orphan = { payment: underWay, mark, killed: Date.now() };
});

test("a stranger who shows a payer's nonce over and over keeps nobody from what is owed", async () => {
  const mortal = await openMortal(c);
  const payment = await paymentFor(mortal, "/upfront/x");
  forgetful.lose("/settle");
  assertNoTerms(await pay(mortal, "/upfront/x", payment), 502);
  await mortal.kill();
  const { accepts } = await quote(stallB, "/upfront/x");
  const { from, nonce, validBefore } = payment.payload.authorization;
  const forged = await signPayment(accepts[0], { authorization: { from, nonce, validBefore } });
  forged.payload.signature = `0x${"5a".repeat(80)}`;
  let isOver = false;
  const strangers = [1, 2, 3].map(async () => {
    while (!isOver) await pay(stallB, "/upfront/x", forged);
  });
  const served = await payAtLast(stallB, "/upfront/x", payment).finally(() => (isOver = true));
  assertServed(served);
  await Promise.all(strangers);
});

/** What the killed proxy had settled, and told nobody of. */
let orphan;

test("channels are claimed by one proxy, and by another within seconds of its death", async () => {
  // A fleet of its own, so that there are two proxies and no more.
  const stages = [];
  for (const relay of [relayA, relayB]) {
    const stage = await startStage({ backends, ...stageOf({ fleet: "claims", relay }) });
    backends.atEnd(stage.stop);
    stages.push({ ...stage, port: stage.envoy.port });
  }
  for (const stage of stages) await isReady(stage);
  const payer = makeChannelPayer({ chain });
  for (let call = 0; call < 3; call++) assert.equal((await payer.fetch(`${stages[call % 2].url}/channel/x`)).status, 200);
  const { accepts } = await quote(stages[0], "/channel/x");
  const id = payer.idFor(accepts[0]);
  const claimedBy = () => stages.filter(({ envoy }) => envoy.logs().includes(`channel ${id} is claimed up to 30000`));
  await eventually(() => claimedBy().length > 0, "it is claimed", 40_000);
  assert.equal(await on.claimed({ id }), 30_000n);
  await sleep(2_000);
  assert.equal(claimedBy().length, 1, "by one of the two");
  const [owner] = claimedBy();
  const other = stages.find((stage) => stage !== owner);
  for (let call = 0; call < 2; call++) assert.equal((await payer.fetch(`${other.url}/channel/x`)).status, 200);
  process.kill(owner.envoy.pid, "SIGKILL");
  const killed = Date.now();
  await owner.envoy.onEnd;
  await eventually(async () => (await on.claimed({ id })) === 50_000n, "the other one claims", 40_000);
  const took = Date.now() - killed;
  // The right lasts eight seconds, channels are claimed when they are three seconds old, and both are looked after once a second.
  assert.ok(took < 15_000, `it took ${took} ms`);
});

test("what a killed proxy had under way is delivered by another once its hold is over", async () => {
  const { payment, mark } = orphan;
  assertServed(await payAtLast(b, "/upfront/x", payment, { patience: 60_000 }));
  for (const gateway of [a, b]) await assertSpent(gateway, "/upfront/x", payment);
  assert.equal((await mark.transfers()).filter(({ nonce }) => nonce === payment.payload.authorization.nonce).length, 1);
});
