/**
 * The storm: everything at once, and the books balanced at the end. A real Envoy with two workers, a real chain and the
 * official facilitator; between them proxies that inject faults; an upstream with moods; clients of every kind; and most of
 * it killed, started again and configured anew while traffic runs.
 *
 *   node tests/storm/storm.mjs [--seconds N] [--seed S] [--no-rpc] [--without FAULT]…
 *
 * The seed repeats the plan: what each client does, and what befalls each payment. The timing is the machine's. Exit status
 * 1: something is wrong with the books, or the storm was too tame to prove anything.
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { bold, green, item, line, red } from "../../stage/terminal.mjs";
import { assertAlive } from "../e2e/support.mjs";
import { openBooks } from "./books.mjs";
import { isOfChannels, makeChannelClients } from "./channels.mjs";
import { makeClients } from "./clients.mjs";
import { faultNames } from "./faults.mjs";
import { garbageNames, sendGarbage } from "./garbage.mjs";
import { startGateway } from "./gateway.mjs";
import { randomOf } from "./random.mjs";
import { moodNames } from "./upstream.mjs";

/** How long clients go on when the storm is over. What a lost request left behind is held for a quarter of a minute. */
const PATIENCE_MS = 45_000;

/** Without a node there are payments of which nobody will ever know; that need not be waited for. */
const PATIENCE_WITHOUT_RPC_MS = 8_000;

const total = (counts = {}) => Object.values(counts).reduce((sum, count) => sum + count, 0);

/** Kills, starts again and configures anew, one after the other. */
async function trouble({ seed, gateway, until }) {
  const random = randomOf(seed, "trouble");
  const pause = () => sleep(random.between(100, 900));
  for (let serial = 0; Date.now() < until(); serial++) {
    await sleep(random.between(300, 1_500));
    // Each once, and then as it comes.
    await (gateway.troubles[serial] ?? random.pick(gateway.troubles))(pause);
  }
}

/** A chain has a block every now and then, whether or not anybody uses it. */
async function mine({ chain, until }) {
  while (Date.now() < until()) {
    await chain.rpc("anvil_mine", "0x1");
    await sleep(500);
  }
}

/** Waits for the last purchases, while each of the market's prices holds now and then. */
async function windDown({ lives, gateway }) {
  let isOver = false;
  const over = lives.finally(() => (isOver = true));
  while (!isOver) {
    gateway.turnMarket();
    await Promise.race([over, sleep(3_000)]);
  }
}

/** What the filter has logged of outcomes. */
function outcomesIn(logs) {
  const outcomes = {};
  for (const [, outcome] of logs.matchAll(/ outcome=(\w+)/g)) outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  return outcomes;
}

/**
 * Lets a storm pass over the filter, and balances the books.
 *
 * @param {object} options
 * @param {number} options.seconds how long it lasts, apart from its beginning and its end
 * @param {number} options.seed
 * @param {boolean} [options.withRpc] whether the filter may ask the chain. Where it may not, there may remain settlements
 *   that nobody heard of
 * @param {string[]} [options.without] names of faults that are left out
 * @returns {Promise<Outcome>}
 *
 * @typedef {object} Outcome
 * @property {import("./books.mjs").Sums} sums
 * @property {import("./channels.mjs").ChannelSums} channelSums
 * @property {import("./books.mjs").Books["counts"]} counts
 * @property {import("./books.mjs").Books["violations"]} violations
 * @property {string[]} tame what did not happen often enough for the storm to prove anything
 * @property {string} logs where the logs are, if there are violations
 */
export async function runStorm({ seconds, seed, withRpc = true, without = [] }) {
  const books = openBooks();
  const gateway = await startGateway({ seed, books, withRpc, without });
  const { chain, envoy } = gateway;
  try {
    const firstBlock = (await chain.client.getBlockNumber()) + 1n;
    let lastBlockAt = Infinity;
    const blocks = mine({ chain, until: () => lastBlockAt });
    const end = Date.now() + seconds * 1000;
    const until = () => end;
    const clients = makeClients({ seed, books, gateway });
    const channels = makeChannelClients({ seed, books, gateway });
    const lives = Promise.all([clients.start(until), channels.start(until)]);
    await Promise.all([sendGarbage({ seed, books, gateway, until }), trouble({ seed, gateway, until })]);

    gateway.calm();
    clients.giveUpAt(Date.now() + (withRpc ? PATIENCE_MS : PATIENCE_WITHOUT_RPC_MS));
    await windDown({ lives, gateway });
    // What went on without a client comes to its end, too, and the access log reaches its file.
    do await sleep(1_000);
    while (!gateway.isIdle());

    await assertAlive(gateway).catch((error) => books.violate(error.message));
    const channelSums = await channels.balance(envoy.accessLog);
    lastBlockAt = 0;
    await blocks;
    const transfers = (await chain.transfers(firstBlock)).filter((transfer) => !isOfChannels(transfer));
    const sums = books.balance({ transfers, accessLog: envoy.accessLog(), isComplete: withRpc });
    const { counts, violations } = books;
    counts.outcomes = outcomesIn(envoy.logs());
    if (violations.length) gateway.keepLogs();
    const tame = tamenessOf({ sums, channelSums, counts, seconds, withRpc, without });
    return { sums, channelSums, counts, violations, tame, logs: gateway.logs };
  } finally {
    await gateway.stop();
  }
}

