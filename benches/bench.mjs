/**
 * The filter beside its peers: `make bench`, or `node benches/bench.mjs --quick` for a look.
 *
 * The server under test has one core to itself; load generator, upstream and facilitator share another. The contenders
 * take turns, several short rounds of them, so that whatever else the machine does falls on all of them. What counts is the
 * processor time that a request takes of the server, beside that of another one in the same round: on a machine that is shared
 * that varies far less than what the clock says.
 */
import { buildTools, load, machine, median, OTHER_CORE, routesTo, run, SERVER_CORE, startAuthorizing, startAxum, startEnvoy, startExpress, startFacilitatorStub, startGateway, startIdle, startUpstream, stopAll } from "./stand.mjs";
import { assemble } from "./ceiling.mjs";
import { grouped, table, writeBars, writePart } from "./report.mjs";

const isQuick = process.argv.includes("--quick");
const ROUNDS = isQuick ? 1 : 5;
const SECONDS = isQuick ? 0.25 : 0.6;
const WARMUP = isQuick ? 0.1 : 0.15;
const begun = performance.now();

buildTools("tools", "axum");

// ---- Contenders ---------------------------------------------------------------------------------------------------

const upstream = await startUpstream();
const facilitator = await startFacilitatorStub();
const route = (settle) => ({
  name: settle,
  match: { methods: ["GET"], path: settle === "after" ? "/weather" : `/${settle}` },
  price: "$0.001",
  description: "Weather data",
  mime_type: "application/json",
  settle,
});
const routes = ["after", "before", "concurrent"].map(route);

/** A 402 of the filter's, as a filter could have it ready that reads nothing. */
async function answerOf(server) {
  const answer = await fetch(`${server.url}/weather`);
  const isOwn = ([name]) => !["date", "server", "connection", "content-length", "transfer-encoding"].includes(name) && !name.startsWith("x-envoy");
  return { headers: [...answer.headers].filter(isOwn), body: await answer.text() };
}

const plain = await startEnvoy({ name: "plain", routes: routesTo("upstream"), clusters: { upstream: upstream.port } });
const remote = await startGateway({ name: "remote", upstream, facilitator, routes });
const local = await startGateway({ name: "local", upstream, facilitator, routes, verify: "local" });
const empty = await startIdle({ name: "empty", upstream, module: assemble(run.path, "empty") });
const constant = await startIdle({ name: "constant", upstream, module: assemble(run.path, "constant", await answerOf(remote)) });
const quiet = await startGateway({ name: "quiet", upstream, facilitator, routes, verify: "local", logLevel: "warn" });
const express = await startExpress({ name: "express", facilitator });
const expressBefore = await startExpress({ name: "express-before", facilitator, settle: "before" });
const axum = await startAxum({ name: "axum", facilitator, upstream });
const axumBefore = await startAxum({ name: "axum-before", facilitator, upstream, settle: "before" });
const service = await startAxum({ name: "service", facilitator, upstream, role: "authorize", settle: "before" });
const authorizing = await startAuthorizing({ name: "authorizing", upstream, service });

/** What a contender is, and how it is asked. `most` is more than it can serve in a second. */
const contender = (group, label, server, path, kinds, most = 0) => ({ group, label, server, path, kinds, most, runs: [] });
const FREE = "Free requests";
const UNPAID = "Unpaid requests (402 with terms)";
const REFUSED = "Payments that are not in order (402)";
const PAID = "Paid requests, verify and settle";
const ONCE = "Paid requests, settle alone";

