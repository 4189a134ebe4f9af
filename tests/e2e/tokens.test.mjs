/**
 * Inferences priced by tokens: read in the request, charged by what the response says was used, for JSON and for
 * streams. The facilitator does as it is told; that the charges move on a chain is shown in `permit2.test.mjs`.
 */
import assert from "node:assert/strict";
import { connect as connectHttp2 } from "node:http2";
import { test } from "node:test";
import { signPermit2Payment } from "./permit2.mjs";
import {
  ask,
  assertNoTerms,
  assertTerms,
  DEFAULTS,
  eventually,
  everyWorkerSells,
  headerSeen,
  latch,
  NETWORK,
  openGateway,
  openBackends,
  payerAccount,
  paying,
  send,
  signPayment,
  since,
  withUpstream,
} from "./support.mjs";

const CHAT = "/v1/chat/completions";
const FACILITATOR = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const NONCE_USED = "invalid_exact_evm_nonce_already_used";

const price = {
  usage: "openai",
  models: {
    "fake-echo-1": { input: "$2.50", cached_input: "$1.25", output: "$10.00" },
    "cheap-*": { input: "$0.20", output: "$0.20" },
  },
  max_output_tokens: 1000,
  minimum: "$0.00001",
};
const upto = [{ scheme: "upto", network: "base-sepolia", asset: "USDC" }];
const plugin = {
  facilitator: { timeout: "2s" },
  defaults: DEFAULTS,
  routes: [
    { name: "chat", match: { methods: ["POST"], path: CHAT }, price, accepts: upto },
    { name: "exact", match: { path: "/exact/chat" }, price },
    { name: "small", match: { path: "/small" }, price: { ...price, max_body_bytes: 1000 } },
    { name: "flat", match: { path: "/flat" }, price: "$0.10", accepts: upto, settlement_overrides: true },
  ],
  unmatched: "free",
};

const backends = await openBackends({ chunkDelay: 5 });
const gateway = await openGateway(backends, { facilitator: "fake", plugin, concurrency: 2, allowOnHeadersStopIteration: true });
const blind = await openGateway(backends, { facilitator: "fake", plugin, concurrency: 1, allowOnHeadersStopIteration: false });
const kinds = [
  { x402Version: 2, scheme: "upto", network: NETWORK, extra: { facilitatorAddress: FACILITATOR } },
  { x402Version: 2, scheme: "exact", network: NETWORK },
];
for (const { fake } of [gateway, blind]) fake.always("/supported", { json: { kinds } });
await everyWorkerSells(gateway, "/flat");

const body = (more = {}) =>
  JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "a b c d e f" }], max_tokens: 100, ...more });

const post = (target, text, headers = {}) =>
  ask(gateway, target, { method: "POST", body: text, headers: { "content-type": "application/json", ...headers } });

const quoteFor = async (target, text) => (await post(target, text)).terms.accepts[0];

const payFor = async (target, text) => signPermit2Payment(await quoteFor(target, text));

/** What the last settlement was to move. */
const settledAmount = (mark) => mark.calls("/settle").at(-1).request.paymentRequirements.amount;

// What the model server counts: a token for every four characters.
const costOf = ({ prompt_tokens: input, completion_tokens: output }) => String(Math.ceil(input * 2.5 + output * 10));

test("A quote is found in the body, and is the most that it can cost", async () => {
  const text = body();
  const entry = await quoteFor(CHAT, text);
  assert.equal(entry.amount, String(Math.ceil(text.length * 2.5 + 100 * 10)));
  assert.deepEqual(entry.extra, { name: "USDC", version: "2", assetTransferMethod: "permit2", facilitatorAddress: FACILITATOR });
});

test("Scheme upto charges what was used, and the receipt says how much", async () => {
  const text = body();
  const [payment, mark] = [await payFor(CHAT, text), await since(gateway)];
  const answer = await post(CHAT, text, paying(payment));
  assert.equal(answer.status, 200, answer.text);
  const charge = costOf(answer.json().usage);
  assert.equal(settledAmount(mark), charge);
  assert.ok(BigInt(charge) < BigInt(payment.accepted.amount));
  assert.equal(answer.receipt.amount, charge);
  assert.equal(answer.receipt.success, true);
  assert.equal(answer.get("cache-control"), "private");
  const [verification] = mark.calls("/verify");
  assert.equal(verification.request.paymentRequirements.amount, payment.accepted.amount, "verified at the maximum");
  assert.deepEqual(headerSeen(mark.seen()[0], "accept-encoding"), ["identity"]);
  assertTerms(await post(CHAT, text, paying(payment)), NONCE_USED);
});