/** What happened too seldom: a storm in which nothing happens proves nothing. */
function tamenessOf({ sums, channelSums, counts, seconds, withRpc, without }) {
  const tame = [];
  const atLeast = (least, what, count) => count < least && tame.push(`${what}: ${count}, of ${Math.ceil(least)} at least`);
  atLeast(seconds, "settled", sums.settled);
  atLeast(seconds / 2, "delivered", sums.delivered);
  atLeast(seconds / 4, "recovered", sums.recovered);
  atLeast(1, "refused", sums.refused);
  atLeast(seconds / 4, "channels", channelSums.channels);
  atLeast(1, "claimed", Number(channelSums.claimed));
  atLeast(1, "given back out of channels", Number(channelSums.refunded));
  atLeast(1, "withdrawn out of channels", Number(channelSums.withdrawn));
  atLeast(seconds, "faults", total(counts["/settle"]) + total(counts["/verify"]) + total(counts.node));
  atLeast(seconds, "garbage", total(counts.garbage));
  atLeast(seconds / 4, "troubles", total(counts.troubles));
  // In a long storm most things happen.
  if (seconds < 45) return tame;
  const possible = {
    ...faultNames,
    "/settle": faultNames["/settle"].filter((name) => withRpc || !name.startsWith("a lie")),
    node: withRpc ? faultNames.node : [],
    upstream: moodNames,
    garbage: garbageNames,
  };
  for (const [heading, names] of Object.entries(possible)) {
    const missing = names.filter((name) => !without.includes(name) && !counts[heading]?.[name]);
    if (missing.length > names.length / 3) tame.push(`${heading}: there was no ${missing.join(", no ")}`);
  }
  return tame;
}

// ---- On the terminal ----------------------------------------------------------------------------------------------

const WIDTH = 118;
const LABEL = 28;

const HAPPENED = {
  requests: "requests",
  "faults of /settle": "/settle",
  "faults of /verify": "/verify",
  "faults of the filter's node": "node",
  "  of the facilitator's": "farther node",
  "the upstream": "upstream",
  "killed, configured": "troubles",
  garbage: "garbage",
  "answers to it": "answers",
  "the filter's log": "outcomes",
  "refused, moved nothing": "refused",
  "lost on the wire": "lost",
  channels: "channels",
};

/** Prints counts by name, as many to a line as fit. */
function printCounts(label, counts = {}) {
  let [heading, row] = [label, String(total(counts))];
  const print = () => line(`  ${heading.padEnd(LABEL)}${row}`);
  Object.entries(counts).forEach(([name, count], index) => {
    const separator = index === 0 ? ": " : " · ";
    const part = `${name} ${count}`;
    if (LABEL + row.length + separator.length + part.length > WIDTH) {
      print();
      [heading, row] = ["", part];
    } else row += separator + part;
  });
  print();
}

/** The beginning and the end of a long list. */
const abridged = (list) =>
  list.length <= 80 ? list : [...list.slice(0, 50), `… (${list.length - 80} more)`, ...list.slice(-30)];

/** Prints what came of a storm. @param {Outcome} outcome */
export function printOutcome({ sums, channelSums, counts, violations, tame, logs }) {
  line(bold("What happened"));
  for (const [label, heading] of Object.entries(HAPPENED)) printCounts(label, counts[heading]);
  line();
  line(bold("The books"));
  const rows = [
    ["settled on the chain", sums.settled],
    ["delivered", sums.delivered],
    ["  of these recovered", `${sums.recovered}  served after an answer that was none`],
    ["lost on the wire", `${sums.lost}  sent by Envoy when the client had gone`],
    ["refused", `${sums.refused}  and moved nothing`],
    ["owed", `${sums.owed}  settled, and bought nothing`],
    ["without a final answer", sums.open],
    ["channels", channelSums.channels],
    ["  deposited", channelSums.deposited],
    ["  served, and charged", channelSums.charged],
    ["  claimed", `${channelSums.claimed}${channelSums.byHand ? `  of ${channelSums.byHand} channels in the end by hand` : ""}`],
    ["  given back", channelSums.refunded],
    ["  withdrawn", channelSums.withdrawn],
    ["  left in them", channelSums.remaining],
    ["violations", violations.length ? red(String(violations.length)) : green("0")],
  ];
  for (const [label, value] of rows) line(`  ${label.padEnd(LABEL)}${value}`);
  for (const { what, payment } of violations) {
    line();
    line(red(`VIOLATION  ${what}`));
    if (!payment) continue;
    const { tag, nonce, path, amount, payer, validBefore } = payment;
    item("payment", `${tag}: ${path}, ${amount} from ${payer}, valid before ${validBefore}`);
    item("nonce", nonce);
    for (const event of abridged(payment.timeline)) line(`   ${event}`);
  }
  if (violations.length) item("logs", logs);
  for (const what of tame) line(red(`TOO TAME  ${what}`));
}

async function main() {
  const { values } = parseArgs({
    options: {
      seconds: { type: "string", default: "60" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      "no-rpc": { type: "boolean", default: false },
      without: { type: "string", multiple: true, default: [] },
    },
  });
  const [seconds, seed, withRpc] = [Number(values.seconds), Number(values.seed), !values["no-rpc"]];
  line(bold(`A storm of ${seconds} s, seed ${seed}${withRpc ? "" : ", without a node to ask"}`));
  line();
  const outcome = await runStorm({ seconds, seed, withRpc, without: values.without });
  printOutcome(outcome);
  process.exitCode = outcome.violations.length || outcome.tame.length ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
