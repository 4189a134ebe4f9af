/**
 * Hostile requests by the hundred thousand, and among them honest payments: every honest one is served and paid for once,
 * none is turned away, memory stands still, and nobody settles, works or is asked on behalf of what nobody has proven. A real
 * Envoy with two workers, a real chain and the official facilitator, and proxies that note what they are asked.
 *
 *   node tests/storm/hostile.mjs [--hostile N] [--honest N] [--seed S]
 *
 * The seed repeats what is sent; the timing is the machine's. Exit status 1: something got through, or somebody honest suffered.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { payTo } from "../../stage/accounts.mjs";
import { NETWORK } from "../../stage/chain.mjs";
import { residentKb } from "../../stage/processes.mjs";
import { readBody, serve } from "../../stage/servers.mjs";
import { startBackends, startStage } from "../../stage/stage.mjs";
import { bold, green, item, line, red } from "../../stage/terminal.mjs";
import { assertAlive, eventually } from "../e2e/support.mjs";
import { termsOf } from "./books.mjs";
import { buy } from "./buyers.mjs";
import { payers } from "./gateway.mjs";
import { CHATS, kindNames, makeJunk } from "./junk.mjs";
import { bytesOf, openLane } from "./lane.mjs";
import { mayBePriced, openWitness } from "./witness.mjs";
import { ask as askOnce } from "./wire.mjs";

const HOSTILE_LANES = 48;
const HONEST_LANES = 6;

/** Nothing that an honest payer signs expires while this runs, so that all of it has to find backend. */
const LIFETIME_SECONDS = 3600;

/**
 * Eight claims for each of the ledger's 4,096 pages. With one, as few as two honest payments could meet on a page and one of
 * them be turned away, by chance and by nobody's fault: of 1,000 about 120. That nine of them meet on one comes about
 * once in a million runs; so whoever is turned away here was turned away by junk.
 */
const MAX_CLAIMS = 4096 * 8;

/** How often Envoy's memory is looked at. */
const SAMPLES = 200;

const MINTED = 1_000_000_000n;
const OFFER = { scheme: "exact", network: "base-sepolia", asset: "USDC" };

/** What is for sale, by the first segment of its path. Each fixed price is another. */
const ROUTES = {
  after: { settle: "after", price: { amount: "1000" } },
  before: { settle: "before", price: { amount: "2000" } },
  concurrent: { settle: "concurrent", price: { amount: "3000" } },
  confirmed: { settle: "before", price: { amount: "4000" }, accepts: [{ ...OFFER, confirm: true }] },
  named: { settle: "after", price: { amount: "5000" }, extensions: { payment_identifier: "optional" } },
  visits: { settle: "after", price: { amount: "6000" }, extensions: { sign_in_with_x: { lasts: "3600s" } } },
};

const TARIFF = {
  usage: "openai",
  models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } },
  max_output_tokens: 100,
  minimum: "$0.00001",
};

const pluginOf = ({ facilitator, node }) => ({
  facilitator: { cluster: "facilitator", url: facilitator, timeout: "10s", verify: "remote" },
  rpc: { [NETWORK]: { cluster: "chain", url: node, confirmations: 1 } },
  defaults: { pay_to: payTo, accepts: [OFFER], max_timeout_seconds: LIFETIME_SECONDS },
  ledger: { max_claims: MAX_CLAIMS },
  cors: { origins: ["https://app.example"] },
  routes: [
    ...Object.entries(ROUTES).map(([name, route]) => ({ name, match: { path: `/${name}/{*rest}` }, ...route })),
    { name: "quoted", match: { path: "/quoted/{*rest}" }, price: TARIFF },
    { name: "chat", match: { path: "/v1/chat/completions" }, price: TARIFF, accepts: [{ ...OFFER, scheme: "upto" }] },
    { name: "free", match: { path: "/free/{*rest}" }, free: true },
  ],
  unmatched: "free",
});