const c = {
  direct: contender(FREE, "Envoy, direct response", plain, "/direct", "free"),
  freeDirect: contender(FREE, "Envoy + filter, direct response", remote, "/direct", "free"),
  emptyDirect: contender(FREE, "Envoy + a filter that does nothing, direct response", empty, "/direct", "free"),
  proxied: contender(FREE, "Envoy, to the upstream", plain, "/free", "free"),
  freeProxied: contender(FREE, "Envoy + filter, to the upstream", remote, "/free", "free"),
  axumFree: contender(FREE, "axum, to the upstream", axum, "/free", "free"),
  unpaid: contender(UNPAID, "Envoy + filter", remote, "/weather", "unpaid"),
  constant: contender(UNPAID, "Envoy + a filter with a 402 made in advance", constant, "/weather", "unpaid"),
  expressUnpaid: contender(UNPAID, "@x402/express", express, "/weather", "unpaid"),
  axumUnpaid: contender(UNPAID, "x402-axum", axum, "/weather", "unpaid"),
  authorizingUnpaid: contender(UNPAID, "Envoy + ext_authz + x402-axum", authorizing, "/weather", "unpaid"),
  misdirected: contender(REFUSED, "Envoy + filter: wrong recipient", remote, "/weather", "misdirected", 2000),
  forged: contender(REFUSED, "Envoy + filter: wrong signer", remote, "/weather", "forged", 2000),
  after: contender(PAID, "Envoy + filter, settle: after", remote, "/weather", "honest", 6000),
  expressAfter: contender(PAID, "@x402/express (verify, serve, settle)", express, "/weather", "honest", 1500),
  axumAfter: contender(PAID, "x402-axum, to the upstream", axum, "/weather", "honest", 9000),
  localAfter: contender(ONCE, "Envoy + filter, verify: local, settle: after", local, "/weather", "honest", 7000),
  quietAfter: contender(ONCE, "the same, Envoy's log at warn", quiet, "/weather", "honest", 7000),
  localBefore: contender(ONCE, "Envoy + filter, verify: local, settle: before", local, "/before", "honest", 7000),
  localConcurrent: contender(ONCE, "Envoy + filter, verify: local, concurrent", local, "/concurrent", "honest", 7000),
  before: contender(ONCE, "Envoy + filter, verify: remote, settle: before", remote, "/before", "honest", 7000),
  concurrent: contender(ONCE, "Envoy + filter, verify: remote, concurrent", remote, "/concurrent", "honest", 7000),
  expressBefore: contender(ONCE, "@x402/express (upfront)", expressBefore, "/weather", "honest", 2000),
  axumBefore: contender(ONCE, "x402-axum (before), to the upstream", axumBefore, "/weather", "honest", 12000),
  authorizing: contender(ONCE, "Envoy + ext_authz + x402-axum (before)", authorizing, "/weather", "honest", 6000),
};

const pidsOf = (server) => (server === authorizing ? [authorizing.pid, service.pid] : [server.pid]);
const isPaid = ({ kinds }) => kinds === "honest";

async function measure({ server, path, kinds, most }, more = {}) {
  const seconds = more.seconds ?? SECONDS;
  return load({
    port: server.port,
    path,
    kinds,
    expect: kinds === "free" || kinds === "honest" ? 200 : 402,
    // Those that are refused may be sent again: there are enough of them that no cache holds them.
    payments: isPaid({ kinds }) ? Math.ceil(most * (seconds + WARMUP)) : most,
    seconds,
    warmup: WARMUP,
    pid: pidsOf(server),
    ...more,
  });
}

// ---- Latency: one request at a time -------------------------------------------------------------------------------

const l = {
  proxied: { label: "Envoy, to the upstream", of: c.proxied, runs: [] },
  callout: { label: "the stub itself, POST /settle", of: contender("", "", facilitator, "/settle", "free"), more: { body: "{}" }, runs: [] },
  unpaid: { label: "Envoy + filter, unpaid", of: c.unpaid, runs: [] },
  localAfter: { label: "Envoy + filter, paid, verify: local (one callout)", of: c.localAfter, runs: [] },
  after: { label: "Envoy + filter, paid, verify: remote (two callouts)", of: c.after, runs: [] },
  express: { label: "@x402/express, paid (verify, serve, settle)", of: c.expressAfter, runs: [] },
  axum: { label: "x402-axum, paid, to the upstream", of: c.axumAfter, runs: [] },
};

// ---- The run ------------------------------------------------------------------------------------------------------

try {
  // V8 compiles what is hot, and Node does: none of that belongs to the first round.
  for (const one of Object.values(c)) await measure(one, { seconds: isQuick ? 0.1 : 0.4 });
  for (let round = 0; round < ROUNDS; round++) {
    const inTurn = (all) => (round % 2 ? Object.values(all).reverse() : Object.values(all));
    for (const one of inTurn(c)) one.runs.push(await measure(one));
    for (const one of inTurn(l)) one.runs.push(await measure(one.of, { connections: 1, seconds: isQuick ? 0.2 : 0.4, ...one.more }));
  }
  report();
} catch (error) {
  run.keep();
  throw error;
} finally {
  await stopAll();
}

// ---- The report ---------------------------------------------------------------------------------------------------