test("Scheme exact costs the quote, and a payment for a small prompt does not buy a large one", async () => {
  const [small, large] = [body({ max_tokens: 5 }), body({ max_tokens: 500 })];
  const entry = await quoteFor("/exact/chat", small);
  const [payment, mark] = [await signPayment(entry), await since(gateway)];
  assertTerms(await post("/exact/chat", large, paying(payment)), "No matching payment requirements");
  const answer = await post("/exact/chat", small, paying(payment));
  assert.equal(answer.status, 200, answer.text);
  assert.equal(settledAmount(mark), entry.amount);
});

test("What has no price is refused by the name of what has", async () => {
  for (const [text, error] of [
    [body({ model: "gpt-5" }), /"gpt-5" has no price here; these have: fake-echo-1, cheap-\*/],
    [body().replace("{", '{"model":"cheap-1",'), /stands twice/],
    [body().replace('"model"', '"Model"'), /some servers take the key/],
    ["{", /not JSON/],
    ["", /not JSON/],
  ]) {
    const answer = await post(CHAT, text);
    assertNoTerms(answer, 400);
    assert.match(answer.json().error, error);
  }
  assertNoTerms(await post(CHAT, body(), { "content-encoding": "gzip" }), 415);
});

test("A body beyond the limit is refused, however its length is told", async () => {
  const long = body({ user: "x".repeat(2000) });
  assertNoTerms(await post("/small", long), 413);
  const session = connectHttp2(gateway.url);
  const stream = session.request({ ":method": "POST", ":path": "/small" });
  const [head] = await Promise.all([new Promise((resolve) => stream.once("response", resolve)), stream.end(long)]);
  assert.equal(head[":status"], 413);
  session.close();
  assert.equal((await post("/small", body())).status, 402);
});

test("A stream streams, and the receipt stands behind its end", async () => {
  const text = body({ stream: true, stream_options: { include_usage: true } });
  const [payment, mark] = [await payFor(CHAT, text), await since(gateway)];
  const held = latch();
  gateway.fake.script("/settle", { hold: held.opened, json: { success: true, transaction: `0x${"ab".repeat(32)}`, network: NETWORK, payer: payerAccount.address } });
  const answer = post(CHAT, text, paying(payment));
  await eventually(() => mark.calls("/settle").length === 1, "the end of the stream is reached");
  held.open();
  const { status, text: events, get } = await answer;
  assert.equal(status, 200, events);
  assert.equal(get("payment-response"), undefined);
  const usage = JSON.parse(events.split("\n").findLast((line) => line.startsWith("data: {")).slice(6)).usage;
  assert.equal(settledAmount(mark), costOf(usage));
  const receipt = JSON.parse(events.match(/^: payment-response (.*)$/m)[1]);
  assert.deepEqual(receipt, {
    success: true,
    payer: payerAccount.address,
    transaction: `0x${"ab".repeat(32)}`,
    network: NETWORK,
    amount: costOf(usage),
  });
  assert.ok(events.indexOf("[DONE]") < events.indexOf(": payment-response"));
});

test("The first event of a stream is there long before the money has moved", async () => {
  const text = body({ stream: true });
  const payment = await payFor(CHAT, text);
  const held = latch();
  let answered = false;
  await withUpstream(
    gateway,
    async (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('data: {"choices":[{"delta":{"content":"one"}}]}\n\n');
      await held.opened;
      response.end("data: [DONE]\n\n");
    },
    async () => {
      const mark = await since(gateway);
      const session = connectHttp2(gateway.url);
      const stream = session.request({ ":method": "POST", ":path": CHAT, "content-type": "application/json", ...paying(payment) });
      const trailers = new Promise((resolve) => stream.on("trailers", resolve));
      stream.end(text);
      const first = await new Promise((resolve) => stream.once("data", resolve));
      assert.match(first.toString(), /one/);
      assert.equal(mark.calls("/settle").length, 0);
      answered = true;
      held.open();
      const receipt = JSON.parse(Buffer.from((await trailers)["payment-response"], "base64").toString());
      assert.equal(receipt.amount, settledAmount(mark));
      session.close();
    },
  );
  assert.ok(answered);
});