/** Stands before the chain's node, and notes what it is asked. */
async function startNodeProxy({ port, target, tell }) {
  let underWay = 0;
  const server = await serve(port, async (request, response) => {
    underWay++;
    try {
      const body = await readBody(request);
      for (const question of [JSON.parse(body)].flat()) tell(question);
      const answer = await fetch(target, { method: "POST", headers: { "content-type": "application/json" }, body });
      response.writeHead(answer.status, { "content-type": "application/json" }).end(await answer.text());
    } finally {
      underWay--;
    }
  });
  return { ...server, isIdle: () => underWay === 0 };
}

/** Starts everything. */
async function openStage(ends) {
  const balances = Object.fromEntries(payers.map(({ address }) => [address, MINTED]));
  const backends = await startBackends({ label: "hostile", balances });
  ends.push(backends.stop);
  for (const { address } of payers) await backends.chain.approve(address);
  const witness = openWitness({ names: [...Object.keys(ROUTES), "quoted"] });
  const node = await startNodeProxy({ port: backends.ports.spare2, target: backends.chain.rpcUrl, tell: witness.seeNode });
  ends.push(node.stop);
  const { envoy, stop } = await startStage({
    backends,
    plugin: pluginOf({ facilitator: backends.facilitator.url, node: node.url }),
    clusters: { chain: backends.ports.spare2 },
    concurrency: 2,
    allowOnHeadersStopIteration: true,
    edit: ({ static_resources: { listeners } }) => {
      const manager = listeners[0].filter_chains[0].filters[0].typed_config;
      manager.access_log[0].typed_config.log_format.json_format.path = "%REQ(:PATH):200%";
      manager.upgrade_configs = [{ upgrade_type: "websocket" }];
    },
  });
  ends.push(stop);
  return { backends, witness, node, envoy };
}

/** The terms of every route, once both workers know who settles. */
async function quoteAll({ envoy, host }) {
  const lane = openLane(envoy.port);
  const ask = (target, body) => {
    const post = body && { method: "POST", headers: [["content-type", "application/json"]], body };
    return lane.ask({ bytes: bytesOf({ target, host, ...post }) });
  };
  const isKnown = async () => {
    const lanes = Array.from({ length: 8 }, () => openLane(envoy.port));
    const bytes = bytesOf({
      target: "/v1/chat/completions",
      host,
      method: "POST",
      headers: [["content-type", "application/json"]],
      body: CHATS.chat,
    });
    const replies = await Promise.all(lanes.map((one) => one.ask({ bytes })));
    for (const one of lanes) one.close();
    return replies.every(({ status }) => status === 402);
  };
  await eventually(isKnown, "every worker knows who settles");
  const entries = {};
  let visit;
  for (const name of Object.keys(ROUTES)) {
    const terms = termsOf(await ask(`/${name}/terms`));
    entries[name] = terms.accepts[0];
    visit ??= terms.extensions?.["sign-in-with-x"];
  }
  for (const [name, body] of Object.entries(CHATS)) entries[name] = termsOf(await ask("/v1/chat/completions", body)).accepts[0];
  lane.close();
  return { entries, visit };
}

/** Sends one hostile request, and looks at what comes back. */
async function attackOnce({ kind, attack, lane, port, witness }) {
  const { target, method = "GET", hangUp, pause, version } = attack;
  let reply;
  if (version === 2) {
    const headers = Object.fromEntries(attack.headers);
    reply = await askOnce({ port, version, method, path: target, headers, hangUp: { beforeHead: hangUp.ms } });
  } else {
    const bytes = bytesOf(attack);
    const at = hangUp?.at === undefined ? hangUp : { at: Math.floor(hangUp.at * bytes.length) };
    reply = await lane.ask({ bytes, isHead: method === "HEAD", pause, hangUp: at });
  }
  const { status, headers, end, text } = reply;
  witness.count("answers", String(status ?? end));
  const about = `${kind}: ${method} ${target.slice(0, 150)}: ${status} ${text.slice(0, 150)}`;
  if (end === "unanswered") witness.violate("a hostile request stayed unanswered", about);
  if (status === 500) witness.violate("an answer was 500", about);
  if (headers["payment-response"] && /"success":true/.test(Buffer.from(headers["payment-response"], "base64"))) {
    witness.violate("a hostile request got a receipt", about);
  }
  if (headers["x-request-number"] && mayBePriced(target, witness.names)) witness.violate("a hostile request was served", about);
  if (kind === "something free" && status !== 200) witness.violate("a free request was turned away", about);
}

