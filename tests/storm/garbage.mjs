/** Senders of garbage: what they send pays for nothing, so they get nothing, and the upstream never hears of them. */
import { setTimeout as sleep } from "node:timers/promises";
import { encoded, paying, quote, send, signPayment } from "../e2e/support.mjs";
import { MARK } from "./books.mjs";
import { payers, poorPayer } from "./gateway.mjs";
import { randomOf } from "./random.mjs";

/** By which payments come. */
export const HEADER = "payment-signature";

const authorizing = (payment, changes) => ({
  ...payment,
  payload: { ...payment.payload, authorization: { ...payment.payload.authorization, ...changes } },
});
const accepting = (payment, changes) => ({ ...payment, accepted: { ...payment.accepted, ...changes } });
const flipped = (hex, at) => hex.slice(0, at) + (hex[at] === "1" ? "2" : "1") + hex.slice(at + 1);
const resigned = (payment, random) => {
  const signature = flipped(payment.payload.signature, random.between(4, 120));
  return { ...payment, payload: { ...payment.payload, signature } };
};

/** Letters, signs, and bytes that are no text, as Latin-1. */
const noise = (random, length) => {
  const byte = () => (random.chance(0.5) ? random.between(0x21, 0x7e) : random.between(0x80, 0xff));
  return String.fromCharCode(...Array.from({ length }, byte));
};

/** Each makes the headers of a request out of a payment that would be good. */
export const HEADERS = {
  "nothing at all": () => ({}),
  "noise": (_, random) => ({ [HEADER]: noise(random, random.between(1, 300)) }),
  "0xff": () => ({ [HEADER]: "\xff\xfe\xff", "x-other": "\xff" }),
  "base64 of noise": (_, random) => ({ [HEADER]: Buffer.from(noise(random, 200), "latin1").toString("base64") }),
  "broken base64": (payment, random) => ({ [HEADER]: `${encoded(payment).slice(0, random.between(0, 600))}!=!` }),
  "truncated": (payment, random) => ({ [HEADER]: encoded(JSON.stringify(payment).slice(0, random.between(1, 400))) }),
  "huge": (payment) => ({ [HEADER]: encoded({ ...payment, extensions: { filler: "f".repeat(30_000) } }) }),
  "nested deeply": () => ({ [HEADER]: encoded("[".repeat(10_000)) }),
  "two payments": (payment) => ({ [HEADER]: [encoded(payment), encoded(payment)] }),
  "two versions": (payment) => ({ ...paying(payment), "x-payment": encoded({ ...payment, other: true }) }),
  "version 1": (payment) => ({ "x-payment": encoded(payment) }),
  "another amount": (payment) => paying(authorizing(payment, { value: "1" })),
  "another amount everywhere": (payment) => paying(accepting(authorizing(payment, { value: "1" }), { amount: "1" })),
  "another recipient": (payment) => paying(authorizing(payment, { to: poorPayer.address })),
  "another payer": (payment) => paying(authorizing(payment, { from: poorPayer.address })),
  "another nonce": (payment) => paying(authorizing(payment, { nonce: flipped(payment.payload.authorization.nonce, 9) })),
  "another signature": (payment, random) => paying(resigned(payment, random)),
  "another network": (payment) => paying(accepting(payment, { network: "eip155:8453" })),
  "expired": (payment) => paying(authorizing(payment, { validBefore: "1" })),
  "the filter's own headers": () => ({ "x-x402-payer": payers[0].address, "x-x402-amount": "1000" }),
  "another path named": () => ({ "x-original-url": "/free", "x-rewrite-url": "/free", "x-http-method-override": "HEAD" }),
};

/** Spellings of a priced path, some of them such that servers would differ on them. */
export const PATHS = [
  (path) => path,
  (path) => `/${path}`,
  (path) => path.toUpperCase(),
  (path) => `/x/..${path}`,
  (path) => `/%2e${path}`,
  (path) => path.replace(/(?<=.)\//, "%2f"),
  (path) => path.replace(/(?<=.)\//, "\\"),
  (path) => path.replace(/^\/(.)/, (_, letter) => `/%${letter.charCodeAt(0).toString(16)}`),
  (path) => `${path};v=1`,
  (path) => `${path}%zz`,
  (path) => `${path}#fragment`,
  (path) => `http://127.0.0.1${path}`,
];

export const METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW"];

/** The names of all garbage, as it is counted. */
export const garbageNames = Object.keys(HEADERS);

/**
 * Sends garbage until it is told to stop.
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {import("./books.mjs").Books} options.books
 * @param {import("./gateway.mjs").Gateway} options.gateway
 * @param {() => number} options.until
 */
export async function sendGarbage({ seed, books, gateway, until }) {
  async function sendOne(path, payment, random) {
    const what = random.pick(garbageNames);
    const [method, target] = [random.pick(METHODS), random.chance(0.3) ? path : random.pick(PATHS)(path)];
    books.count("garbage", what);
    books.count("requests", "garbage");
    const headers = { ...HEADERS[what](payment, random), "x-garbage": what };
    const body = random.chance(0.2) ? "b".repeat(500) : undefined;
    const { socket, answer } = send(gateway, target, { method, headers, body });
    if (random.chance(0.1)) setTimeout(() => socket.destroy(), random.between(0, 30));
    const got = await answer.catch((error) => error);
    const about = `${what}: ${method} ${target}`;
    if (!(got instanceof Error)) {
      books.count("answers", String(got.status));
      const isGoods = got.status < 400 || got.get(MARK) !== undefined;
      if (isGoods) books.violate(`garbage was served: ${about}: ${got.status} ${got.text.slice(0, 200)}`);
    } else if (/in time/.test(got.message)) books.violate(`garbage stayed unanswered: ${about}`);
  }

  for (let serial = 1; Date.now() < until(); serial++) {
    const random = randomOf(seed, "garbage", serial);
    const path = `/${random.pick(gateway.routes).name}/garbage-${serial}`;
    const terms = await quote(gateway, path).catch(() => null);
    const options = { account: random.pick(payers), authorization: { nonce: random.hex(32) } };
    const payment = terms && (await signPayment(terms.accepts[0], options));
    for (let more = 6; payment && more > 0; more--) await sendOne(path, payment, random);
    await sleep(random.between(20, 200));
  }
}
