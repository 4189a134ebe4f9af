/**
 * The stage itself, without the filter: what the official client signs for Permit2, the official facilitator verifies
 * and settles on the stage's contracts, and what it refuses, these refuse too.
 */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { x402ExactPermit2ProxyABI, x402UptoPermit2ProxyABI } from "@x402/evm";
import { hashDomain, parseAbi } from "viem";
import { accounts, facilitatorAccount } from "../../stage/accounts.mjs";
import { makePayer } from "../../stage/client.mjs";
import { EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY } from "../../stage/contracts.mjs";
import { permit2Entry, signPermit2Payment } from "./permit2.mjs";
import { CHAIN_ID, encoded, now, openBackends, payerAccount, payTo, USDC } from "./support.mjs";

const MAXIMUM = "100000";
const [, , , , stranger, penniless] = accounts;
const payer = payerAccount.address;

const backends = await openBackends({ balances: { [payer]: 100_000_000n, [stranger.address]: 1_000_000n } });
const { chain, facilitator } = backends;

/** A server that sells for one entry and keeps the payment that it is sent. */
async function paidByOfficialClient(entry) {
  const terms = { x402Version: 2, error: "Payment required", resource: { url: "/", description: "", mimeType: "" }, accepts: [entry] };
  let payment = null;
  const server = createServer((request, response) => {
    const header = request.headers["payment-signature"];
    if (header) payment = JSON.parse(Buffer.from(header, "base64").toString("utf8"));
    response.writeHead(header ? 200 : 402, header ? {} : { "payment-required": encoded(terms) }).end("{}");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const response = await makePayer().fetch(`http://127.0.0.1:${server.address().port}/`);
  assert.equal(response.status, 200);
  server.close();
  return payment;
}

async function ask(path, paymentPayload, changes = {}) {
  const paymentRequirements = { ...paymentPayload.accepted, ...changes };
  const response = await fetch(facilitator.url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ x402Version: 2, paymentPayload, paymentRequirements }),
  });
  return response.json();
}

const verify = (payment, changes) => ask("/verify", payment, changes);
const settle = (payment, changes) => ask("/settle", payment, changes);

/** What an action moved: transfers, and the balances of both sides. */
async function moved(action) {
  const balances = () => Promise.all([chain.balanceOf(payer), chain.balanceOf(payTo)]);
  const block = (await chain.client.getBlockNumber()) + 1n;
  const before = await balances();
  const answer = await action();
  const after = await balances();
  const transfers = (await chain.transfers(block)).map(({ from, to, value, transaction }) => ({ from, to, value, transaction }));
  return { answer, transfers, payer: after[0] - before[0], payTo: after[1] - before[1] };
}

const nothing = { transfers: [], payer: 0n, payTo: 0n };

test("The facilitator announces upto with its address", async () => {
  const { kinds } = await (await fetch(`${facilitator.url}/supported`)).json();
  const extra = { facilitatorAddress: facilitatorAccount.address };
  assert.deepEqual(kinds.filter(({ scheme }) => scheme === "upto"), [{ x402Version: 2, scheme: "upto", network: "eip155:84532", extra }]);
});

