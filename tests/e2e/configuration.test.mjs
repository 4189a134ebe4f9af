/**
 * Configurations that are wrong are refused as a whole: Envoy does not start to serve, and the log names the path of
 * what is wrong. A filter that served half of a configuration would give away the other half.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ENVOY, renderBootstrap } from "../../stage/envoy.mjs";
import { claimPorts } from "../../stage/ports.mjs";
import { startStage } from "../../stage/stage.mjs";
import {
  ask,
  assertServed,
  assertTerms,
  DEFAULTS,
  eventually,
  latch,
  openGateway,
  openBackends,
  pay,
  paying,
  paymentFor,
  pluginOf,
  quote,
  send,
  since,
  WEATHER,
  withUpstream,
} from "./support.mjs";

const backends = await openBackends();

const facilitator = { cluster: "facilitator", url: "http://127.0.0.1:4021" };
const good = () => ({ facilitator: { ...facilitator }, ...structuredClone(pluginOf({ routes: [WEATHER] })) });

/** The good configuration, with something at a path replaced, or left out where the value is undefined. */
function wrong(path, value) {
  const config = good();
  const keys = path.split(/[.[\]]+/).filter(Boolean);
  const last = keys.pop();
  const parent = keys.reduce((object, key) => (object[key] ??= {}), config);
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  return config;
}

const CHECKSUM = "0x3c44CdDdB6a900fa2b585dd299e03d12FA4293BC"; // One letter in the wrong case.

