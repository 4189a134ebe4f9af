/**
 * Stats: what a sidecar of Istio and a gateway of Envoy Gateway expose has labels, and every query of the dashboard and of the alerts
 * finds its series in a real Prometheus that scrapes both as the shipped PodMonitors say.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { makePayer } from "../../stage/client.mjs";
import { checkout } from "../../stage/processes.mjs";
import { documents, shipped } from "./cluster.mjs";
import { edge, openEnvoyGateway } from "./envoy-gateway.mjs";
import { openIstio, plainApi, PORTS } from "./istio.mjs";
import { ISTIO_CLUSTER, openLedger, storeAt } from "./ledger.mjs";
import { untilForSale, USED } from "./selling.mjs";
import { directory, eventually, openWorld } from "./world.mjs";

const observability = (file) => readFileSync(join(checkout, "envoy", "observability", file), "utf8");

const world = await openWorld();
const { cluster } = world;
const istio = await openIstio(world);
const gateway = await openEnvoyGateway(world);
const ledger = await openLedger(world);

/** More than is shipped: a route that is paid by channels, and a ledger in etcd, whose stats the dashboard shows too. */
function extend(config, store) {
  config.ledger = storeAt(store);
  config.channels = { claim_every: "1s" };
  config.routes.push({ name: "channel", match: { path: "/channel" }, price: "$0.01", accepts: [{ scheme: "batch-settlement", network: "base", asset: "USDC" }] });
}

const [sidecar] = documents("istio/sidecar.yaml");
extend(sidecar.spec.pluginConfig, ISTIO_CLUSTER);
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/ledger"] });
await cluster.applyOverlay({ base: "envoy-gateway/base", components: ["envoy-gateway/components/ledger"] });
const [policy] = documents("envoy-gateway/policy.yaml");
extend(policy.spec.wasm[0].config, "x402-ledger");
const secret = Object.fromEntries(Object.entries(ledger.secret).map(([name, text]) => [name, Buffer.from(text).toString("base64")]));
await cluster.apply(sidecar, policy, ...edge({ infrastructure: { parametersRef: { group: "gateway.envoyproxy.io", kind: "EnvoyProxy", name: "x402" } } }));
await cluster.applyIn("envoy-gateway-system", { apiVersion: "v1", kind: "Secret", metadata: { name: "x402-ledger" }, data: secret });

const weather = await istio.sidecar("weather", {
  labels: { app: "weather" },
  prepare: ledger.mount,
});
await cluster.service("weather", { selector: { app: "weather" }, ports: PORTS, pods: [weather.pod] });
const api = await plainApi(world, "api", { labels: { app: "api" } });
await cluster.service("api", { selector: { app: "api" }, ports: PORTS, pods: [api] });
const proxy = await gateway.gatewayPod("edge", "edge");
await Promise.all([weather.ready(), proxy.ready()]);

const urls = { istio: `http://${weather.pod.ip}:8080`, "envoy-gateway": `http://${proxy.pod.ip}:8080` };
const prometheus = await startPrometheus();

/** A job of Prometheus that does what a PodMonitor says. */
function jobOf(file, name, ports, { ip }) {
  const [{ port, path, metricRelabelings }] = parse(shipped(file)).spec.podMetricsEndpoints;
  const rules = metricRelabelings.map(({ sourceLabels, ...rule }) => ({ ...rule, source_labels: sourceLabels }));
  assert.ok(ports[port], `${file}: nothing is known of the port ${port}`);
  return { job_name: name, metrics_path: path, metric_relabel_configs: rules, static_configs: [{ targets: [`${ip}:${ports[port]}`] }] };
}

