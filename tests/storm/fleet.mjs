/**
 * A storm over a fleet: two Envoys share one ledger in a real etcd of three members, before a real chain and the official
 * facilitator. Clients buy at either, send the same payment to both, leave, and come again at the other; meanwhile members of
 * etcd and proxies are killed, stopped and cut off, one after the other. In the end the books are balanced from the chain, the
 * upstream's log, Envoy's and what the clients received.
 *
 *   node tests/storm/fleet.mjs [--payments N] [--seed S] [--only FAULT]…
 *
 * The seed repeats the plan; the timing is the machine's. Exit status 1: something is wrong with the books, or a proxy took longer
 * than it may to sell again.
 */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { accounts, payerAccount, payTo } from "../../stage/accounts.mjs";
import { NETWORK } from "../../stage/chain.mjs";
import { startEtcd } from "../../stage/etcd.mjs";
import { readBody, sendJson } from "../../stage/servers.mjs";
import { startBackends, startStage } from "../../stage/stage.mjs";
import { bold, green, item, line, red } from "../../stage/terminal.mjs";
import { layCable } from "../e2e/cable.mjs";
import { signPermit2Payment } from "../e2e/permit2.mjs";
import { assertAlive, encoded, eventually, signPayment } from "../e2e/support.mjs";
import { MARK, receiptOf, tagOf, termsOf } from "./books.mjs";
import { randomOf } from "./random.mjs";
import { ask } from "./wire.mjs";

/** How long a proxy may take from the end of a fault until it sells again. */
const RECOVERY_MS = 10_000;

/** How long clients go on when the storm is over: a payment that a killed proxy was settling is held for up to a minute. */
const PATIENCE_MS = 45_000;
const BRIEF_PATIENCE_MS = 10_000;

const LANES = 10;

/** Purchases that are under way at a time, at most: those that wait for a fault's end must not crowd out the others. */
const MOST_OPEN = 30;
const MINTED = 1_000_000_000n;
const SKEW_SECONDS = 5;
const OFFER = { scheme: "exact", network: "base-sepolia", asset: "USDC" };

/** What an inference costs: ten atomic units a token. Each gives another number of them, by which the chain tells them apart. */
const TARIFF = { usage: "openai", models: { "*": { input: "$0", output: "$10.00" } }, max_output_tokens: 50_000, minimum: "$0.00001" };
const tokensOf = (serial) => 10_000 + serial;
const PROMPT = JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "Hello" }], max_tokens: 50_000 });

/** What is for sale, by the first segment of its path, and how often it is bought. */
const ROUTES = [
  { name: "after", weight: 3, settle: "after", price: { amount: "1000" } },
  { name: "before", weight: 4, settle: "before", price: { amount: "2000" } },
  { name: "concurrent", weight: 2, settle: "concurrent", price: { amount: "3000" } },
  { name: "upto", weight: 2, accepts: [{ ...OFFER, scheme: "upto" }], price: TARIFF },
];

/** The request of a payment; all proxies of a fleet have one name. */
const requestOf = (route) => ({
  method: route === "upto" ? "POST" : "GET",
  headers: { host: "shop.example.com", ...(route === "upto" && { "content-type": "application/json" }) },
  ...(route === "upto" && { body: PROMPT }),
});

/** What clients do with a payment, and how often. */
const HABITS = [
  { name: "plain", weight: 9 },
  { name: "sent to both at once", weight: 4 },
  { name: "left, and sent to the other", weight: 3 },
  { name: "sent again when it is served", weight: 3 },
];

const payers = [1, 3, 4, 5, 6].map((index) => accounts[index]);

const pluginOf = ({ facilitator, node }) => ({
  facilitator: { cluster: "facilitator", url: facilitator, timeout: "4s" },
  rpc: { [NETWORK]: { cluster: "chain", url: node, timeout: "1s", confirmations: 1 } },
  defaults: { pay_to: payTo, accepts: [OFFER] },
  ledger: { store: { etcd: { cluster: "etcd", fleet: "storm", timeout: "1s" } } },
  routes: ROUTES.map(({ name, weight: _, ...route }) => ({ name, match: { path: `/${name}/{*rest}` }, ...route })),
  unmatched: "free",
});

// ---- The stage ----------------------------------------------------------------------------------------------------

