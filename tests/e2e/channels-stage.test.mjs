/**
 * The stage itself, without the filter: the official client, server and facilitator use the stage's contract for channels
 * from the first deposit to the last refund, and what the deployed contract refuses, this one refuses too.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { encodeAbiParameters, encodeFunctionData, hashTypedData, parseAbi, parseSignature, toFunctionSelector } from "viem";
import { accounts, authorizerAccount, facilitatorAccount } from "../../stage/accounts.mjs";
import { BATCH_SETTLEMENT, PERMIT2, PERMIT2_DEPOSIT_COLLECTOR } from "../../stage/contracts.mjs";
import { checkout } from "../../stage/processes.mjs";
import { CHANNEL_TYPES } from "../eip712-types.mjs";
import {
  askFacilitator, byPython, CHANNEL_ABI, CHANNEL_DOMAIN, channelEntry, channelIdOf, channelOf, channelsOn, claimArgs, claimRow,
  collectorOf, freshSalt, highS, makeChannelPayer, NOBODY, saltOf, signChannelPayment, signClaims, signRefund, signVoucher,
  startOfficialServer,
} from "./channels-support.mjs";
import { CHAIN_ID, openBackends, payerAccount, payTo, USDC } from "./support.mjs";

const [, , , other, , second, gateKey] = accounts; // a stranger to all channels; a second payer; a server's own key
const payer = payerAccount.address;
const authorizer = authorizerAccount.address;
const REASON = "invalid_batch_settlement_evm_";
const PRICE = 10_000n;
const DEPOSIT = 100_000n;

const backends = await openBackends({ balances: { [payer]: 100_000_000n, [second.address]: 10_000_000n } });
const { chain, facilitator } = backends;
const on = channelsOn(chain);
const entry = channelEntry(String(PRICE));

/** Gas by what was done, for the reader. */
const gas = {};
const spent = async (what, hash) => {
  const { gasUsed } = await chain.client.getTransactionReceipt({ hash });
  gas[what] ??= Number(gasUsed);
};
after(() => {
  for (const [what, used] of Object.entries(gas)) console.log(`gas: ${what}: ${used}`);
});

const settle = (payment, changes) => askFacilitator(facilitator, "/settle", payment, changes);
const verify = (payment) => askFacilitator(facilitator, "/verify", payment);

/** Servers and their clients, each with channels of their own. */
const servers = {};
for (const [name, options] of Object.entries({
  eip3009: {},
  permit2: { method: "permit2" },
  own: { authorizer: gateKey },
  strict: { scheme: { enforceMinDeposit: true, withdrawDelay: 1800 } },
})) {
  servers[name] = await startOfficialServer({ facilitatorUrl: facilitator.url, amount: String(PRICE), ...options });
  backends.atEnd(servers[name].stop);
}

/** Opens a channel by hand, as the facilitator settles a deposit. */
async function opened({ account = payerAccount, terms = entry, amount = DEPOSIT, config = {}, ...payment } = {}) {
  const salt = config.salt ?? freshSalt();
  const deposit = await signChannelPayment(terms, { type: "deposit", total: PRICE, amount, account, config: { ...config, salt }, ...payment });
  const answer = await settle(deposit);
  assert.equal(answer.success, true, JSON.stringify(answer).slice(0, 400));
  const { channelConfig, voucher } = deposit.payload;
  return { config: channelConfig, id: voucher.channelId, voucher, deposit, transaction: answer.transaction };
}

const balances = async () => {
  const [ofPayer, ofReceiver, held] = await Promise.all([payer, payTo, BATCH_SETTLEMENT].map(chain.balanceOf));
  return { ofPayer, ofReceiver, held };
};
const moved = (before, now) => Object.fromEntries(Object.keys(before).map((key) => [key, now[key] - before[key]]));

test("The facilitator announces channels with the authorizer of gates without a key", async () => {
  const { kinds } = await (await fetch(`${facilitator.url}/supported`)).json();
  const extra = { receiverAuthorizer: authorizer };
  assert.deepEqual(kinds.filter(({ scheme }) => scheme === "batch-settlement"), [
    { x402Version: 2, scheme: "batch-settlement", network: "eip155:84532", extra },
  ]);
});

test("The contract has each call that the official packages make", async () => {
  const program = "import json; from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI as abi; print(json.dumps(abi))";
  const { stdout } = await promisify(execFile)(join(checkout, ".venv", "bin", "python"), ["-c", program]);
  const official = JSON.parse(stdout).filter(({ type }) => type === "function");
  const code = await chain.client.getCode({ address: BATCH_SETTLEMENT });
  const types = (parameters) => parameters.map(({ type, components }) => (components ? [type, types(components)] : type));
  assert.ok(official.length >= 15);
  for (const item of official) {
    const selector = toFunctionSelector(item);
    const own = CHANNEL_ABI.find((one) => one.type === "function" && toFunctionSelector(one) === selector);
    assert.ok(own, item.name);
    assert.deepEqual(types(own.outputs), types(item.outputs), item.name);
    // PUSH4, as a contract compares selectors; leading zeros are left out.
    assert.match(code, new RegExp(selector.slice(2).replace(/^(00)+/, "")), item.name);
  }
});

