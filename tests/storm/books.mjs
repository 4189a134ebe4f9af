/**
 * The books of a storm: what was to be paid, what the chain says was paid, what clients received, what the upstream gave,
 * and what Envoy logged. Balancing them shows whether anybody paid twice, was served unpaid, or was left with nothing.
 */
import { decodePaymentRequiredHeader, decodePaymentResponseHeader } from "@x402/core/http";

/** Under this name the upstream numbers its answers. */
export const MARK = "x-storm-mark";

const same = (a, b) => String(a).toLowerCase() === String(b).toLowerCase();

function decoded(decode, header) {
  try {
    return header === undefined ? null : decode(header);
  } catch {
    return null;
  }
}

/** The tag of the payment that a path is asked with: its last segment. */
export const tagOf = (path) => path.split("?")[0].split("/").at(-1);

/** The terms in an answer, or null. @param {import("./wire.mjs").Reply} reply */
export const termsOf = ({ headers }) => decoded(decodePaymentRequiredHeader, headers["payment-required"]);

/** The receipt in an answer, or null. @param {import("./wire.mjs").Reply} reply */
export const receiptOf = ({ headers }) => decoded(decodePaymentResponseHeader, headers["payment-response"]);

/** Whether this answer tells a client that its payment is worth nothing, so that it would sign another one. */
export const isRefusal = ({ status }) => status === 402;

/** Whether this answer is what was for sale. @param {import("./wire.mjs").Reply} reply */
export const isServed = ({ status }) => status !== null && status < 400;

/**
 * @typedef {ReturnType<typeof openBooks>} Books
 *
 * @typedef {object} Payment
 * @property {string} tag names it in paths and logs
 * @property {string} kind of the client
 * @property {string} path
 * @property {string} nonce
 * @property {string} payer
 * @property {string} payTo
 * @property {string} amount
 * @property {number} validBefore
 * @property {boolean} isGood whether nothing can speak against it: the money is there, the terms stay, and it lives long
 * @property {number} tries
 * @property {number} misses answers that left the client waiting, before it was served
 * @property {{mark: string, transaction: string | null}[]} deliveries heads of responses that arrived
 * @property {string[]} refusals why it was refused, each time
 * @property {"open" | "served" | "refused"} final
 * @property {string[]} timeline
 *
 * @typedef {object} Sums how many payments …
 * @property {number} settled moved money
 * @property {number} delivered bought a response whose head arrived
 * @property {number} recovered … after an answer that left the client waiting
 * @property {number} lost bought one that Envoy sent, and that did not arrive
 * @property {number} refused were refused, and moved nothing
 * @property {number} owed moved money, and bought nothing
 * @property {number} open have no final answer
 */