/** Starts everything. `place.envoys` are the proxies that are there now: the first reaches etcd by `place.cable`. */
async function openPlace({ tell }) {
  const balances = Object.fromEntries(payers.map(({ address }) => [address, MINTED]));
  const backends = await startBackends({ label: "fleet-storm", balances, keepLogs: false });
  const endings = [backends.stop];
  const stop = async () => {
    for (const end of endings.reverse()) await end().catch((error) => tell(`at the end: ${error.message}`));
  };
  try {
    const etcd = await startEtcd({ run: backends.run });
    endings.push(etcd.stop);
    const cable = await layCable(etcd.members.map(({ port }) => port));
    endings.push(cable.stop);
    const plugin = pluginOf({ facilitator: backends.facilitator.url, node: backends.chain.rpcUrl });
    const logs = [];
    /** Starts a proxy in the first or the second place. */
    const open = async (index, env) => {
      const stage = await startStage({
        backends,
        plugin,
        concurrency: 2,
        allowOnHeadersStopIteration: true,
        clusters: { chain: backends.chain.port },
        env,
        edit: (bootstrap) => etcd.edit(bootstrap, index === 0 ? { ports: cable.ports } : {}),
      });
      endings.push(stage.stop);
      logs.push(stage.envoy.accessLog);
      await eventually(async () => /store answers/.test(stage.envoy.logs()), "the ledger's store is reached", 20_000);
      await eventually(async () => {
        const all = await Promise.all([1, 2, 3, 4, 5, 6].map(() => ask({ port: stage.envoy.port, path: "/upto/ready", ...requestOf("upto") })));
        return all.every(({ status }) => status === 402);
      }, "every worker knows who settles", 20_000);
      return stage;
    };
    const envoys = [await open(0), await open(1)];
    return { ...backends, etcd, cable, envoys, open, stop, accessLog: () => logs.flatMap((log) => log()) };
  } catch (error) {
    await stop();
    throw error;
  }
}

// ---- The faults ---------------------------------------------------------------------------------------------------

const killed = async (envoy) => {
  process.kill(envoy.pid, "SIGKILL");
  await envoy.onEnd;
};

/** Compiles the clock that is wrong; null where there is no compiler. */
function skewedClock(run) {
  const library = join(run.path, "skew.so");
  try {
    execFileSync("cc", ["-O2", "-shared", "-fPIC", `-DSECONDS=${SKEW_SECONDS}`, "-o", library, fileURLToPath(new URL("skew.c", import.meta.url))]);
    return { LD_PRELOAD: library };
  } catch {
    return null;
  }
}

/** The faults, in the order in which they come. Each is over when `befall` is; `brief` shortens it. */
const FAULTS = {
  "a proxy is killed, and started anew": async (place) => {
    await place.replace(1);
  },
  "a member of etcd is killed": async ({ etcd }, brief) => {
    const leader = await etcd.leader();
    const member = etcd.members.find((one) => one !== leader);
    member.kill();
    await sleep(brief ? 1_000 : 3_000);
    await member.start();
  },
  "the leader is killed, twice": async ({ etcd }, brief) => {
    for (let time = 0; time < (brief ? 1 : 2); time++) {
      const leader = await etcd.leader();
      leader.kill();
      await sleep(brief ? 1_500 : 3_000);
      await leader.start();
    }
  },
  "the leader is stopped for 4 s": async ({ etcd }, brief) => {
    const leader = await etcd.leader();
    leader.pause();
    await sleep(brief ? 2_500 : 4_000);
    leader.resume();
  },
  "no quorum for 4 s": async ({ etcd }, brief) => {
    const [one, other] = etcd.members;
    one.pause();
    other.pause();
    await sleep(brief ? 2_500 : 4_000);
    one.resume();
    other.resume();
  },
  "a proxy is cut off from etcd": async ({ cable }, brief) => {
    cable.cut();
    await sleep(brief ? 2_000 : 6_000);
    cable.mend();
  },
  "the same, and its connections stay open": async ({ cable }, brief) => {
    cable.silence();
    await sleep(brief ? 2_000 : 6_000);
    cable.mend();
  },
  "a clock is 5 s fast": async (place, brief) => {
    const env = skewedClock(place.run);
    if (!env) return "left out: there is no C compiler";
    await place.replace(1, env);
    const { headers } = await fetch(`${place.envoys[1].url}/after/time`);
    const ahead = (Date.parse(headers.get("date")) - Date.now()) / 1000;
    if (Math.abs(ahead - SKEW_SECONDS) > 2) throw new Error(`the clock is ${ahead} s fast`);
    await sleep(brief ? 3_000 : 8_000);
    await place.replace(1);
    return undefined;
  },
};