async function startPrometheus() {
  const home = join(directory, "prometheus");
  mkdirSync(home);
  writeFileSync(join(home, "alerts.yaml"), observability("alerts.yaml"));
  writeFileSync(join(home, "prometheus.yaml"), JSON.stringify({
    global: { scrape_interval: "1s", evaluation_interval: "1s" },
    rule_files: ["alerts.yaml"],
    scrape_configs: [
      jobOf("istio/podmonitor.yaml", "istio", { "http-envoy-prom": 15090 }, weather.pod),
      jobOf("envoy-gateway/podmonitor.yaml", "envoy-gateway", { metrics: 19001 }, proxy.pod),
    ],
  }));
  const child = world.start("prometheus", "prometheus", [`--config.file=${home}/prometheus.yaml`, `--storage.tsdb.path=${home}/data`, "--web.listen-address=127.0.0.1:9090", "--log.level=warn"]);
  const get = async (path) => (await (await fetch(`http://127.0.0.1:9090${path}`)).json()).data;
  await eventually(async () => (await fetch("http://127.0.0.1:9090/-/ready")).ok, "Prometheus", child);
  return {
    query: async (query) => (await get(`/api/v1/query?${new URLSearchParams({ query })}`)).result.map(({ metric, value }) => ({ metric, value: Number(value[1]) })),
    rules: async () => (await get("/api/v1/rules")).groups.flatMap(({ rules }) => rules),
  };
}

/** Waits until a query gives numbers. */
const untilFound = (query) =>
  eventually(async () => {
    const found = await prometheus.query(query);
    return found.length > 0 && found.every(({ value }) => !Number.isNaN(value)) && found;
  }, `Prometheus has ${query}`);

/** Something of everything that is counted. */
async function traffic(url) {
  await untilForSale(`${url}/weather`);
  const payer = makePayer();
  assert.equal((await payer.fetch(`${url}/weather`)).status, 200);
  const payment = payer.exchanges.at(-1).sent.get("payment-signature");
  const pay = (value) => fetch(`${url}/weather`, { headers: { "payment-signature": value } });
  assert.equal((await pay(payment)).status, 402);
  assert.equal((await pay("!")).status, 400);
  const channel = makePayer({
    channels: { salt: `0x${randomBytes(32).toString("hex")}` },
    signer: { readContract: (args) => world.chain.client.readContract(args) },
  });
  await untilForSale(`${url}/channel`);
  for (let call = 0; call < 3; call++) assert.equal((await channel.fetch(`${url}/channel`)).status, 200);
}

for (const [job, url] of Object.entries(urls)) {
  test(`What a proxy exposes has labels: ${job}`, async () => {
    await traffic(url);
    for (const outcome of ["served", "unpaid", "spent", "malformed"]) await untilFound(`x402_requests{job="${job}",route="weather",outcome="${outcome}"} > 0`);
    await untilFound(`x402_refusals{job="${job}",route="weather",reason="${USED}"}`);
    await untilFound(`x402_settlements{job="${job}",network="eip155:8453",scheme="exact",result="settled"}`);
    const [{ value }] = await untilFound(`x402_revenue{job="${job}",network="eip155:8453",asset!="",pay_to!=""}`);
    assert.ok(value >= 1000);
    const names = await prometheus.query(`count by (__name__) ({job="${job}",__name__=~"x402_.+"})`);
    for (const { metric } of names) assert.match(metric.__name__, /^x402_[a-z_]+$/, "a label is in a name");
  });
}

test("Every query of the dashboard gives numbers", async () => {
  const { panels } = JSON.parse(observability("dashboard.json"));
  const queries = panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr })));
  // A rate needs a change since Prometheus looked first.
  for (const url of Object.values(urls)) await traffic(url);
  for (const { title, expr } of queries) {
    const filled = expr.replaceAll("$__rate_interval", "1m").replaceAll("$__range", "10m");
    await untilFound(filled).catch((error) => assert.fail(`${title}: ${error.message}`));
  }
});

test("The alerts are rules that Prometheus takes, and speak of stats that are there", async () => {
  const rules = await prometheus.rules();
  assert.ok(rules.length > 10);
  assert.deepEqual(rules.filter(({ health }) => health === "err"), []);
  const known = new Set((await prometheus.query('count by (__name__) ({__name__=~"x402_.+"})')).map(({ metric }) => metric.__name__));
  // Those of what did not happen.
  const unseen = /^x402_(unknown_settlements|recoveries_shed|facilitators_failing|losses|store_fenced|store_failures|store_unfinished|channels_withdrawing|channels_stuck)$/;
  for (const { name, query } of rules) {
    for (const [stat] of query.matchAll(/x402_\w+/g)) assert.ok(known.has(stat) || unseen.test(stat), `${name} speaks of ${stat}`);
  }
});
