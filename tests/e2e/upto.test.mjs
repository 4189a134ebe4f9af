/**
 * Inferences paid by what they used, on a real chain: the official client and facilitator, Permit2 and x402's proxies,
 * and OpenAI's own SDK, which knows nothing of any of it but a `fetch` that pays.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { makePayer } from "../../stage/client.mjs";
import { DEFAULTS, eventually, ask, openGateway, openBackends, payerAccount, payTo, since, everyWorkerSells } from "./support.mjs";

const price = {
  usage: "openai",
  models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } },
  max_output_tokens: 1000,
};
const entry = (scheme, more = {}) => [{ scheme, network: "base-sepolia", asset: "USDC", ...more }];
const plugin = {
  facilitator: { timeout: "5s" },
  defaults: DEFAULTS,
  routes: [
    { name: "chat", match: { methods: ["POST"], path: "/v1/chat/completions" }, price, accepts: entry("upto") },
    { name: "exact", match: { path: "/exact/permit2" }, price: "$0.003", accepts: entry("exact", { transfer_method: "permit2" }) },
    { name: "flat", match: { path: "/flat/{*rest}" }, price: "$0.10", accepts: entry("upto"), settlement_overrides: true },
  ],
  unmatched: "free",
};

const backends = await openBackends({ chunkDelay: 2 });
const gateway = await openGateway(backends, { plugin, concurrency: 2, allowOnHeadersStopIteration: true });
await everyWorkerSells(gateway, "/flat/x");

const messages = [{ role: "user", content: "What is a payment that nobody has to make in advance?" }];
const costOf = ({ prompt_tokens: input, completion_tokens: output }) => BigInt(Math.ceil(input * 2.5 + output * 10));

/** OpenAI's SDK, unchanged, with the official paying fetch. */
function makeOpenAI() {
  const payer = makePayer();
  return { payer, openai: new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", fetch: payer.fetch, maxRetries: 0 }) };
}

test("OpenAI's SDK pays for a completion by what it used, to the atomic unit", async () => {
  const [{ payer, openai }, mark] = [makeOpenAI(), await since(gateway)];
  const completion = await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200 });
  assert.match(completion.choices[0].message.content, /nobody has to make in advance/);
  const [transfer, ...more] = await mark.transfers();
  assert.deepEqual(more, []);
  assert.equal(transfer.value, costOf(completion.usage));
  assert.deepEqual([transfer.from, transfer.to], [payerAccount.address, payTo]);
  const { receipt, terms } = payer.exchanges.at(-1);
  assert.deepEqual([receipt.success, receipt.amount, receipt.transaction], [true, String(transfer.value), transfer.transaction]);
  assert.equal(terms, null);
  assert.ok(transfer.value < BigInt(payer.exchanges[0].terms.accepts[0].amount), "and no more than the quote");
});

test("OpenAI's SDK streams, and the money moves at the end of the stream", async () => {
  const [{ openai }, mark] = [makeOpenAI(), await since(gateway)];
  const stream = await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200, stream: true });
  let text = "";
  let firstBeforeTheMoney = null;
  for await (const chunk of stream) {
    assert.ok(chunk.choices.length > 0, "an event that the client did not ask for came through");
    firstBeforeTheMoney ??= mark.calls("/settle").length === 0;
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.match(text, /nobody has to make in advance/);
  assert.equal(firstBeforeTheMoney, true);
  const [transfer] = await mark.transfers();
  // The model server counts a token for every four characters.
  const [prompt] = messages.map(({ content }) => Math.ceil(content.length / 4));
  assert.equal(transfer.value, costOf({ prompt_tokens: prompt, completion_tokens: Math.ceil(text.length / 4) }));
});

test("A stream that asks for its usage itself gets it", async () => {
  const { openai } = makeOpenAI();
  const options = { model: "fake-echo-1", messages, stream: true, stream_options: { include_usage: true } };
  const mark = await since(gateway);
  let usage = null;
  for await (const chunk of await openai.chat.completions.create(options)) usage = chunk.usage ?? usage;
  assert.equal((await mark.transfers())[0].value, costOf(usage));
});

test("A client that leaves in the middle of a stream has paid for what it got", async () => {
  const [{ openai }, mark] = [makeOpenAI(), await since(gateway)];
  const long = [{ role: "user", content: "word ".repeat(300) }];
  const stream = await openai.chat.completions.create({ model: "fake-echo-1", messages: long, max_tokens: 1000, stream: true });
  let chunks = 0;
  for await (const _ of stream) if (++chunks === 20) break;
  await eventually(async () => (await mark.transfers()).length === 1, "the money moves");
  const [transfer] = await mark.transfers();
  const maximum = BigInt(mark.calls("/verify")[0].request.paymentRequirements.amount);
  assert.ok(transfer.value > 0n && transfer.value < maximum, `${transfer.value} of ${maximum}`);
});

test("A model without a price is an error that the SDK understands, and costs nothing", async () => {
  const [{ openai }, mark] = [makeOpenAI(), await since(gateway)];
  await assert.rejects(openai.chat.completions.create({ model: "gpt-5", messages }), /400.*has no price here/s);
  assert.deepEqual(await mark.transfers(), []);
});

test("Scheme exact by Permit2 moves the price", async () => {
  const [payer, mark] = [makePayer(), await since(gateway)];
  const response = await payer.fetch(`${gateway.url}/exact/permit2`);
  assert.equal(response.status, 200);
  assert.deepEqual((await mark.transfers()).map(({ value }) => value), [3000n]);
  assert.equal(payer.exchanges.at(-1).receipt.amount, undefined);
});

test("A charge of nothing moves nothing", async () => {
  const [payer, mark] = [makePayer(), await since(gateway)];
  gateway.inference.intercept = (_, response) => void response.writeHead(200, { "settlement-overrides": '{"amount":"0"}' }).end("free");
  try {
    const response = await payer.fetch(`${gateway.url}/flat/x`);
    assert.equal(await response.text(), "free");
  } finally {
    gateway.inference.intercept = null;
  }
  assert.deepEqual(await mark.transfers(), []);
  assert.deepEqual(payer.exchanges.at(-1).receipt.amount, "0");
});
