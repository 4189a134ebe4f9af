/**
 * What everybody saw while hostile clients were at work: who really signed what, what the upstream was given, what the
 * facilitator and the node were asked and on whose behalf, and what moved on the chain.
 */
import { PERMIT2 } from "../../stage/contracts.mjs";
import { payTo, USDC } from "../e2e/support.mjs";

const lower = (text) => String(text).toLowerCase();
const word = (value) => BigInt(value).toString(16).padStart(64, "0");

/** Whoever is named in questions to a node and is no payer. */
const OTHERS = [payTo, USDC, PERMIT2].map(word);

/** A payment's payer, nonce (as a word of 32 bytes, in hexadecimal digits) and signature. */
export function authorizationOf({ payload: { authorization, permit2Authorization, signature } }) {
  const { from, nonce } = authorization ?? permit2Authorization;
  return { from: lower(from), nonce: word(nonce), signature: lower(signature) };
}

// ---- What is for sale, read as loosely as any upstream might ------------------------------------------------------

const CHAT = ["v1", "chat", "completions"];

function decodedOnce(path) {
  return path.replace(/%([0-9a-f]{2})/gi, (_, digits) => String.fromCharCode(parseInt(digits, 16)));
}

function withoutDots(segments) {
  const kept = [];
  for (const segment of segments) {
    if (segment === "..") kept.pop();
    else if (segment !== ".") kept.push(segment);
  }
  return kept;
}

/**
 * Whether some server might take a request's target for something that is for sale.
 *
 * @param {string} target raw
 * @param {string[]} names the first segments of what is for sale
 */