test("The contract hashes as the vectors say, and reads as they do", async () => {
  const vectors = JSON.parse(readFileSync(new URL("../vectors/channels.json", import.meta.url), "utf8"));
  const ids = new Map(vectors.configs.filter(({ chainId }) => chainId === CHAIN_ID).map((one) => [one.id, one]));
  const here = (list) => list.filter(({ channel }) => ids.has(channel));
  assert.equal(await on.call("CHANNEL_CONFIG_TYPEHASH"), vectors.types.ChannelConfig.typeHash);
  for (const { config, channelId } of ids.values()) assert.equal(await on.call("getChannelId", [config]), channelId);
  for (const { channelId, maxClaimableAmount, digest } of here(vectors.vouchers)) {
    assert.equal(await on.call("getVoucherDigest", [channelId, BigInt(maxClaimableAmount)]), digest);
  }
  for (const { channelId, nonce, amount, digest } of here(vectors.refunds)) {
    assert.equal(await on.call("getRefundDigest", [channelId, BigInt(nonce), BigInt(amount)]), digest);
  }
  for (const { to, function: functionName, args, calldata } of vectors.calls.filter((one) => one.to === BATCH_SETTLEMENT)) {
    assert.equal(encodeFunctionData({ abi: CHANNEL_ABI, functionName, args }), calldata);
    assert.match(await chain.rpc("eth_call", { to, data: calldata }), /^0x([0-9a-f]{64}){1,2}$/);
  }
});

test("The contract hashes as the official packages do", async () => {
  const config = channelOf(entry, { salt: saltOf(7) });
  const id = channelIdOf(config);
  assert.equal(await on.call("getChannelId", [config]), id);
  const digest = (primaryType, message) => hashTypedData({ domain: CHANNEL_DOMAIN, types: CHANNEL_TYPES[primaryType], primaryType, message });
  const amount = 2n ** 128n - 1n;
  assert.equal(await on.call("getVoucherDigest", [id, amount]), digest("Voucher", { channelId: id, maxClaimableAmount: amount }));
  const nonce = 2n ** 256n - 1n;
  assert.equal(await on.call("getRefundDigest", [id, nonce, 5n]), digest("Refund", { channelId: id, nonce, amount: 5n }));
  for (const count of [0, 1, 3, 100]) {
    const rows = Array.from({ length: count }, (_, i) => claimRow(channelOf(entry, { salt: saltOf(i) }), { maxClaimableAmount: "9", signature: "0x" }, i));
    const claims = rows.map(({ voucher, totalClaimed }) => ({ channelId: channelIdOf(voucher.channel), maxClaimableAmount: 9n, totalClaimed: BigInt(totalClaimed) }));
    assert.equal(await on.call("getClaimBatchDigest", [claimArgs(rows)]), digest("ClaimBatch", { claims }));
  }
});