// [what, configuration, path that the log has to name, and what it says of it]
const REFUSED = [
  ["an unknown key at the top", wrong("route", []), /route\b/],
  ["an unknown key of a route", wrong("routes[0].prize", "$1"), /routes\[0\].*prize/],
  ["an unknown key of the facilitator", wrong("facilitator.uri", "x"), /facilitator.*uri/],
  ["an unknown key of a match", wrong("routes[0].match.header", "x"), /routes\[0\]\.match.*header/],
  ["no facilitator", wrong("facilitator", undefined), /facilitator/],
  ["no routes", wrong("routes", undefined), /routes/],
  ["a facilitator without a cluster", wrong("facilitator.cluster", ""), /facilitator\.cluster/],
  ["a facilitator that is no URL", wrong("facilitator.url", "facilitator.example"), /facilitator\.url/],
  ["a facilitator at an ftp URL", wrong("facilitator.url", "ftp://facilitator.example/"), /facilitator\.url/],
  ["a password in the facilitator's URL", wrong("facilitator.url", "http://user:secret@facilitator.example/"), /facilitator\.url/],
  ["a password in a URL that is none", wrong("facilitator.url", "http://user:secret@facilitator.example:x/"), /facilitator\.url/],
  ["a password in a URL of another scheme", wrong("facilitator.url", "ftp://user:secret@facilitator.example/"), /facilitator\.url/],
  ["a duration without a unit", wrong("facilitator.timeout", "10"), /facilitator\.timeout.*"10"/],
  ["a duration of nothing", wrong("facilitator.timeout", "0s"), /facilitator\.timeout/],
  ["a negative duration", wrong("facilitator.timeout", "-1s"), /facilitator\.timeout/],
  ["a number for a duration", wrong("facilitator.timeout", 10), /facilitator\.timeout/],
  ["an unknown way to verify", wrong("facilitator.verify", "never"), /facilitator\.verify/],
  ["a header with a line break", wrong("facilitator.headers", { "x-key": "a\r\nb: c" }), /facilitator\.headers\.x-key/],
  ["headers as a text", wrong("facilitator.headers", "x-api-key: secret"), /facilitator\.headers/],
  ["headers as a list", wrong("facilitator.headers", ["x-api-key: secret"]), /facilitator\.headers/],
  ["name and value of a header swapped", wrong("facilitator.headers", { "Bearer secret": "authorization" }), /facilitator\.headers/],
  ["a header whose name is a key", wrong("facilitator.headers", { "secret:1": "x" }), /facilitator\.headers/],
  ["a key in the facilitator's query", wrong("facilitator.url", "https://facilitator.example/?key=secret"), /facilitator\.url.*facilitator\.headers/],
  ["a URL in place of the facilitator", wrong("facilitator", "https://facilitator.example/?key=secret"), /facilitator/],
  ["a key in the node's path", wrong("rpc", { base: { cluster: "c", url: "wss://node.example/v2/secret" } }), /rpc\.base\.url/],
  ["a node without a network", wrong("rpc", { "https://node.example/v2/secret": {} }), /rpc/],
  ["a key that is a key's name", wrong("facilitator.the-secret-9f3a77c1", 1), /facilitator/],
  ["a signing key that is none", wrong("offer_receipt", { key: "secret" }), /offer_receipt\.key/],
  ["a list of signing keys", wrong("offer_receipt", { key: ["secret"] }), /offer_receipt\.key/],
  ["an origin with a key", wrong("origins", ["https://api.example.com/?secret"]), /origins\[0\]/],
  ["an address with a wrong checksum", wrong("defaults.pay_to", CHECKSUM), /defaults\.pay_to.*checksum/],
  ["half an address", wrong("defaults.pay_to", CHECKSUM.slice(0, 30)), /defaults\.pay_to/],
  ["the zero address", wrong("routes[0].pay_to", `0x${"0".repeat(40)}`), /routes\[0\]\.pay_to/],
  ["nobody to pay", wrong("defaults.pay_to", undefined), /routes\[0\]\.pay_to/],
  ["no way to pay", wrong("defaults.accepts", undefined), /routes\[0\]\.accepts/],
  ["an empty list of ways to pay", wrong("defaults.accepts", []), /defaults\.accepts/],
  ["an unknown network", wrong("defaults.accepts[0].network", "base-sepollia"), /defaults\.accepts\[0\]\.network.*base-sepollia/],
  ["an unknown asset", wrong("defaults.accepts[0].asset", "USDD"), /defaults\.accepts\[0\]\.asset.*USDD/],
  ["an unknown scheme", wrong("defaults.accepts[0].scheme", "exactly"), /defaults\.accepts\[0\]\.scheme/],
  ["the same entry twice", wrong("defaults.accepts", [...DEFAULTS.accepts, ...DEFAULTS.accepts]), /defaults\.accepts\[1\]/],
  ["a price below one atomic unit", wrong("routes[0].price", "$0.0000001"), /routes\[0\]\.price.*\$0\.0000001/],
  ["a price with too many decimals", wrong("routes[0].price", "$0.0010001"), /routes\[0\]\.price/],
  ["a price of nothing", wrong("routes[0].price", "$0"), /routes\[0\]\.price/],
  ["a price without a currency", wrong("routes[0].price", "0.001"), /routes\[0\]\.price/],
  ["a number for a price", wrong("routes[0].price", 0.001), /routes\[0\]\.price/],
  ["a number for an amount", wrong("routes[0].price", { amount: 1000 }), /routes\[0\]\.price/],
  ["a fraction for an amount", wrong("routes[0].price", { amount: "0.5" }), /routes\[0\]\.price\.amount/],
  ["an exponent for a price", wrong("routes[0].price", "$1e-3"), /routes\[0\]\.price/],
  ["neither a price nor free", wrong("routes[0].price", undefined), /routes\[0\]/],
  ["a price and free", wrong("routes[0].free", true), /routes\[0\]/],
  ["no path", wrong("routes[0].match.path", undefined), /routes\[0\]\.match/],
  ["a path without a slash", wrong("routes[0].match.path", "weather"), /routes\[0\]\.match\.path/],
  ["a path with an escape", wrong("routes[0].match.path", "/a%20b"), /routes\[0\]\.match\.path/],
  ["a path with a star", wrong("routes[0].match.path", "/weather/*"), /routes\[0\]\.match\.path/],
  ["a path with a rest in its middle", wrong("routes[0].match.path", "/{*rest}/x"), /routes\[0\]\.match\.path/],
  ["a host with a scheme", wrong("routes[0].match.hosts", ["a.example", "https://b.example"]), /routes\[0\]\.match\.hosts\[1\]/],
  ["a method that is none", wrong("routes[0].match.methods", ["GET POST"]), /routes\[0\]\.match\.methods\[0\]/],
  ["a lifetime that verifiers refuse", wrong("routes[0].max_timeout_seconds", 5), /routes\[0\]\.max_timeout_seconds/],
  ["an unknown order of settlement", wrong("routes[0].settle", "sometimes"), /routes\[0\]\.settle/],
  ["two routes of one name", wrong("routes", [WEATHER, { ...WEATHER, match: { path: "/other" } }]), /routes\[1\]\.name/],
  ["an unknown word for what is unmatched", wrong("unmatched", "maybe"), /unmatched/],
  ["a header to keep that is none", wrong("keep_headers", ["x y"]), /keep_headers\[0\]/],
  ["no room for claims", wrong("ledger", { max_claims: 0 }), /ledger\.max_claims/],
  ["a key that stands twice", JSON.stringify(good()).replace('"unmatched":', '"unmatched":"deny","unmatched":'), /unmatched/],
  ["text behind it", `${JSON.stringify(good())} {}`, /refused/],
  ["no JSON", "facilitator: yaml", /refused/],
  ["nothing", "", /refused/],
  ["a list", "[]", /refused/],
];