/** Opens the books. */
export function openBooks() {
  const started = Date.now();
  const [payments, byNonce, given] = [new Map(), new Map(), new Map()];
  const violations = [];
  const counts = {};

  const count = (heading, name) => {
    counts[heading] ??= {};
    counts[heading][name] = (counts[heading][name] ?? 0) + 1;
  };
  const violate = (what, payment) => violations.push({ what, payment });
  const note = (key, text) => {
    const payment = payments.get(key) ?? byNonce.get(String(key).toLowerCase());
    payment?.timeline.push(`${String(Date.now() - started).padStart(6)} ms  ${text}`);
  };

  return {
    /** What is wrong, and the payment that it is wrong about. @type {{what: string, payment?: Payment}[]} */
    violations,

    /** How often what happened. @type {Record<string, Record<string, number>>} */
    counts,

    /** Counts something under a heading and a name. */
    count,

    /** Notes what is wrong. */
    violate,

    /** Adds a line to what happened to a payment, which is known by its tag or its nonce. */
    note,

    /** Takes a payment down before it is sent for the first time. @returns {Payment} */
    open: (facts) => {
      const blank = { tries: 0, misses: 0, deliveries: [], refusals: [], final: "open", timeline: [] };
      const payment = { ...facts, ...blank };
      payments.set(payment.tag, payment);
      byNonce.set(payment.nonce.toLowerCase(), payment);
      return payment;
    },

    /** Notes the mark under which the upstream answers a request. */
    give: (mark, facts) => given.set(mark, facts),

    /** Notes what came back to a client that had sent the payment. @param {import("./wire.mjs").Reply} reply */
    receive: (payment, reply) => {
      const { status, headers, text, end, ms } = reply;
      const [terms, receipt, mark] = [termsOf(reply), receiptOf(reply), headers[MARK]];
      const why = receipt?.errorReason ?? terms?.error ?? headers["x-storm-mood"] ?? text.slice(0, 90);
      const about = isServed(reply) ? mark : why;
      note(payment.tag, `client: ${status === null ? "nothing" : `${status} ${about}`}, ${end} after ${ms.toFixed(0)} ms`);
      if (end === "unanswered") violate("a request stayed unanswered", payment);
      if (status === 400) violate("a good payment was taken for garbage", payment);
      const invites = terms !== null || (!mark && /"accepts":/.test(text));
      if (status !== 402 && invites) violate(`a ${status} with terms`, payment);

      if (isServed(reply)) {
        if (receipt?.success !== true) violate("served without a receipt", payment);
        payment.deliveries.push({ mark, transaction: receipt?.transaction ?? null });
        payment.final = "served";
      } else if (isRefusal(reply)) {
        payment.refusals.push(why);
        if (payment.final === "open") payment.final = "refused";
      } else if (status !== 409 && payment.final === "open") payment.misses++;
    },

    /** Notes what came back to somebody who had paid nothing. @param {import("./wire.mjs").Reply} reply */
    receiveUnpaid: (what, { status, headers, text }) => {
      const isGoods = status !== null && (status < 400 || headers[MARK] !== undefined);
      if (isGoods) violate(`served unpaid: ${what}: ${status} ${text.slice(0, 200)}`);
    },

    /**
     * Balances.
     *
     * @param {object} evidence
     * @param {import("../../stage/chain.mjs").Transfer[]} evidence.transfers all that moved in the storm
     * @param {object[]} evidence.accessLog Envoy's
     * @param {boolean} evidence.isComplete whether everything must have come to its end
     * @returns {Sums}
     */
    balance: ({ transfers, accessLog, isComplete }) => {
      const settled = new Map();
      for (const transfer of transfers) {
        const payment = byNonce.get(String(transfer.nonce).toLowerCase());
        if (!payment) violate(`a transfer that nobody signed: ${transfer.transaction}`);
        else if (settled.has(payment)) violate("settled twice", payment);
        else settled.set(payment, transfer);
      }
      // The transactions under which Envoy sent a response, by the tag in its path. (Of a response that still waited when
      // its client left, Envoy logs the status as well, and the filter says that it was abandoned.)
      const sent = new Map();
      for (const { path, status, details, transaction, outcome } of accessLog) {
        const tag = tagOf(path ?? "");
        note(tag, `access log: ${status} ${details} ${transaction ?? "-"} (${path})`);
        if (transaction && status < 400 && outcome !== "abandoned") sent.set(tag, [...(sent.get(tag) ?? []), transaction]);
      }
      const sums = { settled: settled.size, delivered: 0, recovered: 0, lost: 0, refused: 0, owed: 0, open: 0 };
      const seen = new Map();
      for (const payment of payments.values()) {
        const [transfer, transactions] = [settled.get(payment), sent.get(payment.tag) ?? []];
        if (transfer) note(payment.tag, `chain: settled by ${transfer.transaction} in block ${transfer.block}`);
        for (const wrong of [
          ...wrongsOfDelivery(payment, transfer, given, seen),
          ...wrongsOfMoney(payment, transfer, transactions),
        ]) violate(wrong, payment);

        const [isDelivered, isRefused] = [payment.deliveries.length > 0, payment.final === "refused"];
        const isLost = !isDelivered && transactions.length > 0;
        const isOwed = Boolean(transfer) && !isDelivered && !isLost;
        sums.delivered += isDelivered;
        sums.recovered += isDelivered && payment.misses > 0;
        sums.lost += isLost;
        sums.refused += isRefused && !transfer;
        sums.owed += isOwed;
        sums.open += payment.final === "open";
        if (isLost) count("lost", payment.kind);
        if (isRefused && !transfer) count("refused", payment.refusals[0]);

        const [why] = payment.refusals;
        if (isOwed && why) violate(`refused (${why}), though it has settled and was not served`, payment);
        else if (isOwed && isComplete) violate("settled, and never served", payment);
        if (isRefused && !transfer && payment.isGood) violate(`refused (${why}), though nothing is wrong with it`, payment);
        if (isComplete && payment.final === "open") violate("no final answer", payment);
      }
      return sums;
    },
  };
}

/** What is wrong with what a payment bought, if anything is. */
function* wrongsOfDelivery({ tag, deliveries, payer: paidBy, amount: paid }, transfer, given, seen) {
  if (deliveries.length > 1) yield `delivered ${deliveries.length} times`;
  for (const { mark, transaction } of deliveries) {
    if (!transfer) yield "delivered, and never settled";
    else if (!same(transaction, transfer.transaction)) yield `the receipt says ${transaction}`;
    if (seen.has(mark)) yield `${mark} went to ${seen.get(mark)}, too`;
    seen.set(mark, tag);
    const gift = given.get(mark);
    if (!gift) yield `the upstream never gave ${mark}`;
    else if (gift.tag !== tag) yield `${mark} was made for ${gift.tag}`;
    else if (!same(gift.payer, paidBy) || gift.amount !== paid) yield `the upstream was told ${gift.payer}, ${gift.amount}`;
  }
}

/** What is wrong with the money that a payment moved, and with what Envoy sent for it, if anything is. */
function* wrongsOfMoney({ payer, payTo, amount }, transfer, transactions) {
  if (transfer) {
    const { from, to, value } = transfer;
    const isRight = same(from, payer) && same(to, payTo) && String(value) === amount;
    if (!isRight) yield `moved ${value} from ${from} to ${to}`;
  }
  if (transactions.length > 1) yield `Envoy sent ${transactions.length} responses for one payment`;
  const other = transactions.find((transaction) => !same(transaction, transfer?.transaction));
  if (other) yield `Envoy sent a response for another transaction: ${other}`;
}