for (const method of ["eip3009", "permit2"]) {
  test(`${method}: deposit, vouchers, a charge below the ceiling, claim, settlement, refunds`, async () => {
    const server = servers[method];
    const client = makeChannelPayer({ chain });
    const before = await balances();
    const buy = async (charge = null) => {
      server.next.charge = charge;
      const response = await client.fetch(server.url);
      server.next.charge = null;
      assert.equal(response.status, 200);
      return client.exchanges.at(-1).receipt;
    };

    const calls = facilitator.calls.length;
    const first = await buy();
    const [terms] = client.exchanges[0].terms.accepts;
    const id = client.idFor(terms);
    await spent(`deposit (${method})`, first.transaction);
    assert.equal(first.amount, String(DEPOSIT));
    assert.deepEqual(await on.read(id), { balance: DEPOSIT, totalClaimed: 0n, refundNonce: 0n, withdrawal: { amount: 0n, initiatedAt: 0 } });
    assert.deepEqual(moved(before, await balances()), { ofPayer: -DEPOSIT, ofReceiver: 0n, held: DEPOSIT });
    const asked = facilitator.calls.slice(calls).map(({ path }) => path).filter((path) => path !== "/supported");
    assert.deepEqual(asked, ["/verify", "/settle"]);

    assert.equal((await buy()).extra.channelState.chargedCumulativeAmount, "20000");
    assert.equal((await buy("2325")).extra.chargedAmount, "2325");
    assert.deepEqual(await client.known(terms), { chargedCumulativeAmount: "22325", balance: "100000", totalClaimed: "0" });
    const posts = facilitator.calls.slice(calls).filter(({ path }) => path === "/verify" || path === "/settle");
    assert.equal(posts.length, 2);

    const [{ transaction: claim }] = await server.manager.claim();
    await spent("claimWithSignature, 1 row", claim);
    assert.equal((await on.read(id)).totalClaimed, 22_325n);
    assert.deepEqual(moved(before, await balances()), { ofPayer: -DEPOSIT, ofReceiver: 0n, held: DEPOSIT });
    const { transaction: payout } = await server.manager.settle();
    await spent("settle", payout);
    assert.deepEqual(moved(before, await balances()), { ofPayer: -DEPOSIT, ofReceiver: 22_325n, held: DEPOSIT - 22_325n });
    await assert.rejects(server.manager.settle(), /nothing_to_settle/);

    await buy();
    const part = await client.refund(server.url, "5000");
    await spent("claim and refund (multicall), part", part.transaction);
    assert.equal(part.amount, "5000");
    assert.deepEqual(await on.read(id), { balance: 95_000n, totalClaimed: 32_325n, refundNonce: 1n, withdrawal: { amount: 0n, initiatedAt: 0 } });
    const all = await client.refund(server.url);
    await spent("claim and refund (multicall), all", all.transaction);
    assert.equal(all.amount, "62675");
    assert.deepEqual(await on.read(id), { balance: 32_325n, totalClaimed: 32_325n, refundNonce: 2n, withdrawal: { amount: 0n, initiatedAt: 0 } });
    assert.equal(await on.claimed({ id }), 32_325n);
    await server.manager.settle();
    assert.deepEqual(moved(before, await balances()), { ofPayer: -32_325n, ofReceiver: 32_325n, held: 0n });

    // The same channel is filled again: its totals go on.
    const again = await buy();
    assert.equal(again.extra.channelState.chargedCumulativeAmount, "42325");
    assert.equal((await on.read(id)).balance, 132_325n);
    await client.refund(server.url);
    await server.manager.settle();
    assert.equal(moved(before, await balances()).held, 0n);
    const names = (await on.events({ id })).map(({ eventName }) => eventName);
    assert.deepEqual(names, ["ChannelCreated", "Deposited", "Claimed", "Claimed", "Refunded", "Refunded", "Deposited", "Claimed", "Refunded"]);
  });
}

test("A server with a key of its own claims and refunds by its own signatures", async () => {
  const server = servers.own;
  const client = makeChannelPayer();
  assert.equal((await client.fetch(server.url)).status, 200);
  assert.equal((await client.fetch(server.url)).status, 200);
  const [terms] = client.exchanges[0].terms.accepts;
  assert.equal(terms.extra.receiverAuthorizer, gateKey.address);
  await server.manager.claimAndSettle();
  const claim = facilitator.calls.findLast(({ request }) => request?.paymentPayload?.payload?.type === "claim");
  assert.match(claim.request.paymentPayload.payload.claimAuthorizerSignature, /^0x[0-9a-f]{130}$/);
  const [{ transaction }] = await server.manager.refund();
  await spent("refundWithSignature alone", transaction);
  assert.deepEqual(await on.read(client.idFor(terms)), { balance: 20_000n, totalClaimed: 20_000n, refundNonce: 1n, withdrawal: { amount: 0n, initiatedAt: 0 } });
});

test("A client that has lost its count gets it back, if it can read the chain", async () => {
  const server = servers.eip3009;
  for (const [withChain, status] of [[chain, 200], [undefined, 402]]) {
    const client = makeChannelPayer({ chain: withChain });
    for (const _ of [1, 2]) await client.fetch(server.url);
    const [terms] = client.exchanges[0].terms.accepts;
    await client.know(terms, { chargedCumulativeAmount: "10000", balance: "100000" });
    assert.equal((await client.fetch(server.url)).status, status);
    const corrective = client.exchanges.find((one) => one.terms?.error === `${REASON}cumulative_amount_mismatch`);
    assert.equal(corrective.terms.accepts[0].extra.channelState.chargedCumulativeAmount, "20000");
  }
});

test("The server demands its own delay and its smallest deposit", async () => {
  const client = makeChannelPayer({ more: { depositStrategy: () => String(PRICE) } });
  assert.equal((await client.fetch(servers.strict.url)).status, 402);
  assert.equal(client.exchanges.at(-1).terms.error, `${REASON}deposit_below_min_deposit`);
  assert.equal(client.exchanges[0].terms.accepts[0].extra.withdrawDelay, 1800);
});

