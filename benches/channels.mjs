/**
 * Requests that are paid out of channels, beside those that are not: `node benches/channels.mjs`, or `--quick` for a look.
 *
 * Vouchers are signed in advance, each channel's in the order of its totals, and each channel by a payer of its own. No
 * deposit is made: a fake facilitator says of each channel that it holds enough. It is asked when a channel is first seen,
 * before anything is measured, and while it is measured the facilitator must not be asked at all.
 */
import { loadavg } from "node:os";
import { buildTools, load, machine, median, OTHER_CORE, routesTo, run, SERVER_CORE, startEnvoy, startExpress, startFacilitatorStub, startFakeFacilitator, startGateway, startUpstream, stopAll, DEFAULTS } from "./stand.mjs";
import { until } from "../stage/processes.mjs";
import { grouped, table, writePart } from "./report.mjs";

const isQuick = process.argv.includes("--quick");
const ROUNDS = isQuick ? 1 : 3;
const SECONDS = isQuick ? 0.25 : 0.8;
const WARMUP = 0.2;
/** Runs before the first that counts, at most. */
const MOST_WARMUPS = 8;
const MANY = 10_000;
/** What else the machine has to do: figures that are measured beside other work are worth less, and say so. */
const [BUSY] = loadavg();
/** Bytes that Envoy has allocated for each of many channels. */
let allocated = 0;
/** Bytes of what names a page of channels in the ledger, and how many pages there are. */
const PAGE_KEY_BYTES = "x402.claims.4.12288".length;
const PAGES = 16_384;

buildTools("tools");

const upstream = await startUpstream();
const stub = await startFacilitatorStub();
const fake = await startFakeFacilitator();
const routes = [{ name: "weather", match: { methods: ["GET"], path: "/weather" }, price: "$0.001", description: "Weather data", mime_type: "application/json" }];
const accepts = [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }];
// Nothing is claimed while it is measured: there is no money.
const channels = { claim_every: "86400s", claim_above: "$1000000" };
const gateway = (name) => startGateway({ name, upstream, facilitator: fake, routes, defaults: { ...DEFAULTS, accepts }, more: { channels }, isAdministered: true });

const plain = await startEnvoy({ name: "plain", routes: routesTo("upstream"), clusters: { upstream: upstream.port } });
const local = await startGateway({ name: "local", upstream, facilitator: stub, routes, verify: "local" });
const servers = { one: await gateway("one"), hundred: await gateway("hundred"), many: await gateway("many") };
const official = await startExpress({ name: "express", facilitator: fake, scheme: "batch-settlement" });

const contender = (label, server, more) => ({ label, server, kinds: "voucher", path: "/weather", connections: 16, runs: [], next: 0, ...more });
const c = {
  proxied: contender("Envoy, to the upstream", plain, { kinds: "free", path: "/free" }),
  exact: contender("Envoy + filter, `exact`, verify: local", local, { kinds: "honest", most: 7_000 }),
  one: contender("Envoy + filter, 1 channel, one request at a time", servers.one, { channels: 1, most: 9_000, connections: 1 }),
  hundred: contender("Envoy + filter, 100 channels", servers.hundred, { channels: 100, most: 12_000 }),
  many: contender(`Envoy + filter, ${grouped(MANY)} channels`, servers.many, { channels: MANY, most: 12_000 }),
  express: contender("@x402/express, 100 channels", official, { channels: 100, most: 1_500 }),
};
const alone = {
  proxied: { of: c.proxied, label: "Envoy, to the upstream", runs: [] },
  one: { of: c.one, label: "Envoy + filter, a voucher", runs: [] },
  exact: { of: c.exact, label: "Envoy + filter, `exact`, verify: local (one callout)", runs: [] },
};

async function measure(one, { seconds = SECONDS, connections = one.connections, count, warmup = WARMUP } = {}) {
  const { server, path, kinds, most } = one;
  const result = await load({
    port: server.port,
    path,
    kinds,
    expect: 200,
    payments: count ?? (kinds === "free" ? 1 : Math.ceil(most * (seconds + warmup))),
    ...(one.channels && { channels: one.channels, seed: `${process.pid}-${server.name}-${one.set ?? ""}`, first: one.next }),
    seconds,
    warmup,
    connections,
    pid: [server.pid],
  });
  one.next += result.sent;
  return result;
}

/** Has each channel seen once, for which the facilitator is asked about it. */
const open = (one) => measure(one, { count: Math.max(one.channels, 20), seconds: 120, warmup: 0 });

/**
 * V8 compiles what is hot, and Node does: none of that belongs to the first round. It is over when a request takes no less
 * processor time than before.
 */
async function warmUp(one) {
  for (let [run, before] = [0, Infinity]; run < MOST_WARMUPS; run++) {
    const { cpu_us: now } = await measure(one, { seconds: isQuick ? 0.2 : 0.5, warmup: 0 });
    if (now > before * 0.95) return;
    before = now;
  }
}

const asked = async () => {
  const { "/supported": _, ...calls } = await (await fetch(`${fake.url}/calls`)).json();
  return Object.values(calls).reduce((sum, count) => sum + count, 0);
};

