/**
 * What the proxy-wasm SDK costs: a filter that does nothing, written with it (`tests/sdk`), beside one that is written by hand
 * (`ceiling.mjs`). Part of `make bench`; alone `node benches/sdk.mjs`, and with `--quick` for a look.
 *
 * The contenders take turns within a round, each round begins with another one, and only ratios within a round are given:
 * they hold on a machine that others use too.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";
import { assemble } from "./ceiling.mjs";
import { grouped, table, writePart } from "./report.mjs";
import { buildTools, load, machine, median, OTHER_CORE, routesTo, run, SERVER_CORE, startEnvoy, startIdle, startUpstream, stopAll } from "./stand.mjs";

const SDK = join(checkout, "tests", "sdk");
const MODULE = join(SDK, "target", "wasm32-unknown-unknown", "release", "sdk.wasm");
if (!existsSync(MODULE)) throw new Error(`${MODULE} is not there: run \`make build-sdk\``);

const isQuick = process.argv.includes("--quick");
const ROUNDS = isQuick ? 3 : 11;
const SECONDS = isQuick ? 0.2 : 0.5;

buildTools("tools");
const busyBefore = loadavg()[0].toFixed(1);

const upstream = await startUpstream();
const byHand = assemble(run.path, "empty");
const contenders = [
  { label: "Envoy alone", server: await startEnvoy({ name: "plain", routes: routesTo("upstream"), clusters: { upstream: upstream.port } }), runs: [] },
  { label: "a filter that does nothing, by hand", module: byHand, server: await startIdle({ name: "by-hand", upstream, module: byHand }), runs: [] },
  { label: "a filter that does nothing, with the SDK", module: MODULE, server: await startIdle({ name: "sdk", upstream, module: MODULE, configuration: "empty" }), runs: [] },
];

const measure = ({ server }, seconds) =>
  load({ port: server.port, path: "/direct", kinds: "free", expect: 200, payments: 0, seconds, warmup: 0.2, pid: [server.pid] });

try {
  for (const one of contenders) await measure(one, 0.3); // V8 compiles what is hot.
  for (let round = 0; round < ROUNDS; round++) {
    const order = contenders.map((_, index) => contenders[(index + round) % contenders.length]);
    for (const one of order) one.runs.push(await measure(one, SECONDS));
  }
  report();
} catch (error) {
  run.keep();
  throw error;
} finally {
  await stopAll();
}

function report() {
  const [alone, hand] = contenders;
  const version = /name = "proxy-wasm"\nversion = "(.*)"/.exec(readFileSync(join(SDK, "Cargo.lock"), "utf8"))?.[1];
  /** How many times as many requests as another contender a core serves: the middle of all rounds, and the middle half. */
  const ratio = (one, other) => {
    const list = one.runs.map((result, round) => other.runs[round].cpu_us / result.cpu_us).sort((a, b) => a - b);
    const at = (share) => list[Math.round((list.length - 1) * share)].toFixed(2);
    return `${median(list).toFixed(2)} × (${at(0.25)} to ${at(0.75)})`;
  };
  const rows = contenders.map((one) => [one.label, ratio(one, alone), ratio(one, hand), one.module ? grouped(statSync(one.module).size) : ""]);
  const text = `## Beside the SDK

${machine()}; proxy-wasm ${version}; ${new Date().toISOString().slice(0, 10)}. Requests that Envoy answers directly, over 16 keep-alive connections; the server
under test on core ${SERVER_CORE}, the load on core ${OTHER_CORE}, of a machine that others may use meanwhile (load average before: ${busyBefore}). So only ratios are given, of the requests that
a core would serve by the processor time that each takes, within a round: the median of ${ROUNDS} rounds of ${SECONDS} s, and the middle half of them.

${table(["", "beside Envoy alone:", "beside the one by hand:", "module, bytes:"], rows)}

The one with the SDK keeps a context for each stream, as every filter does that remembers something, and has all the callbacks that the SDK
exports. The one by hand has the payment filter's callbacks, keeps nothing, and is written in the text of WebAssembly: it is what Envoy itself takes for having a filter.
`;
  if (isQuick) console.log(`${text}Not written down: too quick to be worth it.`);
  else writePart("sdk", text);
  if (!isQuick) console.log("Written to benches/RESULTS.md.");
}
