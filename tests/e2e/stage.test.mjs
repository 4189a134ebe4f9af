/** The stage that `make up` leaves running: its chain keeps time while nobody pays, and `node stage/pay.mjs` reads every receipt. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { checkout } from "../../stage/processes.mjs";
import { DEFAULTS, WEATHER, ask, assertServed, eventually, now, openBackends, openGateway, pay, paymentFor, since } from "./support.mjs";

const price = { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } } };
const chat = {
  name: "chat",
  match: { methods: ["POST"], path: "/v1/chat/completions" },
  price,
  accepts: [{ scheme: "upto", network: "base-sepolia", asset: "USDC" }],
};
const plugin = { defaults: DEFAULTS, routes: [WEATHER, chat], unmatched: "free" };

// As `make up` has it.
const backends = await openBackends({ interval: 1 });
const gateway = await openGateway(backends, { plugin, allowOnHeadersStopIteration: true });
const chatUrl = `${gateway.url}/v1/chat/completions`;
const body = (more) => JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "What is a cent?" }], ...more });
await eventually(
  async () => (await ask(gateway, "/v1/chat/completions", { method: "POST", body: body() })).status === 402,
  "it is known who settles",
);

test("A client that signs from a moment ago on pays after a while in which nobody did", async () => {
  await sleep(4000);
  // The last block that somebody asked for is older than this.
  const payment = await paymentFor(gateway, "/weather", { authorization: { validAfter: String(now() - 3) } });
  assertServed(await pay(gateway, "/weather", payment));
});

for (const [name, options] of [["a response", {}], ["a stream, which has its receipt at its end", { stream: true }]]) {
  test(`stage/pay.mjs reads the receipt of ${name}`, async () => {
    const mark = await since(gateway);
    const args = [join(checkout, "stage", "pay.mjs"), "-d", body(options), chatUrl];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const [{ value, transaction }] = await mark.transfers();
    assert.match(stdout, new RegExp(`HTTP 200, paid ${Number(value) / 1e6} USDC, transaction ${transaction}`));
  });
}
