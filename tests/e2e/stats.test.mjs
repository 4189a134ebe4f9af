/** Stats, as a real Prometheus reads them from a real Envoy; every query of the dashboard and of the alerts. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { parse, stringify } from "yaml";
import { startEtcd } from "../../stage/etcd.mjs";
import { checkout, startProcess, until } from "../../stage/processes.mjs";
import { makeChannelPayer } from "./channels-support.mjs";
import { ANY, ask, assertServed, eventually, openGateway, openBackends, pay, paymentFor, payTo, pluginOf, quote, signPayment, USDC } from "./support.mjs";

const observability = join(checkout, "envoy", "observability");
/** Programs of Debian's package `prometheus`. */
const programs = (name) => execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();

const backends = await openBackends();
const gateway = await openGateway(backends);
const broken = await openGateway(backends, { facilitator: "fake" });
const channels = await openGateway(backends, {
  plugin: pluginOf({
    facilitator: {},
    channels: { claim_every: "1s" },
    routes: [{ ...ANY, accepts: [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }] }],
  }),
});

const etcd = await startEtcd({ run: backends.run, size: 1 });
backends.atEnd(etcd.stop);
const fleet = await openGateway(backends, {
  plugin: pluginOf({ facilitator: {}, ledger: { store: { etcd: { cluster: "etcd", fleet: "stats" } } } }),
  edit: (bootstrap) => etcd.edit(bootstrap),
});

/** Prometheus with the shipped configuration, but for where it finds Envoy and how often it looks. */
async function startPrometheus(gateways) {
  const directory = mkdtempSync(join(tmpdir(), "x402-prometheus-"));
  const port = backends.ports.spare2;
  const config = parse(readFileSync(join(observability, "prometheus.yaml"), "utf8"));
  config.global = { scrape_interval: "1s", evaluation_interval: "1s" };
  config.rule_files = [join(observability, "alerts.yaml")];
  config.scrape_configs[0].static_configs[0].targets = gateways.map(({ envoy }) => `127.0.0.1:${envoy.adminPort}`);
  writeFileSync(join(directory, "prometheus.yaml"), stringify(config));
  mkdirSync(join(directory, "data"));
  const child = startProcess({
    name: "prometheus",
    command: programs("prometheus"),
    args: [
      `--config.file=${join(directory, "prometheus.yaml")}`,
      `--storage.tsdb.path=${join(directory, "data")}`,
      `--web.listen-address=127.0.0.1:${port}`,
      "--log.level=warn",
    ],
    run: backends.run,
  });
  backends.atEnd(async () => {
    await child.stop();
    rmSync(directory, { recursive: true, force: true });
  });
  const url = `http://127.0.0.1:${port}`;
  await until(async () => (await fetch(`${url}/-/ready`)).ok, { what: "Prometheus", process: child });
  return {
    /** What a query gives: labels and values. */
    query: async (query) => {
      const response = await fetch(`${url}/api/v1/query?${new URLSearchParams({ query })}`);
      const body = await response.json();
      assert.equal(body.status, "success", `${query}: ${body.error}`);
      return body.data.result.map(({ metric, value }) => ({ metric, value: Number(value[1]) }));
    },
    rules: async () => (await (await fetch(`${url}/api/v1/rules`)).json()).data.groups.flatMap(({ rules }) => rules),
  };
}

const prometheus = await startPrometheus([gateway, broken, channels, fleet]);

/** The value of a stat with these labels; 0 where there is none. */
async function value(name, labels) {
  const selector = Object.entries(labels).map(([label, text]) => `${label}="${text}"`).join(",");
  const found = await prometheus.query(`sum(${name}{${selector}})`);
  return found[0]?.value ?? 0;
}

const settledTo = { network: "eip155:84532", asset: USDC, pay_to: payTo };

test("Requests, settlements and revenue are counted with labels", async () => {
  await ask(gateway, "/weather");
  const payment = await paymentFor(gateway, "/weather");
  assertServed(await pay(gateway, "/weather", payment));
  assert.equal((await pay(gateway, "/weather", payment)).status, 402);
  const { accepts } = await quote(gateway, "/weather");
  const wrong = await signPayment(accepts[0], { authorization: { value: "1" } });
  assert.equal((await pay(gateway, "/weather", wrong)).status, 402);
  assert.equal((await ask(gateway, "/weather", { headers: { "payment-signature": "!" } })).status, 400);
  const upfront = await paymentFor(gateway, "/upfront/stats");
  assertServed(await pay(gateway, "/upfront/stats", upfront));

  await eventually(async () => (await value("x402_requests", { route: "upfront", outcome: "served" })) === 1, "the stats");
  for (const [outcome, count] of Object.entries({ served: 1, spent: 1, refused: 1, malformed: 1 })) {
    assert.equal(await value("x402_requests", { route: "weather", outcome }), count, outcome);
  }
  assert.ok((await value("x402_requests", { route: "weather", outcome: "unpaid" })) >= 1);
  for (const reason of ["invalid_exact_evm_nonce_already_used", "invalid_exact_evm_payload_authorization_value_mismatch"]) {
    assert.equal(await value("x402_refusals", { route: "weather", reason }), 1, reason);
  }
  assert.equal(await value("x402_refusals", { route: "weather", reason: "other" }), 1, "prose is no label");
  assert.equal(await value("x402_settlements", { network: "eip155:84532", scheme: "exact", result: "settled" }), 2);
  assert.equal(await value("x402_revenue", settledTo), 4000);
  assert.equal(await value("x402_ledger_claims", { job: "envoy" }), 2);
});

