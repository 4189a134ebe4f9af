/**
 * Where the filter's own time and size go, by name: `make profile`. Three views of fixed inputs. Instructions, counted
 * natively by valgrind: the same in each run, whatever else the machine does. Time in V8, sampled, of the module itself on a host that
 * does nothing. Bytes of the module by the part of the code that they come from.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkout } from "../stage/processes.mjs";
import { sizes } from "../tools/module.mjs";
import { loadModule } from "./host.mjs";
import { grouped, table, writePart } from "./report.mjs";

const TARGET = "wasm32-unknown-unknown";
const TOOLS = join(checkout, "benches", "tools");
const TOP = 14;
const CASES = [
  ["free", "a free route", null],
  ["unpaid", "unpaid, 402", null],
  ["misdirected", "a payment to a wrong recipient, 402", "misdirected"],
  ["forged", "a payment signed by somebody else, 402", "forged"],
  ["paid", "paid, `verify: local`", "honest"],
];

const scratch = mkdtempSync(join(tmpdir(), "profile-"));
const cargo = (args, cwd, env = {}) => execFileSync("cargo", args, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "ignore", "inherit"] });

// ---- Names --------------------------------------------------------------------------------------------------------

const ESCAPES = { LT: "<", GT: ">", RF: "&", BP: "*", LP: "(", RP: ")", C: ",", SP: "@" };

/** The words of a name in Rust's newer mangling. What they are to each other is not worked out. */
function wordsOf(symbol) {
  const words = [];
  for (let at = 2; at < symbol.length; ) {
    // The marks of crates, and of words that came before, would be taken for lengths.
    const mark = /^(?:C?s|B)[0-9A-Za-z]*_/.exec(symbol.slice(at))?.[0];
    if (mark) {
      at += mark.length;
      continue;
    }
    const length = /^[1-9]\d*/.exec(symbol.slice(at))?.[0];
    if (!length) {
      at++;
      continue;
    }
    at += length.length + (symbol[at + length.length] === "_" ? 1 : 0);
    words.push(symbol.slice(at, at + Number(length)));
    at += Number(length);
  }
  return words.filter((word) => word.length > 1).join("::");
}

/** A name as Rust's symbols carry it, readable and without its hash. */
function demangled(symbol) {
  if (symbol.startsWith("_R")) return wordsOf(symbol);
  const mangled = /^_ZN(.*)E(?:\..*)?$/.exec(symbol)?.[1];
  if (!mangled) return symbol;
  const parts = [];
  for (let rest = mangled; rest; ) {
    const length = /^\d+/.exec(rest)?.[0];
    if (!length) break;
    parts.push(rest.slice(length.length, length.length + Number(length)));
    rest = rest.slice(length.length + Number(length));
  }
  if (/^h[0-9a-f]{16}$/.test(parts.at(-1))) parts.pop();
  const readable = (part) =>
    part
      .replace(/^_\$/, "$")
      .replace(/\$(\w+)\$/g, (whole, name) => ESCAPES[name] ?? (/^u[0-9a-f]+$/.test(name) ? String.fromCodePoint(parseInt(name.slice(1), 16)) : whole))
      .replaceAll("..", "::");
  return parts.map(readable).join("::");
}

/** The part of the code that a function belongs to: a room of this crate, or another crate. */
function groupOf(name) {
  const plain = name.replace(/^<+(?:&|mut |dyn |\*const )*/, "");
  // What is generic is the business of whom it was made for.
  const own = /x402_proxy_wasm::(\w+)/.exec(name)?.[1];
  const generic = /^(?:core|alloc|hashbrown|std|serde\w*)::/.test(plain);
  if (own) return `x402_proxy_wasm::${own}`;
  const crate = /^(\w+)::/.exec(plain)?.[1];
  if (crate && !generic) return crate;
  return crate ?? (/^proxy_on|^malloc|^_initialize/.test(name) ? "x402_proxy_wasm::proxy" : "other");
}

const short = (name) => {
  const text = name.replace(/typenum::[\w:<>, ]+/g, "…").replace(/\|/g, "\\|");
  return `\`${text.length > 90 ? `${text.slice(0, 87)}…` : text}\``;
};