for (const [scheme, charge] of [["upto", "42000"], ["upto", MAXIMUM], ["exact", MAXIMUM]]) {
  test(`${scheme}: what the official client signs is settled at ${charge}, once`, async () => {
    const payment = await paidByOfficialClient(permit2Entry(scheme, MAXIMUM));
    const { witness, ...authorization } = payment.payload.permit2Authorization;
    assert.deepEqual(Object.keys(payment.payload).sort(), ["permit2Authorization", "signature"]);
    assert.deepEqual(Object.keys(authorization).sort(), ["deadline", "from", "nonce", "permitted", "spender"]);
    assert.deepEqual(authorization.permitted, { token: USDC, amount: MAXIMUM });
    assert.equal(authorization.spender, scheme === "upto" ? UPTO_PERMIT2_PROXY : EXACT_PERMIT2_PROXY);
    const named = scheme === "upto" && { facilitator: facilitatorAccount.address };
    assert.deepEqual(witness, { to: payTo, ...named, validAfter: "0" });
    assert.deepEqual(await verify(payment), { isValid: true, payer });

    const { answer, ...movement } = await moved(() => settle(payment, { amount: charge }));
    const { transaction, ...rest } = answer;
    assert.deepEqual(rest, { success: true, network: "eip155:84532", payer, ...(scheme === "upto" && { amount: charge }) });
    const value = BigInt(charge);
    assert.deepEqual(movement, { transfers: [{ from: payer, to: payTo, value, transaction }], payer: -value, payTo: value });

    const { answer: again, ...noMovement } = await moved(() => settle(payment, { amount: charge }));
    assert.equal(again.success, false);
    assert.equal(again.transaction, "");
    // `upto` is tried out before it is settled, `exact` is not: there the selector of InvalidNonce comes through.
    assert.match(again.errorReason, scheme === "upto" ? /^permit2_simulation_failed$/ : /^invalid_exact_evm_transaction_failed: .*0x756688fe/s);
    assert.deepEqual(noMovement, nothing);
    assert.deepEqual(await verify(payment), { isValid: false, invalidReason: "permit2_simulation_failed", payer });
  });
}

test("upto: a charge of nothing succeeds without a transaction and leaves the nonce unused", async () => {
  const payment = await signPermit2Payment(permit2Entry("upto", MAXIMUM));
  const { answer, ...movement } = await moved(() => settle(payment, { amount: "0" }));
  assert.deepEqual(answer, { success: true, transaction: "", network: "eip155:84532", payer, amount: "0" });
  assert.deepEqual(movement, nothing);
  assert.equal((await verify(payment)).isValid, true);
});

test("upto: more than the maximum is refused", async () => {
  const payment = await signPermit2Payment(permit2Entry("upto", MAXIMUM));
  const { answer, ...movement } = await moved(() => settle(payment, { amount: "100001" }));
  assert.equal(answer.errorReason, "invalid_upto_evm_payload_settlement_exceeds_amount");
  assert.deepEqual(movement, nothing);
});

test("Of settlements of one payment at the same time one moves money", async () => {
  for (const scheme of ["upto", "exact"]) {
    const payment = await signPermit2Payment(permit2Entry(scheme, "500"));
    const { answer: answers, transfers } = await moved(() => Promise.all([1, 2, 3, 4].map(() => settle(payment))));
    assert.equal(answers.filter(({ success }) => success).length, 1);
    assert.equal(transfers.length, 1);
  }
});

// Each with the reason that /verify gives. /settle of `upto` gives the same; that of `exact` does not try it out first.
const REFUSED = {
  "whose deadline has passed": [{ authorization: { deadline: String(now() - 1) } }, "permit2_deadline_expired"],
  "that is not valid yet": [{ witness: { validAfter: String(now() + 60) } }, "permit2_not_yet_valid"],
  "for another recipient": [{ witness: { to: stranger.address } }, "invalid_permit2_recipient_mismatch"],
  "for another spender": [{ authorization: { spender: stranger.address } }, "invalid_permit2_spender"],
  "of another token": [{ permitted: { token: stranger.address } }, "permit2_token_mismatch"],
  "signed by another": [{ authorization: { from: stranger.address } }, "invalid_permit2_signature"],
  "by a payer who has not approved Permit2": [{ account: stranger }, "permit2_allowance_required"],
  "by a payer without money": [{ account: penniless }, "permit2_insufficient_balance"],
};

