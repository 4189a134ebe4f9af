/**
 * What upstreams really send, priced by tokens: streams under other labels, errors inside a 200, long responses, and
 * wishes that are refused. Played in a real Envoy, where the order of callbacks and the buffers are the host's.
 */
import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { signPermit2Payment } from "./permit2.mjs";
import { ask, assertNoTerms, DEFAULTS, eventually, latch, NETWORK, openGateway, openBackends, paying, since, withUpstream } from "./support.mjs";

const FACILITATOR = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const CHAT = "/v1/chat/completions";
const rate = { input: "$2.50", cached_input: "$0.25", cache_write: "$3.125", output: "$10.00" };
const price = { usage: "openai", models: { "*": rate }, max_output_tokens: 1000 };
const accepts = [{ scheme: "upto", network: "base-sepolia", asset: "USDC" }];
const plugin = {
  facilitator: { timeout: "2s" },
  defaults: DEFAULTS,
  routes: [
    { name: "chat", match: { path: CHAT }, price, accepts },
    { name: "short", match: { path: "/short" }, price: { ...price, max_response_bytes: 100_000 }, accepts },
    { name: "silent", match: { path: "/silent" }, price: { ...price, ask_for_usage: false }, accepts },
    { name: "wish", match: { path: "/wish" }, price, accepts },
  ],
};
const backends = await openBackends();
const edit = ({ static_resources: { listeners } }) => (listeners[0].per_connection_buffer_limit_bytes = 4 << 20);
const gateway = await openGateway(backends, { facilitator: "fake", plugin, concurrency: 1, allowOnHeadersStopIteration: true, edit });
gateway.fake.always("/supported", { json: { kinds: [{ x402Version: 2, scheme: "upto", network: NETWORK, extra: { facilitatorAddress: FACILITATOR } }] } });
const body = (more = {}) => JSON.stringify({ model: "m", messages: [{ role: "user", content: "a b c" }], max_tokens: 100, ...more });
const post = (target, text, headers = {}) =>
  ask(gateway, target, { method: "POST", body: text, headers: { "content-type": "application/json", ...headers } });
await eventually(async () => (await post(CHAT, body())).status === 402, "the worker knows who settles");
const payFor = async (target, text) => signPermit2Payment((await post(target, text)).terms.accepts[0]);
const settled = (mark) => mark.calls("/settle").map((call) => Number(call.request.paymentRequirements.amount));

/** Pays for a call that the upstream answers in this way, and gives the answer and what was settled. */
async function call(target, text, upstream) {
  const [payment, mark] = [await payFor(target, text), await since(gateway)];
  const answer = await withUpstream(gateway, upstream, () => post(target, text, paying(payment)));
  return { answer, payment, mark, amounts: settled(mark) };
}

const answers = (type, ...pieces) => async (_, response) => {
  response.writeHead(200, { "content-type": type });
  for (const piece of pieces) {
    response.write(piece);
    await sleep(15);
  }
  response.end();
};

const words = Array.from({ length: 10 }, (_, i) => JSON.stringify({ id: "c1", choices: [{ index: 0, delta: { content: `w${i} ` } }] }));
const usage = (input, output) => ({ prompt_tokens: input, completion_tokens: output, total_tokens: input + output });
const told = JSON.stringify({ choices: [], usage: usage(20, 10) });
const sse = [...words, told, "[DONE]"].map((data) => `data: ${data}\n\n`);
const ndjson = [...words, told].map((line) => `${line}\n`);
const stream = body({ stream: true, stream_options: { include_usage: true } });

for (const [type, pieces] of [
  ["application/json", sse],
  ["text/plain", sse],
  ["text/plain", ndjson],
  ["application/x-ndjson", ndjson],
  ["text/event-stream", ndjson],
]) {
  test(`A stream labelled ${type} (${pieces === sse ? "events" : "lines"}) streams, and is counted`, async () => {
    const [payment, mark] = [await payFor(CHAT, stream), await since(gateway)];
    const held = latch();
    await withUpstream(
      gateway,
      async (_, response) => {
        response.writeHead(200, { "content-type": type });
        response.write(pieces[0]);
        response.write(pieces[1]);
        await held.opened;
        for (const piece of pieces.slice(2)) response.write(piece);
        response.end();
      },
      async () => {
        const { port } = new URL(gateway.url);
        const sent = httpRequest({ port, host: "127.0.0.1", method: "POST", path: CHAT, headers: { "content-type": "application/json", ...paying(payment) } });
        sent.end(stream);
        const [response] = await new Promise((resolve, reject) => sent.on("response", (...all) => resolve(all)).on("error", reject));
        assert.equal(response.statusCode, 200);
        let text = "";
        response.setEncoding("utf8").on("data", (piece) => (text += piece));
        await eventually(() => text.includes("w1 "), "its beginning is there before its end is sent");
        assert.equal(mark.calls("/settle").length, 0);
        held.open();
        await new Promise((resolve) => response.on("end", resolve));
        assert.ok(text.startsWith(pieces.join("")), text);
        assert.equal(text.includes(": payment-response"), pieces === sse, "a comment is for streams of events alone");
      },
    );
    await eventually(() => settled(mark).length === 1, "it is settled");
    assert.deepEqual(settled(mark), [150]);
  });
}

