/**
 * Why the filter speaks the ABI by hand: the faults of the SDK (the crate `proxy-wasm`) that keep it from using that,
 * shown in Envoy by a filter that is written with it (`tests/sdk`). A test that fails here says that the version of the
 * SDK in `tests/sdk/Cargo.lock` has mended something.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { checkout } from "../../stage/processes.mjs";
import { startStage } from "../../stage/stage.mjs";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { ask, assertTerms, eventually, latch, openGateway, openBackends, send, withUpstream } from "./support.mjs";

const TARGET = "wasm32-unknown-unknown";
const MANIFEST = join(checkout, "tests", "sdk", "Cargo.toml");
const WASM = join(checkout, "tests", "sdk", "target", TARGET, "release", "sdk.wasm");
assert.ok(existsSync(WASM), `${WASM} is not there: run \`make build-sdk\``);

const PATIENCE_MS = 5_000;
const LARGE = randomBytes(4 * 1024 * 1024); // Envoy buffers a mebibyte by default.

/** Asserts that a fault is still there. `what` the SDK cannot do otherwise. */
const assertFault = (isThere, what, found) =>
  assert.ok(isThere, `the SDK can do this now: ${what}; see ARCHITECTURE.md, 'The ABI'. Found: ${found}`);

const backends = await openBackends();
const sdk = { facilitator: "fake", wasm: WASM, plugin: "faults" };
const gateway = await openGateway(backends, { ...sdk, allowOnHeadersStopIteration: true });
const without = await openGateway(backends, { ...sdk, allowOnHeadersStopIteration: false });
const idle = await openGateway(backends, { ...sdk, plugin: "empty" });
const ours = await openGateway(backends, { facilitator: "fake" });

// openGateway's gateways must not crash; this one does, and is loaded anew.
const fake = await startFakeFacilitator();
backends.atEnd(fake.stop);
const stage = await startStage({ backends, ...sdk, facilitator: fake.url });
backends.atEnd(stage.stop);
const crashing = { ...stage, fake, port: stage.envoy.port };

/** What has been written to Envoy's log since this was called. */
function logSince({ envoy }) {
  const before = envoy.logs().length;
  return () => envoy.logs().slice(before);
}

/** What the access log says of the last request to a path, once it says something. */
const logged = ({ envoy }, path) => eventually(() => envoy.accessLog().findLast((entry) => entry.path === path), `${path} is logged`);

/** The source text of the SDK that `tests/sdk/Cargo.lock` names. */
function sourceOf(file) {
  const args = ["metadata", "--format-version", "1", "--locked", "--manifest-path", MANIFEST];
  const { packages } = JSON.parse(execFileSync("cargo", args, { encoding: "utf8", maxBuffer: 1 << 26, stdio: ["ignore", "pipe", "ignore"] }));
  const { manifest_path: manifest } = packages.find(({ name }) => name === "proxy-wasm");
  return readFileSync(join(dirname(manifest), "src", file), "utf8");
}

test("The filter written with the SDK lets everything pass where it is to do nothing", async () => {
  for (const one of [idle, gateway]) {
    const answer = await ask(one, "/echo", { method: "POST", body: "some body" });
    assert.equal(answer.status, 200);
    assert.equal(answer.json().path, "/echo");
  }
});

// ---- Heads that are held ------------------------------------------------------------------------------------------
//
// That the filter itself holds heads without buffering what is behind them, with the option and without it:
// streams.test.mjs, "… of 8 MiB comes down before the money has moved, and then all of it" and "8 MiB goes up whole while
// the payment is looked at".

/** What a promise comes to, or null where it takes longer. */
const within = (ms, promise) => Promise.race([promise, sleep(ms, null)]);

/**
 * Holds the head of a request with a large body, or of a response.
 *
 * @returns {Promise<{early: boolean, status: number, isWhole: boolean, details: string}>} `early`: the client had its answer
 *   while the head was held; `isWhole`: all of the body came through
 */
async function hold(on, half, target, patience) {
  const [held, calls] = [latch(), on.fake.count("/held")];
  on.fake.script("/held", { hold: held.opened, json: {} });
  const upstream = async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.end(half === "request" ? Buffer.concat(chunks) : LARGE);
  };
  return withUpstream(on, upstream, async () => {
    const { answer } = send(on, target, half === "request" ? { method: "POST", body: LARGE } : {});
    await eventually(() => on.fake.count("/held") > calls, "the head is held");
    const early = (await within(patience, answer)) !== null;
    held.open();
    const { status, bytes } = await answer;
    const { details } = await logged(on, target);
    return { early, status, isWhole: bytes.equals(LARGE), details };
  });
}

const HOLDING = "hold a head by back pressure under allow_on_headers_stop_iteration";

for (const [half, status, details] of [["request", 413, "request_payload_too_large"], ["response", 500, "response_payload_too_large"]]) {
  test(`With the SDK, the head of a ${half} that is paused leaves with the first piece of its body`, async () => {
    const found = await hold(gateway, half, `/hold-${half}`, PATIENCE_MS);
    assertFault(found.early && found.status === 200, HOLDING, JSON.stringify(found));
  });

  test(`With the SDK, a ${half} whose head and body are paused is buffered, and fails at the limit`, async () => {
    const found = await hold(gateway, half, `/hold-${half}-and-body`, PATIENCE_MS);
    assertFault(found.early && found.status === status && found.details === details, HOLDING, JSON.stringify(found));
  });

  test(`Without allow_on_headers_stop_iteration, the same filter holds the head of a ${half}, and all of its body comes after`, async () => {
    const { early, status, isWhole } = await hold(without, half, `/hold-${half}-and-body`, 300);
    assert.deepEqual({ early, status, isWhole }, { early: false, status: 200, isWhole: true });
  });
}

