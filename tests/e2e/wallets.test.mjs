/** Payers whose signature is not a key's: contract wallets (ERC-1271), which only the chain can check. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { accounts } from "../../stage/accounts.mjs";
import {
  assertServed,
  assertTerms,
  DEFAULTS,
  openGateway,
  openBackends,
  pay,
  payerAccount,
  pluginOf,
  quote,
  signPayment,
  since,
} from "./support.mjs";

const backends = await openBackends();

// A wallet that takes every signature: it answers each call with the word of ERC-1271's `isValidSignature`.
const WALLET = "0xC0ffee00000000000000000000000000000000A1".toLowerCase();
await backends.chain.rpc("anvil_setCode", WALLET, `0x7f1626ba7e${"00".repeat(28)}60005260206000f3`);
await backends.chain.mint(WALLET, 1_000_000n);

/** A payment by the wallet; what its owner's key signs does not matter. */
async function byWallet(gateway, target, length) {
  const { accepts, resource } = await quote(gateway, target);
  const payment = await signPayment(accepts[0], { resource, account: payerAccount, authorization: { from: WALLET } });
  const digits = payment.payload.signature.slice(2).padEnd(length * 2, "0");
  return { ...payment, payload: { ...payment.payload, signature: `0x${digits}` } };
}

// An account with a key of its own that has delegated to that wallet (EIP-7702).
const delegator = accounts[6];
await backends.chain.rpc("anvil_setCode", delegator.address, `0xef0100${WALLET.slice(2)}`);
await backends.chain.mint(delegator.address, 1_000_000n);

const [entry] = DEFAULTS.accepts;
const routes = [
  { match: { path: "/plain" }, price: "$0.001" },
  { match: { path: "/wallets" }, price: "$0.001", accepts: [{ ...entry, contract_wallets: true }] },
];

const gateways = {
  remote: await openGateway(backends, { plugin: pluginOf({ routes, facilitator: { verify: "remote" } }) }),
  local: await openGateway(backends, { plugin: pluginOf({ routes, facilitator: { verify: "local" } }) }),
};

for (const [verify, gateway] of Object.entries(gateways)) {
  test(`Verifying ${verify}: a contract wallet pays with a signature of its own form, once`, async () => {
    const mark = await since(gateway);
    const payment = await byWallet(gateway, "/plain", 97);
    const answer = await pay(gateway, "/plain", payment);
    assert.equal(answer.status, 200, `${answer.text} ${JSON.stringify(answer.terms)}`);
    assert.equal(answer.receipt.payer.toLowerCase(), WALLET);
    // Nobody but the facilitator can check such a signature, so it is asked before the upstream is.
    assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify", "/settle"]);
    const transfers = await mark.transfers();
    assert.deepEqual(transfers.map(({ from, value }) => [from.toLowerCase(), value]), [[WALLET, 1000n]]);
    assertTerms(await pay(gateway, "/plain", payment), "invalid_exact_evm_nonce_already_used");
    assert.equal(mark.seen().length, 1);
  });

  test(`Verifying ${verify}: a signature of 65 bytes by another than the payer is refused in the gateway`, async () => {
    const mark = await since(gateway);
    assertTerms(await pay(gateway, "/plain", await byWallet(gateway, "/plain", 65)), "invalid_exact_evm_signature");
    assert.deepEqual(mark.calls(), []);
    assert.deepEqual(mark.seen(), []);
  });

  test(`Verifying ${verify}: where the entry takes contract wallets, the facilitator judges 65 bytes too`, async () => {
    const mark = await since(gateway);
    const answer = await pay(gateway, "/wallets", await byWallet(gateway, "/wallets", 65));
    assert.equal(answer.status, 200, `${answer.text} ${JSON.stringify(answer.terms)}`);
    assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify", "/settle"]);
    assert.equal((await mark.transfers()).length, 1);

    // A stranger's signature for an account without code is no better than before.
    const { accepts } = await quote(gateway, "/wallets");
    const forged = await signPayment(accepts[0], { authorization: { from: "0x90F79bf6EB2c4f870365E785982E1f101E93b906" } });
    const refused = await pay(gateway, "/wallets", forged);
    assertTerms(refused, refused.terms?.error);
    assert.match(refused.terms.error, /^invalid_/);
    assert.equal((await mark.transfers()).length, 1);
    assert.equal(mark.seen().length, 1);

    // And the payer's own key is as good as ever.
    assertServed(await pay(gateway, "/wallets", await signPayment(accepts[0])));
  });
}

for (const [verify, gateway] of Object.entries(gateways)) {
  test(`Verifying ${verify}: an account that has delegated its code pays like others`, async () => {
    const mark = await since(gateway);
    const { accepts, resource } = await quote(gateway, "/plain");
    const payment = await signPayment(accepts[0], { resource, account: delegator });
    assertServed(await pay(gateway, "/plain", payment), { payer: delegator.address });
    assert.deepEqual(mark.calls().map(({ path }) => path), verify === "local" ? ["/settle"] : ["/verify", "/settle"]);
    const [{ from, value }] = await mark.transfers();
    assert.deepEqual([from, value], [delegator.address, 1000n]);
    assertTerms(await pay(gateway, "/plain", payment), "invalid_exact_evm_nonce_already_used");
  });
}
