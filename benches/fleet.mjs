/**
 * Paid requests whose ledger is shared data, one etcd, or three members of etcd: `node benches/fleet.mjs`, or `--quick` for a look.
 *
 * etcd runs with certificates, as in the tests, on the core of everything else, with its data on this machine's disk. Beside the
 * filter stands a client that makes the same transactions and does nothing else.
 */
import { readFileSync } from "node:fs";
import { connect } from "node:http2";
import { loadavg } from "node:os";
import { startEtcd } from "../stage/etcd.mjs";
import { until } from "../stage/processes.mjs";
import { buildTools, load, machine, median, OTHER_CORE, run, SERVER_CORE, startFacilitatorStub, startGateway, startUpstream, stopAll } from "./stand.mjs";
import { grouped, table, writePart } from "./report.mjs";

const isQuick = process.argv.includes("--quick");
const ROUNDS = isQuick ? 1 : 3;
const SECONDS = isQuick ? 0.5 : 1.5;
const WARMUP = isQuick ? 0.2 : 0.3;
const [BUSY] = loadavg();
/** Transactions that a paid request takes under `before`: claim and settlement begun, settled, spent. */
const TRANSACTIONS = 3;

buildTools("tools");
const upstream = await startUpstream();
const stub = await startFacilitatorStub();
const routes = [{ name: "weather", match: { methods: ["GET"], path: "/weather" }, price: "$0.001", description: "Weather data", mime_type: "application/json", settle: "before" }];
const etcds = { one: await startEtcd({ run, size: 1 }), three: await startEtcd({ run, size: 3 }) };
const store = { store: { etcd: { cluster: "etcd", fleet: "bench" } } };
const gateway = (name, etcd) =>
  startGateway({ name, upstream, facilitator: stub, routes, verify: "local", more: etcd ? { ledger: store } : {}, edit: (bootstrap) => etcd?.edit(bootstrap) });
const servers = { local: await gateway("shared-data"), one: await gateway("etcd-one", etcds.one), three: await gateway("etcd-three", etcds.three) };
for (const server of Object.values(servers)) {
  await until(async () => (await fetch(`${server.url}/weather`)).status === 402, { what: server.name, timeoutMs: 30_000 });
}

const LABELS = { local: "shared data", one: "etcd, one member", three: "etcd, three members" };
const LOADS = { alone: 1, many: 16 };
const runs = Object.fromEntries(Object.keys(servers).map((name) => [name, { alone: [], many: [] }]));
const raw = { one: { alone: [], many: [] }, three: { alone: [], many: [] } };

const measure = (server, connections) =>
  load({ port: server.port, path: "/weather", kinds: "honest", expect: 200, payments: Math.ceil(6000 * (SECONDS + WARMUP)), seconds: SECONDS, warmup: WARMUP, connections, pid: [server.pid] });

// A transaction on a key of its own, as bytes: compare mod_revision with 0, put, or else range. No lease.
function transaction(key, value) {
  const varint = (number) => (number < 128 ? [number] : [(number & 127) | 128, ...varint(number >> 7)]);
  const field = (tag, bytes) => Buffer.concat([Buffer.from([(tag << 3) | 2, ...varint(bytes.length)]), bytes]);
  const compare = Buffer.concat([Buffer.from([0x10, 2]), field(3, key), Buffer.from([0x30, 0])]);
  const body = Buffer.concat([field(1, compare), field(2, field(2, Buffer.concat([field(1, key), field(2, value)]))), field(3, field(1, field(1, key)))]);
  return Buffer.concat([Buffer.from([0]), Buffer.from(Uint32Array.of(body.length).buffer).reverse(), body]);
}

