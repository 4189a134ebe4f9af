/**
 * What a proxy pays for carrying the filter, before a request comes: memory, and the processor time of its start, in which V8 compiles
 * the module. Part of `make bench`; alone `node benches/carry.mjs`, and with `--quick` for a look.
 *
 * Two workers, as in a sidecar; one route; a facilitator that answers. The contenders take turns.
 */
import { readFileSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { CORE_WASM, WASM } from "../stage/envoy.mjs";
import { residentKb } from "../stage/processes.mjs";
import { assemble } from "./ceiling.mjs";
import { grouped, table, writePart } from "./report.mjs";
import { DEFAULTS, machine, median, paymentFilter, routesTo, run, startEnvoy, startFacilitatorStub, startUpstream, stopAll } from "./stand.mjs";

const isQuick = process.argv.includes("--quick");
const ROUNDS = isQuick ? 1 : 5;
/** Milliseconds after which nothing of the start is left to do. */
const IDLE = 3_000;

const [upstream, facilitator] = [await startUpstream(), await startFacilitatorStub()];
const plugin = {
  facilitator: { cluster: "facilitator", url: facilitator.url },
  defaults: DEFAULTS,
  routes: [{ name: "weather", match: { path: "/weather" }, price: "$0.001" }],
  unmatched: "free",
};
/** Envoy gives back to the system what it has allocated and does not use, more than a megabyte at a time. */
const givesBack = (bootstrap) => (bootstrap.memory_allocator_manager = { bytes_to_release: 104_857_600, memory_release_interval: "1s" });
const contenders = [
  { name: "plain", label: "Envoy alone" },
  { name: "empty", label: "+ a filter that does nothing", module: assemble(run.path, "empty"), configuration: {} },
  { name: "core", label: "+ the build `core`", module: CORE_WASM, configuration: plugin, most: 45 },
  { name: "whole", label: "+ the build with everything", module: WASM, configuration: plugin, most: 55 },
  { name: "back", label: "the same, with `memory_allocator_manager`", module: WASM, configuration: plugin, edit: givesBack },
].map((one) => ({ ...one, bytes: one.module && statSync(one.module).size, runs: [] }));

/** Seconds of processor time that a process has taken: the kernel counts hundredths. */
function processorTime(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function measure({ name, module, configuration, edit }) {
  const begun = performance.now();
  const envoy = await startEnvoy({
    name,
    concurrency: 2,
    logLevel: "warn",
    routes: routesTo("upstream"),
    filters: module ? [paymentFilter(configuration, module)] : [],
    clusters: { upstream: upstream.port, facilitator: facilitator.port },
    edit,
  });
  const ready = (performance.now() - begun) / 1000;
  const start = processorTime(envoy.pid);
  await sleep(IDLE);
  const memory = residentKb(envoy.pid) / 1024;
  await envoy.stop();
  return { memory, start, ready };
}

try {
  for (let round = 0; round < ROUNDS; round++) for (const one of contenders) one.runs.push(await measure(one));
} finally {
  await stopAll();
}

const figure = (one, name) => median(one.runs.map((result) => result[name]));
/** What a contender takes more than Envoy alone, in the same round. */
const added = (one, name) => median(one.runs.map((result, round) => result[name] - contenders[0].runs[round][name]));
const rows = contenders.map((one) => [
  one.label,
  one.module ? grouped(one.bytes) : "",
  grouped(figure(one, "memory"), 1),
  one.module ? grouped(added(one, "memory"), 1) : "",
  grouped(figure(one, "start"), 2),
  grouped(figure(one, "ready"), 2),
]);
const whole = contenders.find(({ name }) => name === "whole");
const targets = [
  ...contenders.filter(({ most }) => most).map((one) => [`memory that a proxy has more: ${one.label.slice(2)}`, `≤ ${one.most} MB`, `${added(one, "memory").toFixed(1)} MB`, added(one, "memory") <= one.most]),
  ["processor time of the start, with everything", "≤ 1 s", `${added(whole, "start").toFixed(2)} s`, added(whole, "start") <= 1],
].map((row) => [...row.slice(0, 3), row[3] ? "yes" : "**no**"]);

const text = `## What a proxy pays for carrying the filter

${machine()}. Envoy with two workers and one priced route, ${IDLE / 1000} s after it was ready, before any request; medians of ${ROUNDS} rounds, in which the contenders take
turns. The processor time is that of the whole process until it answers: V8 compiles the module in it, on all cores that it has.

### Targets

${table(["", "target:", "measured:", "met"], targets)}

### Figures

${table(["", "bytes of the module:", "RSS MB:", "more than Envoy alone, MB:", "processor time of the start, s:", "seconds until it answers:"], rows)}
`;
if (isQuick) console.log(text);
else writePart("carry", text);
console.log(isQuick ? "Not written down: too quick to be worth it." : "Written to benches/RESULTS.md.");
