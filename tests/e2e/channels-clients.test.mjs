/**
 * The official clients of channels through Envoy on a real chain: they pay, top up, recover and get their money back, at
 * fixed prices and by the token. None of them knows that there is a filter.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { accounts } from "../../stage/accounts.mjs";
import { byPython, channelsOn, freshSalt, makeChannelPayer, signChannelPayment } from "./channels-support.mjs";
import { ask, DEFAULTS, eventually, everyWorkerSells, handing, openBackends, openGateway, pay, payerAccount, since } from "./support.mjs";

const REASON = "invalid_batch_settlement_evm_";
const gateKey = accounts[6];
process.env.E2E_GATE_KEY = `0x${Buffer.from(gateKey.getHdKey().privateKey).toString("hex")}`;

const entry = (more = {}) => [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC", ...more }];
const price = { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } }, max_output_tokens: 1000 };
const plugin = (channels = {}) => ({
  facilitator: { timeout: "1s" },
  defaults: DEFAULTS,
  channels: { claim_every: "3600s", claim_above: "$100", ...channels },
  routes: [
    { name: "any", match: { path: "/any/{*rest}" }, price: "$0.01", accepts: entry() },
    { name: "permit2", match: { path: "/permit2/{*rest}" }, price: "$0.01", accepts: entry({ transfer_method: "permit2" }) },
    { name: "chat", match: { methods: ["POST"], path: "/v1/chat/completions" }, price, accepts: entry({ min_deposit: "$0.10" }) },
    // Its hold on a channel is for some twenty seconds.
    { name: "hasty", match: { methods: ["POST"], path: "/hasty" }, price, max_timeout_seconds: 10, accepts: entry({ min_deposit: "$0.10" }) },
  ],
  unmatched: "free",
});

const backends = await openBackends({ balances: { [payerAccount.address]: 100_000_000n }, chunkDelay: 2 });
const { chain } = backends;
const gateway = await openGateway(backends, { plugin: plugin(), concurrency: 2, allowOnHeadersStopIteration: true });
const own = await openGateway(backends, {
  plugin: plugin({ authorizer: { key: { env: "E2E_GATE_KEY" } } }),
  edit: handing("E2E_GATE_KEY"),
  concurrency: 1,
  allowOnHeadersStopIteration: true,
});
const claiming = await openGateway(backends, { plugin: plugin({ claim_every: "1s" }), concurrency: 2, allowOnHeadersStopIteration: true });
const on = channelsOn(chain);
for (const one of [gateway, own, claiming]) await everyWorkerSells(one, "/any/x");

const charged = ({ exchanges }) => BigInt(exchanges.at(-1).receipt.extra.channelState.chargedCumulativeAmount);

// ---- A stream that lasts longer than any hold; it runs while the others are tested ----------------------------------------

/** The upstream says a word every second, for half a minute. */
const WORDS = 30;
backends.inference.intercept = async (request, response) => {
  if (request.url !== "/hasty") return false;
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (let word = 0; word < WORDS; word++) {
    response.write(`data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  response.write(`data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":${WORDS},"total_tokens":${WORDS + 10}}}\n\n`);
  response.end("data: [DONE]\n\n");
};
const hasty = { method: "POST", headers: { "content-type": "application/json" } };
const hastyBody = JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "hi" }], max_tokens: 100, stream: true, stream_options: { include_usage: true } });
const slow = { client: makeChannelPayer() };
await slow.client.fetch(`${gateway.url}/any/x`);
slow.started = performance.now();
slow.done = slow.client.fetch(`${gateway.url}/hasty`, { ...hasty, body: hastyBody }).then(async (response) => {
  const text = await response.text();
  return { status: response.status, text, ms: performance.now() - slow.started };
});
slow.done.catch(() => {});

// ---- TypeScript -----------------------------------------------------------------------------------------------------------

