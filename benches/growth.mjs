/**
 * What a request costs as things grow: routes, ways to pay, payments that are remembered, and requests that were ever
 * made; and the most that one costs that nobody pays for. `node benches/growth.mjs [--soak N] [--quick] [--worst]`; the soak
 * is 100,000 requests unless told, and with `--worst` only the last is measured.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";
import { loadModule } from "./host.mjs";
import { buildTools, DEFAULTS, load, machine, median, run, SERVER_CORE, startFacilitatorStub, startGateway, startUpstream, stopAll } from "./stand.mjs";
import { grouped, table, writeLines, writePart } from "./report.mjs";

const argument = (name) => process.argv[process.argv.indexOf(`--${name}`) + 1];
const isQuick = process.argv.includes("--quick");
const SOAK = process.argv.includes("--soak") ? Number(argument("soak")) : isQuick ? 8_000 : 100_000;
const ROUTES = isQuick ? [10, 1_000] : [10, 1_000, 10_000];
const ACCEPTS = [1, 10];
const SECONDS = isQuick ? 0.4 : 1.2;
const ROUNDS = isQuick ? 1 : 3;
// Beyond this many claims some page of the ledger would be full, and refuse.
const CLAIMS = isQuick ? 6_000 : 150_000;
const CHUNK = isQuick ? 2_000 : 15_000;

const MODULE = join(checkout, "target", "wasm32-unknown-unknown", "release", "x402_proxy_wasm.wasm");

/** The worst requests of each kind that tests/growth knows: by instructions, and by microseconds of a core in V8. */
function worstCosts() {
  const manifest = join(checkout, "tests", "growth", "Cargo.toml");
  const growth = (...args) => execFileSync("cargo", ["run", "--quiet", "--locked", "--manifest-path", manifest, "--", MODULE, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  const lines = [...growth().matchAll(/^worst (.*?): (\d+) instructions, (\d+) \((.*)\)$/gm)];
  return lines.map(([, kind, instructions, , name]) => ({ kind, instructions: Number(instructions), name, slowest: slowest(growth, kind) })).sort((a, b) => b.slowest.us - a.slowest.us);
}

function slowest(growth, kind) {
  const directory = mkdtempSync(join(tmpdir(), "growth-"));
  try {
    growth("--write", directory, kind);
    const read = (name) => readFileSync(join(directory, name));
    const filter = loadModule(MODULE, JSON.parse(read("plugin.json")), 1_790_000_000, JSON.parse(read("supported.json")));
    const files = new Set(readdirSync(directory));
    const numbers = [...files].filter((file) => file.endsWith(".about")).map((file) => file.replace(".about", ""));
    const measure = (number, count) => {
      const [headers, body] = [read(`${number}.headers`), files.has(`${number}.body`) ? read(`${number}.body`) : undefined];
      let status;
      const times = Array.from({ length: count }, () => cpuTime(() => (status = filter.play(headers, body))));
      return { us: median(times), status, ...JSON.parse(read(`${number}.about`)) };
    };
    // V8 compiles what is hot behind what runs: the first time around says little.
    for (const number of numbers) measure(number, 3);
    const all = numbers.map((number) => ({ number, ...measure(number, 5) })).sort((a, b) => b.us - a.us);
    return all.slice(0, 5).map(({ number }) => measure(number, 41)).sort((a, b) => b.us - a.us)[0];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Microseconds of processor time. */
function cpuTime(run) {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return user + system;
}

function reportWorst(worst) {
  const code = (name) => `\`${name.replaceAll("|", "\\|")}\``;
  writePart(
    "worst",
    `## The worst that is not paid for

What the filter itself works on one request at most, of those without a valid payment that \`make test\` knows (thousands, at Envoy's default limits: heads of 60 KiB, bodies of a
mebibyte). Instructions of the module, an upper bound and the same in each run; and processor time in Node's V8 (${process.versions.v8}), medians, on ${machine()}. In Envoy comes what Envoy does itself about so long a request.

${table(["", "instructions:", "of", "µs:", "of", "answer:"], worst.map((one) => [one.kind, grouped(one.instructions), code(one.name), grouped(one.slowest.us), code(one.slowest.name), one.slowest.status]))}
`,
  );
}

if (process.argv.includes("--worst")) {
  reportWorst(worstCosts());
  console.log("Written to benches/RESULTS.md.");
  process.exit();
}

buildTools("tools");
const upstream = await startUpstream();
const facilitator = await startFacilitatorStub();
const priced = (path, more) => ({ match: { methods: ["GET"], path }, price: "$0.001", description: "Weather data", mime_type: "application/json", ...more });
const WEATHER = priced("/weather");

const statusOf = { free: 200, honest: 200, unpaid: 402, forged: 402, misdirected: 402 };
const ask = (gateway, kinds, more) =>
  load({ port: gateway.port, pid: gateway.pid, path: "/weather", kinds, expect: kinds.split(",").map((kind) => statusOf[kind]).join(","), payments: 7_000, seconds: SECONDS, ...more });

/** Processor time of a free, an unpaid and a paid request, in microseconds, and the memory at the end. */
async function costs(gateway, more) {
  const all = { free: [], unpaid: [], honest: [] };
  let resident;
  const asked = (kind) => ask(gateway, kind, kind === "free" ? { path: "/direct" } : more);
  for (const kind of Object.keys(all)) await asked(kind); // V8 compiles what is hot.
  for (let round = 0; round < ROUNDS; round++) {
    for (const [kind, list] of Object.entries(all)) {
      const result = await asked(kind);
      list.push(result.cpu_us);
      resident = result.rss_kb / 1024;
    }
  }
  return { ...Object.fromEntries(Object.entries(all).map(([kind, list]) => [kind, median(list)])), resident };
}

const NETWORKS = ["base", "ethereum", "polygon", "avalanche", "arbitrum", "optimism", "sepolia", "polygon-amoy", "avalanche-fuji"];
const entry = (network) => ({ scheme: "exact", network, asset: "USDC" });

const byRoutes = [];
const byAccepts = [];
const byClaims = [];
const bySoak = [];
try {
  for (const count of ROUTES) {
    const routes = [...Array.from({ length: count - 1 }, (_, index) => priced(`/v1/things-${index % 97}/${index}/{id}`)), WEATHER];
    const begun = performance.now();
    const gateway = await startGateway({ name: `routes-${count}`, upstream, facilitator, routes, verify: "local" });
    const startup = performance.now() - begun;
    byRoutes.push({ count, startup, ...(await costs(gateway)) });
    await gateway.stop();
    console.log("routes", byRoutes.at(-1));
  }

  for (const count of ACCEPTS) {
    // The one that is paid by stands last.
    const accepts = [...NETWORKS.slice(0, count - 1), "base-sepolia"].map(entry);
    const gateway = await startGateway({ name: `accepts-${count}`, upstream, facilitator, routes: [WEATHER], verify: "local", defaults: { ...DEFAULTS, accepts } });
    byAccepts.push({ count, ...(await costs(gateway, { entry: count - 1 })) });
    await gateway.stop();
    console.log("accepts", byAccepts.at(-1));
  }

  {
    // Long enough that none is forgotten while the ledger fills.
    const defaults = { ...DEFAULTS, max_timeout_seconds: 7200 };
    const gateway = await startGateway({ name: "ledger", upstream, facilitator, routes: [WEATHER], verify: "local", defaults });
    for (let claims = 0; claims < CLAIMS; claims += CHUNK) {
      const { cpu_us: us, rss_kb: kb } = await ask(gateway, "honest", { payments: CHUNK, seconds: 600, warmup: 0.05 });
      byClaims.push({ claims: claims + CHUNK, us, resident: kb / 1024 });
      console.log("claims", byClaims.at(-1));
    }
    await gateway.stop();
  }

  {
    // Short enough that the ledger forgets as much as it learns for most of the time.
    const defaults = { ...DEFAULTS, max_timeout_seconds: 60 };
    const gateway = await startGateway({ name: "soak", upstream, facilitator, routes: [WEATHER], verify: "remote", defaults });
    const chunk = Math.min(20_000, SOAK);
    for (let requests = 0; requests < SOAK; ) {
      const { rss_kb: kb, cpu_us: us } = await ask(gateway, "unpaid,forged,misdirected,honest", { most: chunk, payments: chunk / 4, seconds: 600, warmup: 0.05 });
      requests += chunk;
      bySoak.push({ requests, us, resident: kb / 1024 });
      console.log("soak", bySoak.at(-1));
    }
    await gateway.stop();
  }
  if (!isQuick) {
    report();
    reportWorst(worstCosts());
  }
} catch (error) {
  run.keep();
  throw error;
} finally {
  await stopAll();
}

function report() {
  const us = (number) => grouped(number, 0);
  const kinds = [["free", "free"], ["unpaid", "unpaid, 402"], ["honest", "paid, verify: local"]];
  const lines = (list) => kinds.map(([kind, label]) => ({ label, points: list.map((one) => [one.count, one[kind]]) }));
  writeLines("growth-routes.svg", "Processor time of a request, by routes", { x: "routes", y: "µs", logarithmic: true }, lines(byRoutes));
  writeLines("growth-accepts.svg", "Processor time of a request, by ways to pay", { x: "entries of accepts", y: "µs" }, lines(byAccepts));
  writeLines("growth-ledger.svg", "Processor time of a paid request, by payments remembered", { x: "claims in the ledger", y: "µs" }, [
    { label: "paid, verify: local", points: byClaims.map((one) => [one.claims, one.us]) },
  ]);
  writeLines("growth-soak.svg", "Memory of Envoy with the filter", { x: "requests", y: "MB" }, [
    { label: "mixed requests", points: bySoak.map((one) => [one.requests, one.resident]) },
  ]);
  const [emptiest, fullest] = [byClaims[0], byClaims.at(-1)];
  writePart(
    "growth",
    `## What does not grow

${machine()}. The server under test on core ${SERVER_CORE}. Processor time of Envoy per request in µs, medians of ${ROUNDS} rounds.

### Routes

${table(["routes:", "free:", "unpaid:", "paid:", "RSS MB:", "start s:"], byRoutes.map((one) => [grouped(one.count), us(one.free), us(one.unpaid), us(one.honest), us(one.resident), grouped(one.startup / 1000, 1)]))}

![By routes](growth-routes.svg)

### Ways to pay

The entry that is paid by is the last. A 402 lists all of them, so it is longer.

${table(["accepts:", "free:", "unpaid:", "paid:"], byAccepts.map((one) => [one.count, us(one.free), us(one.unpaid), us(one.honest)]))}

![By ways to pay](growth-accepts.svg)

### Payments remembered

A paid request took ${us(emptiest.us)} µs while the first ${grouped(emptiest.claims)} payments came, and ${us(fullest.us)} µs with ${grouped(fullest.claims)} in the ledger (${us(fullest.resident)} MB;
by default it has room for 262,144, and refuses where one of its pages is full).

![By payments remembered](growth-ledger.svg)

### A soak

${grouped(bySoak.at(-1).requests)} requests, a quarter each: unpaid, badly signed, to a wrong recipient, paid (verify, serve, settle). Memory: ${grouped(bySoak[0].resident, 1)} MB after the first ${grouped(bySoak[0].requests)}, ${grouped(bySoak.at(-1).resident, 1)} MB at the end.
The ledger remembers a payment until it has expired, so that memory grows with the payments of the last minutes up to its limit.

![Memory](growth-soak.svg)
`,
  );
  console.log("Written to benches/RESULTS.md and benches/growth-*.svg.");
}