/** What the filter has said against configurations, the path first. */
const complaints = (logs) =>
  logs.split("\n").flatMap((line) => /\[critical\]\[wasm\].*the configuration is (refused.*)/.exec(line)?.[1] ?? []);

const bootstrapOf = (plugin, ports) =>
  renderBootstrap({
    port: ports.gateway,
    adminPort: ports.gatewayAdmin,
    apiPort: backends.inference.port,
    facilitatorPort: backends.facilitator.port,
    accessLog: join(backends.run.path, "other-access.jsonl"),
    plugin,
    edit: () => {}, // As JSON in any case.
  });

/** Envoy's own check of a bootstrap, which runs the filter too. */
async function validate(plugin) {
  const ports = await claimPorts();
  const file = join(backends.run.path, "validate.json");
  writeFileSync(file, bootstrapOf(plugin, ports));
  const args = ["--mode", "validate", "-c", file, "--disable-hot-restart", "--log-level", "info"];
  const result = await new Promise((resolve) => {
    execFile(ENVOY, args, { timeout: 20_000 }, (error, stdout, stderr) =>
      resolve({ status: error ? (error.code ?? 1) : 0, logs: stdout + stderr }),
    );
  });
  await ports.release();
  return result;
}

// A listener that Envoy reads from a file, and reads again whenever the file is replaced: what a mesh does all day.
const ports = await claimPorts();
backends.atEnd(ports.release);
const file = join(backends.run.path, "listeners.json");
let version = 0;
function publish(plugin, { asStruct = false } = {}) {
  const [listener] = JSON.parse(bootstrapOf(plugin, ports)).static_resources.listeners;
  if (asStruct) {
    const { http_filters } = listener.filter_chains[0].filters[0].typed_config;
    const { config } = http_filters.find(({ name }) => name === "x402").typed_config;
    config.configuration = { "@type": "type.googleapis.com/google.protobuf.Struct", value: plugin };
  }
  const type = "type.googleapis.com/envoy.config.listener.v3.Listener";
  const resource = { "@type": type, ...listener, name: "dynamic" };
  writeFileSync(`${file}.new`, JSON.stringify({ version_info: String(++version), resources: [resource] }));
  renameSync(`${file}.new`, file); // Envoy watches for moves.
}
publish(good());
const gateway = await openGateway(backends, {
  plugin: good(),
  edit: (bootstrap) => {
    bootstrap.node = { id: "e2e", cluster: "e2e" };
    bootstrap.dynamic_resources = { lds_config: { path_config_source: { path: file }, resource_api_version: "V3" } };
  },
});
const dynamic = { port: ports.gateway };
const price = async () => (await ask(dynamic, "/weather").catch(() => null))?.terms?.accepts[0].amount;
await eventually(async () => (await price()) === "1000", "the good configuration is served");