test("What is not known is counted as unknown, and earns nothing", async () => {
  // However often it is asked about again.
  broken.fake.always("/settle", { instead: "close" });
  const payment = await paymentFor(broken, "/upfront/unknown");
  assert.ok([502, 504].includes((await pay(broken, "/upfront/unknown", payment)).status));
  await eventually(async () => (await value("x402_settlements", { result: "unknown" })) >= 1, "the stats");
  assert.equal(await value("x402_revenue", settledTo), 4000);
});

test("The facilitator's answers and the filter's own work are timed", async () => {
  for (const name of ["x402_verify_milliseconds", "x402_settle_milliseconds", "x402_check_microseconds"]) {
    // Envoy merges its histograms every five seconds.
    await eventually(async () => (await value(`${name}_count`, {})) >= 1, name);
    const [{ value: sum }] = await prometheus.query(`sum(${name}_sum) / sum(${name}_count)`);
    assert.ok(sum > 0 && sum < 100_000, `${name}: ${sum} on average`);
  }
});

test("Channels are told of: what they hold, what is unclaimed of that, and claims", async () => {
  await eventually(async () => (await ask(channels, "/any/x")).status === 402, "the gate knows who authorizes claims");
  const payer = makeChannelPayer({ chain: backends.chain });
  for (let call = 1; call <= 2; call++) assert.equal((await payer.fetch(`${channels.url}/any/x`)).status, 200);
  const of = { network: "eip155:84532", asset: USDC };
  await eventually(async () => (await value("x402_channels", of)) === 1, "the channel is counted", 40_000);
  await eventually(async () => (await value("x402_channel_events", { event: "claimed" })) >= 1, "it is claimed", 40_000);
  await eventually(async () => (await value("x402_unclaimed", of)) === 0 && (await value("x402_deposited", of)) > 0, "nothing is unclaimed", 40_000);
  await eventually(async () => (await value("x402_claim_seconds_count", {})) >= 1, "the time is told", 40_000);
  assert.equal(await value("x402_channels_stuck", of), 0);
  // A rate needs a change.
  for (let call = 1; call <= 2; call++) assert.equal((await payer.fetch(`${channels.url}/any/x`)).status, 200);
});

test("A shared ledger's store is timed, and counted where it does not answer", async () => {
  await eventually(async () => (await ask(fleet, "/weather")).status === 402, "the store is reached");
  assertServed(await pay(fleet, "/weather", await paymentFor(fleet, "/weather")));
  await eventually(async () => (await value("x402_store_microseconds_count", {})) >= 3, "the store's answers");
  const payment = await paymentFor(fleet, "/weather");
  etcd.members[0].pause();
  const answer = await pay(fleet, "/weather", payment);
  etcd.members[0].resume();
  assert.equal(answer.status, 503, answer.text);
  assert.ok(answer.get("retry-after"));
  assert.equal(answer.terms, null, "an unknown outcome is no reason to pay anew");
  await eventually(async () => (await value("x402_store_failures", {})) >= 1, "the failures");
  // The lost claim is taken back once the store answers again.
  const unfinished = async () => (await prometheus.query("sum(x402_store_unfinished)"))[0]?.value;
  await eventually(async () => (await unfinished()) === 0, "nothing is left open", 40_000);
  await eventually(async () => (await pay(fleet, "/weather", payment)).status === 200, "the payment is good again", 40_000);
});

test("Every query of the dashboard gives numbers", async () => {
  const { panels } = JSON.parse(readFileSync(join(observability, "dashboard.json"), "utf8"));
  const queries = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
  assert.ok(queries.length >= 15);
  // A rate needs a change since Prometheus looked first.
  assertServed(await pay(gateway, "/weather", await paymentFor(gateway, "/weather")));
  for (const { title, expr } of queries) {
    const filled = expr.replaceAll("$__rate_interval", "1m").replaceAll("$__range", "10m");
    await eventually(async () => {
      const found = await prometheus.query(filled);
      return found.length > 0 && found.every(({ value }) => !Number.isNaN(value));
    }, `${title}: ${filled}`);
  }
});

test("The alerts are rules that Prometheus takes, and speak of stats that are there", async () => {
  execFileSync(programs("promtool"), ["check", "rules", join(observability, "alerts.yaml")]);
  const rules = await prometheus.rules();
  assert.deepEqual(rules.filter(({ health }) => health === "err"), []);
  const known = new Set((await prometheus.query('count by (__name__) ({__name__=~"x402_.+"})')).map(({ metric }) => metric.__name__));
  for (const { name, query } of rules) {
    for (const [stat] of query.matchAll(/x402_\w+/g)) {
      assert.ok(known.has(stat) || ["x402_unknown_settlements", "x402_recoveries_shed", "x402_facilitators_failing", "x402_losses", "x402_store_fenced"].includes(stat), `${name} speaks of ${stat}`);
    }
  }
});