test("A stream that is there at once is counted too, and what the client did not ask for does not reach it", async () => {
  for (const type of ["application/json", "text/plain", "text/event-stream"]) {
    const { answer, amounts } = await call(CHAT, body({ stream: true }), (_, response) => {
      response.writeHead(200, { "content-type": type }).end(sse.join(""));
    });
    assert.equal(answer.status, 200, answer.text);
    assert.deepEqual(amounts, [150], type);
    assert.doesNotMatch(answer.text, /prompt_tokens/);
    assert.match(answer.text, /w9 .*\[DONE\]/s);
  }
});

test("JSON is settled before it is delivered, however it is cut and written", async () => {
  const text = JSON.stringify({ choices: [{ message: { content: "smile ?" } }], usage: usage("9", 3.5) }).replace("?", "\\ud83d").replace("3.5", "3.0");
  for (const pieces of [[text], [text.slice(0, 30), text.slice(30)], ["\n", " ", text, "\n"]]) {
    const { answer, amounts } = await call(CHAT, body(), answers("application/json", ...pieces));
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.text, pieces.join(""));
    assert.deepEqual(amounts, [53]);
    assert.equal(answer.receipt.amount, "53");
  }
  const { answer, amounts } = await call(CHAT, body(), (_, response) => {
    response.writeHead(200, { "content-type": "application/json", "content-encoding": "none" }).end(text);
  });
  assert.deepEqual([answer.status, amounts], [200, [53]]);
});

test("JSON under the label of a stream of events is charged by its usage, and gets no line behind it", async () => {
  const text = `${JSON.stringify({ choices: [{ message: { content: "hi" } }], usage: usage(14, 9) })}data: [DONE]\n\n`;
  const { answer, mark } = await call(CHAT, body(), answers("text/event-stream", text.slice(0, 50), text.slice(50)));
  assert.equal(answer.text, text);
  await eventually(() => settled(mark).length === 1, "it is settled");
  assert.deepEqual(settled(mark), [125]);
});

test("An error inside a 200 costs nothing, passes, and leaves the payment good", async () => {
  for (const error of [{ error: { code: 502, message: "Provider returned error" }, user_id: "u" }, { choices: [{ index: 0, error: { code: 1 }, message: { content: "" } }] }]) {
    const { answer, payment, amounts } = await call(CHAT, body(), answers("application/json", JSON.stringify(error)));
    assert.deepEqual([answer.status, answer.json(), amounts], [200, error, []]);
    assert.equal((await post(CHAT, body(), paying(payment))).status, 200);
  }
});

test("A response beyond max_response_bytes is not held whole, and is charged by what it says at its end", async () => {
  const long = (bytes) => JSON.stringify({ choices: [{ message: { content: "x".repeat(bytes) } }], usage: usage(9, 3) });
  for (const [target, bytes] of [["/short", 50_000], ["/short", 9_000_000], [CHAT, 700_000]]) {
    const text = long(bytes);
    const { answer, mark } = await call(target, body(), (_, response) => {
      response.writeHead(200, { "content-type": "application/json" }).end(text);
    });
    assert.equal(answer.status, 200, `${target} ${bytes}: ${answer.text.slice(0, 100)}`);
    assert.ok(answer.text === text, "to the last byte, and nothing behind it");
    await eventually(() => settled(mark).length === 1, "it is settled");
    assert.deepEqual(settled(mark), [53], `${target} ${bytes}`);
    assert.equal(answer.receipt?.amount, target === "/short" && bytes > 100_000 ? undefined : "53");
  }
});

test("Where the proxy's buffer is too small the log says what it must be, and nothing is charged", async () => {
  const note = /responses of up to 16777216 bytes \(route chat\) are held .*per_connection_buffer_limit_bytes/;
  assert.ok(note.test(gateway.envoy.logs()), "the log says so at load");
  const { answer, payment, amounts } = await call(CHAT, body(), (_, response) => {
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ x: "x".repeat(8_000_000), usage: usage(9, 3) }));
  });
  assert.deepEqual([answer.status, amounts], [500, []]);
  await eventually(() => /longer than the proxy's buffer.*per_connection_buffer_limit_bytes/.test(gateway.envoy.logs()), "a line of ours");
  assert.equal((await post(CHAT, body(), paying(payment))).status, 200, "the payment is still good");
});

test("An upstream that refuses the wish for usage costs nothing, and is not asked for it again", async () => {
  const refuses = async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { stream_options: options } = JSON.parse(Buffer.concat(chunks).toString());
    if (options) {
      const detail = [{ type: "extra_forbidden", loc: ["body", "stream_options"], msg: "Extra inputs are not permitted" }];
      return void response.writeHead(422, { "content-type": "application/json" }).end(JSON.stringify({ detail }));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(`data: ${words[0]}\n\ndata: [DONE]\n\n`);
  };
  const text = body({ stream: true });
  const { answer, payment, amounts } = await call("/wish", text, refuses);
  assertNoTerms(answer, 503);
  assert.equal(answer.get("retry-after"), "1");
  assert.deepEqual(amounts, []);
  const mark = await since(gateway);
  const again = await withUpstream(gateway, refuses, () => post("/wish", text, paying(payment)));
  assert.equal(again.status, 200, again.text);
  assert.match(again.text, /w0 /);
  await eventually(() => settled(mark).length === 1, "it is settled");
  // It was never asked where the operator says so.
  const { answer: silent } = await call("/silent", text, refuses);
  assert.equal(silent.status, 200);
});
