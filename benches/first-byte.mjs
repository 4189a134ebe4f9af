/**
 * Time to the first event of a stream: through plain Envoy, and paid for by scheme upto through the filter, side by
 * side in one run. The facilitator is a stand-in that says yes at once, so that what is measured is the filter's own.
 */
import { request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { startBackends, startStage } from "../stage/stage.mjs";
import { startFakeFacilitator } from "../tests/e2e/fake-facilitator.mjs";
import { permit2Entry, signPermit2Payment } from "../tests/e2e/permit2.mjs";

const ROUNDS = Number(process.argv[2] ?? 200);
const PATH = "/v1/chat/completions";
const body = JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "Hello" }], max_tokens: 50, stream: true });

const backends = await startBackends({ label: "bench" });
const facilitator = await startFakeFacilitator();
const settler = permit2Entry("upto", "1").extra.facilitatorAddress;
const kind = { x402Version: 2, scheme: "upto", network: "eip155:84532", extra: { facilitatorAddress: settler } };
facilitator.always("/supported", { json: { kinds: [kind] } });
const accepts = [{ scheme: "upto", network: "base-sepolia", asset: "USDC" }];
const price = { usage: "openai", models: { "*": { input: "$1", output: "$1" } } };
const plugin = {
  facilitator: { cluster: "facilitator", url: facilitator.url },
  defaults: { pay_to: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", accepts },
  routes: [{ match: { path: PATH }, price }],
};
const gateways = {
  "plain Envoy": await startStage({ backends, wasm: null }),
  "paid by upto": await startStage({ backends, plugin, facilitator: facilitator.url, allowOnHeadersStopIteration: true }),
};

/** Milliseconds from sending the request to the first byte of its response's body. */
const firstByte = (port, headers) =>
  new Promise((resolve, reject) => {
    const started = performance.now();
    const call = request({ port, path: PATH, method: "POST", headers: { "content-type": "application/json", ...headers } }, (response) => {
      response.once("data", () => resolve({ ms: performance.now() - started, status: response.statusCode, headers: response.headers }));
      response.on("end", () => {}).resume();
    });
    call.on("error", reject);
    call.end(body);
  });

const decoded = (header) => JSON.parse(Buffer.from(header, "base64").toString());

async function paymentFor(port) {
  const { headers } = await firstByte(port, {});
  const payment = await signPermit2Payment(decoded(headers["payment-required"]).accepts[0]);
  return { "payment-signature": Buffer.from(JSON.stringify(payment)).toString("base64") };
}

const at = (sorted, part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
try {
  while ((await firstByte(gateways["paid by upto"].envoy.port, {})).status !== 402) await sleep(50);
  const times = Object.fromEntries(Object.keys(gateways).map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, { envoy }] of Object.entries(gateways)) {
      const headers = name === "plain Envoy" ? {} : await paymentFor(envoy.port);
      const { ms, status } = await firstByte(envoy.port, headers);
      if (status !== 200) throw new Error(`${name}: ${status}`);
      times[name].push(ms);
    }
  }
  const base = at(times["plain Envoy"].sort((a, b) => a - b), 0.5);
  console.log(`First byte of a stream, ${ROUNDS} rounds                p50        p99     beside plain Envoy`);
  for (const [name, list] of Object.entries(times)) {
    const sorted = list.sort((a, b) => a - b);
    const [p50, p99] = [at(sorted, 0.5), at(sorted, 0.99)];
    console.log(`${name.padEnd(44)} ${p50.toFixed(2).padStart(7)} ms ${p99.toFixed(2).padStart(7)} ms   ${p50 >= base ? "+" : ""}${(p50 - base).toFixed(2)} ms`);
  }
} finally {
  for (const gateway of Object.values(gateways)) await gateway.stop();
  await facilitator.stop();
  await backends.stop();
}