for (const [how, gate, path] of [["EIP-3009", gateway, "/any/x"], ["Permit2", gateway, "/permit2/x"], ["EIP-3009, the gateway's own key", own, "/any/x"]]) {
  test(`TypeScript, ${how}: deposit, vouchers, top-up, recovery, refunds of a part and of all, and again`, async () => {
    const [client, url] = [makeChannelPayer({ chain }), `${gate.url}${path}`];
    const times = [];
    for (let call = 1; call <= 12; call++) {
      const response = await client.fetch(url);
      assert.equal(response.status, 200, await response.text());
      assert.equal(charged(client), BigInt(call) * 10_000n);
      times.push(client.exchanges.at(-1).ms);
    }
    const deposits = client.exchanges.filter(({ receipt }) => receipt?.transaction);
    assert.equal(deposits.length, 2, "the second deposit is a top-up");
    const [terms] = client.exchanges[0].terms.accepts;
    const id = client.idFor(terms);
    assert.equal(terms.extra.receiverAuthorizer === gateKey.address, gate === own);
    assert.equal((await on.read(id)).balance, BigInt(deposits.length) * 100_000n);

    // A client that counts too little is corrected, another that has forgotten everything asks the chain.
    await client.know(terms, { chargedCumulativeAmount: "50000", balance: "200000" });
    const before = client.exchanges.length;
    assert.equal((await client.fetch(url)).status, 200);
    assert.equal(charged(client), 130_000n);
    const corrective = client.exchanges.slice(before).filter(({ terms }) => terms?.error === `${REASON}cumulative_amount_mismatch`);
    assert.equal(corrective.length, 1);
    await client.know(terms);
    assert.equal((await client.fetch(url)).status, 200);
    assert.equal(charged(client), 140_000n);

    const part = await client.refund(url, "5000");
    assert.deepEqual([part.success, part.amount], [true, "5000"]);
    assert.deepEqual(await on.read(id), { balance: 195_000n, totalClaimed: 140_000n, refundNonce: 1n, withdrawal: { amount: 0n, initiatedAt: 0 } });
    assert.equal((await client.fetch(url)).status, 200);
    const all = await client.refund(url);
    assert.deepEqual([all.success, all.amount], [true, "45000"]);
    assert.deepEqual(await on.read(id), { balance: 150_000n, totalClaimed: 150_000n, refundNonce: 2n, withdrawal: { amount: 0n, initiatedAt: 0 } });
    await assert.rejects(client.refund(url), /no remaining balance/);

    assert.equal((await client.fetch(url)).status, 200);
    assert.equal(charged(client), 160_000n);
    assert.equal((await client.refund(url)).amount, "90000");
    const names = (await on.events({ id })).map(({ eventName }) => eventName);
    assert.deepEqual(names.filter((name) => name === "Deposited").length, 3);
    assert.equal(await on.claimed({ id }), 160_000n);
    const vouchers = times.filter((_, i) => !client.exchanges[2 * i + 1]?.receipt?.transaction).sort((a, b) => a - b);
    console.log(`${how}: a voucher's call takes ${vouchers[Math.floor(vouchers.length / 2)].toFixed(1)} ms (median of ${vouchers.length})`);
  });
}

test("Once claimed, a client that knows nothing starts from the chain; the books of receiver and chain agree", async () => {
  const [client, url] = [makeChannelPayer({ chain }), `${claiming.url}/any/x`];
  const [receiver, mark] = [await on.receiver(), await since(claiming)];
  for (const _ of [1, 2, 3]) assert.equal((await client.fetch(url)).status, 200);
  const [terms] = client.exchanges[0].terms.accepts;
  const id = client.idFor(terms);
  await eventually(async () => (await on.read(id)).totalClaimed === 30_000n, "it is claimed", 30_000);
  await eventually(async () => (await on.receiver()).totalSettled >= receiver.totalSettled + 30_000n, "it is paid out", 30_000);
  await client.know(terms);
  const asked = mark.calls("/verify").length;
  assert.equal((await client.fetch(url)).status, 200);
  assert.equal(charged(client), 40_000n);
  assert.equal(client.exchanges.at(-1).receipt.extra.channelState.totalClaimed, "30000");
  assert.equal(mark.calls("/verify").length, asked);
});

// ---- Python ---------------------------------------------------------------------------------------------------------------

for (const library of ["httpx", "requests"]) {
  for (const [how, gate] of [["", gateway], [", the gateway's own key", own]]) {
    test(`Python's ${library}${how}: deposit, vouchers, top-up, recovery, refunds of a part and of all, and again`, async () => {
      const url = `${gate.url}/any/x`;
      const [pay, salt] = [{ do: "pay", url }, freshSalt()];
      const steps = [
        ...Array(11).fill(pay),
        { do: "know", charged: "0" }, pay, { do: "forget" }, pay,
        { do: "refund", url, amount: "20000" }, pay, { do: "refund", url }, pay,
      ];
      const results = await byPython(library, steps, { salt, rpcUrl: chain.rpcUrl });
      const seen = results.map(({ status, error }) => status ?? error ?? null);
      assert.deepEqual(seen, [...Array(11).fill(200), null, 200, null, 200, 200, 200, 200, 200]);
      const counts = results.map(({ receipt }) => receipt?.extra?.channelState?.chargedCumulativeAmount ?? null);
      const tens = Array.from({ length: 11 }, (_, i) => String((i + 1) * 10_000));
      assert.deepEqual(counts, [...tens, null, "120000", null, "130000", "130000", "140000", "140000", "150000"]);
      assert.deepEqual([results[15].receipt.amount, results[17].receipt.amount], ["20000", "40000"]);
      const id = results[0].receipt.extra.channelState.channelId;
      assert.equal(await on.claimed({ id }), 140_000n);
    });
  }
}