function report() {
  const all = Object.values(c);
  const perCore = (result) => 1e6 / result.cpu_us;
  const listed = ({ runs }, figure) => runs.map(figure);
  const middle = (one, figure) => median(listed(one, figure));
  const spread = (one, figure) => {
    const list = listed(one, figure);
    return (Math.max(...list) - Math.min(...list)) / median(list) / 2;
  };
  /** How many times as many requests as another contender a core serves, in the same round. */
  const ratio = (one, other) => median(one.runs.map((result, round) => perCore(result) / perCore(other.runs[round])));
  const times = (value) => `${value.toFixed(2)} ×`;
  const isProxying = ({ group }) => group === PAID || group === ONCE;

  const base = (one) => (one.group === FREE ? (one.path === "/direct" ? c.direct : c.proxied) : one.group === ONCE ? c.expressBefore : one.group === PAID ? c.expressAfter : c.expressUnpaid);
  const rows = all.map((one) => [
    one.label,
    `${grouped(middle(one, ({ cpu_us: us }) => us), 0)} ± ${(100 * spread(one, ({ cpu_us: us }) => us)).toFixed(0)}%`,
    grouped(middle(one, perCore)),
    grouped(middle(one, ({ rate }) => rate)),
    `${(100 * middle(one, ({ busy }) => busy)).toFixed(0)}%`,
    grouped(middle(one, ({ p50_us: us }) => us / 1000), 2),
    grouped(middle(one, ({ p99_us: us }) => us / 1000), 2),
    grouped(middle(one, ({ rss_kb: kb }) => kb / 1024), 0),
    one.group === REFUSED ? "" : times(ratio(one, base(one))),
    ...(isProxying(one) ? [times(ratio(one, c.proxied))] : []),
  ]);
  const headings = ["", "CPU µs:", "requests/s of a whole core:", "requests/s:", "core used:", "p50 ms:", "p99 ms:", "RSS MB:"];
  const groups = [FREE, UNPAID, REFUSED, PAID, ONCE];
  const beside = { [FREE]: "beside Envoy alone", [UNPAID]: "beside Express", [REFUSED]: "", [PAID]: "beside Express", [ONCE]: "beside Express" };
  const tables = groups.map((group) => `### ${group}\n\n${table([...headings, `${beside[group]}:`, ...(isProxying({ group }) ? ["beside plain proxying:"] : [])], rows.filter((_, index) => all[index].group === group))}`);

  const p50 = (one) => middle(one, ({ p50_us: us }) => us / 1000);
  const latencies = Object.values(l).map((one) => [one.label, grouped(p50(one), 3), grouped(middle(one, ({ p99_us: us }) => us / 1000), 3)]);
  const added = median(l.localAfter.runs.map((paid, round) => (paid.p50_us - l.proxied.runs[round].p50_us - l.callout.runs[round].p50_us) / 1000));
  const recovery = median(c.forged.runs.map((forged, round) => forged.cpu_us - c.misdirected.runs[round].cpu_us));

  /** What a callout more takes of Envoy. */
  const callout = middle(c.after, ({ cpu_us: us }) => us) - middle(c.localAfter, ({ cpu_us: us }) => us);

  // No gateway in Envoy serves more than Envoy does that only proxies, and none that recovers a signer more than that leaves.
  const ceilings = {
    express: ratio(c.proxied, c.expressAfter),
    refused: median(c.direct.runs.map((direct) => 1e6 / (direct.cpu_us + recovery))),
  };
  const atLeast = (what, wanted, value, ceiling) => [what, `≥ ${wanted} ×`, times(value), value >= wanted, ceiling && times(ceiling)];
  const targets = [
    atLeast("a free route, beside Envoy's direct response", 0.8, ratio(c.freeDirect, c.direct), ratio(c.emptyDirect, c.direct)),
    atLeast("unpaid 402, beside Envoy's direct response", 0.66, ratio(c.unpaid, c.direct), ratio(c.constant, c.direct)),
    atLeast("unpaid 402, beside Express", 4.4, ratio(c.unpaid, c.expressUnpaid), ratio(c.constant, c.expressUnpaid)),
    ["badly signed payments refused, by a core", "≥ 9,000/s", `${grouped(middle(c.forged, perCore))}/s`, middle(c.forged, perCore) >= 9000, `${grouped(ceilings.refused)}/s`],
    atLeast("paid (verify, serve, settle), beside Express", 4.5, ratio(c.after, c.expressAfter), ceilings.express),
    atLeast("paid with `verify: local`, beside Express", 5.5, ratio(c.localAfter, c.expressAfter), ceilings.express),
    atLeast("paid with `settle: before`, beside Express", 3.5, ratio(c.localBefore, c.expressBefore), ratio(c.proxied, c.expressBefore)),
    ["latency that a paid call adds, without its callouts (p50)", "≤ 0.3 ms", `${added.toFixed(3)} ms`, added <= 0.3, `${((recovery + callout) / 1000).toFixed(2)} ms`],
    ["EIP-712 and signer recovery in V8", "≤ 65 µs", `${recovery.toFixed(0)} µs`, recovery <= 65],
  ].map(([what, wanted, measured, isMet, ceiling]) => [what, wanted, measured, isMet ? "yes" : "**no**", (!isMet && ceiling) || ""]);
  const apart = [["paid (verify, serve, settle)", c.after], ["paid with `verify: local`", c.localAfter], ["paid, x402-axum", c.axumAfter]].map(([what, one]) => [
    what,
    times(ratio(one, c.proxied)),
    `${grouped(median(one.runs.map(({ cpu_us: us }, round) => us - c.proxied.runs[round].cpu_us)))} µs`,
  ]);

  if (!isQuick) writeBars(
    "results.svg",
    "Requests a second of one core",
    groups.map((group) => ({
      title: group,
      bars: all.filter((one) => one.group === group).map((one) => {
        const list = listed(one, perCore);
        return { label: one.label, value: median(list), low: Math.min(...list), high: Math.max(...list), ours: one.label.includes("+ filter") || one === c.quietAfter };
      }),
    })),
  );
  const text = `## Beside peers

${machine()}. The server under test on core ${SERVER_CORE}, everything else on core ${OTHER_CORE}; medians of ${ROUNDS} rounds of ${SECONDS} s over 16
keep-alive connections; ± is half the distance from the lowest round to the highest. Every answer's status was what it should be. Each
payment is another one, signed in advance; one that is refused says to be another payer's each time. Connections to the facilitator are kept open by all.

![Requests a second of one core](results.svg)

### Targets

${table(["", "target:", "measured:", "met", "ceiling:"], targets)}

How far a payment is from a request that Envoy only proxies:

${table(["", "beside plain proxying:", "more processor time:"], apart)}

How they are figured: ratios compare the processor time that requests took of the server, within a round; its order is turned around from one round to the next. Where a row has
"beside plain proxying", Envoy does nothing but hand the request to the upstream. The added latency is a paid request with
one callout, less a request through plain Envoy, less a call of the stub by the load generator, one at a time. Recovery is the processor
time of a payment signed by somebody else, less that of one to a wrong recipient, which is refused before its signature is looked at. A ceiling is measured in the same
run: for free requests a filter that does nothing, for unpaid ones a filter that reads the headers and gives a 402 made in advance, for paid ones Envoy that does
nothing but proxy, with no payment and no callout, and for refused payments Envoy that does nothing but answer and recover a signer. For the latency it is the recovery and Envoy's own part in a callout,
by which a payment with two takes more of its processor than one with one: ${callout.toFixed(0)} µs.

What keeps it from the targets that are not met:

- **Signatures.** No core can refuse more badly signed payments than the ceiling in the table, were all else free. What EIP-712 and recovery take in V8
  without Envoy around (\`make profile\`) is the ceiling of their row.
- **Built for size.** Most of the filter's own code is built to be small (1.5 MiB with everything), and is slower for it.
- **Callouts.** A payment by \`verify: local\` takes one, and one by \`verify: remote\` two, over connections that are kept open, beside the hop to the upstream,
  which Express does not have.
- **What is told of a request.** Filter state for access logs, stats and a log line are calls of the host, eight to twenty for a payment and three for a 402, whose terms in
  two versions are 2 KB more than a direct response has.
- **A free request, or one that gets the terms of a fixed price,** is decided about in the host's own list of headers, and nothing of it is kept. It enters V8 for each
  callback of a stream, which is what a filter costs that does nothing, and has the host copy that list.

${tables.join("\n\n")}

"Of a whole core" is figured from the processor time that a request took of the server. Express answers by itself, and so has no hop to an
upstream. Express and x402-axum check no signatures, leave that to the facilitator, and remember no payments: sent twice at once, one payment
is served twice by them if the facilitator says yes twice. The filter writes a line to Envoy's
log for each request to a priced route, at the level that Envoy logs by default.

### One request at a time

${table(["", "p50 ms:", "p99 ms:"], latencies)}
`;
  if (isQuick) console.log(text);
  else writePart("bench", text);
  console.log(`${isQuick ? "Not written down: too quick to be worth it." : "Written to benches/RESULTS.md and benches/results.svg."} ${((performance.now() - begun) / 1000).toFixed(0)} s`);
}