/** The names of the faults. */
export const faultNames = Object.keys(FAULTS);

// ---- The books ----------------------------------------------------------------------------------------------------

function openFleetBooks() {
  const started = Date.now();
  const [payments, given] = [new Map(), new Map()];
  const violations = [];
  const counts = {};
  const count = (name, by = 1) => (counts[name] = (counts[name] ?? 0) + by);
  const violate = (what, payment) => violations.push({ what, payment });
  const note = (payment, text) => payment?.timeline.push(`${String(Date.now() - started).padStart(6)} ms  ${text}`);
  return {
    payments,
    given,
    violations,
    counts,
    count,
    violate,
    note,
    open: (facts) => {
      const payment = { ...facts, deliveries: [], terms: [], killedAt: null, final: "open", began: Date.now(), ended: null, timeline: [] };
      payments.set(payment.tag, payment);
      return payment;
    },
    /** Notes an answer. */
    receive: (payment, reply, where) => {
      const { status, headers, text, end, ms } = reply;
      const [terms, receipt, mark] = [termsOf(reply), receiptOf(reply), headers[MARK]];
      const why = receipt?.errorReason ?? terms?.error ?? mark ?? text.slice(0, 100);
      const told = `proxy ${where}: ${status ?? "nothing"} ${why}, ${end}`;
      if (payment.told !== told) note(payment, `${told} after ${ms.toFixed(0)} ms`);
      payment.told = told;
      count(status === null ? `${end}` : `${status}`);
      if (end === "unanswered") violate("a request stayed unanswered", payment);
      if (terms && status !== 402) violate(`a ${status} with terms`, payment);
      if (terms) payment.terms.push(why);
      if (status !== null && status < 400) {
        if (receipt?.success !== true) violate("served without a receipt", payment);
        payment.deliveries.push({ mark, transaction: receipt?.transaction ?? null });
      }
    },
    /** Balances. */
    balance: ({ transfers, accessLog }) => {
      const [byNonce, byCharge] = [new Map(), new Map()];
      for (const payment of payments.values()) {
        if (payment.charge) byCharge.set(String(payment.charge), payment);
        else byNonce.set(payment.nonce.toLowerCase(), payment);
      }
      const settled = new Map();
      for (const transfer of transfers) {
        const payment = byNonce.get(String(transfer.nonce).toLowerCase()) ?? byCharge.get(String(transfer.value));
        if (!payment) violate(`a transfer that nobody signed: ${transfer.transaction}`);
        else if (settled.has(payment)) violate("settled twice", payment);
        else settled.set(payment, transfer);
      }
      const sent = new Map();
      for (const { path, status, transaction, outcome, details } of accessLog) {
        const payment = payments.get(tagOf(path ?? ""));
        if (outcome !== "in_flight") note(payment, `access log: ${status} ${outcome} ${details} ${transaction ?? "-"}`);
        if (payment && transaction && status < 400 && outcome !== "abandoned") sent.set(payment, (sent.get(payment) ?? 0) + 1);
      }
      const sums = { payments: payments.size, settled: settled.size, delivered: 0, "left on the wire": 0, "lost with a killed proxy": 0, "held for a killed proxy still": 0 };
      const marks = new Map();
      for (const payment of payments.values()) {
        const [transfer, times] = [settled.get(payment), sent.get(payment) ?? 0];
        const isDelivered = payment.deliveries.length > 0;
        if (transfer) note(payment, `chain: settled by ${transfer.transaction}`);
        if (payment.deliveries.length > 1) violate(`delivered ${payment.deliveries.length} times`, payment);
        if (times > 1) violate(`Envoys sent ${times} responses`, payment);
        for (const { mark, transaction } of payment.deliveries) {
          if (!transfer) violate("delivered, and never settled", payment);
          else if (transaction !== transfer.transaction) violate(`the receipt says ${transaction}`, payment);
          if (marks.has(mark)) violate(`${mark} was delivered twice`, payment);
          marks.set(mark, payment);
          if (given.get(mark) !== payment.tag) violate(`${mark} was made for ${given.get(mark)}`, payment);
        }
        sums.delivered += isDelivered;
        if (isDelivered) continue;
        if (transfer && times > 0 && payment.hasLeft) sums["left on the wire"]++;
        else if (transfer && payment.killedAt !== null && payment.final === "refused") sums["lost with a killed proxy"]++;
        // A payment that is served has as long as its terms say, and whoever holds it is not known to be dead.
        else if (payment.killedAt !== null && payment.final === "open") sums["held for a killed proxy still"]++;
        else if (payment.terms.length && transfer) violate(`fresh terms (${payment.terms[0]}), though the money has moved and nothing was delivered`, payment);
        else if (payment.terms.length) violate(`refused (${payment.terms[0]}), though nothing is wrong with it`, payment);
        else violate(transfer ? "paid and lost: settled, and not delivered in time" : "no final answer", payment);
      }
      return sums;
    },
  };
}

