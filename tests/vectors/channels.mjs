/**
 * The vectors of channels (`batch-settlement`): ids, vouchers, refunds, claims, deposits, and the calls that read a
 * channel from the chain. What the official packages sign, and how they encode it, is compared with what stands here.
 */
import assert from "node:assert/strict";
import { toFacilitatorEvmSigner, BATCH_SETTLEMENT_ADDRESS, ERC3009_DEPOSIT_COLLECTOR_ADDRESS } from "@x402/evm";
import { claimBatchTypes, refundTypes, voucherTypes } from "@x402/evm";
import { BatchSettlementEvmScheme as Client, computeChannelId, signVoucher } from "@x402/evm/batch-settlement/client";
import { BatchSettlementEvmScheme as Facilitator } from "@x402/evm/batch-settlement/facilitator";
import { decodeFunctionData, encodeAbiParameters, encodeFunctionData, getAddress, hashStruct, keccak256, numberToHex, parseAbi } from "viem";
import { CHANNEL_TYPES, DEPOSIT_PERMIT_TYPES, RECEIVE_TYPES } from "../eip712-types.mjs";

const CONTRACT = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003";
const ERC3009_COLLECTOR = "0x4020806089470a89826cB9fB1f4059150b550004";
const PERMIT2_COLLECTOR = "0x4020425FAf3B746C082C2f942b4E5159887B0005";
const PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3";
const ZERO = `0x${"00".repeat(20)}`;
const MAX_128 = 2n ** 128n - 1n;
const ROWS = 100;

const ENCODED = {
  ChannelConfig:
    "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)",
  Voucher: "Voucher(bytes32 channelId,uint128 maxClaimableAmount)",
  Refund: "Refund(bytes32 channelId,uint256 nonce,uint128 amount)",
  ClaimEntry: "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)",
  ClaimBatch:
    "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)",
  ReceiveWithAuthorization:
    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)",
  PermitWitnessTransferFrom:
    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,DepositWitness witness)" +
    "DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)",
  DepositWitness: "DepositWitness(bytes32 channelId)",
};

const VIEWS = parseAbi([
  "function channels(bytes32 channelId) view returns (uint128 balance, uint128 totalClaimed)",
  "function pendingWithdrawals(bytes32 channelId) view returns (uint128 amount, uint40 initiatedAt)",
  "function refundNonce(bytes32 channelId) view returns (uint256)",
  "function authorizationState(address authorizer, bytes32 nonce) view returns (bool)",
]);

const domainOn = (chainId) => ({
  name: "x402 Batch Settlement",
  version: "1",
  chainId: BigInt(chainId),
  verifyingContract: CONTRACT,
});

/** A list of what an official scheme had signed: its signer, and the typed data and signature of the last signing. */
const watched = (account) => {
  const watch = { address: account.address };
  watch.signTypedData = async (data) => {
    watch.data = data;
    watch.signature = await account.signTypedData(data);
    return watch.signature;
  };
  return watch;
};

/**
 * Makes `channels.json`.
 *
 * @param {object} tools of `generate.mjs`
 */