test("Where the client does not ask for the usage, the filter does, and keeps the answer to itself", async () => {
  const text = body({ stream: true });
  const [payment, mark] = [await payFor(CHAT, text), await since(gateway)];
  const { text: events } = await post(CHAT, text, paying(payment));
  assert.doesNotMatch(events, /prompt_tokens/);
  assert.match(events, /\[DONE\]/);
  // Six words of the prompt and two before them: `You said: a b c d e f`.
  assert.equal(settledAmount(mark), costOf({ prompt_tokens: 3, completion_tokens: 6 }));
  assert.deepEqual(headerSeen(mark.seen()[0], "content-length"), [String(text.length + ',"stream_options":{"include_usage":true}'.length)]);
});

test("A client that leaves in the middle of a stream pays for what was generated until then", async () => {
  const text = body({ stream: true, messages: [{ role: "user", content: "word ".repeat(200) }], max_tokens: 1000 });
  const [payment, mark] = [await payFor(CHAT, text), await since(gateway)];
  const { socket } = send(gateway, CHAT, {
    method: "POST",
    body: text,
    headers: { "content-type": "application/json", ...paying(payment) },
  });
  let got = "";
  socket.on("data", (bytes) => (got += bytes));
  await eventually(() => got.split("data:").length > 20, "some of the stream is there");
  socket.destroy();
  await eventually(() => mark.calls("/settle").some((call) => call.answer), "it is settled");
  const charge = Number(settledAmount(mark));
  const events = got.split("data:").length - 1;
  const input = Math.ceil(text.length * 2.5);
  assert.ok(charge >= input + events * 10 - 10 && charge < Number(payment.accepted.amount), `${charge} for ${events} events`);
  assertTerms(await post(CHAT, text, paying(payment)), NONCE_USED);
});

test("An error of the upstream costs nothing, and the payment is still good", async () => {
  const text = body();
  const [payment, mark] = [await payFor(CHAT, text), await since(gateway)];
  await withUpstream(gateway, (_, response) => void response.writeHead(500).end("no"), async () => {
    assert.equal((await post(CHAT, text, paying(payment))).status, 500);
  });
  assert.equal(mark.calls("/settle").length, 0);
  assert.equal((await post(CHAT, text, paying(payment))).status, 200);
});

test("What is compressed is not billed blindly", async () => {
  const text = body();
  const [payment, mark] = [await payFor(CHAT, text), await since(gateway)];
  await withUpstream(
    gateway,
    (_, response) => void response.writeHead(200, { "content-encoding": "gzip" }).end("x"),
    async () => assertNoTerms(await post(CHAT, text, paying(payment)), 502),
  );
  assert.equal(mark.calls("/settle").length, 0);
});

test("The upstream names the charge where it is let, and the client never sees it", async () => {
  const mark = await since(gateway);
  for (const [amount, charge] of [["2500", "2500"], ["25%", "25000"], ["$0.05", "50000"], ["0", null]]) {
    const payment = await signPermit2Payment((await ask(gateway, "/flat")).terms.accepts[0]);
    const settled = mark.calls("/settle").length;
    await withUpstream(
      gateway,
      (_, response) => void response.writeHead(200, { "settlement-overrides": JSON.stringify({ amount }) }).end("ok"),
      async () => {
        const answer = await ask(gateway, "/flat", { headers: paying(payment) });
        assert.equal(answer.status, 200, answer.text);
        assert.equal(answer.get("settlement-overrides"), undefined);
        assert.equal(answer.receipt.amount, charge ?? "0");
      },
    );
    if (charge) assert.equal(settledAmount(mark), charge);
    else assert.equal(mark.calls("/settle").length, settled, "nothing is settled");
  }
});

test("A host that keeps bodies to itself is found out each time, and nobody waits for ever", async () => {
  const first = await ask(blind, CHAT, { method: "POST", body: body() });
  assertNoTerms(first, 503);
  assert.match(first.json().error, /allow_on_headers_stop_iteration/);
  assert.match(blind.envoy.logs(), /prices by tokens need allow_on_headers_stop_iteration/);
  assertNoTerms(await ask(blind, CHAT, { method: "POST", body: body() }), 503);
  assert.equal((await ask(blind, "/healthz")).status, 200);
});