for (const library of ["httpx", "requests"]) {
  test(`Python's ${library}: deposit, voucher, recovery, refund`, async () => {
    const { url } = servers.eip3009;
    const pay = { do: "pay", url };
    const steps = [pay, pay, { do: "know", charged: "0" }, pay, { do: "forget" }, pay, { do: "refund", url, amount: "20000" }, { do: "refund", url }];
    const results = await byPython(library, steps, { rpcUrl: chain.rpcUrl });
    assert.deepEqual(results.map(({ status, error }) => status ?? error ?? null), [200, 200, null, 200, null, 200, 200, 200]);
    const charged = results.map(({ receipt }) => receipt?.extra?.channelState?.chargedCumulativeAmount ?? null);
    assert.deepEqual(charged, ["10000", "20000", null, "30000", null, "40000", "40000", "40000"]);
    assert.deepEqual(results.slice(-2).map(({ receipt }) => receipt.amount), ["20000", "40000"]);
  });
}

// ---- What a server does by itself -----------------------------------------------------------------------------------

test("Of a claim all rows count, or none; a claim may be sent again", async () => {
  const first = await opened();
  const another = await opened({ account: second });
  const foreign = channelOf(entry, { receiverAuthorizer: payTo, salt: freshSalt() }, second);
  const good = claimRow(first.config, first.voucher);
  const row = claimRow(another.config, another.voucher);
  const claim = (...claims) => settle({ type: "claim", claims });
  const refused = async (selector, ...rows) => {
    const { success, errorReason, errorMessage, transaction } = await claim(...rows);
    assert.deepEqual([success, errorReason, transaction], [false, `${REASON}claim_simulation_failed`, ""]);
    assert.match(errorMessage, new RegExp(`reverted with the following signature:\n${selector}\n`));
  };
  // The selectors are those of the recorded exchanges with the official facilitator.
  await refused("0xf1789775", good, { ...row, totalClaimed: "999999" }); // ClaimExceedsCeiling
  await refused("0x8baa579f", good, { ...row, signature: good.signature }); // InvalidSignature
  await refused("0xc2e5347d"); // EmptyBatch
  const mismatch = await claim(good, { ...row, voucher: { ...row.voucher, channel: foreign } });
  assert.equal(mismatch.errorReason, `${REASON}authorizer_address_mismatch`);
  assert.equal((await on.read(first.id)).totalClaimed, 0n);

  const fromBlock = (await chain.client.getBlockNumber()) + 1n;
  const answers = [await claim(good, row), await claim(good, row), await claim({ ...good, totalClaimed: "5000" }, row)];
  assert.ok(answers.every(({ success }) => success));
  assert.equal(new Set(answers.map(({ transaction }) => transaction)).size, 3);
  await spent("claimWithSignature, 2 rows", answers[0].transaction);
  await spent("claimWithSignature, 2 rows that change nothing", answers[1].transaction);
  assert.deepEqual((await on.events({ fromBlock })).map(({ eventName, args }) => [eventName, args.claimAmount]), [["Claimed", PRICE], ["Claimed", PRICE]]);

  const { receiver, token } = first.config;
  const paid = await settle({ type: "settle", receiver, token });
  assert.equal(paid.success, true);
  assert.ok(BigInt(paid.amount) >= 2n * PRICE);
  assert.equal((await settle({ type: "settle", receiver, token })).errorReason, `${REASON}nothing_to_settle`);
  const voucher = await signChannelPayment(entry, { total: 20_000, config: { salt: first.config.salt } });
  assert.equal((await settle(voucher)).errorReason, `${REASON}payload_type`);
  assert.equal((await verify({ type: "claim", claims: [good] })).invalidReason, `${REASON}payload_type`);
});

test("A hundred rows are claimed at once", async () => {
  const channels = [];
  for (let i = 0; i < 110; i += 1) {
    const { payload } = await signChannelPayment(entry, { type: "deposit", total: PRICE, amount: PRICE, config: { salt: saltOf(2000 + i) } });
    await on.deposit(payload);
    channels.push(payload);
  }
  const rows = channels.map(({ channelConfig, voucher }) => claimRow(channelConfig, voucher));
  const fromBlock = (await chain.client.getBlockNumber()) + 1n;
  for (const [from, to] of [[0, 10], [10, 110]]) {
    const { success, transaction } = await settle({ type: "claim", claims: rows.slice(from, to) });
    assert.equal(success, true);
    await spent(`claimWithSignature, ${to - from} rows`, transaction);
  }
  assert.equal(await on.claimed({ fromBlock }), 110n * PRICE);
  const whole = await settle({ type: "claim", claims: rows.slice(10) });
  await spent("claimWithSignature, 100 rows that change nothing", whole.transaction);
});