const megabytes = (kilobytes) => Math.round(kilobytes / 102.4) / 10;
const median = (list) => list.toSorted((one, other) => one - other)[Math.floor(list.length / 2)];
const sumOf = (counts = {}) => Object.values(counts).reduce((sum, count) => sum + count, 0);

/**
 * Lets hostile and honest clients at the filter, and looks at what came of it.
 *
 * @param {object} options
 * @param {number} options.hostile how many hostile requests
 * @param {number} options.honest how many honest payments
 * @param {number} options.seed
 * @returns {Promise<{violations: string[], counts: object, figures: Record<string, number>, logs: string | null}>}
 */
export async function runHostile({ hostile, honest, seed }) {
  const ends = [];
  try {
    return await run({ hostile, honest, seed, ends });
  } finally {
    for (const end of ends.reverse()) await end();
  }
}

async function run({ hostile, honest, seed, ends }) {
  const { backends, witness, node, envoy } = await openStage(ends);
  const { chain, facilitator, inference } = backends;
  const host = `127.0.0.1:${envoy.port}`;
  const loot = { foreseen: [], spent: [], expected: honest };
  const junk = makeJunk({ seed, host, ...(await quoteAll({ envoy, host })), loot, witness });
  const firstBlock = (await chain.client.getBlockNumber()) + 1n;
  const resident = [];
  let [begun, done] = [0, 0];

  // What has been looked at need not be kept: this runs for long.
  const look = () => {
    inference.seen.splice(0).forEach(witness.seeUpstream);
    const isUnderWay = facilitator.calls.filter(({ ms }) => ms === null);
    facilitator.calls.filter(({ ms }) => ms !== null).forEach(witness.seeFacilitator);
    facilitator.calls.splice(0, Infinity, ...isUnderWay);
    loot.foreseen.splice(0, loot.foreseen.length - 32);
    loot.spent.splice(0, loot.spent.length - 200);
  };
  const looking = setInterval(look, 250);
  ends.push(() => clearInterval(looking));

  const started = performance.now();
  const flood = async () => {
    const lane = openLane(envoy.port);
    for (let serial = begun++; serial < hostile; serial = begun++) {
      await attackOnce({ ...(await junk(serial)), lane, port: envoy.port, witness });
      if (++done % Math.ceil(hostile / SAMPLES) === 0) resident.push({ share: done / hostile, kilobytes: residentKb(envoy.pid) });
    }
    lane.close();
  };
  let bought = 0;
  // Honest buyers come all the while.
  const trade = async () => {
    const lane = openLane(envoy.port);
    for (let number = bought++; number < honest; number = bought++) {
      while (done < hostile && number > honest * (done / hostile)) await sleep(5);
      await buy({ seed, number, host, lane, witness, loot });
    }
    lane.close();
  };
  let floodSeconds;
  const floods = Promise.all(Array.from({ length: HOSTILE_LANES }, flood)).then(
    () => (floodSeconds = (performance.now() - started) / 1000),
  );
  await Promise.all([floods, ...Array.from({ length: HONEST_LANES }, trade)]);
  const seconds = (performance.now() - started) / 1000;

  // Nobody is there any more, and so nobody is asked.
  await eventually(
    () => node.isIdle() && facilitator.calls.every(({ path, ms }) => ms !== null || path === "/supported"),
    "all questions are answered",
  );
  await sleep(500);
  look();
  const asked = () => JSON.stringify({ ...witness.counts.node, ...witness.counts.facilitator, "/supported": null });
  const before = asked();
  await sleep(2_500);
  clearInterval(looking);
  look();
  if (asked() !== before) witness.violate("somebody goes on asking", `${before} ${asked()}`);

  witness.balance(await chain.transfers(firstBlock));
  const figures = { requests: hostile + honest, floodSeconds, seconds, ...(await stateOf({ envoy, witness, resident })) };
  await assertAlive({ envoy }).catch((error) => witness.violate("the filter has crashed", error.message));
  const { violations, counts } = witness;
  if (violations.length) backends.run.keep();
  return { violations, counts, figures, logs: violations.length ? backends.run.path : null };
}