try {
  // A worker offers channels once the facilitator has said who authorizes claims.
  for (const server of [...Object.values(servers), official]) {
    const isOffered = async () => {
      const header = (await fetch(`${server.url}/weather`)).headers.get("payment-required") ?? "";
      return Buffer.from(header, "base64").includes("batch-settlement");
    };
    await until(isOffered, { what: `the offer of channels by ${server.name}`, timeoutMs: 20_000 });
  }
  const paidByChannel = Object.values(c).filter((one) => one.channels);
  // What many channels take is counted in one process, which other channels have warmed before.
  const others = contender("other channels", servers.many, { channels: 100, set: "others", most: 12_000 });
  await open(others);
  await warmUp(others);
  const before = await servers.many.allocated();
  await open(c.many);
  allocated = ((await servers.many.allocated()) - before) / MANY;
  for (const one of paidByChannel) if (one !== c.many) await open(one);
  for (const one of Object.values(c)) await warmUp(one);
  const askedBefore = await asked();
  for (let round = 0; round < ROUNDS; round++) {
    for (const one of Object.values(c)) one.runs.push(await measure(one));
    for (const one of Object.values(alone)) one.runs.push(await measure(one.of, { connections: 1, seconds: isQuick ? 0.2 : 0.4 }));
  }
  report((await asked()) - askedBefore);
} catch (error) {
  run.keep();
  throw error;
} finally {
  await stopAll();
}

// ---- The report ---------------------------------------------------------------------------------------------------

function report(callouts) {
  const perCore = (result) => 1e6 / result.cpu_us;
  const middle = (one, figure) => median(one.runs.map(figure));
  const ratio = (one, other) => median(one.runs.map((result, round) => perCore(result) / perCore(other.runs[round])));
  const times = (value) => `${value.toFixed(2)} ×`;
  const rows = Object.values(c).map((one) => [
    one.label,
    grouped(middle(one, ({ rate }) => rate)),
    grouped(middle(one, perCore)),
    grouped(middle(one, ({ cpu_us: us }) => us), 0),
    grouped(middle(one, ({ p50_us: us }) => us / 1000), 2),
    grouped(middle(one, ({ p99_us: us }) => us / 1000), 2),
    grouped(one.runs.at(-1).rss_kb / 1024, 0),
    times(ratio(one, c.proxied)),
    times(ratio(one, c.exact)),
    times(ratio(one, c.express)),
  ]);
  const added = median(alone.one.runs.map((paid, round) => (paid.p50_us - alone.proxied.runs[round].p50_us) / 1000));
  const vouchers = middle(c.hundred, perCore);
  const record = c.many.runs[0].record_bytes;
  const pages = PAGES * (1 - Math.exp(-MANY / PAGES));
  const each = (channels, used) => record + (used * PAGE_KEY_BYTES) / channels;
  const isMet = (yes) => (yes ? "yes" : "**no**");
  const targets = [
    ["vouchers a second of a core, 100 channels", "≥ 8,000", grouped(vouchers), isMet(vouchers >= 8000)],
    ["beside plain proxying", "≥ 0.24 ×", times(ratio(c.hundred, c.proxied)), isMet(ratio(c.hundred, c.proxied) >= 0.24)],
    ["latency that a call adds (p50)", "≤ 0.35 ms", `${added.toFixed(3)} ms`, isMet(added <= 0.35)],
    ["a channel's record in shared data", "≤ 512 bytes", `${record} bytes`, isMet(record <= 512)],
    [`what Envoy allocates for each of ${grouped(MANY)}`, "—", `${grouped(allocated)} bytes`, "—"],
    ["callouts while it was measured", "none, but of Express", String(callouts), isMet(callouts === 0)],
  ];
  const text = `## Paid out of channels

${machine()}. The server under test on core ${SERVER_CORE}, everything else on core ${OTHER_CORE}; medians of ${ROUNDS} rounds of ${SECONDS} s over 16
keep-alive connections, or one where there is one channel: each channel takes one request at a time. Every answer's status was 200. Vouchers are signed in advance, and each
channel has a payer of its own. No deposit is made: a fake facilitator says of each channel that it holds enough, is asked once for each channel before the clock starts, and not again.
The machine's load before all this: ${BUSY.toFixed(1)}${BUSY > 1 ? ", so something else ran beside it, and the figures are too low" : ""}.

### Targets

${table(["", "target:", "measured:", "met"], targets)}

### Requests

${table(["", "requests/s:", "requests/s of a whole core:", "CPU µs:", "p50 ms:", "p99 ms:", "RSS MB:", "beside Envoy alone:", "beside `exact`, verify: local:", "beside @x402/express:"], rows)}

"Of a whole core" is figured from the processor time that a request took of the server. Express answers by itself, and so has no hop to an upstream.

### One request at a time

${table(["", "p50 ms:", "p99 ms:"], Object.values(alone).map((one) => [one.label, grouped(middle(one, ({ p50_us: us }) => us / 1000), 3), grouped(middle(one, ({ p99_us: us }) => us / 1000), 3)]))}

### Memory of a channel

A record is ${record} bytes of shared data. Each page that has any has a name of ${PAGE_KEY_BYTES} bytes, which makes ${each(MANY, pages).toFixed(0)} bytes a channel with ${grouped(MANY)} channels, and
${each(65_536, PAGES).toFixed(0)} with 65,536, the most that there is room for by default. Envoy itself counts ${grouped(allocated)} bytes a channel that it has allocated for ${grouped(MANY)}.
`;
  if (isQuick) console.log(text);
  else writePart("channels", text);
  console.log(isQuick ? "Not written down: too quick to be worth it." : "Written to benches/RESULTS.md.");
}