test("A deposit that is sent again is refused, as is one that another sends to the collector", async () => {
  for (const method of ["eip3009", "permit2"]) {
    const { deposit } = await opened({ method });
    assert.equal((await verify(deposit)).invalidReason, `${REASON}deposit_simulation_failed`);
    assert.equal((await settle(deposit)).errorReason, `${REASON}deposit_simulation_failed`);
    const [collector, data] = collectorOf(deposit.payload);
    const abi = parseAbi(["function collect(address,address,uint256,bytes32,bytes)", "error OnlyX402BatchSettlement()"]);
    const args = [payer, USDC, DEPOSIT, deposit.payload.voucher.channelId, data];
    const error = await chain.client.simulateContract({ account: payer, address: collector, abi, functionName: "collect", args }).catch((e) => e);
    assert.equal(error.walk((cause) => "raw" in cause).data.errorName, "OnlyX402BatchSettlement");
  }
});

test("A signed allowance (EIP-2612) stands in for an approval of Permit2", async () => {
  const fields = ["address owner", "address spender", "uint256 value", "uint256 nonce", "uint256 deadline"];
  const types = { Permit: fields.map((field) => ({ type: field.split(" ")[0], name: field.split(" ")[1] })) };
  const deposit = await signChannelPayment(entry, { type: "deposit", method: "permit2", account: second, total: PRICE, config: { salt: freshSalt() } });
  const { deadline } = deposit.payload.deposit.authorization.permit2Authorization;
  const amount = deposit.payload.deposit.amount;
  const message = { owner: second.address, spender: PERMIT2, value: amount, nonce: 0, deadline };
  const domain = { name: "USDC", version: "2", chainId: CHAIN_ID, verifyingContract: USDC };
  const signature = await second.signTypedData({ domain, types, primaryType: "Permit", message });
  const info = { from: second.address, asset: USDC, spender: PERMIT2, amount, nonce: "0", deadline, signature, version: "1" };
  const sponsored = { ...deposit, extensions: { eip2612GasSponsoring: { info } } };
  assert.equal((await verify(deposit)).invalidReason, `${REASON}permit2_allowance_required`);
  assert.equal((await verify(sponsored)).isValid, true);
  const answer = await settle(sponsored);
  assert.equal(answer.success, true);
  await spent("deposit (permit2, with EIP-2612)", answer.transaction);

  const { v, r, s } = parseSignature(signature);
  const permit = deposit.payload.deposit.authorization.permit2Authorization;
  const allowance = encodeAbiParameters(
    [{ type: "uint256" }, { type: "uint256" }, { type: "uint8" }, { type: "bytes32" }, { type: "bytes32" }],
    [BigInt(amount) + 1n, BigInt(deadline), Number(v), r, s],
  );
  const data = encodeAbiParameters(
    [{ type: "uint256" }, { type: "uint256" }, { type: "bytes" }, { type: "bytes" }],
    [BigInt(permit.nonce), BigInt(permit.deadline), permit.signature, allowance],
  );
  const args = [deposit.payload.channelConfig, BigInt(amount), PERMIT2_DEPOSIT_COLLECTOR, data];
  assert.equal(await on.dryRun(payer, "deposit", args), "Permit2612AmountMismatch");
});

// ---- The contract, where no facilitator stands before it --------------------------------------------------------------

test("Deposits that are not right are refused", async () => {
  const { payload } = await signChannelPayment(entry, { type: "deposit", total: PRICE, amount: 500, config: { salt: freshSalt() } });
  const [collector, data] = collectorOf(payload);
  const dry = (changes = {}, amount = 500n, at = collector, bytes = data) =>
    on.dryRun(other.address, "deposit", [{ ...payload.channelConfig, ...changes }, amount, at, bytes]);
  assert.equal(await dry(), "done");
  for (const field of ["payer", "receiver", "receiverAuthorizer", "token"]) assert.equal(await dry({ [field]: NOBODY }), "InvalidChannel");
  for (const withdrawDelay of [899, 2_592_001, 0]) assert.equal(await dry({ withdrawDelay }), "WithdrawDelayOutOfRange");
  assert.equal(await dry({}, 0n), "ZeroDeposit");
  assert.equal(await dry({}, 500n, NOBODY), "InvalidCollector");
  // Another amount or channel is not what was signed for.
  assert.match(await dry({}, 501n), /FiatTokenV2: invalid signature/);
  assert.match(await dry({ withdrawDelay: 901 }), /FiatTokenV2: invalid signature/);
  assert.match(await dry({ salt: freshSalt() }), /FiatTokenV2: invalid signature/);

  const permit = await signChannelPayment(entry, { type: "deposit", method: "permit2", total: PRICE, amount: 500, config: { salt: freshSalt() } });
  const args = (changes) => [{ ...permit.payload.channelConfig, ...changes }, 500n, ...collectorOf(permit.payload)];
  assert.equal(await on.dryRun(payer, "deposit", args()), "done");
  assert.equal(await on.dryRun(payer, "deposit", args({ salt: freshSalt() })), "InvalidSigner");

  // A collector that brings nothing.
  const idle = "0xC0ffee00000000000000000000000000000000C1".toLowerCase();
  await chain.rpc("anvil_setCode", idle, "0x00");
  assert.equal(await dry({}, 500n, idle), "DepositCollectionFailed");
});