export function mayBePriced(target, names) {
  const once = decodedOnce(target.split("?")[0]);
  for (const path of [target.split("?")[0], once, decodedOnce(once)]) {
    const raw = path.split(/[?#]/)[0].replaceAll("\\", "/").toLowerCase().split("/");
    for (const segments of [raw, raw.map((segment) => segment.split(";")[0])]) {
      const merged = segments.filter(Boolean);
      for (const [first, ...rest] of [segments.slice(1), merged, withoutDots(segments.slice(1)), withoutDots(merged)]) {
        if (names.includes(first) && rest.some(Boolean)) return true;
        if ([first, ...rest.filter(Boolean)].join("/") === CHAT.join("/")) return true;
      }
    }
  }
  return false;
}

/** Whether a browser asks for leave to send a request of another origin: what it gets is leave, and nothing else. */
function isPreflight(method, headers) {
  const valueOf = (wanted) => headers.find(([name]) => lower(name) === wanted)?.[1];
  const isWhole = valueOf("origin") && valueOf("access-control-request-method");
  const hasMore = valueOf("upgrade") || valueOf("transfer-encoding") || Number(valueOf("content-length") ?? 0) > 0;
  return method === "OPTIONS" && isWhole && !hasMore;
}

// ---- The witness --------------------------------------------------------------------------------------------------

/**
 * @typedef {object} Purchase
 * @property {string} tag stands in the target, and names it
 * @property {string} kind
 * @property {object} payment as it was signed
 * @property {boolean} isMetered
 * @property {string} amount the most that it costs
 * @property {number} served how often
 * @property {string | null} transaction as the receipt says
 * @property {string | null} charge as the receipt or the usage says, where that is not the amount
 * @property {number} visits how often its payer came back
 * @property {number[]} statuses of all answers
 *
 * @typedef {ReturnType<typeof openWitness>} Witness
 */

/** The tag of a purchase in a target; null where there is none. */
export const tagIn = (target) => /honest-\d+/.exec(target)?.[0] ?? null;

/**
 * Opens the books.
 *
 * @param {{names: string[]}} options the first segments of what is for sale
 */
export function openWitness({ names }) {
  /** @type {Map<string, Purchase>} */
  const purchases = new Map();
  const payers = { honest: new Set(), penniless: new Set() };
  const signatures = { honest: new Map(), penniless: new Map() };
  // Nonces, and for Permit2 also the word of its bitmap that a nonce is in.
  const known = new Set();
  const atUpstream = new Map();
  const settlements = new Map();
  const violations = [];
  const counts = {};
  const count = (heading, name) => {
    counts[heading] ??= {};
    counts[heading][name] = (counts[heading][name] ?? 0) + 1;
  };
  // A fault that shows ten thousand times is told of once.
  const violate = (what, about = "") => {
    count("violations", what);
    if (counts.violations[what] <= 3) violations.push(about ? `${what}: ${about}` : what);
  };

  const whoSigned = ({ from, nonce, signature }) =>
    ["honest", "penniless"].find((who) => signatures[who].get(`${from} ${nonce}`) === signature) ?? "nobody";

  const seeUpstream = ({ method, path, headers }) => {
    const told = headers.filter(([name]) => lower(name).startsWith("x-x402-")).map(([name, value]) => [lower(name), value]);
    const about = `${method} ${path.slice(0, 200)} ${headers.find(([name]) => name === "x-hostile")?.[1] ?? ""}`;
    if (!mayBePriced(path, names)) {
      count("upstream", "free");
      if (told.length) violate("the upstream is told of a payment where nothing is for sale", `${about} ${told}`);
      return;
    }
    const [tag, payer] = [tagIn(path), lower(Object.fromEntries(told)["x-x402-payer"])];
    const purchase = purchases.get(tag);
    if (purchase && payer === authorizationOf(purchase.payment).from) {
      count("upstream", "honest");
      return void atUpstream.set(tag, (atUpstream.get(tag) ?? 0) + 1);
    }
    if (isPreflight(method, headers)) return count("upstream", "preflights");
    // Under `settle: concurrent` the upstream hears at once of what is really signed, whether or not the money is there.
    const isJoint = path.startsWith("/concurrent/") && payers.penniless.has(payer);
    if (isJoint) return count("upstream", "signed without money, concurrent");
    count("upstream", "hostile");
    violate("the upstream hears of what nobody paid for", `${about} ${told}`);
  };

  const seeFacilitator = ({ path, request }) => {
    if (!request) return count("facilitator", path);
    const who = whoSigned(authorizationOf(request.paymentPayload));
    count("facilitator", `${path} ${who}`);
    if (path !== "/settle") return;
    const { from, nonce } = authorizationOf(request.paymentPayload);
    settlements.set(nonce, (settlements.get(nonce) ?? 0) + 1);
    if (who === "nobody") violate("/settle is asked for what nobody has signed", `${from} ${nonce}`);
  };

  const seeNode = ({ method, params }) => {
    const { data = "", topics = [] } = params?.[0] ?? {};
    const inTopics = topics.flat().filter(Boolean).map((topic) => lower(topic).slice(2));
    const words = [...(lower(data).slice(10).match(/.{64}/g) ?? []), ...inTopics];
    const isAddress = (one) => one.startsWith("0".repeat(24)) && BigInt(`0x${one}`) > 2n ** 64n;
    const named = words.filter((one) => isAddress(one) && !OTHERS.includes(one));
    const whose = ["honest", "penniless"].find((who) => named.every((one) => payers[who].has(`0x${one.slice(24)}`)));
    const isAbout = words.some((one) => known.has(one));
    if (words.length === 0) return count("node", method);
    count("node", `${method} ${whose && isAbout ? whose : "nobody"}`);
    if (!whose || !isAbout) violate("the node is asked for what nobody has signed", `${method} ${JSON.stringify(params)}`);
  };

  return {
    violations,
    counts,
    count,
    violate,
    purchases,

    /** The first segments of what is for sale. */
    names,

    /** Notes what somebody really signed. @param {"honest" | "penniless"} who */
    signed: (who, payment) => {
      const { from, nonce, signature } = authorizationOf(payment);
      payers[who].add(from);
      signatures[who].set(`${from} ${nonce}`, signature);
      known.add(nonce);
      if (payment.payload.permit2Authorization) known.add(word(BigInt(`0x${nonce}`) >> 8n));
    },

    /** Opens a purchase. @returns {Purchase} */
    open: (facts) => {
      const purchase = { served: 0, transaction: null, charge: null, visits: 0, statuses: [], ...facts };
      purchases.set(purchase.tag, purchase);
      return purchase;
    },

    seeUpstream,
    seeFacilitator,
    seeNode,

    /** Notes whom a log calls a payer. */
    seeNamed: (payer, about) => {
      const isPayer = payers.honest.has(lower(payer)) || payers.penniless.has(lower(payer));
      if (!isPayer) violate("a log calls somebody a payer who has signed nothing", `${payer}: ${about}`);
    },

    /** Compares what was bought with what moved. @param {import("../../stage/chain.mjs").Transfer[]} transfers */
    balance: (transfers) => {
      const byTransaction = new Map(transfers.map((transfer) => [transfer.transaction, transfer]));
      const paid = new Set();
      for (const purchase of purchases.values()) {
        const { tag, kind, payment, isMetered, amount, served, transaction, charge, visits, statuses } = purchase;
        const about = `${tag} (${kind}), answers ${statuses.join(", ")}`;
        const { from, nonce } = authorizationOf(payment);
        if (served !== 1) violate(`an honest payment was served ${served} times`, about);
        const given = atUpstream.get(tag) ?? 0;
        // Who was asked to come again may have been at work before.
        const isRight = given === 1 + visits || (given > visits && given <= statuses.length && statuses.length > 1 + visits);
        if (!isRight) violate("the upstream heard of an honest request too often, or never", `${about}: ${given}`);
        const own = transfers.filter((one) => one.nonce && word(one.nonce) === nonce);
        if (!isMetered && own.length !== 1) violate(`an honest payment moved ${own.length} times`, about);
        const transfer = byTransaction.get(transaction);
        if (!transfer) violate("an honest receipt names no transfer", `${about}: ${transaction}`);
        else if (paid.has(transaction)) violate("two receipts name one transfer", about);
        else {
          const value = charge ?? amount;
          const isDue = lower(transfer.from) === from && lower(transfer.to) === lower(payTo) && String(transfer.value) === value;
          if (!isDue)
            violate("the wrong money moved", `${about}: ${transfer.value} of ${value} from ${transfer.from} to ${transfer.to}`);
          if (transfer.value > BigInt(amount)) violate("more moved than was signed for", about);
        }
        paid.add(transaction);
        if ((settlements.get(nonce) ?? 0) > 1) count("settled anew", kind);
      }
      const more = transfers.filter(({ transaction }) => !paid.has(transaction));
      if (more.length) violate(`${more.length} transfers that no receipt names`, `${more[0].from} ${more[0].transaction}`);
    },
  };
}