for (const scheme of ["upto", "exact"]) {
  for (const [what, [changes, reason]] of Object.entries(REFUSED)) {
    test(`${scheme}: a payment ${what} is refused`, async () => {
      const payment = await signPermit2Payment(permit2Entry(scheme, MAXIMUM), changes);
      assert.equal((await verify(payment)).invalidReason, reason);
      const block = (await chain.client.getBlockNumber()) + 1n;
      const { success, errorReason } = await settle(payment);
      assert.equal(success, false);
      if (scheme === "upto") assert.equal(errorReason, reason);
      assert.deepEqual(await chain.transfers(block), []);
    });
  }
}

test("upto: a payment that names another facilitator is refused", async () => {
  const payment = await signPermit2Payment(permit2Entry("upto", MAXIMUM), { witness: { facilitator: stranger.address } });
  assert.equal((await verify(payment)).invalidReason, "upto_facilitator_mismatch");
  assert.equal((await settle(payment)).errorReason, "upto_facilitator_mismatch");
});

test("A contract wallet pays with a signature of its own form", async () => {
  // It answers each call with the word of ERC-1271's `isValidSignature`.
  const wallet = "0xC0ffee00000000000000000000000000000000A2".toLowerCase();
  await chain.rpc("anvil_setCode", wallet, `0x7f1626ba7e${"00".repeat(28)}60005260206000f3`);
  await chain.rpc("anvil_setBalance", wallet, "0xde0b6b3a7640000");
  await chain.rpc("anvil_impersonateAccount", wallet);
  await chain.mint(wallet, 1_000_000n);
  await chain.approve(wallet);
  for (const scheme of ["upto", "exact"]) {
    const { payload, ...rest } = await signPermit2Payment(permit2Entry(scheme, "500"), { authorization: { from: wallet } });
    const payment = { ...rest, payload: { ...payload, signature: `${payload.signature}abcd` } };
    assert.deepEqual(await verify(payment), { isValid: true, payer: wallet });
    assert.equal((await settle(payment)).success, true);
  }
});

test("A signed allowance (EIP-2612) stands in for an approval", async () => {
  const fields = ["address owner", "address spender", "uint256 value", "uint256 nonce", "uint256 deadline"];
  const types = { Permit: fields.map((field) => ({ type: field.split(" ")[0], name: field.split(" ")[1] })) };
  for (const [nonce, scheme] of ["upto", "exact"].entries()) {
    const payment = await signPermit2Payment(permit2Entry(scheme, "500"), { account: stranger });
    const deadline = payment.payload.permit2Authorization.deadline;
    const domain = { name: "USDC", version: "2", chainId: CHAIN_ID, verifyingContract: USDC };
    const message = { owner: stranger.address, spender: PERMIT2, value: "500", nonce, deadline };
    const signature = await stranger.signTypedData({ domain, types, primaryType: "Permit", message });
    const info = { from: stranger.address, asset: USDC, spender: PERMIT2, amount: "500", nonce: String(nonce), deadline, signature, version: "1" };
    const sponsored = { ...payment, extensions: { eip2612GasSponsoring: { info } } };
    assert.equal((await verify(payment)).invalidReason, "permit2_allowance_required");
    assert.deepEqual(await verify(sponsored), { isValid: true, payer: stranger.address });
    assert.equal((await settle(sponsored)).success, true);
  }
});

// ---- The contracts, where no facilitator stands before them ---------------------------------------------------------

// What the official packages know of the contracts lacks these: Permit2's, and one of the spender for `upto`.
const MORE_ERRORS = parseAbi([
  "error InvalidAmount()",
  "error SignatureExpired(uint256)",
  "error InvalidNonce()",
  "error InvalidAmount(uint256)",
  "error InvalidSignatureLength()",
  "error InvalidSignature()",
  "error InvalidSigner()",
]);