// ---- The clients --------------------------------------------------------------------------------------------------

/** Makes payments, and spends each as its habit says. */
function makeBuyers({ seed, place, books, deadline }) {
  let serial = 0;
  const underWay = new Map(); // payment → the places it is at work at

  const make = async () => {
    const number = ++serial;
    const random = randomOf(seed, "payment", number);
    const route = random.draw(ROUTES);
    const tag = `p${number}`;
    const facts = { tag, number, route: route.name, path: `/${route.name}/${tag}`, habit: random.draw(HABITS).name, random };
    const entry = place.entries[route.name];
    if (route.name === "upto") {
      const signed = await signPermit2Payment(entry, { account: payerAccount });
      return books.open({ ...facts, charge: 10 * tokensOf(number), nonce: signed.payload.permit2Authorization.nonce, header: encoded(signed) });
    }
    const signed = await signPayment(entry, { account: random.pick(payers) });
    return books.open({ ...facts, nonce: signed.payload.authorization.nonce, header: encoded(signed) });
  };

  const send = async (payment, index, more = {}) => {
    const envoy = place.envoys[index].envoy;
    const at = underWay.get(payment) ?? new Set();
    underWay.set(payment, at.add(envoy));
    const { port } = envoy;
    const { headers, ...request } = requestOf(payment.route);
    const reply = await ask({ port, path: payment.path, headers: { ...headers, "payment-signature": payment.header }, ...request, ...more });
    at.delete(envoy);
    if (reply.end === "hung up" && reply.status === null) payment.hasLeft = true;
    books.receive(payment, reply, "AB"[index]);
    return reply;
  };

  const isServed = ({ status }) => status !== null && status < 400;

  /** Sends it until it is served or refused, now here, now there. */
  const spend = async (payment) => {
    const { random, habit } = payment;
    let index = random.between(0, 1);
    let replies;
    if (habit === "left, and sent to the other") {
      replies = [await send(payment, index, { hangUp: { beforeHead: random.between(0, 250) } })];
      index = 1 - index;
    }
    for (let tries = 0; ; tries++) {
      if (!replies) {
        const both = tries === 0 && habit === "sent to both at once";
        replies = await Promise.all(both ? [send(payment, 0), send(payment, 1)] : [send(payment, index)]);
      }
      if (replies.some(isServed)) payment.final = "served";
      else if (replies.every(({ status }) => status === 402)) payment.final = "refused";
      if (payment.final !== "open" || Date.now() > deadline()) break;
      replies = null;
      await sleep(random.between(50, 400));
      index = random.between(0, 1);
    }
    payment.ended = Date.now();
    if (payment.final === "served" && habit === "sent again when it is served") {
      for (const again of [0, 1]) {
        const reply = await send(payment, again);
        if (isServed(reply)) books.violate("sold again", payment);
      }
    }
    return payment;
  };

  return {
    made: () => serial,
    buy: async () => spend(await make()),
    /** A purchase at one place, whose only habit is to be watched. */
    probe: async (index) => {
      const payment = await make();
      payment.habit = "watched";
      const reply = await send(payment, index);
      if (isServed(reply)) payment.final = "served";
      return { payment, isServed: isServed(reply), finish: () => (payment.final === "open" ? spend(payment) : payment) };
    },
    /** Notes on payments that a proxy has under way that it is killed. */
    noteKilled: (envoy) => {
      let number = 0;
      for (const [payment, at] of underWay) {
        if (!at.has(envoy)) continue;
        payment.killedAt = Date.now();
        number++;
      }
      return number;
    },
  };
}

