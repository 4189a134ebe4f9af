/** Honest buyers among hostile clients: each pays once for one thing, on every kind of route, and is owed one response. */
import { setTimeout as sleep } from "node:timers/promises";
import { createSIWxPayload, encodeSIWxHeader } from "@x402/extensions/sign-in-with-x";
import { encoded, signPayment } from "../e2e/support.mjs";
import { signPermit2Payment } from "../e2e/permit2.mjs";
import { receiptOf, termsOf } from "./books.mjs";
import { payers } from "./gateway.mjs";
import { bytesOf } from "./lane.mjs";
import { randomOf } from "./random.mjs";

/** As often a buyer comes again who is told to. */
const MOST_TRIES = 10;

const JSON_TYPE = ["content-type", "application/json"];

/** What a chat costs at most is in what it says. */
const chat = (words, more = {}) =>
  JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: words }], max_tokens: 50, ...more });

/** What is bought, by turns. */
const GOODS = [
  ...["after", "before", "concurrent", "confirmed", "named", "visits"].map((route) => ({
    kind: route,
    isNamed: route === "named",
    comesBack: route === "visits",
    question: (tag) => ({ target: `/${route}/${tag}` }),
  })),
  { kind: "quoted", question: (tag) => ({ method: "POST", target: `/quoted/${tag}`, headers: [JSON_TYPE], body: chat(tag) }) },
  ...[false, true].map((stream) => ({
    kind: stream ? "stream" : "chat",
    isMetered: true,
    question: (tag) => ({
      method: "POST",
      target: `/v1/chat/completions?tag=${tag}`,
      headers: [JSON_TYPE],
      body: chat(`${tag} wants to hear this again`, { stream }),
    }),
  })),
];

/** The name that a buyer gives a payment. Whoever knows the buyer can guess it. */
export const nameOf = (seed, number) => `order-${String(seed).padStart(8, "0")}-${number}`;

/** What a completion costs by its usage: $2.50 for a million tokens of input, $10 of output. */
const costOf = ({ prompt_tokens: input, completion_tokens: output }) => String(Math.ceil(input * 2.5 + output * 10));

/**
 * Buys one thing.
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {number} options.number of the purchase; decides what it is
 * @param {string} options.host of the gateway
 * @param {ReturnType<typeof import("./lane.mjs").openLane>} options.lane
 * @param {import("./witness.mjs").Witness} options.witness
 * @param {{foreseen: object[], spent: object[]}} options.loot what hostile clients may know: authorizations before they are
 *   sent, and payments that were
 */
export async function buy({ seed, number, host, lane, witness, loot }) {
  const [random, tag] = [randomOf(seed, "honest", number), `honest-${number}`];
  const { kind, isMetered = false, isNamed, comesBack, question } = GOODS[number % GOODS.length];
  const request = question(tag);
  const ask = (headers = []) =>
    lane.ask({ bytes: bytesOf({ ...request, host, headers: [...(request.headers ?? []), ...headers] }) });

  const unpaid = await ask();
  const terms = termsOf(unpaid);
  if (unpaid.status !== 402 || !terms) {
    return witness.violate(
      "an honest request for terms got none",
      `${tag} (${kind}): ${unpaid.status} ${unpaid.end} ${unpaid.text.slice(0, 200)}`,
    );
  }
  const [[entry], account] = [terms.accepts, random.pick(payers)];
  const nonce = random.hex(32);
  const payment = await (isMetered ? signPermit2Payment : signPayment)(entry, {
    account,
    authorization: { nonce: isMetered ? BigInt(nonce).toString() : nonce },
    resource: terms.resource,
  });
  if (isNamed) payment.extensions = { "payment-identifier": { info: { required: false, id: nameOf(seed, number) } } };
  witness.signed("honest", payment);
  const purchase = witness.open({ tag, kind, payment, isMetered, amount: entry.amount });
  // Somebody may have looked over the buyer's shoulder, and come first with everything but the signature.
  if (random.chance(0.5)) {
    loot.foreseen.push({ payment: structuredClone(payment), request });
    await sleep(random.between(0, 60));
  }
  const paid = ["payment-signature", encoded(payment)];
  for (let tries = 1; purchase.served === 0 && tries <= MOST_TRIES; tries++) {
    const reply = await ask([paid]);
    purchase.statuses.push(reply.status ?? reply.end);
    if (reply.status === 200) receive(purchase, reply, witness);
    else {
      const about = `${tag} (${kind}), try ${tries}: ${reply.status} ${reply.end} ${termsOf(reply)?.error ?? reply.text.slice(0, 200)}`;
      // Who is told that nobody knows comes again. Anything else is a good payment turned away.
      if (reply.status !== 502 && reply.status !== 504) return witness.violate("an honest payment was turned away", about);
      witness.count("asked to come again", String(reply.status));
      await sleep(1000 * Number(reply.headers["retry-after"] ?? 1));
    }
  }
  if (comesBack && purchase.served) await comeBack({ purchase, account, url: `http://${host}${request.target}`, ask, witness });
  loot.spent.push({ payment, request });
}

/** Takes a response, and its receipt, which stands behind the end of a stream. */
function receive(purchase, reply, witness) {
  const about = `${purchase.tag} (${purchase.kind}): ${reply.end} ${reply.text.slice(0, 300)}`;
  const comment = /^: payment-response (.*)$/m.exec(reply.text)?.[1];
  const receipt = purchase.kind === "stream" ? comment && JSON.parse(comment) : receiptOf(reply);
  if (reply.end !== "whole" || !receipt?.success)
    return witness.violate("an honest response is not whole, or without a receipt", about);
  purchase.served++;
  purchase.transaction = receipt.transaction;
  if (!purchase.isMetered) return;
  purchase.charge = purchase.kind === "chat" ? costOf(JSON.parse(reply.text).usage) : receipt.amount;
  if (receipt.amount !== purchase.charge) witness.violate("a receipt says another amount than was used", about);
}

/** Comes back without paying, by a message that its wallet signs. */
async function comeBack({ purchase, account, url, ask, witness }) {
  const challenge = termsOf(await ask())?.extensions?.["sign-in-with-x"];
  if (!challenge) return witness.violate("an honest payer was not shown how to come back", purchase.tag);
  const { info, supportedChains } = challenge;
  const proof = await createSIWxPayload({ ...info, ...supportedChains[0] }, account, url);
  const reply = await ask([["sign-in-with-x", encodeSIWxHeader(proof)]]);
  purchase.statuses.push(reply.status ?? reply.end);
  if (reply.status === 200) purchase.visits++;
  else
    witness.violate(
      "an honest payer could not come back",
      `${purchase.tag}: ${reply.status} ${termsOf(reply)?.error ?? reply.text.slice(0, 200)}`,
    );
}
