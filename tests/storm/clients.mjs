/**
 * Clients: honest ones, ones in a hurry, ones that hang up and come back, ones that try one payment many times, and ones
 * without money. All of them send the same payment again until they have a final answer.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { now, paying, signPayment } from "../e2e/support.mjs";
import { termsOf } from "./books.mjs";
import { payers, poorPayer } from "./gateway.mjs";
import { randomOf } from "./random.mjs";
import { ask } from "./wire.mjs";

const BODY = JSON.stringify({ words: "w".repeat(3_000) });

/** Payments that live so many seconds outlive the storm; others expire in it. */
const LONG = 1_800;
const lifetimeOf = (random, shortLived) => (random.chance(shortLived) ? random.between(8, 14) : LONG);

/**
 * The kinds of clients and what sets them apart: how many there are, how many of their payments live short, and what they
 * do.
 *
 * @type {Record<string, {count: number, shortLived: number, account?: import("viem").LocalAccount, hangsUp?: boolean,
 *   isParallel?: boolean, replays?: boolean}>}
 */
const KINDS = {
  honest: { count: 6, shortLived: 0.05 },
  hasty: { count: 2, shortLived: 1 },
  disconnecting: { count: 6, shortLived: 0.15, hangsUp: true },
  replaying: { count: 1, shortLived: 0.1, replays: true },
  parallel: { count: 2, shortLived: 0.1, isParallel: true, replays: true },
  poor: { count: 1, shortLived: 1, account: poorPayer },
};

const METHODS = [{ weight: 6, name: "GET" }, { weight: 4, name: "POST" }, { weight: 1, name: "HEAD" }];

/** How often a client tries where the filter may never find out what became of a payment. */
const MOST_TRIES_WITHOUT_RPC = 8;

/** When a client that hangs up does so: before the head, mostly within the time that a settlement takes, or behind it. */
function hangUpOf(random) {
  if (random.chance(0.25)) return { behindHead: random.between(0, 100) };
  return { beforeHead: random.chance(0.6) ? random.between(1, 120) : random.between(120, 900) };
}

/** A request's method, version of HTTP, and body. */
function questionOf(random) {
  const [method, version] = [random.draw(METHODS).name, random.chance(0.25) ? 2 : 1];
  const slowly = random.chance(0.3) ? random.between(20, 400) : 0;
  return { method, version, ...(method === "POST" && { body: BODY, slowly }) };
}

/**
 * Makes the clients of a storm.
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {import("./books.mjs").Books} options.books
 * @param {import("./gateway.mjs").Gateway} options.gateway
 */
export function makeClients({ seed, books, gateway }) {
  let deadline = Infinity;

  const request = (kind, question) => {
    books.count("requests", kind);
    return ask({ port: gateway.port, ...question });
  };

  /** Asks for the terms until they come. */
  async function quote(kind, question) {
    while (Date.now() < deadline) {
      const reply = await request(kind, question);
      const terms = termsOf(reply);
      if (reply.status === 402 && terms) return terms;
      const what = `${question.method} ${question.path}`;
      if (reply.end === "unanswered") books.violate(`a request for terms stayed unanswered: ${what}`);
      books.receiveUnpaid(what, reply);
      await sleep(100);
    }
    return null;
  }

  /** Sends the payment once. @param {import("./books.mjs").Payment} payment */
  async function send(payment, { path = payment.path, ...question }) {
    const time = ++payment.tries;
    const intent = question.hangUp ? `, and means to hang up: ${JSON.stringify(question.hangUp)}` : "";
    books.note(payment.tag, `client: try ${time}${intent}`);
    const reply = await request(payment.kind, { ...question, path: `${path}?try=${time}` });
    books.receive(payment, reply);
    return reply;
  }

  /** Sends the payment until it is served or refused for good. @param {import("./books.mjs").Payment} payment */
  async function pursue(payment, paid, random, { hangsUp }) {
    const mostTries = gateway.withRpc ? Infinity : payment.tries + MOST_TRIES_WITHOUT_RPC;
    for (let left = hangsUp ? random.between(1, 3) : 0; payment.final === "open"; left--) {
      if (Date.now() > deadline || payment.tries >= mostTries) return;
      const hangUp = left > 0 && !gateway.isCalm() ? hangUpOf(random) : undefined;
      const { end } = await send(payment, { ...paid, hangUp });
      // At first as impatient as clients are, then about as patient as they are told to be.
      const isInHurry = end === "hung up" || payment.tries < 3;
      if (payment.final === "open") await sleep(isInHurry ? random.between(0, 250) : random.between(300, 1_100));
    }
  }

  /** One purchase, from the terms to a final answer. */
  async function buy(kind, tag, random) {
    const { shortLived, account = random.pick(payers), hangsUp = false, isParallel, replays } = KINDS[kind];
    const route = random.pick(gateway.routes);
    const question = { ...questionOf(random), path: `/${route.name}/${tag}` };
    const terms = await quote(kind, question);
    if (!terms) return;

    const [entry] = terms.accepts;
    const { payTo, amount } = entry;
    const [nonce, lifetime] = [random.hex(32), lifetimeOf(random, shortLived)];
    const validBefore = now() + lifetime;
    const authorization = { nonce, validBefore: String(validBefore) };
    const signed = await signPayment(entry, { account, authorization, resource: terms.resource });
    const isGood = account !== poorPayer && lifetime === LONG && !route.isFickle;
    const payer = account.address;
    const payment = books.open({ tag, kind, path: question.path, nonce, payer, payTo, amount, validBefore, isGood });

    const paid = { ...question, headers: paying(signed) };
    // The same terms, and so the same payment, may be good on another route, too.
    const paths = [payment.path, `/${route.twin ?? route.name}/${tag}`];
    const copies = isParallel ? random.between(3, 10) : 0;
    await Promise.all(Array.from({ length: copies }, (_, copy) => send(payment, { ...paid, path: paths[copy % 2] })));
    await pursue(payment, paid, random, { hangsUp });
    if (!replays && !(hangsUp && random.chance(0.3))) return;
    for (let more = random.between(1, 3); more > 0 && payment.final === "served"; more--) await send(payment, paid);
  }

  /** One client: buys one thing after the other until it is told to stop; the last purchase comes to its end. */
  async function live(kind, index, until) {
    for (let serial = 1; Date.now() < until(); serial++) {
      const tag = `${kind}-${index}-${serial}`;
      const random = randomOf(seed, tag);
      await buy(kind, tag, random);
      await sleep(random.between(0, 150));
    }
  }

  return {
    /** Sends them all off. @param {() => number} until when they begin no more purchases */
    start: (until) =>
      Promise.all(
        Object.entries(KINDS).flatMap(([kind, { count }]) =>
          Array.from({ length: count }, (_, index) => live(kind, index + 1, until)),
        ),
      ),
    /** From then on nobody tries again. @param {number} moment */
    giveUpAt: (moment) => (deadline = moment),
  };
}