const topOf = (sums, count) => [...sums].sort(([, a], [, b]) => b - a).slice(0, count);

function summed(pairs) {
  const sums = new Map();
  for (const [key, value] of pairs) sums.set(key, (sums.get(key) ?? 0) + value);
  return sums;
}

// ---- Instructions -------------------------------------------------------------------------------------------------

/** Built as the filter is, with the limbs that it has in wasm. */
function buildNative() {
  cargo(["build", "--quiet", "--locked", "--profile", "filter", "--bin", "profile", "--target-dir", "target/profile"], TOOLS, { RUSTFLAGS: '--cfg cpubits="32"' });
  return join(TOOLS, "target", "profile", "filter", "profile");
}

function counted(binary, name, times) {
  const out = join(scratch, `${name}-${times}.callgrind`);
  execFileSync("valgrind", ["--tool=callgrind", `--callgrind-out-file=${out}`, binary, name, String(times)], { stdio: "ignore" });
  const text = execFileSync("callgrind_annotate", ["--threshold=100", "--show-percs=no", "--auto=no", out], {
    encoding: "utf8",
    maxBuffer: 1e9,
    stdio: ["ignore", "pipe", "ignore"],
  });
  const sums = new Map();
  for (const line of text.split("\n")) {
    // "  12,345  file:function [object]", and the total.
    const found = /^\s*([\d,]+)\s+(.*)$/.exec(line);
    if (!found) continue;
    const count = Number(found[1].replaceAll(",", ""));
    if (/PROGRAM TOTALS/.test(found[2])) sums.set("", count);
    else {
      const name = demangled(found[2].replace(/^[^ ]*?:(?!:)/, "").replace(/ \[.*\]$/, "").replace(/'\d+$/, "")).replace(/::h[0-9a-f]{16}$/, "");
      sums.set(name, (sums.get(name) ?? 0) + count);
    }
  }
  return sums;
}

/** Instructions of one time, by function; those of what is prepared cancel out. */
function instructions(binary, name) {
  const [few, many] = [10, 60];
  const [before, after] = [counted(binary, name, few), counted(binary, name, many)];
  return new Map([...after].map(([key, count]) => [key, (count - (before.get(key) ?? 0)) / (many - few)]));
}

// ---- The module ---------------------------------------------------------------------------------------------------

/** The module as it is released, but with the names of its functions: `make build-named`. */
const NAMED = join(checkout, "target", "profile", TARGET, "release", "x402_proxy_wasm.wasm");

const PLUGIN = {
  facilitator: { cluster: "facilitator", url: "http://127.0.0.1:4021", verify: "local" },
  defaults: { pay_to: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", accepts: [{ scheme: "exact", network: "base-sepolia", asset: "USDC" }] },
  routes: [{ name: "weather", match: { methods: ["GET"], path: "/weather" }, price: "$0.001", description: "Weather data", mime_type: "application/json" }],
};
const NOW = 1_790_000_000;

/** Microseconds of one request in V8, what it asks of the host, and samples by function. */
async function inV8(path, payments, expected) {
  const count = 4_000;
  const filter = loadModule(path, PLUGIN, NOW);
  const heads = payments ? payments.map((payment) => filter.head("/weather", payment)) : Array(count).fill(filter.head(expected === 200 ? "/free" : "/weather"));
  const half = heads.length >> 1;
  const play = (head) => {
    const status = filter.play(head);
    if (status !== expected) throw new Error(`${status} in place of ${expected}`);
  };
  heads.slice(0, half).forEach(play); // Until V8 has compiled what is hot.
  const before = { ...filter.calls };
  const session = new Session();
  session.connect();
  await session.post("Profiler.enable");
  await session.post("Profiler.setSamplingInterval", { interval: 100 });
  await session.post("Profiler.start");
  const times = heads.slice(half).map((head) => {
    const begun = process.hrtime.bigint();
    play(head);
    return Number(process.hrtime.bigint() - begun) / 1000;
  });
  const { profile } = await session.post("Profiler.stop");
  session.disconnect();
  const sorted = times.sort((a, b) => a - b);
  const named = ({ callFrame }) => (callFrame.url.startsWith("wasm:") ? demangled(callFrame.functionName) : "the host");
  const samples = summed(profile.nodes.map((node) => [named(node), node.hitCount ?? 0]));
  const calls = Object.entries(filter.calls).map(([name, total]) => [name.replace(/^proxy_/, ""), (total - (before[name] ?? 0)) / times.length]);
  return { us: sorted[sorted.length >> 1], samples, calls: calls.filter(([, number]) => number > 0.01).sort(([, a], [, b]) => b - a) };
}

// ---- The run ------------------------------------------------------------------------------------------------------

try {
  const native = buildNative();
  const paymentsOf = (kind) => kind && execFileSync(native, ["payments", kind, "4000"], { encoding: "utf8", maxBuffer: 1e9 }).trim().split("\n");
  const counts = [];
  const timings = [];
  for (const [name, label, kind] of [...CASES, ["paid-full", "paid, 40 payments on each page of the ledger", null]]) {
    counts.push({ name, label, sums: instructions(native, name) });
    if (name === "paid-full") continue;
    timings.push({ name, label, ...(await inV8(NAMED, paymentsOf(kind), name === "free" || name === "paid" ? 200 : 402)) });
  }
  const { functions: bodies, sections } = sizes(NAMED);
  const functions = bodies.map(([symbol, size]) => [demangled(symbol), size]);
  const total = ({ sums }) => sums.get("");
  const by = (name) => counts.find((one) => one.name === name);
  const ofFunctions = (sums) => [...sums].filter(([name]) => name !== "");
  const share = (part, whole) => `${((100 * part) / whole).toFixed(1)}%`;
  const topInstructions = (name) => {
    const one = by(name);
    return table(["instructions:", "share:", "function"], topOf(ofFunctions(one.sums), TOP).map(([key, count]) => [grouped(count), share(count, total(one)), short(key)]));
  };
  const topSamples = (name) => {
    const { samples } = timings.find((one) => one.name === name);
    const all = [...samples.values()].reduce((sum, count) => sum + count, 0);
    return table(["share:", "function"], topOf(samples, TOP).map(([key, count]) => [share(count, all), short(key)]));
  };
  const code = functions.reduce((sum, [, size]) => sum + size, 0);
  const v8 = (name) => timings.find((one) => one.name === name).us;
  writePart(
    "profile",
    `## Where the filter's own time and size go

### Instructions of one request

Counted by valgrind on the core alone, built natively as the filter is (32-bit limbs): no host, no proxy. The same in each run.

${table(["", "instructions:"], counts.map((one) => [one.label, grouped(total(one))]))}

EIP-712 and the recovery of the signer take ${grouped(total(by("forged")) - total(by("misdirected")))} of them.

Paid:

${topInstructions("paid")}

Paid, with 40 payments on each page of the ledger (163,840 in all):

${topInstructions("paid-full")}

Unpaid:

${topInstructions("unpaid")}

### Time of one request in V8

The module itself in Node's V8 (${process.versions.v8}), on a host that does nothing: what the filter adds without Envoy's part. Medians.

${table(["", "µs:", "calls of the host"], timings.map((one) => [one.label, grouped(one.us, 1), one.calls.map(([name, number]) => (Math.round(number) === 1 ? `\`${name}\`` : `${Math.round(number)} \`${name}\``)).join(", ")]))}

EIP-712 and the recovery of the signer take ${grouped(v8("forged") - v8("misdirected"), 0)} µs of it.

Paid:

${topSamples("paid")}

Unpaid:

${topSamples("unpaid")}

### Bytes of the module

${grouped(code)} bytes of functions, by the part of the code that they come from:

${table(["bytes:", "share:", "part"], topOf(summed(functions.map(([name, size]) => [groupOf(name), size])), 22).map(([key, size]) => [grouped(size), share(size, code), `\`${key}\``]))}

${table(["bytes:", "section"], topOf(sections, 6).map(([key, size]) => [grouped(size), key]))}

The largest functions, those of one name taken together (none alone has more than 16 KB: \`make size\`):

${table(["bytes:", "function"], topOf(summed(functions), TOP).map(([key, size]) => [grouped(size), short(key)]))}
`,
  );
  console.log("Written to benches/RESULTS.md.");
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