/** Buys at each proxy, over and over, and notes when that succeeded. */
function watch({ buyers, isOver, unfinished }) {
  const served = [[], []];
  const lives = [0, 1].map(async (index) => {
    while (!isOver()) {
      const began = Date.now();
      const { isServed, finish, payment } = await buyers.probe(index);
      if (isServed) served[index].push({ began, ended: Date.now() });
      else if (payment.final === "open") unfinished.push(finish());
      await sleep(100);
    }
  });
  return {
    /** Milliseconds from a moment until a purchase succeeded that began behind it, at both; null where none did yet. */
    recoveredSince: (moment) => {
      const first = served.map((list) => list.find(({ began }) => began >= moment));
      return first.every(Boolean) ? first.map(({ ended }) => ended - moment) : null;
    },
    /** The longest time between two purchases that succeeded, from a moment on, in milliseconds, at each. */
    gaps: (from, to) =>
      served.map((list) => {
        const times = [from, ...list.map(({ ended }) => ended).filter((at) => at >= from && at <= to), to];
        return Math.max(...times.slice(1).map((at, index) => at - times[index]));
      }),
    over: Promise.all(lives),
  };
}

// ---- The storm ----------------------------------------------------------------------------------------------------

const percentile = (list, share) => list.toSorted((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))] ?? 0;

/**
 * Lets a storm pass over a fleet, and balances the books.
 *
 * @param {object} options
 * @param {number} options.payments at least so many, shared among the faults
 * @param {number} options.seed
 * @param {boolean} [options.brief] faults are short, and each comes once
 * @param {string[]} [options.only] names of the faults
 * @returns {Promise<{rows: object[], sums: object, counts: Record<string, number>, violations: {what: string, payment?: object}[], seconds: number}>}
 */
export async function runFleetStorm({ payments, seed, brief = false, only = faultNames }) {
  const books = openFleetBooks();
  const started = Date.now();
  const place = await openPlace({ tell: (what) => books.violate(what) });
  const { chain, inference } = place;
  try {
    const entryOf = async ({ name }) => [name, termsOf(await ask({ port: place.envoys[0].envoy.port, path: `/${name}/x`, ...requestOf(name) })).accepts[0]];
    place.entries = Object.fromEntries(await Promise.all(ROUTES.map(entryOf)));
    const firstBlock = (await chain.client.getBlockNumber()) + 1n;
    let marks = 0;
    const works = new Map();
    inference.intercept = async (request, response) => {
      const tag = tagOf(request.url);
      const payment = books.payments.get(tag);
      if (!payment) return false;
      const time = (works.get(tag) ?? 0) + 1;
      works.set(tag, time);
      const random = randomOf(seed, "upstream", tag, time);
      await readBody(request);
      await sleep(random.between(0, 40));
      const mark = `mark-${++marks}`;
      books.given.set(mark, tag);
      books.count("upstream");
      response.setHeader(MARK, mark);
      if (random.chance(0.08)) {
        books.count("upstream failed");
        books.note(payment, `upstream: 500 ${mark}`);
        return sendJson(response, 500, { error: "a mood" });
      }
      books.note(payment, `upstream: ${mark}`);
      const usage = { prompt_tokens: 0, completion_tokens: tokensOf(payment.number), total_tokens: tokensOf(payment.number) };
      sendJson(response, 200, { tag, mark, usage });
    };

    let [isOver, deadline] = [false, Infinity];
    const buyers = makeBuyers({ seed, place, books, deadline: () => deadline });
    place.replace = async (index, env) => {
      const { envoy } = place.envoys[index];
      books.count("under way at a proxy that was killed", buyers.noteKilled(envoy));
      await killed(envoy);
      place.envoys[index] = await place.open(index, env);
    };
    const unfinished = [];
    const watching = watch({ buyers, isOver: () => isOver, unfinished });
    let open = 0;
    const lanes = Array.from({ length: brief ? 6 : LANES }, async () => {
      while (!isOver) {
        // Whoever has to wait long is not waited for.
        while (open >= MOST_OPEN && !isOver) await sleep(50);
        open++;
        const purchase = buyers.buy().finally(() => open--);
        await Promise.race([purchase, sleep(2_000)]);
        unfinished.push(purchase);
      }
    });

    const rows = [];
    const share = Math.ceil(payments / (only.length + 1));
    const calm = async (wanted) => {
      while (buyers.made() < wanted) await sleep(50);
    };
    await calm(Math.ceil(share / 2));
    for (const [place_, name] of only.entries()) {
      const [from, made] = [Date.now(), buyers.made()];
      const counted = { ...books.counts };
      const left = await FAULTS[name](place, brief);
      const end = Date.now();
      const recovery = left
        ? null
        : await eventually(async () => watching.recoveredSince(end), "both proxies sell again", 60_000).catch(() => [Infinity, Infinity]);
      await calm(Math.ceil(share / 2) + share * (place_ + 1));
      const to = Date.now();
      const own = [...books.payments.values()].filter(({ began, ended }) => began >= from && began < to && ended);
      const took = own.map(({ began, ended }) => ended - began);
      const more = (status) => (books.counts[status] ?? 0) - (counted[status] ?? 0);
      rows.push({
        fault: name,
        left,
        payments: buyers.made() - made,
        seconds: (end - from) / 1000,
        recovery,
        gaps: watching.gaps(from, to),
        p50: percentile(took, 0.5),
        p99: percentile(took, 0.99),
        "409": more("409"),
        "503": more("503"),
        "502/504": more("502") + more("504"),
        "500": more("500"),
      });
      if (recovery && Math.max(...recovery) > RECOVERY_MS) books.violate(`${name}: it took ${Math.max(...recovery)} ms until both sold again`);
    }
    await calm(payments);
    isOver = true;
    deadline = Date.now() + (brief ? BRIEF_PATIENCE_MS : PATIENCE_MS);
    await Promise.all([watching.over, ...lanes]);
    await Promise.all(unfinished);
    await sleep(1_500);
    for (const stage of place.envoys) await assertAlive(stage).catch((error) => books.violate(error.message));
    const transfers = await chain.transfers(firstBlock);
    const sums = books.balance({ transfers, accessLog: place.accessLog() });
    sums["the upstream worked"] = books.counts.upstream;
    const waited = [...books.payments.values()].filter(({ ended }) => ended).map(({ began, ended }) => ended - began);
    sums["the longest that a client waited, ms"] = Math.max(...waited);
    const { counts, violations } = books;
    if (violations.length) place.run.keep();
    return { rows, sums, counts, violations, seconds: (Date.now() - started) / 1000, logs: place.run.path };
  } finally {
    await place.stop();
  }
}