// ---- By the token -----------------------------------------------------------------------------------------------------------

const messages = [{ role: "user", content: "What is a payment that nobody has to make in advance?" }];
const costOf = ({ prompt_tokens: input, completion_tokens: output }) => BigInt(Math.ceil(input * 2.5 + output * 10));
const tokens = (text) => Math.ceil(text.length / 4);

/** OpenAI's SDK, unchanged, with the official paying fetch. */
function makeOpenAI() {
  const payer = makeChannelPayer({ chain });
  return { payer, openai: new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", fetch: payer.fetch, maxRetries: 0 }) };
}

test("OpenAI's SDK pays by what it used: completions, streams, and what it left in the middle; one transaction for all", async () => {
  const [{ payer, openai }, mark] = [makeOpenAI(), await since(gateway)];
  const ask = (more) => openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200, ...more });
  let total = 0n;
  for (const _ of [1, 2, 3]) {
    total += costOf((await ask()).usage);
    assert.equal(charged(payer), total);
  }
  const [terms] = payer.exchanges[0].terms.accepts;
  assert.ok(total < 3n * BigInt(terms.amount), "and not by the ceiling");

  // The receipt stands behind the end of a stream, where the official client does not look: it is corrected next time.
  for (const more of [{ stream: true }, { stream: true, stream_options: { include_usage: true } }]) {
    let [text, usage] = ["", null];
    for await (const chunk of await ask(more)) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    const cost = costOf({ prompt_tokens: tokens(messages[0].content), completion_tokens: tokens(text) });
    if (usage) assert.equal(costOf(usage), cost);
    total += cost;
  }
  total += costOf((await ask()).usage);
  assert.equal(charged(payer), total);

  const long = [{ role: "user", content: "word ".repeat(300) }];
  let chunks = 0;
  for await (const _ of await ask({ messages: long, max_tokens: 1000, stream: true })) if (++chunks === 20) break;
  const after = await eventually(async () => {
    const usage = (await ask()).usage;
    return { cost: costOf(usage), charged: charged(payer) };
  }, "the channel is free again");
  const left = after.charged - after.cost - total;
  const whole = costOf({ prompt_tokens: tokens(long[0].content), completion_tokens: 375 });
  console.log(`left in the middle of a stream: charged ${left} of ${whole}`);
  assert.ok(left > 0n && left < whole, `${left} of ${whole}`);
  const kinds = mark.calls("/settle").map(({ request }) => request.paymentPayload.payload.type);
  assert.equal(kinds.filter((kind) => kind === "deposit").length, 1);
});

test("A response of no use, by the token: nothing is charged for an error", async () => {
  const { payer, openai } = makeOpenAI();
  await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200 });
  const before = charged(payer);
  await assert.rejects(openai.chat.completions.create({ model: "gpt-5", messages }), /400.*has no price here/s);
  const { usage } = await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200 });
  assert.equal(charged(payer), before + costOf(usage));
});

test("A stream that is longer than the hold keeps the channel to its end, and is charged then", async () => {
  const [terms] = slow.client.exchanges[0].terms.accepts;
  const salt = slow.client.salt;
  // Another request on that channel finds it busy, however long ago the first one began.
  const elapsed = () => performance.now() - slow.started;
  while (elapsed() < (WORDS - 5) * 1000) {
    const busy = await pay(gateway, "/any/x", await signChannelPayment(terms, { total: 20_000n, config: { salt } }));
    assert.equal(busy.terms?.error, `${REASON}channel_busy`);
  }
  const { status, text, ms } = await slow.done;
  assert.equal(status, 200, slow.client.exchanges.at(-1).terms?.error);
  assert.match(text, /\[DONE\]/);
  assert.ok(ms > WORDS * 1000);
  const again = await pay(gateway, "/any/x", await signChannelPayment(terms, { total: 10_001n, config: { salt } }));
  const { chargedCumulativeAmount } = again.terms.accepts[0].extra.channelState;
  assert.equal(BigInt(chargedCumulativeAmount), 10_000n + costOf({ prompt_tokens: 10, completion_tokens: WORDS }));
});