let serial = 0;
/** The same transactions, one after the other for each request, and nothing else. */
async function transact(etcd, requests) {
  const { certificates: paths, members } = etcd;
  const [ca, cert, key] = [paths.ca, paths.gate, paths.gateKey].map((path) => readFileSync(path));
  const sessions = members.map(({ port }) => connect(`https://127.0.0.1:${port}`, { ca, cert, key, servername: "etcd.example.com" }));
  const value = Buffer.alloc(290, 7);
  const call = (session, body) =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ":method": "POST", ":path": "/etcdserverpb.KV/Txn", "content-type": "application/grpc", te: "trailers" });
      let bytes = 0;
      stream.on("data", (chunk) => (bytes += chunk.length)).on("error", reject).on("close", () => (bytes > 5 ? resolve() : reject(new Error("etcd did not answer"))));
      stream.end(body);
    });
  const times = [];
  const end = performance.now() + SECONDS * 1000;
  const work = async (index) => {
    while (performance.now() < end) {
      const begun = performance.now();
      for (let move = 0; move < TRANSACTIONS; move++) await call(sessions[(index + move) % sessions.length], transaction(Buffer.from(`x402:raw:${++serial}`), value));
      times.push(performance.now() - begun);
    }
  };
  const begun = performance.now();
  await Promise.all(Array.from({ length: requests }, (_, index) => work(index)));
  const seconds = (performance.now() - begun) / 1000;
  for (const session of sessions) session.close();
  times.sort((a, b) => a - b);
  return { rate: times.length / seconds, p50: times[times.length >> 1], p99: times[Math.floor(times.length * 0.99)] };
}

try {
  for (const server of Object.values(servers)) await measure(server, 16);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [kind, connections] of Object.entries(LOADS)) {
      for (const [name, server] of Object.entries(servers)) runs[name][kind].push(await measure(server, connections));
      for (const [name, etcd] of Object.entries(etcds)) raw[name][kind].push(await transact(etcd, connections));
    }
  }
  report();
} catch (error) {
  run.keep();
  throw error;
} finally {
  await stopAll();
  for (const etcd of Object.values(etcds)) await etcd.stop();
}

function report() {
  const middle = (list, figure) => median(list.map(figure));
  const ms = (value) => grouped(value, 2);
  const added = (name) => median(runs[name].alone.map((one, round) => (one.p50_us - runs.local.alone[round].p50_us) / 1000));
  const rows = Object.entries(runs).flatMap(([name, kinds]) =>
    Object.entries(kinds).map(([kind, list]) => [LABELS[name], String(LOADS[kind]), grouped(middle(list, ({ rate }) => rate)), ms(middle(list, ({ p50_us: us }) => us / 1000)), ms(middle(list, ({ p99_us: us }) => us / 1000)), grouped(middle(list, ({ cpu_us: us }) => us), 0)]));
  const ceilings = Object.entries(raw).flatMap(([name, kinds]) =>
    Object.entries(kinds).map(([kind, list]) => [`the transactions alone, ${LABELS[name]}`, String(LOADS[kind]), grouped(middle(list, ({ rate }) => rate)), ms(middle(list, ({ p50 }) => p50)), ms(middle(list, ({ p99 }) => p99)), "—"]));
  const text = `## A ledger that a fleet shares

${machine()}. Paid requests under \`settle: before\` with \`verify: local\`: one callout to the facilitator and ${TRANSACTIONS} transactions. The server under test on core ${SERVER_CORE}, everything
else, etcd's members among it, on core ${OTHER_CORE} with its disk; medians of ${ROUNDS} rounds of ${SECONDS} s. The last rows are a client in Node that makes as many transactions for each
request, and nothing else. The machine's load before all this: ${BUSY.toFixed(1)}${BUSY > 1 ? ", so something else ran beside it, and the figures are too low" : ""}.

Added to a request by three members, one at a time, p50: ${ms(added("three"))} ms (target: 3 ms or less); by one member ${ms(added("one"))} ms.

${table(["ledger", "requests at a time:", "requests/s:", "p50 ms:", "p99 ms:", "CPU µs:"], [...rows, ...ceilings])}
`;
  process.stdout.write(text);
  if (!isQuick) writePart("fleet", text);
}