export async function channels({ anvil, labelled, label, hashes, signed, twin, known, MAX }) {
  assert.equal(BATCH_SETTLEMENT_ADDRESS, CONTRACT);
  assert.equal(ERC3009_DEPOSIT_COLLECTOR_ADDRESS, ERC3009_COLLECTOR);
  assert.deepEqual(voucherTypes, CHANNEL_TYPES.Voucher);
  assert.deepEqual(refundTypes, CHANNEL_TYPES.Refund);
  assert.deepEqual(claimBatchTypes, CHANNEL_TYPES.ClaimBatch);

  const [payer, voucherKey, authorizer, other] = [anvil(1), labelled("x402 vector voucher key"), anvil(4), anvil(3)];
  const alice = labelled("x402 vector payer alice");
  const own = labelled("x402 vector authorizer of a gate");
  const signers = [payer, voucherKey, authorizer, other, alice, own];
  const payTo = anvil(2).account.address;
  const salt = (n) => numberToHex(n, { size: 32 });
  const sepolia = known("USDC on Base Sepolia");
  const base = known("USDC on Base");

  const configOf = (changes = {}) => ({
    payer: payer.account.address,
    payerAuthorizer: payer.account.address,
    receiver: payTo,
    receiverAuthorizer: authorizer.account.address,
    token: sepolia.verifyingContract,
    withdrawDelay: 900,
    salt: salt(0n),
    ...changes,
  });
  const channel = (id, chainId, signer, changes) => {
    const config = configOf(changes);
    const computed = hashes({ domain: domainOn(chainId), types: CHANNEL_TYPES.ChannelConfig, primaryType: "ChannelConfig", message: config });
    assert.equal(computed.digest, computeChannelId(config, chainId));
    const { domainSeparator, structHash, digest: channelId } = computed;
    return { public: { id, chainId, config, domainSeparator, structHash, channelId }, signer };
  };
  const aliceIs = { payer: alice.account.address, payerAuthorizer: alice.account.address };
  const configs = [
    channel("recorded", 84532, payer),
    channel("another salt", 84532, payer, { salt: salt(1n) }),
    channel("salt of ones", 84532, payer, { salt: salt(MAX) }),
    channel("on base", 8453, payer, { token: base.verifyingContract }),
    channel("on ethereum", 1, payer, { token: known("USDC on Ethereum").verifyingContract }),
    channel("voucher key of its own", 84532, voucherKey, { payerAuthorizer: voucherKey.account.address }),
    channel("no voucher key", 84532, payer, { payerAuthorizer: ZERO }),
    channel("authorizer of the gate", 84532, payer, { receiverAuthorizer: own.account.address }),
    channel("longest delay", 84532, payer, { withdrawDelay: 2_592_000 }),
    channel("delay of 40 bits", 84532, payer, { withdrawDelay: 2 ** 40 - 1 }),
    channel("another payer", 84532, alice, aliceIs),
    channel("another receiver", 84532, payer, { receiver: other.account.address }),
    channel("another token", 84532, payer, { token: base.verifyingContract }),
    channel("chain id 2^53-1", Number.MAX_SAFE_INTEGER, payer),
  ];
  // As the official client and server 2.27.0 computed it in a recorded exchange.
  assert.equal(configs[0].public.channelId, "0x1406639c9d03dd9ff4522683ede4e2e1ef9a25f882f1892ee214ef06f3cb2b7e");
  assert.equal(new Set(configs.map((one) => one.public.channelId)).size, configs.length);
  const named = (id) => configs.find((one) => one.public.id === id);
  const withSignature = async (computed, by) => {
    const signature = await signed(computed.digest, by);
    return { ...computed, key: by.key, signer: by.account.address, signature };
  };

  const voucher = async (id, maxClaimableAmount, by) => {
    const { public: { chainId, channelId }, signer } = named(id);
    const message = { channelId, maxClaimableAmount };
    const computed = hashes({ domain: domainOn(chainId), types: CHANNEL_TYPES.Voucher, primaryType: "Voucher", message });
    const made = await withSignature(computed, by ?? signer);
    const official = await signVoucher((by ?? signer).account, channelId, maxClaimableAmount.toString(), `eip155:${chainId}`);
    assert.deepEqual(official, { channelId, maxClaimableAmount: maxClaimableAmount.toString(), signature: made.signature });
    return { channel: id, ...message, ...made, highS: twin(made.signature) };
  };
  const vouchers = [];
  for (const amount of [10_000n, 20_000n, 0n, 1n, 2n ** 64n, MAX_128]) vouchers.push(await voucher("recorded", amount));
  for (const { public: { id } } of configs.slice(1)) vouchers.push(await voucher(id, 10_000n));
  assert.equal(vouchers[0].signature.slice(0, 66), "0x8ec653288bf12c6b5afe959e496041e23bf30f84e8e7452a7ae1c1a32123baf0");

  const refund = async (id, nonce, amount, by = authorizer) => {
    const { chainId, channelId } = named(id).public;
    const message = { channelId, nonce, amount };
    const computed = hashes({ domain: domainOn(chainId), types: CHANNEL_TYPES.Refund, primaryType: "Refund", message });
    return { channel: id, ...message, ...(await withSignature(computed, by)) };
  };
  const refunds = [
    await refund("recorded", 0n, 10_000n),
    await refund("recorded", 1n, 10_000n),
    await refund("recorded", MAX, MAX_128),
    await refund("on base", 0n, 1n),
    await refund("authorizer of the gate", 7n, 2n ** 64n, own),
  ];

  const batch = async (id, rows, by = authorizer) => {
    const claims = rows.map(({ channelId, maxClaimableAmount, totalClaimed }) => ({ channelId, maxClaimableAmount, totalClaimed }));
    const types = CHANNEL_TYPES.ClaimBatch;
    const computed = hashes({ domain: domainOn(84532), types, primaryType: "ClaimBatch", message: { claims } });
    const made = await withSignature(computed, by);
    const entryHashes = claims.map((data) => hashStruct({ data, primaryType: "ClaimEntry", types }));
    if (by === authorizer) assert.equal(await officialBatchSignature(rows, by), made.signature);
    return { id, chainId: 84532, claims, entryHashes, ...made };
  };
  const row = (config, maxClaimableAmount, totalClaimed) => ({ config, channelId: computeChannelId(config, 84532), maxClaimableAmount, totalClaimed });
  const ofChannel = (id, ...amounts) => row(named(id).public.config, ...amounts);
  const three = [ofChannel("recorded", 20_000n, 20_000n), ofChannel("another salt", 10_000n, 2_325n), ofChannel("another payer", MAX_128, 0n)];
  const gated = ofChannel("authorizer of the gate", 10_000n, 10_000n);
  const hundred = Array.from({ length: ROWS }, (_, i) => row(configOf({ salt: salt(BigInt(1000 + i)) }), BigInt(1000 + i), BigInt(i)));
  const claimBatches = [
    await batch("no row", []),
    await batch("one row", three.slice(0, 1)),
    await batch("three rows", three),
    await batch("three rows in another order", [three[1], three[0], three[2]]),
    await batch("a hundred rows", hundred),
    await batch("authorizer of the gate", [gated], own),
  ];

  const deposit = async (id, domain, { amount, validAfter = 0n, validBefore = 1_893_456_000n, salt: random }) => {
    const { public: { channelId, config }, signer } = named(id);
    const nonce = keccak256(encodeAbiParameters([{ type: "bytes32" }, { type: "uint256" }], [channelId, BigInt(random)]));
    const message = { from: config.payer, to: ERC3009_COLLECTOR, value: amount, validAfter, validBefore, nonce };
    const computed = hashes({ domain, types: RECEIVE_TYPES, primaryType: "ReceiveWithAuthorization", message });
    const made = await withSignature(computed, signer);
    const collectorData = encodeAbiParameters(
      [{ type: "uint256" }, { type: "uint256" }, { type: "uint256" }, { type: "bytes" }],
      [validAfter, validBefore, BigInt(random), made.signature],
    );
    return { channel: id, salt: random, domain, message, ...made, collector: ERC3009_COLLECTOR, collectorData };
  };
  const eip3009Deposits = [
    await deposit("recorded", sepolia, { amount: 100_000n, salt: salt(1n) }),
    await deposit("recorded", sepolia, { amount: 1n, salt: salt(MAX), validAfter: 1_790_000_000n, validBefore: 1_790_000_300n }),
    await deposit("on base", base, { amount: MAX_128, salt: label("x402 vector deposit salt"), validBefore: MAX }),
    await deposit("another payer", sepolia, { amount: 0n, salt: salt(0n), validBefore: 0n }),
  ];

  const permitDeposit = async (id, chainId, amount, nonce, deadline = 1_893_456_000n) => {
    const { public: { channelId, config }, signer } = named(id);
    const domain = { name: "Permit2", chainId: BigInt(chainId), verifyingContract: PERMIT2 };
    const message = { permitted: { token: config.token, amount }, spender: PERMIT2_COLLECTOR, nonce, deadline, witness: { channelId } };
    const computed = hashes({ domain, types: DEPOSIT_PERMIT_TYPES, primaryType: "PermitWitnessTransferFrom", message });
    const witnessHash = hashStruct({ data: message.witness, primaryType: "DepositWitness", types: DEPOSIT_PERMIT_TYPES });
    const made = await withSignature(computed, signer);
    const collectorData = encodeAbiParameters(
      [{ type: "uint256" }, { type: "uint256" }, { type: "bytes" }, { type: "bytes" }],
      [nonce, deadline, made.signature, "0x"],
    );
    return { channel: id, from: config.payer, domain, message, witnessHash, ...made, collector: PERMIT2_COLLECTOR, collectorData };
  };
  const permit2Deposits = [
    await permitDeposit("recorded", 84532, 100_000n, BigInt(label("x402 vector deposit nonce"))),
    await permitDeposit("on base", 8453, MAX, MAX, MAX),
    await permitDeposit("another payer", 84532, 1n, 0n),
  ];
  await compareDeposits();

  const { channelId } = named("recorded").public;
  const returning = (functionName, args, to, values) => {
    const output = VIEWS.find(({ name }) => name === functionName).outputs;
    const results = values.map((value) => ({ value, data: encodeAbiParameters(output, value) }));
    return { function: functionName, to, args, calldata: encodeFunctionData({ abi: VIEWS, functionName, args }), results };
  };
  const calls = [
    returning("channels", [channelId], CONTRACT, [[0n, 0n], [100_000n, 20_000n], [MAX_128, MAX_128]]),
    returning("pendingWithdrawals", [channelId], CONTRACT, [[0n, 0], [80_000n, 1_790_000_000], [MAX_128, 2 ** 40 - 1]]),
    returning("refundNonce", [channelId], CONTRACT, [[0n], [3n], [MAX]]),
    returning("authorizationState", [payer.account.address, eip3009Deposits[0].message.nonce], sepolia.verifyingContract, [[false], [true]]),
  ].map((call) => ({ ...call, results: call.results.map(({ value, data }) => ({ value: value.map((part) => (typeof part === "boolean" ? part : BigInt(part))), data })) }));

  return {
    note: "Written by generate.mjs. Numbers are decimal strings, except `chainId` beside a configuration and `withdrawDelay` in it; `channel` refers to `configs` by id; `digest` is what is signed, over `domainSeparator` and `structHash`. `highS` is the other signature of the same signer, which the contract refuses. `results` are what the node may answer to a call.",
    contract: CONTRACT,
    collectors: { eip3009: ERC3009_COLLECTOR, permit2: PERMIT2_COLLECTOR },
    types: Object.fromEntries(Object.entries(ENCODED).map(([name, encodeType]) => [name, { encodeType, typeHash: label(encodeType) }])),
    keys: signers.map(({ key, account }) => ({ key, address: account.address, publicKey: account.publicKey })),
    configs: configs.map((one) => one.public),
    vouchers,
    refunds,
    claimBatches,
    eip3009Deposits,
    permit2Deposits,
    calls,
  };

  /** What the official facilitator signs for a claim of a server that has no key. */
  async function officialBatchSignature(rows, by) {
    const claims = rows.map(({ config, maxClaimableAmount, totalClaimed }) => ({
      voucher: { channel: config, maxClaimableAmount: maxClaimableAmount.toString() },
      signature: "0x",
      totalClaimed: totalClaimed.toString(),
    }));
    const watch = watched(by.account);
    const offline = { readContract: () => Promise.reject(new Error("there is no chain here")) };
    const facilitator = new Facilitator(toFacilitatorEvmSigner({ ...offline, address: by.account.address }), watch);
    const answer = await facilitator.settle({ payload: { type: "claim", claims } }, { network: "eip155:84532" });
    assert.equal(answer.errorReason, "invalid_batch_settlement_evm_claim_simulation_failed");
    return watch.signature;
  }

  /** Has the official client sign a deposit of each kind, and computes what it signed from what it sends. */
  async function compareDeposits() {
    for (const assetTransferMethod of ["eip3009", "permit2"]) {
      const all = [];
      const signTypedData = async (data) => {
        all.push(data);
        return payer.account.signTypedData(data);
      };
      const client = new Client({ address: payer.account.address, signTypedData });
      const extra = { name: "USDC", version: "2", receiverAuthorizer: authorizer.account.address, withdrawDelay: 900, minDeposit: "100000", assetTransferMethod };
      const entry = { scheme: "batch-settlement", network: "eip155:84532", amount: "10000", asset: sepolia.verifyingContract, payTo, maxTimeoutSeconds: 300, extra };
      const { payload } = await client.createPaymentPayload(2, entry);
      const { primaryType, types, message, domain } = all[0];
      const { channelId } = named("recorded").public;
      assert.equal(payload.voucher.channelId, channelId);
      assert.deepEqual(payload.voucher, { channelId, maxClaimableAmount: "10000", signature: vouchers[0].signature });
      if (assetTransferMethod === "eip3009") {
        const { salt: random, validBefore } = payload.deposit.authorization.erc3009Authorization;
        const nonce = keccak256(encodeAbiParameters([{ type: "bytes32" }, { type: "uint256" }], [channelId, BigInt(random)]));
        assert.deepEqual({ primaryType, types }, { primaryType: "ReceiveWithAuthorization", types: RECEIVE_TYPES });
        assert.deepEqual({ ...domain, chainId: BigInt(domain.chainId) }, sepolia);
        const expected = { from: payer.account.address, to: ERC3009_COLLECTOR, value: 100_000n, validAfter: 0n, validBefore: BigInt(validBefore), nonce };
        assert.deepEqual(message, expected);
      } else {
        const { nonce, deadline } = payload.deposit.authorization.permit2Authorization;
        assert.deepEqual({ primaryType, types }, { primaryType: "PermitWitnessTransferFrom", types: DEPOSIT_PERMIT_TYPES });
        const permitted = { token: sepolia.verifyingContract, amount: 100_000n };
        const expected = { permitted, spender: PERMIT2_COLLECTOR, nonce: BigInt(nonce), deadline: BigInt(deadline), witness: { channelId } };
        assert.deepEqual(message, expected);
        assert.deepEqual(domain, { name: "Permit2", chainId: 84532, verifyingContract: PERMIT2 });
      }
    }
  }
}