// ---- On the terminal ----------------------------------------------------------------------------------------------

/** Prints what came of a storm. */
export function printFleetOutcome({ rows, sums, counts, violations, seconds, logs }) {
  const head = ["fault", "payments", "lasts s", "sells again after s (A, B)", "longest gap s (A, B)", "p50 / p99 ms", "409", "503", "502/504", "500"];
  const cells = rows.map(({ fault, left, payments, seconds: lasts, recovery, gaps, p50, p99, ...codes }) => [
    fault,
    String(payments),
    left ?? lasts.toFixed(1),
    recovery ? recovery.map((ms) => (ms / 1000).toFixed(1)).join(", ") : "–",
    gaps.map((ms) => (ms / 1000).toFixed(1)).join(", "),
    `${p50} / ${p99}`,
    ...["409", "503", "502/504", "500"].map((code) => String(codes[code])),
  ]);
  const widths = head.map((title, column) => Math.max(title.length, ...cells.map((row) => row[column].length)));
  for (const row of [head, ...cells]) line(`  ${row.map((cell, column) => cell.padEnd(widths[column])).join("  ")}`);
  line();
  line(bold("The books"));
  for (const [name, value] of Object.entries(sums)) line(`  ${name.padEnd(40)}${value}`);
  line(`  ${"answers".padEnd(40)}${Object.entries(counts).map(([name, value]) => `${name}: ${value}`).join(" · ")}`);
  line(`  ${"violations".padEnd(40)}${violations.length ? red(String(violations.length)) : green("0")}`);
  line(`  ${"took".padEnd(40)}${seconds.toFixed(0)} s`);
  for (const { what, payment } of violations.slice(0, 20)) {
    line();
    line(red(`VIOLATION  ${what}`));
    if (!payment) continue;
    item("payment", `${payment.path}, ${payment.habit}, nonce ${payment.nonce}`);
    for (const event of payment.timeline.slice(-40)) line(`   ${event}`);
  }
  if (violations.length) item("logs", logs);
}

async function main() {
  const { values } = parseArgs({
    options: {
      payments: { type: "string", default: "2000" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      only: { type: "string", multiple: true },
      brief: { type: "boolean", default: false },
    },
  });
  const [payments, seed] = [Number(values.payments), Number(values.seed)];
  const only = values.only ? faultNames.filter((name) => values.only.some((wanted) => name.includes(wanted))) : faultNames;
  line(bold(`A storm of ${payments} payments over two proxies and one etcd of three members, seed ${seed}`));
  line();
  const outcome = await runFleetStorm({ payments, seed, only, brief: values.brief });
  printFleetOutcome(outcome);
  process.exitCode = outcome.violations.length ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