/** Settles without a facilitator's checks, as a dry run. @returns {Promise<string>} the error's name, or `settled` */
async function dryRun(payment, { sender = facilitatorAccount.address, amount = 500n } = {}) {
  const { signature, permit2Authorization: signed } = payment.payload;
  const upto = payment.accepted.scheme === "upto";
  const permit = { permitted: signed.permitted, nonce: signed.nonce, deadline: signed.deadline };
  const call = {
    account: sender,
    address: upto ? UPTO_PERMIT2_PROXY : EXACT_PERMIT2_PROXY,
    abi: [...(upto ? x402UptoPermit2ProxyABI : x402ExactPermit2ProxyABI), ...MORE_ERRORS],
    functionName: "settle",
    args: [permit, ...(upto ? [amount] : []), signed.from, signed.witness, signature],
  };
  try {
    await chain.client.simulateContract(call);
    return "settled";
  } catch (error) {
    const { data, reason, raw } = error.walk((cause) => "raw" in cause);
    return data?.errorName === "Error" ? reason : (data?.errorName ?? raw);
  }
}

test("The contracts refuse by themselves, with the errors of the originals", async () => {
  const upto = permit2Entry("upto", "500");
  const exact = permit2Entry("exact", "500");
  const expired = { authorization: { deadline: String(now() - 60) } };
  const early = { witness: { validAfter: String(now() + 600) } };
  const honest = await signPermit2Payment(upto);
  const withSignature = (signature) => ({ ...honest, payload: { ...honest.payload, signature } });
  const { signature } = honest.payload;

  assert.equal(await dryRun(honest), "settled");
  assert.equal(await dryRun(honest, { amount: 1n }), "settled");
  assert.equal(await dryRun(honest, { amount: 0n }), "InvalidAmount");
  assert.equal(await dryRun(honest, { amount: 501n }), "AmountExceedsPermitted");
  assert.equal(await dryRun(honest, { sender: stranger.address }), "UnauthorizedFacilitator");
  assert.equal(await dryRun(withSignature(`${signature.slice(0, -2)}00`)), "InvalidSignature");
  assert.equal(await dryRun(withSignature(`${signature}00`)), "InvalidSignatureLength");
  for (const entry of [upto, exact]) {
    assert.equal(await dryRun(await signPermit2Payment(entry, expired)), "SignatureExpired");
    assert.equal(await dryRun(await signPermit2Payment(entry, early)), "PaymentTooEarly");
    assert.equal(await dryRun(await signPermit2Payment(entry, { authorization: { from: stranger.address } })), "InvalidSigner");
    assert.equal(await dryRun(await signPermit2Payment(entry, { domain: { chainId: 1 } })), "InvalidSigner");
    assert.equal(await dryRun(await signPermit2Payment(entry, { account: stranger })), "TRANSFER_FROM_FAILED");
    const used = await signPermit2Payment(entry);
    await settle(used);
    assert.equal(await dryRun(used), "InvalidNonce");
  }
  // Whoever sends it, `exact` goes to the recipient that was signed for.
  assert.equal(await dryRun(await signPermit2Payment(exact), { sender: stranger.address }), "settled");
});

test("Permit2 tells its domain and which nonces are used", async () => {
  const abi = parseAbi([
    "function DOMAIN_SEPARATOR() view returns (bytes32)",
    "function nonceBitmap(address, uint256) view returns (uint256)",
  ]);
  const read = (functionName, args) => chain.client.readContract({ address: PERMIT2, abi, functionName, args });
  const domain = { name: "Permit2", chainId: CHAIN_ID, verifyingContract: PERMIT2 };
  const EIP712Domain = [
    { name: "name", type: "string" },
    { name: "chainId", type: "uint256" },
    { name: "verifyingContract", type: "address" },
  ];
  assert.equal(await read("DOMAIN_SEPARATOR"), hashDomain({ domain, types: { EIP712Domain } }));

  const payment = await signPermit2Payment(permit2Entry("upto", "500"), { authorization: { nonce: "515" } });
  assert.equal(await read("nonceBitmap", [payer, 2n]), 0n);
  assert.equal((await settle(payment)).success, true);
  assert.equal(await read("nonceBitmap", [payer, 2n]), 1n << 3n);
});