test("The SDK has two answers to a callback about a head, and none of them is StopAllIterationAndWatermark", () => {
  const [, variants] = /pub enum Action \{([^}]*)\}/.exec(sourceOf("types.rs"));
  const names = [...variants.matchAll(/(\w+) = \d+/g)].map(([, name]) => name);
  assertFault(names.join() === "Continue,Pause", "say more about a head than Continue and Pause", names);
});

test("The SDK exports the callbacks itself, and lets nobody write one beside it", () => {
  const args = ["build", "--release", "--locked", "--target", TARGET, "--features", "own-callback", "--manifest-path", MANIFEST];
  // A module that is built all the same must not take the place of the one that is tested.
  const { status, stderr } = spawnSync("cargo", [...args, "--target-dir", join(checkout, "target", "sdk-own-callback")], { encoding: "utf8" });
  assertFault(status !== 0, "leave its dispatcher out", "a module with a callback of its own");
  assert.match(stderr, /proxy_on_request_headers.*(multiply defined|duplicate)|duplicate symbol: proxy_on_request_headers/);
});

// ---- Answers that outlive their stream ----------------------------------------------------------------------------

// That the filter itself hears them: attacks.test.mjs, "A settlement that succeeds for a client that has gone buys its
// response when the payment comes again, once".
test("With the SDK, the answer of a callout whose client has gone is heard by nobody", async () => {
  const heard = /(stream|root context) hears an answer/g;
  const answered = async () => (await gateway.envoy.stats("cluster.facilitator.upstream_rq_200"))["cluster.facilitator.upstream_rq_200"] ?? 0;
  const [before, calls, held, log] = [await answered(), gateway.fake.count("/held"), latch(), logSince(gateway)];
  gateway.fake.script("/held", { hold: held.opened, json: {} });
  const { socket } = send(gateway, "/hold-request");
  await eventually(() => gateway.fake.count("/held") > calls, "the callout is sent");
  socket.destroy();
  await eventually(() => gateway.envoy.accessLog().at(-1).details === "downstream_remote_disconnect", "the client's leaving is noticed");
  held.open();
  await eventually(async () => (await answered()) > before, "Envoy has the answer");
  // One whose client stays, behind it.
  assert.equal((await ask(gateway, "/hold-request")).status, 200);
  const who = [...log().matchAll(heard)].map(([, who]) => who);
  assertFault(who.join() === "stream", "hear the answer of a callout whose stream is gone", who);
});

// ---- Panics -------------------------------------------------------------------------------------------------------

// What is read as bytes does not panic in values, and does in names; the SDK's examples and most filters read text.
//
// That the same bytes do nothing to the filter itself: malformed.test.mjs, "Bytes that are no text in headers that the filter
// reads are no crash".
for (const [target, what] of [["/read-header", "it"], ["/read-headers", "a list of headers"]]) {
  test(`With the SDK, a client whose header is no text ends the filter's VM where ${what} is read as text`, async () => {
    assert.equal((await ask(crashing, target, { headers: { "payment-signature": "text" } })).status, 200);
    const log = logSince(crashing);
    const answer = await ask(crashing, target, { headers: { "payment-signature": "\xff" } });
    assertFault(/panicked at .*hostcalls\.rs/.test(log()), "return an error where a header is no text", answer.status);
    assert.equal(answer.status, 503);
    await eventually(async () => (await ask(crashing, "/echo")).status === 200, "the filter is loaded anew");
  });
}

// That the filter itself takes this for a 502: facilitator.test.mjs, "Where the answer of /verify is half an answer, …".
test("With the SDK, a facilitator that breaks off in the middle of an answer ends the filter's VM where the status is read", async () => {
  const log = logSince(crashing);
  fake.script("/held", { json: { isValid: true }, instead: "break" });
  const { socket } = send(crashing, "/hold-request");
  await eventually(() => /panicked at|resumed/.test(log()), "the callout's end is heard");
  assert.match(log(), /the stream hears an answer with 0 headers/);
  const panic = /panicked at .*hostcalls\.rs:.*\n.*unexpected status: 2/;
  assertFault(panic.test(log()), "return the status of a host call that did not succeed", log());
  socket.destroy(); // Nobody answers it any more.
  await eventually(async () => (await ask(crashing, "/echo")).status === 200, "the filter is loaded anew");
});

// ---- Details of responses -----------------------------------------------------------------------------------------

test("With the SDK, a response sent in the upstream's place has no details for access logs, and with the filter's own shell it has", async () => {
  assert.equal((await ask(gateway, "/reply")).text, "sent by the SDK");
  const { details } = await logged(gateway, "/reply");
  assertFault(!details, "send details with a response", details);
  const functions = [...sourceOf("hostcalls.rs").matchAll(/pub fn (\w+)\(([^)]*)\)/g)];
  assert.ok(functions.some(([, name]) => name === "send_http_response"));
  const able = functions.filter(([, , parameters]) => parameters.includes("details")).map(([, name]) => name);
  assertFault(able.length === 0, "send details with a response", able);

  assertTerms(await ask(ours, "/weather"), "Payment required");
  assert.equal((await logged(ours, "/weather")).details, "x402");
});
