/** What tests of several proxies that share a ledger have in common. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { assertNoTerms, assertTerms, eventually, pay } from "./support.mjs";

export const USED = "invalid_exact_evm_nonce_already_used";

export const servedOf = (answers) => answers.filter(({ status }) => status === 200);
export const told = (answers) => answers.map(({ status, text }) => `${status} ${text.slice(0, 200)}`).join("\n");

/** Sends the payment until it is neither at work elsewhere nor without an answer; that answer. No terms may come before. */
export async function payAtLast(gateway, path, payment, { patience = 20_000, options } = {}) {
  let last;
  const isOver = async () => {
    last = await pay(gateway, path, payment, options);
    if (![409, 502, 503, 504].includes(last.status)) return last;
    assert.equal(last.get("payment-required"), undefined, `terms with a ${last.status}`);
    assert.equal(last.terms, null, last.text);
    await sleep(50);
    return null;
  };
  return eventually(isOver, "the payment comes to an end", patience).catch((error) => {
    throw new Error(`${error.message}: ${last?.status} ${last?.text}`);
  });
}

/** A payment that has bought its response buys nothing more. At another proxy than the one that spent it, it counts as in flight at first. */
export async function assertSpent(gateway, path, payment) {
  const answer = await pay(gateway, path, payment);
  if (answer.status === 409) assertNoTerms(answer, 409);
  else assertTerms(answer, USED);
}