test("Claims that are not right are refused", async () => {
  const { config, id, voucher } = await opened();
  const stranger = channelOf(entry, { receiverAuthorizer: payTo, salt: freshSalt() });
  const dry = (rows, from = authorizer) => on.dryRun(from, "claim", [claimArgs(rows)]);
  const row = claimRow(config, voucher);
  const big = claimRow(config, await signVoucher(payerAccount, id, DEPOSIT + 1n));
  assert.equal(await dry([row]), "done");
  assert.equal(await dry([row], payTo), "done");
  assert.equal(await dry([row], facilitatorAccount.address), "NotAuthorizedToClaim");
  assert.equal(await dry([]), "EmptyBatch");
  assert.equal(await dry([{ ...row, totalClaimed: String(PRICE + 1n) }]), "ClaimExceedsCeiling");
  assert.equal(await dry([big]), "ClaimExceedsBalance");
  assert.equal(await dry([{ ...big, totalClaimed: String(DEPOSIT) }]), "done");
  assert.equal(await dry([row, big]), "ClaimExceedsBalance");
  const forged = (signature) => dry([{ ...row, signature }]);
  assert.equal(await forged((await signVoucher(second, id, PRICE)).signature), "InvalidSignature");
  assert.equal(await forged((await signVoucher(payerAccount, id, PRICE, { chainId: 1 })).signature), "InvalidSignature");
  assert.equal(await forged(highS(voucher.signature)), "ECDSAInvalidSignatureS");
  assert.equal(await forged(`${voucher.signature}00`), "ECDSAInvalidSignatureLength");
  assert.equal(await forged("0x"), "ECDSAInvalidSignatureLength");
  assert.equal(await forged(`${voucher.signature.slice(0, -2)}00`), "ECDSAInvalidSignature");
  // Nothing is claimed by it, so nothing of it is looked at.
  assert.equal(await dry([{ ...row, totalClaimed: "0", signature: "0x" }]), "done");

  const signed = async (rows, by = authorizerAccount, change = (signature) => signature) =>
    on.dryRun(other.address, "claimWithSignature", [claimArgs(rows), change(await signClaims(by, rows))]);
  assert.equal(await signed([row]), "done");
  assert.equal(await signed([]), "EmptyBatch");
  assert.equal(await signed([row], second), "InvalidSignature");
  assert.equal(await signed([row], authorizerAccount, highS), "InvalidSignature");
  assert.equal(await signed([row], authorizerAccount, () => "0x"), "InvalidSignature");
  assert.equal(await signed([row, { ...row, voucher: { ...row.voucher, channel: stranger } }]), "NotReceiverAuthorizer");
  const reordered = [claimRow(config, voucher, 1), row];
  const signature = await signClaims(authorizerAccount, [row, reordered[0]]);
  assert.equal(await on.dryRun(payTo, "claimWithSignature", [claimArgs(reordered), signature]), "InvalidSignature");
});

test("The facilitator takes a voucher with a high s, and the contract does not pay for it", async () => {
  const { config } = await opened();
  const payment = await signChannelPayment(entry, { total: 20_000, config: { salt: config.salt }, high: true });
  assert.equal((await verify(payment)).isValid, true);
  const answer = await settle({ type: "claim", claims: [claimRow(config, payment.payload.voucher)] });
  assert.equal(answer.errorReason, `${REASON}claim_simulation_failed`);
  assert.match(answer.errorMessage, /0xd78bce0c/); // ECDSAInvalidSignatureS(bytes32)
});

test("Refunds go by nonces, and to the payer", async () => {
  const { config, id } = await opened();
  const before = await chain.balanceOf(payer);
  const dry = async (amount, nonce, by = authorizerAccount, change = (signature) => signature) => {
    const args = [config, amount, nonce, change(await signRefund(by, id, nonce, amount))];
    return on.dryRun(other.address, "refundWithSignature", args);
  };
  assert.equal(await dry(1n, 0n), "done");
  assert.equal(await dry(1n, 1n), "InvalidRefundNonce");
  assert.equal(await dry(0n, 0n), "ZeroRefund");
  assert.equal(await dry(1n, 0n, second), "InvalidSignature");
  assert.equal(await dry(1n, 0n, authorizerAccount, highS), "InvalidSignature");
  assert.equal(await on.dryRun(payer, "refund", [config, 1n]), "NotAuthorizedToRefund");

  const signature = await signRefund(authorizerAccount, id, 0n, 30_000n);
  await on.send(other.address, "refundWithSignature", [config, 30_000n, 0n, signature]);
  assert.equal(await on.dryRun(other.address, "refundWithSignature", [config, 30_000n, 0n, signature]), "InvalidRefundNonce");
  const { transactionHash } = await on.send(authorizer, "refund", [config, 2n ** 128n - 1n]);
  await spent("refund by the authorizer", transactionHash);
  assert.equal((await chain.balanceOf(payer)) - before, DEPOSIT);
  // Nothing is left, and the nonce is used up all the same.
  await on.send(payTo, "refund", [config, 1n]);
  assert.deepEqual(await on.read(id), { balance: 0n, totalClaimed: 0n, refundNonce: 3n, withdrawal: { amount: 0n, initiatedAt: 0 } });
  const names = (await on.events({ id })).map(({ eventName }) => eventName);
  assert.deepEqual(names, ["ChannelCreated", "Deposited", "Refunded", "Refunded", "ChannelClosed"]);
});