for (const [what, plugin, path] of REFUSED) {
  test(`Refused: ${what}`, async () => {
    // As JSON text, and as the message that YAML in Envoy's own files becomes.
    for (const asStruct of typeof plugin === "string" ? [false] : [false, true]) {
      const before = complaints(gateway.envoy.logs()).length;
      publish(plugin, { asStruct });
      const [said] = await eventually(() => {
        const more = complaints(gateway.envoy.logs()).slice(before);
        return more.length ? more : null;
      }, "the filter refuses it");
      assert.match(said, path);
      assert.doesNotMatch(said, /secret/, "the log shows a secret");
    }
    // The configuration before it is still the one that is served.
    assert.equal(await price(), "1000");
  });
}

test("After all that was wrong, the next good configuration is taken", async () => {
  for (const [asStruct, dollars, amount] of [[false, "$0.005", "5000"], [true, "$0.006", "6000"]]) {
    publish({ ...good(), routes: [{ ...WEATHER, price: dollars, max_timeout_seconds: 60 }] }, { asStruct });
    await eventually(async () => (await price()) === amount, "the new price is asked");
  }
  const { accepts } = await quote(dynamic, "/weather");
  assert.equal(accepts.length, 1);
});

test("A payment that was spent before a change of configuration is spent after it", async () => {
  const at = { ...gateway, port: ports.gateway };
  publish(good());
  await eventually(async () => (await price()) === "1000", "the old price is asked again");
  const payment = await paymentFor(at, "/weather");
  const mark = await since(gateway);
  assertServed(await pay(at, "/weather", payment));
  publish({ ...good(), routes: [{ ...WEATHER, description: "Weather, renewed" }] });
  await eventually(async () => (await quote(at, "/weather")).resource.description === "Weather, renewed", "the change is there");
  assertTerms(await pay(at, "/weather", payment), "invalid_exact_evm_nonce_already_used");
  assert.equal(mark.calls("/settle").length, 1);
  assert.equal(mark.calls("/verify").length, 1, "the gateway had forgotten the payment");
});

test("A request that is under way while the configuration changes ends under the one that it began with", async () => {
  const at = { ...gateway, port: ports.gateway };
  const [payment, mark, held] = [await paymentFor(at, "/weather"), await since(gateway), latch()];
  const holding = async () => {
    await held.opened;
    return false;
  };
  await withUpstream(gateway, holding, async () => {
    const { answer } = send(at, "/weather", { headers: paying(payment) });
    await eventually(() => mark.seen().length === 1, "the upstream is asked");
    publish({ ...good(), routes: [{ ...WEATHER, price: "$0.007" }] });
    await eventually(async () => (await price()) === "7000", "the new price is asked");
    held.open();
    assertServed(await answer);
  });
  assert.deepEqual((await mark.transfers()).map(({ value }) => value), [1000n]);
  assertTerms(await pay(at, "/weather", payment), "No matching payment requirements");
});

const START = ["an address with a wrong checksum", "a price below one atomic unit", "nothing"];

for (const what of START) {
  const [, plugin, path] = REFUSED.find(([name]) => name === what);

  test(`Envoy does not start to serve with ${what}, and its validation says so beforehand`, async () => {
    const started = await startStage({ backends, plugin }).catch((error) => error);
    if (!(started instanceof Error)) {
      await started.stop();
      assert.fail("Envoy serves with it");
    }
    assert.match(complaints(started.logs)[0], path);
    const { status, logs } = await validate(plugin);
    assert.notEqual(status, 0);
    assert.match(complaints(logs)[0], path);
  });
}

test("Envoy's validation takes the good configuration", async () => {
  const { status, logs } = await validate(good());
  assert.equal(status, 0, logs);
  assert.deepEqual(complaints(logs), []);
});

test("Numbers that came through a double, as Istio passes them, are whole numbers still", async () => {
  const config = { ...good(), ledger: { max_claims: 1000 }, defaults: { ...DEFAULTS, max_timeout_seconds: 120 } };
  publish(
    JSON.stringify(config)
      .replace('"max_claims":1000', '"max_claims":1000.0')
      .replace('"max_timeout_seconds":120', '"max_timeout_seconds":120.0'),
  );
  const lifetime = async () => (await ask(dynamic, "/weather")).terms?.accepts[0].maxTimeoutSeconds;
  await eventually(async () => (await lifetime()) === 120, "the configuration is taken");
});
