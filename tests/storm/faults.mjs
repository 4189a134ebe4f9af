/**
 * A proxy that injects faults: it stands between Envoy and the official facilitator, between Envoy and the chain's node, or
 * between the facilitator and that node, and passes on, delays, breaks off, repeats or garbles. It never says that money has
 * moved when it has not, except where a route has the chain confirm every settlement.
 */
import { request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { readBody, serve } from "../../stage/servers.mjs";

const HTML = "<!doctype html><html><body><h1>Something went wrong</h1></body></html>";
const NOBODY = "0x00000000000000000000000000000000deadbeef";

/**
 * A question on its way to somebody who answers.
 *
 * @typedef {object} Question
 * @property {string} path
 * @property {any} body decoded
 * @property {import("./random.mjs").Random} random
 * @property {number} patience milliseconds after which whoever asked gives up
 * @property {() => Promise<Answer | null>} forward asks; null where nobody answers
 * @property {(answer: Answer | null) => void} answer null cuts the connection
 * @property {(answer: Answer | null) => void} breakOff answers, and cuts the connection in the middle of it
 * @property {string | null} lastTransaction the last transfer that anybody was told of
 *
 * @typedef {{status: number, text: string, headers?: object}} Answer
 *
 * @typedef {object} Fault
 * @property {number} weight how often it comes, beside others
 * @property {(question: Question) => unknown} act
 */

// ---- Faults of every conversation ---------------------------------------------------------------------------------

const json = (value, status = 200) => ({ status, text: JSON.stringify(value) });
const html = (status, headers) => ({ status, text: HTML, headers: { "content-type": "text/html", ...headers } });

/** Does what was asked, or does not, and says something else. @returns {Fault} */
const saying = (weight, make) => ({
  weight,
  act: async (question) => {
    const truth = question.random.chance(0.5) ? await question.forward() : null;
    question.answer(make(question, truth));
  },
});

/** Does what was asked, and says it otherwise. @returns {Fault} */
const telling = (weight, change) => ({
  weight,
  act: async (question) => {
    const truth = await question.forward();
    question.answer(truth && change(truth, question));
  },
});

/** @type {Record<string, Fault>} */
const COMMON = {
  "slow": {
    weight: 6,
    act: async (question) => {
      await sleep(question.random.between(20, question.patience / 2));
      question.answer(await question.forward());
    },
  },
  "late": {
    weight: 4,
    act: async (question) => {
      const truth = await question.forward();
      await sleep(question.patience + question.random.between(50, 500));
      question.answer(truth);
    },
  },
  "cut before": { weight: 4, act: (question) => question.answer(null) },
  "cut after": telling(6, () => null),
  "HTML with 200": saying(1, () => html(200)),
  "HTML with 500": saying(1, () => html(500)),
  "HTML with 502": saying(1, () => html(502)),
  "redirected": saying(1, () => html(302, { location: "http://127.0.0.1:1/" })),
  "rate limited": saying(1, () => json({ error: "too many requests" }, 429)),
  "empty": saying(1, () => ({ status: 200, text: "" })),
  "truncated": telling(1, (truth) => ({ ...truth, text: truth.text.slice(0, truth.text.length / 2) })),
  "broken off": { weight: 1, act: async (question) => question.breakOff(await question.forward()) },
};

// ---- The facilitator's --------------------------------------------------------------------------------------------

const payerOf = ({ body: { paymentPayload: { payload } } }) => payload.authorization?.from ?? payload.channelConfig?.payer;
const someHash = ({ random }) => random.hex(32);

function transactionIn(truth) {
  try {
    return JSON.parse(truth.text).transaction || null;
  } catch {
    return null;
  }
}

/** An answer to `/settle` of the right shape, about the transaction that there was, or one that there was not. */
const settlement = (question, truth, changes) => ({
  success: true,
  transaction: transactionIn(truth) ?? someHash(question),
  network: question.body.paymentRequirements.network,
  payer: payerOf(question),
  ...changes,
});

const settling = (weight, changes) => saying(weight, (question, truth) => json(settlement(question, truth, changes)));
const refusing = (weight, errorReason, changes) => settling(weight, { success: false, errorReason, ...changes });

/** The faults of `/settle`. @type {Record<string, Fault>} */
const SETTLE = {
  ...COMMON,
  // Whoever asked has long given up when the money moves.
  "held back": {
    weight: 4,
    act: async (question) => {
      const [least, most] = question.random.chance(0.8) ? [50, 1_500] : [2_000, 6_000];
      await sleep(question.patience + question.random.between(least, most));
      question.answer(await question.forward());
    },
  },
  "twice, the first heard": {
    weight: 3,
    act: async (question) => {
      question.answer(await question.forward());
      await sleep(question.random.between(0, 800));
      await question.forward();
    },
  },
  // Something on the way that asks twice must pass on the yes: to the filter a first "the nonce is used" means that somebody else
  // has spent the payment.
  "twice at once": {
    weight: 4,
    act: async (question) => {
      const answers = await Promise.all([question.forward(), question.forward()]);
      question.answer(answers.find((answer) => answer && transactionIn(answer)) ?? question.random.pick(answers));
    },
  },
  "shaped like /verify": saying(1, (question) => json({ isValid: true, payer: payerOf(question) })),
  "success as a text": settling(1, { success: "true" }),
  "another payer": settling(1, { payer: NOBODY }),
  "another network": settling(1, { network: "eip155:8453" }),
  "no transaction": settling(1, { transaction: "" }),
  "no reason": settling(1, { success: false, transaction: "" }),
  "pending": refusing(2, "settlement_pending"),
  "refused, with a transaction": refusing(1, "insufficient_funds"),
  "failed, who knows how": refusing(1, "invalid_exact_evm_transaction_failed", { transaction: "" }),
};

/** Lies about `/settle`, for where the chain confirms. @type {Record<string, Fault>} */
const LIES = {
  "a lie: some transaction": {
    weight: 5,
    act: (question) => question.answer(json(settlement(question, null))),
  },
  "a lie: another's transaction": {
    weight: 5,
    act: (question) => {
      const transaction = question.lastTransaction ?? someHash(question);
      question.answer(json(settlement(question, null, { transaction })));
    },
  },
};

/** The faults of `/verify`. @type {Record<string, Fault>} */
const VERIFY = {
  ...COMMON,
  "shaped like /settle": settling(1, {}),
  "another payer": saying(1, () => json({ isValid: true, payer: NOBODY })),
  "valid for a reason": saying(1, (question) =>
    json({ isValid: true, invalidReason: "insufficient_funds", payer: payerOf(question) }),
  ),
};

// ---- A node's -----------------------------------------------------------------------------------------------------

const inBatch = (change) => (truth, question) => {
  const replies = JSON.parse(truth.text);
  return Array.isArray(replies) ? { ...truth, text: JSON.stringify(change(replies, question)) } : truth;
};

const limitExceeded = ({ id }) => ({ jsonrpc: "2.0", id, error: { code: -32005, message: "limit exceeded" } });

/** As one of several nodes that has not seen the last blocks yet. */
function lagging(replies, { body, random }) {
  const asksForHead = new Set(body.filter(({ method }) => method === "eth_blockNumber").map(({ id }) => id));
  const behind = (head) => `0x${Math.max(0, Number(head) - random.between(1, 4)).toString(16)}`;
  return replies.map((reply) => (asksForHead.has(reply.id) ? { ...reply, result: behind(reply.result) } : reply));
}

/** The faults of the node that the filter asks. @type {Record<string, Fault>} */
const NODE = {
  ...COMMON,
  "an error for each call": saying(1, ({ body }) =>
    json(Array.isArray(body) ? body.map(limitExceeded) : limitExceeded(body)),
  ),
  "one reply missing": telling(1, inBatch((replies) => replies.slice(1))),
  "replies in disorder": telling(1, inBatch((replies) => replies.reverse())),
  "lagging": telling(3, inBatch(lagging)),
};

const OF_FARTHER_NODE = ["slow", "cut before", "cut after", "HTML with 502", "rate limited", "an error for each call"];

/** The faults of the node that the facilitator asks. @type {Record<string, Fault>} */
const FARTHER_NODE = Object.fromEntries(OF_FARTHER_NODE.map((name) => [name, NODE[name]]));

// ---- Which of them, and when --------------------------------------------------------------------------------------

/** The names of all faults, by the conversation that they befall. */
export const faultNames = {
  "/verify": Object.keys(VERIFY),
  "/settle": Object.keys({ ...SETTLE, ...LIES }),
  "node": Object.keys(NODE),
  "farther node": Object.keys(FARTHER_NODE),
};

/**
 * The faults of each conversation, and how often one of them befalls a question.
 *
 * @param {object} options
 * @param {(body: any) => boolean} options.isConfirmed whether the chain confirms what the facilitator says of a payment
 * @param {string[]} options.without names of faults that are left out
 * @returns {Record<"facilitator" | "node" | "farther node", (question: Question) => ({name: string} & Fault) | null>}
 */
export function choicesOf({ isConfirmed, without }) {
  const choice = (rate, faults) => {
    const menu = Object.entries(faults).map(([name, fault]) => ({ name, ...fault }));
    const left = menu.filter(({ name }) => !without.includes(name));
    return ({ random }) => (random.chance(rate) ? random.draw(left) : null);
  };
  const [verify, settle, lie] = [choice(0.35, VERIFY), choice(0.5, SETTLE), choice(0.5, { ...SETTLE, ...LIES })];
  return {
    facilitator: (question) => {
      if (question.path === "/verify") return verify(question);
      return (isConfirmed(question.body) ? lie : settle)(question);
    },
    node: choice(0.25, NODE),
    // It is asked eight times for each settlement, so little has to go wrong there.
    "farther node": choice(0.05, FARTHER_NODE),
  };
}

// ---- The proxy ----------------------------------------------------------------------------------------------------

function ask(url, path, text, method = "POST") {
  return new Promise((resolve) => {
    const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const asked = request(`${url}${path}`, { method, headers, agent: false }, (response) => {
      response.on("error", () => resolve(null));
      readBody(response).then((answer) => resolve({ status: response.statusCode, text: answer }), () => resolve(null));
    });
    asked.on("error", () => resolve(null));
    asked.end(text);
  });
}

/**
 * Starts the proxy.
 *
 * @param {object} options
 * @param {number} options.port
 * @param {string} options.target URL of the one who really answers
 * @param {number} options.patience milliseconds after which whoever asks gives up
 * @param {(question: Question) => ({name: string} & Fault) | null} options.choose what befalls a question
 * @param {(question: {path: string, body: any}) => import("./random.mjs").Random} options.randomFor
 * @param {(event: {path: string, body: any, fault: string | null, answer?: Answer | null}) => void} options.tell hears of
 *   each fault when it begins, and of each answer
 * @returns {Promise<FaultInjectingProxy>}
 *
 * @typedef {object} FaultInjectingProxy
 * @property {() => void} calm from now on there are no faults
 * @property {() => boolean} isIdle whether nothing is under way any more
 * @property {() => Promise<void>} stop cuts all connections, and nothing listens any more; what was passed on goes on
 * @property {() => Promise<void>} start
 */
export async function startFaultInjectingProxy({ port, target, patience, choose, randomFor, tell }) {
  let isCalm = false;
  let underWay = 0;
  let lastTransaction = null;

  const handle = async (incoming, response) => {
    const text = await readBody(incoming);
    // What the facilitator supports it says to whoever asks, and is asked again by whoever did not hear it.
    if (incoming.method === "GET") {
      const answer = await ask(target, incoming.url, "", "GET");
      if (!answer) return incoming.socket.destroy();
      response.writeHead(answer.status, { "content-type": "application/json", "content-length": Buffer.byteLength(answer.text) });
      return response.end(answer.text);
    }
    const [path, body] = [incoming.url, JSON.parse(text)];
    const question = {
      path,
      body,
      patience,
      lastTransaction,
      random: randomFor({ path, body }),
      forward: async () => {
        const answer = await ask(target, path, text);
        lastTransaction = transactionIn(answer) ?? lastTransaction;
        tell({ path, body, fault: fault?.name ?? null, answer });
        return answer;
      },
      answer: (answer) => {
        if (!answer) return incoming.socket.destroy();
        const length = { "content-length": Buffer.byteLength(answer.text) };
        response.writeHead(answer.status, { "content-type": "application/json", ...length, ...answer.headers });
        response.end(answer.text);
      },
      breakOff: (answer) => {
        if (!answer) return incoming.socket.destroy();
        response.writeHead(200, { "content-length": answer.text.length });
        response.write(answer.text.slice(0, answer.text.length / 2), () => incoming.socket.destroy());
      },
    };
    const fault = isCalm ? null : choose(question);
    if (!fault) return question.answer(await question.forward());
    tell({ path, body, fault: fault.name });
    await fault.act(question);
  };

  const proxy = { calm: () => (isCalm = true), isIdle: () => underWay === 0 };
  proxy.start = async () => {
    const server = await serve(port, async (incoming, response) => {
      underWay++;
      // Most of those who asked are gone when the answer comes, and that is meant.
      response.on("error", () => {});
      await handle(incoming, response).catch(() => incoming.socket.destroy());
      underWay--;
    });
    proxy.stop = server.stop;
  };
  await proxy.start();
  return proxy;
}