test("Several calls are made at once, or none of them", async () => {
  const { config, id, voucher } = await opened();
  const call = (functionName, args) => encodeFunctionData({ abi: CHANNEL_ABI, functionName, args });
  const claim = call("claim", [claimArgs([claimRow(config, voucher)])]);
  const bad = call("refund", [config, 0n]);
  assert.equal(await on.dryRun(authorizer, "multicall", [[claim, bad]]), "ZeroRefund");
  await on.send(authorizer, "multicall", [[claim, call("refund", [config, 1n]), call("settle", [payTo, USDC])]]);
  assert.deepEqual(await on.read(id), { balance: DEPOSIT - 1n, totalClaimed: PRICE, refundNonce: 1n, withdrawal: { amount: 0n, initiatedAt: 0 } });
});

test("Anyone may have a receiver paid", async () => {
  const { config, voucher } = await opened();
  await on.send(authorizer, "claim", [claimArgs([claimRow(config, voucher)])]);
  const [before, state] = [await chain.balanceOf(payTo), await on.receiver()];
  const { transactionHash } = await on.send(other.address, "settle", [payTo, USDC]);
  assert.equal((await chain.balanceOf(payTo)) - before, state.totalClaimed - state.totalSettled);
  assert.deepEqual(await on.receiver(), { totalClaimed: state.totalClaimed, totalSettled: state.totalClaimed });
  const fromBlock = (await chain.client.getTransaction({ hash: transactionHash })).blockNumber + 1n;
  await on.send(other.address, "settle", [payTo, USDC]);
  assert.deepEqual(await on.events({ fromBlock }), []);
});

test("Keys and contracts sign for the payer and for the authorizer", async () => {
  // Each answers every call with one word: that of ERC-1271's `isValidSignature`, or another.
  const wallet = "0xC0ffee00000000000000000000000000000000A3".toLowerCase();
  const mute = "0xC0ffee00000000000000000000000000000000A4".toLowerCase();
  await chain.rpc("anvil_setCode", wallet, `0x7f1626ba7e${"00".repeat(28)}60005260206000f3`);
  await chain.rpc("anvil_setCode", mute, `0x7fffffffff${"00".repeat(28)}60005260206000f3`);
  await chain.mint(wallet, 1_000_000n);

  const claims = async (config, signature, by) => {
    const rows = [claimRow(config, { maxClaimableAmount: PRICE, signature })];
    const authorization = by ?? (await signClaims(authorizerAccount, rows));
    return on.dryRun(other.address, "claimWithSignature", [claimArgs(rows), authorization]);
  };
  // A key of its own for vouchers.
  const keyed = await opened({ signer: second, config: { payerAuthorizer: second.address } });
  assert.equal(await claims(keyed.config, keyed.voucher.signature), "done");
  assert.equal(await claims(keyed.config, (await signVoucher(payerAccount, keyed.id, PRICE)).signature), "InvalidSignature");
  // The payer, whose key is looked for when none is named.
  const plain = await opened({ config: { payerAuthorizer: NOBODY } });
  assert.equal(await claims(plain.config, plain.voucher.signature), "done");
  assert.equal(await claims(plain.config, highS(plain.voucher.signature)), "InvalidSignature");
  assert.equal(await claims(plain.config, "0xabcd"), "InvalidSignature");
  // A payer that is a contract, and signs the deposit and the vouchers in its own way.
  const config = { payer: wallet, payerAuthorizer: NOBODY };
  const ofWallet = await opened({ config });
  assert.equal(await claims(ofWallet.config, "0xabcd"), "done");
  // A contract that is named as a key has none.
  const named = await opened({ config: { payerAuthorizer: wallet } }).catch((error) => error);
  assert.match(named.message, /voucher_signature/);

  const terms = (receiverAuthorizer) => ({ ...entry, extra: { ...entry.extra, receiverAuthorizer } });
  const byContract = await opened({ terms: terms(wallet), config: { receiverAuthorizer: wallet } });
  assert.equal(await claims(byContract.config, byContract.voucher.signature, "0xabcd"), "done");
  assert.equal(await on.dryRun(other.address, "refundWithSignature", [byContract.config, 1n, 0n, "0x"]), "done");
  const byMute = await opened({ terms: terms(mute), config: { receiverAuthorizer: mute } });
  assert.equal(await claims(byMute.config, byMute.voucher.signature, "0xabcd"), "InvalidSignature");
  assert.equal(await on.dryRun(other.address, "refundWithSignature", [byMute.config, 1n, 0n, "0x"]), "InvalidSignature");
});