/** What is left in the filter, and what its logs say. */
async function stateOf({ envoy, witness, resident }) {
  const gauge = async (name) => sumOf(await envoy.stats(name));
  const [claims, unknown, shed] = [
    await gauge("ledger_claims"),
    await gauge("unknown_settlements"),
    await gauge("recoveries_shed"),
  ];
  const purchases = [...witness.purchases.values()];
  // A payment that its client has named has two.
  const owned = purchases.length + purchases.filter(({ kind }) => kind === "named").length;
  // What a client left in the middle of a question is taken for lapsed when somebody needs its place.
  if (claims < owned || claims > owned * 1.05 + 20) {
    witness.violate("the ledger remembers what it should not", `${claims} claims, ${owned} of honest payments`);
  }
  if (unknown !== 0 || shed !== 0) witness.violate("settlements are unknown", `${unknown}, and ${shed} were shed`);

  const between = (from, to) =>
    median(resident.filter(({ share }) => share >= from && share <= to).map(({ kilobytes }) => kilobytes));
  const [early, late] = [between(0.35, 0.45), between(0.9, 1)];
  if (late > early * 1.1 + 20 * 1024) {
    witness.violate("Envoy's memory grows", `${megabytes(early)} MB, then ${megabytes(late)} MB`);
  }

  for (const { payer, path, outcome } of envoy.accessLog()) {
    if (payer && payer !== "-") witness.seeNamed(payer, `${path} ${outcome}`);
  }
  for (const [text, payer] of envoy.logs().matchAll(/(?<![\w])payer="?(0x[0-9a-f]{40}).{0,80}/gi)) witness.seeNamed(payer, text);
  return { claims, owned, earlyMegabytes: megabytes(early), lateMegabytes: megabytes(late) };
}

// ---- On the terminal ----------------------------------------------------------------------------------------------

/** Prints what came of it. @param {Awaited<ReturnType<typeof runHostile>>} outcome */
export function printHostile({ violations, counts, figures, logs }) {
  const { seconds, floodSeconds, requests, claims, owned, earlyMegabytes, lateMegabytes } = figures;
  item(
    "took",
    `${seconds.toFixed(0)} s; ${(requests / floodSeconds).toFixed(0)} requests a second, of ${kindNames.length} hostile kinds`,
  );
  item("Envoy's memory", `${earlyMegabytes} MB after 40 % of it, ${lateMegabytes} MB at its end`);
  item("claims", `${claims}; ${owned} of honest payments`);
  for (const [heading, names] of Object.entries(counts)) {
    if (heading === "violations") continue;
    item(
      heading,
      Object.entries(names)
        .map(([name, count]) => `${name} ${count}`)
        .join(" · "),
    );
  }
  item("violations", violations.length ? red(String(sumOf(counts.violations))) : green("0"));
  for (const what of violations) line(red(`VIOLATION  ${what}`));
  if (logs) item("logs", logs);
}

async function main() {
  const { values } = parseArgs({
    options: {
      hostile: { type: "string", default: "100000" },
      honest: { type: "string", default: "1000" },
      seed: { type: "string", default: "402" },
    },
  });
  const [hostile, honest, seed] = [values.hostile, values.honest, values.seed].map(Number);
  line(bold(`${hostile} hostile requests and ${honest} honest payments, seed ${seed}`));
  line();
  const outcome = await runHostile({ hostile, honest, seed });
  printHostile(outcome);
  process.exitCode = outcome.violations.length ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
