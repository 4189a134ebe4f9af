/** Prepaid bundles: the official client pays once, and uses up what it bought by signing in, which it does by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { createSIWxPayload, encodeSIWxHeader, wrapFetchWithSIWx } from "@x402/extensions/sign-in-with-x";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { DEFAULTS, headerSeen, openBackends, openGateway, payerAccount, since, withUpstream } from "./support.mjs";

const REMAINING = "x-x402-remaining";
const bundle = (calls, price) => ({ calls, price, lasts: "3600s" });
const route = (name, more) => ({ name, match: { path: `/${name}/{*rest}` }, price: "$0.001", ...more });

const backends = await openBackends({ chunkDelay: 2 });
const gateway = await openGateway(backends, {
  concurrency: 2,
  allowOnHeadersStopIteration: true,
  plugin: {
    facilitator: { timeout: "5s" },
    defaults: DEFAULTS,
    routes: [
      route("calls", { bundle: bundle(4, "$0.003") }),
      route("upfront", { bundle: bundle(3, "$0.002"), settle: "before" }),
      route("joint", { bundle: bundle(3, "$0.002"), settle: "concurrent" }),
      route("race", { bundle: bundle(6, "$0.004") }),
      route("single", { bundle: bundle(100, "$0.09") }),
      {
        name: "chat",
        match: { methods: ["POST"], path: "/v1/chat/completions" },
        price: { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } }, max_output_tokens: 1000 },
        bundle: { credit: "$0.1", lasts: "3600s" },
      },
    ],
    unmatched: "free",
  },
});

/** The official client that signs in where it is asked to, and then pays; `wants` chooses among the entries. */
function clientOf(wants = (accepts) => accepts) {
  const client = registerExactEvmScheme(new x402Client(), { signer: payerAccount });
  client.registerPolicy((_, accepts) => wants(accepts));
  return wrapFetchWithPayment(wrapFetchWithSIWx(fetch, payerAccount), client);
}

/** Chooses the entry that sells a bundle. */
const bundles = (accepts) => accepts.filter(({ extra }) => extra?.bundle);

const leftOf = (response) => response.headers.get(REMAINING);

test("a client that knows nothing of bundles buys a single call", async () => {
  const mark = await since(gateway);
  const response = await clientOf()(`${gateway.url}/single/a`);
  assert.deepEqual([response.status, leftOf(response)], [200, null]);
  assert.deepEqual((await mark.transfers()).map(({ value }) => value), [1000n]);
});

for (const [name, calls, price] of [["calls", 4, 3000n], ["upfront", 3, 2000n], ["joint", 3, 2000n]]) {
  test(`the official client pays once and signs in until the bundle is used up: ${name}`, async () => {
    const [fetched, mark] = [clientOf(bundles), await since(gateway)];
    const first = await fetched(`${gateway.url}/${name}/a`);
    assert.deepEqual([first.status, leftOf(first), Boolean(first.headers.get("payment-response"))], [200, String(calls - 1), true]);
    assert.match(first.headers.get("access-control-expose-headers"), /X-X402-REMAINING/);
    for (let left = calls - 2; left >= 0; left--) {
      const again = await fetched(`${gateway.url}/${name}/${left}`);
      assert.deepEqual([again.status, leftOf(again), again.headers.get("payment-response")], [200, String(left), null]);
    }
    assert.deepEqual((await mark.transfers()).map(({ value }) => value), [price]);
    assert.equal(mark.calls("/settle").length, 1);
    const seen = mark.seen();
    assert.equal(seen.length, calls);
    for (const one of seen.slice(1)) {
      assert.deepEqual(headerSeen(one, "x-x402-payer"), [payerAccount.address]);
      assert.deepEqual(headerSeen(one, "x-x402-amount"), []);
      assert.deepEqual(headerSeen(one, "sign-in-with-x"), []);
    }
    // It buys the next one by itself.
    const next = await fetched(`${gateway.url}/${name}/b`);
    assert.deepEqual([next.status, leftOf(next)], [200, String(calls - 1)]);
    assert.equal((await mark.transfers()).length, 2);
  });
}

test("a failed call takes nothing", async () => {
  const fetched = clientOf(bundles);
  const before = Number(leftOf(await fetched(`${gateway.url}/calls/c`)));
  const failed = await withUpstream(gateway, (_, response) => void response.writeHead(503).end("no"), () => fetched(`${gateway.url}/calls/c`));
  assert.deepEqual([failed.status, leftOf(failed)], [503, String(before)]);
  const reset = await withUpstream(gateway, (request) => void request.socket.destroy(), () => fetched(`${gateway.url}/calls/c`));
  assert.ok(reset.status >= 500, `${reset.status}`);
  assert.equal(leftOf(await fetched(`${gateway.url}/calls/c`)), String(before - 1));
});

test("requests at once, on all workers, take no more calls than there are", async () => {
  const first = await clientOf(bundles)(`${gateway.url}/race/a`);
  assert.equal(leftOf(first), "5");
  const url = `${gateway.url}/race/b`;
  const proofs = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const { extensions } = JSON.parse(Buffer.from((await fetch(url)).headers.get("payment-required"), "base64"));
      const { info, supportedChains } = extensions["sign-in-with-x"];
      return encodeSIWxHeader(await createSIWxPayload({ ...info, ...supportedChains[0] }, payerAccount, url));
    }),
  );
  const answers = await Promise.all(proofs.map((proof) => fetch(url, { headers: { "sign-in-with-x": proof } })));
  // What others have set aside at the moment is not left.
  assert.equal(answers.filter(({ status }) => status === 200).length, 5);
  assert.ok(answers.every(({ status }) => status === 200 || status === 402));
});

test("OpenAI's SDK uses up credit by what each completion has used, streams too", async () => {
  const mark = await since(gateway);
  const seen = [];
  const fetched = clientOf(bundles);
  const noting = async (...args) => {
    const response = await fetched(...args);
    seen.push(leftOf(response));
    return response;
  };
  const openai = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", fetch: noting, maxRetries: 0 });
  const messages = [{ role: "user", content: "What is a payment that nobody has to make in advance?" }];
  const costOf = ({ prompt_tokens: input, completion_tokens: output }) => Math.ceil(input * 2.5 + output * 10);
  await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200 });
  const bought = Number(seen.at(-1));
  assert.ok(bought > 0 && bought < 100_000, `${bought}`);
  const completion = await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200 });
  const afterOne = bought - costOf(completion.usage);
  assert.equal(Number(seen.at(-1)), afterOne);
  let text = "";
  for await (const chunk of await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200, stream: true })) {
    assert.ok(chunk.choices.length > 0, "an event that the client did not ask for came through");
    text += chunk.choices[0].delta.content ?? "";
  }
  // While it streams, its quote is set aside.
  assert.ok(Number(seen.at(-1)) < afterOne);
  const last = await openai.chat.completions.create({ model: "fake-echo-1", messages, max_tokens: 200 });
  const prompt = Math.ceil(messages[0].content.length / 4);
  const streamed = costOf({ prompt_tokens: prompt, completion_tokens: Math.ceil(text.length / 4) });
  assert.equal(Number(seen.at(-1)), afterOne - streamed - costOf(last.usage));
  assert.deepEqual((await mark.transfers()).map(({ value }) => value), [100_000n]);
});