// ---- Withdrawals: last, since they move the chain's clock on -----------------------------------------------------------

test("A payer takes back what is not claimed by the end of the delay", async () => {
  const taken = await opened();
  const claimed = await opened();
  const shrunk = await opened();
  const before = await chain.balanceOf(payer);
  const { config, id } = taken;
  assert.equal(await on.dryRun(other.address, "initiateWithdraw", [config, 1n]), "InvalidChannel");
  assert.equal(await on.dryRun(payer, "initiateWithdraw", [config, 0n]), "NothingToWithdraw");
  assert.equal(await on.dryRun(payer, "initiateWithdraw", [config, DEPOSIT + 1n]), "WithdrawAmountExceedsAvailable");
  assert.equal(await on.dryRun(payer, "finalizeWithdraw", [config]), "WithdrawalNotPending");
  const { transactionHash: begun } = await on.initiateWithdraw(config, DEPOSIT);
  await spent("initiateWithdraw", begun);
  await on.initiateWithdraw(claimed.config, DEPOSIT);
  await on.initiateWithdraw(shrunk.config, DEPOSIT);
  assert.equal(await on.dryRun(payer, "initiateWithdraw", [config, 1n]), "WithdrawalAlreadyPending");
  assert.equal(await on.dryRun(payer, "finalizeWithdraw", [config]), "WithdrawDelayNotElapsed");

  // The facilitator tells of it, and goes on taking vouchers.
  const voucher = await signChannelPayment(entry, { total: 20_000, config: { salt: config.salt } });
  const { isValid, extra } = await verify(voucher);
  const { withdrawal } = await on.read(id);
  assert.deepEqual([isValid, extra.withdrawRequestedAt], [true, withdrawal.initiatedAt]);
  assert.equal(withdrawal.amount, DEPOSIT);

  await on.send(authorizer, "claim", [claimArgs([claimRow(claimed.config, claimed.voucher)])]);
  await on.send(authorizer, "refund", [shrunk.config, 40_000n]);
  assert.equal((await on.read(shrunk.id)).withdrawal.amount, 60_000n);

  await on.pass(901);
  assert.equal(await on.dryRun(other.address, "finalizeWithdraw", [config]), "NotAuthorizedToFinalizeWithdraw");
  const { transactionHash: ended } = await on.finalizeWithdraw(config);
  await spent("finalizeWithdraw", ended);
  await on.finalizeWithdraw(claimed.config);
  await on.finalizeWithdraw(shrunk.config);
  assert.equal((await chain.balanceOf(payer)) - before, 3n * DEPOSIT - PRICE);
  assert.deepEqual(await on.read(id), { balance: 0n, totalClaimed: 0n, refundNonce: 0n, withdrawal: { amount: 0n, initiatedAt: 0 } });
  assert.equal(await on.dryRun(payer, "finalizeWithdraw", [config]), "WithdrawalNotPending");
  // What was served for after the last claim is lost.
  assert.equal(await on.dryRun(authorizer, "claim", [claimArgs([claimRow(config, voucher.payload.voucher)])]), "ClaimExceedsBalance");
  assert.equal((await verify(voucher)).invalidReason, `${REASON}channel_not_found`);
  const names = (await on.events({ id })).map(({ eventName }) => eventName);
  assert.deepEqual(names, ["ChannelCreated", "Deposited", "WithdrawInitiated", "WithdrawFinalized", "ChannelClosed"]);
});

test("A refund of all ends a withdrawal", async () => {
  // The chain's clock is ahead by now: what is signed has to be valid long enough.
  const { payload } = await signChannelPayment({ ...entry, maxTimeoutSeconds: 7200 }, { type: "deposit", total: PRICE, amount: DEPOSIT, config: { salt: freshSalt() } });
  const { channelConfig: config, voucher: { channelId: id } } = payload;
  await on.deposit(payload);
  await on.initiateWithdraw(config, DEPOSIT);
  await on.send(authorizer, "refund", [config, DEPOSIT]);
  assert.deepEqual((await on.read(id)).withdrawal, { amount: 0n, initiatedAt: 0 });
  await on.pass(901);
  assert.equal(await on.dryRun(payer, "finalizeWithdraw", [config]), "WithdrawalNotPending");
});
