/**
 * Channels (`batch-settlement`) for tests: payments signed by hand so that any part of them can be wrong, the official
 * client and the official server, and what the chain knows of a channel.
 */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { computeChannelId } from "@x402/evm/batch-settlement/client";
import { BatchSettlementEvmScheme as ServerScheme } from "@x402/evm/batch-settlement/server";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
import express from "express";
import { encodeAbiParameters, encodeFunctionData, keccak256, numberToHex, parseAbi, parseEventLogs } from "viem";
import { authorizerAccount, payerAccount } from "../../stage/accounts.mjs";
import { makePayer } from "../../stage/client.mjs";
import { BATCH_SETTLEMENT, ERC3009_DEPOSIT_COLLECTOR, PERMIT2, PERMIT2_DEPOSIT_COLLECTOR } from "../../stage/contracts.mjs";
import { checkout } from "../../stage/processes.mjs";
import { CHANNEL_TYPES, DEPOSIT_PERMIT_TYPES, RECEIVE_TYPES } from "../eip712-types.mjs";
import { CHAIN_ID, NETWORK, now, payTo, USDC } from "./support.mjs";

const N = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n; // the order of secp256k1

/** The address that stands for nobody, as in `payerAuthorizer` of a channel whose payer signs vouchers itself. */
export const NOBODY = `0x${"00".repeat(20)}`;

/** What no test but the one that asked has in its channels: every call gives another salt. */
export const freshSalt = () => `0x${randomBytes(32).toString("hex")}`;

/** A salt by its number. */
export const saltOf = (number) => numberToHex(BigInt(number), { size: 32 });

/** The domain of what is signed for channels (EIP-712). */
export const CHANNEL_DOMAIN = { name: "x402 Batch Settlement", version: "1", chainId: CHAIN_ID, verifyingContract: BATCH_SETTLEMENT };

/** The contract's calls, events and errors, with those of the libraries that the deployed one is built on. */
export const CHANNEL_ABI = parseAbi([
  "struct ChannelConfig { address payer; address payerAuthorizer; address receiver; address receiverAuthorizer; address token; uint40 withdrawDelay; bytes32 salt; }",
  "struct Voucher { ChannelConfig channel; uint128 maxClaimableAmount; }",
  "struct VoucherClaim { Voucher voucher; bytes signature; uint128 totalClaimed; }",
  "function multicall(bytes[] data) returns (bytes[] results)",
  "function deposit(ChannelConfig config, uint128 amount, address collector, bytes collectorData)",
  "function claim(VoucherClaim[] voucherClaims)",
  "function claimWithSignature(VoucherClaim[] voucherClaims, bytes authorizerSignature)",
  "function settle(address receiver, address token)",
  "function refund(ChannelConfig config, uint128 amount)",
  "function refundWithSignature(ChannelConfig config, uint128 amount, uint256 nonce, bytes receiverAuthorizerSignature)",
  "function initiateWithdraw(ChannelConfig config, uint128 amount)",
  "function finalizeWithdraw(ChannelConfig config)",
  "function getChannelId(ChannelConfig config) view returns (bytes32)",
  "function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) view returns (bytes32)",
  "function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) view returns (bytes32)",
  "function getClaimBatchDigest(VoucherClaim[] voucherClaims) view returns (bytes32)",
  "function CHANNEL_CONFIG_TYPEHASH() view returns (bytes32)",
  "function channels(bytes32 channelId) view returns (uint128 balance, uint128 totalClaimed)",
  "function pendingWithdrawals(bytes32 channelId) view returns (uint128 amount, uint40 initiatedAt)",
  "function refundNonce(bytes32 channelId) view returns (uint256)",
  "function receivers(address receiver, address token) view returns (uint128 totalClaimed, uint128 totalSettled)",
  "event ChannelCreated(bytes32 indexed channelId, ChannelConfig config)",
  "event ChannelClosed(bytes32 indexed channelId, ChannelConfig config)",
  "event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance)",
  "event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed)",
  "event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount)",
  "event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount)",
  "event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter)",
  "event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount)",
  ...[
    "InvalidChannel()", "WithdrawDelayOutOfRange()", "ZeroDeposit()", "InvalidCollector()", "DepositOverflow()",
    "DepositCollectionFailed()", "EmptyBatch()", "NotAuthorizedToClaim()", "NotReceiverAuthorizer()",
    "ClaimExceedsCeiling()", "ClaimExceedsBalance()", "InvalidSignature()", "NothingToWithdraw()",
    "WithdrawalAlreadyPending()", "WithdrawAmountExceedsAvailable()", "NotAuthorizedToFinalizeWithdraw()",
    "WithdrawalNotPending()", "WithdrawDelayNotElapsed()", "NotAuthorizedToRefund()", "InvalidRefundNonce()",
    "ZeroRefund()", "OnlyX402BatchSettlement()", "Permit2612AmountMismatch()",
    "ECDSAInvalidSignature()", "ECDSAInvalidSignatureLength(uint256 length)", "ECDSAInvalidSignatureS(bytes32 s)",
    "ReentrancyGuardReentrantCall()", "SafeERC20FailedOperation(address token)",
    "SignatureExpired(uint256)", "InvalidNonce()", "InvalidSigner()",
  ].map((error) => `error ${error}`),
]);

// ---- Signed by hand -----------------------------------------------------------------------------------------------

/**
 * An entry of `accepts` that is paid by a channel, as the official server offers it.
 *
 * @param {string} amount atomic units of USDC: the most that one request may cost
 * @param {object} [extra] keys of `extra` to add or replace
 */
export const channelEntry = (amount, extra = {}) => ({
  scheme: "batch-settlement",
  network: NETWORK,
  amount,
  asset: USDC,
  payTo,
  maxTimeoutSeconds: 300,
  extra: {
    name: "USDC",
    version: "2",
    receiverAuthorizer: authorizerAccount.address,
    withdrawDelay: 900,
    minDeposit: String(BigInt(amount) * 10n),
    ...extra,
  },
});

/**
 * The channel that an official client uses for an entry.
 *
 * @param {object} entry of `accepts`
 * @param {object} [changes] fields of the configuration in place of the usual ones, `salt` among them
 * @param {import("viem").LocalAccount} [account] who pays
 */
export const channelOf = (entry, changes = {}, account = payerAccount) => ({
  payer: account.address,
  payerAuthorizer: account.address,
  receiver: entry.payTo,
  receiverAuthorizer: entry.extra.receiverAuthorizer,
  token: entry.asset,
  withdrawDelay: entry.extra.withdrawDelay,
  salt: saltOf(0),
  ...changes,
});

/** A channel's id on the stage's chain. */
export const channelIdOf = (config) => computeChannelId(config, CHAIN_ID);

/** The other signature of the same signer, with a high `s`: recovery takes it, the contract does not. */
export function highS(signature) {
  const [r, s, v] = [signature.slice(2, 66), BigInt(`0x${signature.slice(66, 130)}`), Number(`0x${signature.slice(130)}`)];
  return `0x${r}${(N - s).toString(16).padStart(64, "0")}${(55 - v).toString(16)}`;
}

const signAs = (account, primaryType, message, domain = {}) =>
  account.signTypedData({ domain: { ...CHANNEL_DOMAIN, ...domain }, types: CHANNEL_TYPES[primaryType], primaryType, message });

/**
 * Signs a voucher.
 *
 * @param {import("viem").LocalAccount} account whose key is the channel's `payerAuthorizer`
 * @param {string} channelId
 * @param {bigint | string} maxClaimableAmount the total up to which the receiver may claim
 * @param {object} [domain] fields of the domain in place of the honest ones
 */
export async function signVoucher(account, channelId, maxClaimableAmount, domain) {
  const message = { channelId, maxClaimableAmount: BigInt(maxClaimableAmount) };
  return { channelId, maxClaimableAmount: String(maxClaimableAmount), signature: await signAs(account, "Voucher", message, domain) };
}

/** Signs a refund, as the authorizer of the receiver does. */
export const signRefund = (account, channelId, nonce, amount) =>
  signAs(account, "Refund", { channelId, nonce: BigInt(nonce), amount: BigInt(amount) });

/** Signs a batch of claims, as the authorizer of the receiver does. */
export const signClaims = (account, rows) =>
  signAs(account, "ClaimBatch", {
    claims: rows.map(({ voucher, totalClaimed }) => ({
      channelId: channelIdOf(voucher.channel),
      maxClaimableAmount: BigInt(voucher.maxClaimableAmount),
      totalClaimed: BigInt(totalClaimed),
    })),
  });

/**
 * A row of a claim, in the shape in which a server sends it to the facilitator.
 *
 * @param {object} config of the channel
 * @param {{maxClaimableAmount: string, signature: string}} voucher
 * @param {bigint | string} [totalClaimed] all that the voucher allows without it
 */
export const claimRow = (config, { maxClaimableAmount, signature }, totalClaimed = maxClaimableAmount) => ({
  voucher: { channel: config, maxClaimableAmount: String(maxClaimableAmount) },
  signature,
  totalClaimed: String(totalClaimed),
});

/** The nonce of a deposit's authorization (EIP-3009): it binds it to the channel. */
export const depositNonce = (channelId, salt) =>
  keccak256(encodeAbiParameters([{ type: "bytes32" }, { type: "uint256" }], [channelId, BigInt(salt)]));

async function signErc3009(entry, config, channelId, amount, { account = payerAccount, authorization = {}, signed = {}, domain = {} }) {
  const fields = { validAfter: "0", validBefore: String(now() + entry.maxTimeoutSeconds), salt: freshSalt(), ...authorization };
  const { name, version } = entry.extra;
  const signature = await account.signTypedData({
    domain: { name, version, chainId: CHAIN_ID, verifyingContract: entry.asset, ...domain },
    types: RECEIVE_TYPES,
    primaryType: "ReceiveWithAuthorization",
    message: {
      from: config.payer,
      to: ERC3009_DEPOSIT_COLLECTOR,
      value: BigInt(amount),
      validAfter: BigInt(fields.validAfter),
      validBefore: BigInt(fields.validBefore),
      nonce: depositNonce(channelId, fields.salt),
      ...signed,
    },
  });
  return { erc3009Authorization: { signature, ...fields } };
}

async function signPermit2(entry, config, channelId, amount, { account = payerAccount, authorization = {}, signed = {}, domain = {} }) {
  const fields = {
    from: config.payer,
    permitted: { token: entry.asset, amount: String(amount) },
    spender: PERMIT2_DEPOSIT_COLLECTOR,
    nonce: BigInt(freshSalt()).toString(),
    deadline: String(now() + entry.maxTimeoutSeconds),
    witness: { channelId },
    ...authorization,
  };
  const signature = await account.signTypedData({
    domain: { name: "Permit2", chainId: CHAIN_ID, verifyingContract: PERMIT2, ...domain },
    types: DEPOSIT_PERMIT_TYPES,
    primaryType: "PermitWitnessTransferFrom",
    message: { ...fields, ...signed },
  });
  return { permit2Authorization: { signature, ...fields } };
}

/**
 * Signs a payment by a channel by hand, in the shape in which the official client sends it.
 *
 * @param {object} entry of `accepts`; it becomes `accepted`
 * @param {object} payment
 * @param {"deposit" | "voucher" | "refund"} [payment.type] a voucher alone without it
 * @param {bigint | string | number} payment.total what the voucher is for: what was charged before, and this request's
 *   ceiling (with a refund: what was charged)
 * @param {object} [payment.config] fields of the channel in place of the usual ones, see `channelOf`
 * @param {import("viem").LocalAccount} [payment.account] who pays
 * @param {import("viem").LocalAccount} [payment.signer] who signs the voucher; the payer without it
 * @param {object} [payment.domain] fields of the voucher's domain in place of the honest ones
 * @param {object} [payment.voucher] fields of the voucher in place of the honest ones; they are not signed
 * @param {boolean} [payment.high] the voucher's signature gets a high `s`
 * @param {bigint | string | number} [payment.amount] of the deposit (`minDeposit` without it) or of the refund (all)
 * @param {"eip3009" | "permit2"} [payment.method] of the deposit; the entry's without it
 * @param {object} [payment.deposit] of the deposit: `authorization` has fields in place of the honest ones, which are
 *   signed where they stand in what is signed; `signed` such that are signed, but not sent; `domain`; `account`
 * @param {object} [payment.payload] keys of the payload to add or replace
 * @param {object} [payment.resource]
 * @returns {Promise<object>} a payment of x402 version 2; `paying` of `support.mjs` makes a header of it
 */
export async function signChannelPayment(entry, payment) {
  const { type = "voucher", total, config: changes, account = payerAccount, signer = account, resource } = payment;
  const config = channelOf(entry, changes, account);
  const channelId = channelIdOf(config);
  const honest = await signVoucher(signer, channelId, BigInt(total), payment.domain);
  const signature = payment.high ? highS(honest.signature) : honest.signature;
  const payload = { type, channelConfig: config, voucher: { ...honest, signature, ...payment.voucher } };
  if (type === "deposit") {
    const amount = String(payment.amount ?? entry.extra.minDeposit);
    const method = payment.method ?? entry.extra.assetTransferMethod ?? "eip3009";
    const sign = method === "permit2" ? signPermit2 : signErc3009;
    const authorization = await sign(entry, config, channelId, amount, { account, ...payment.deposit });
    payload.deposit = { amount, authorization };
  } else if (payment.amount !== undefined) {
    payload.amount = String(payment.amount);
  }
  return { x402Version: 2, payload: { ...payload, ...payment.payload }, resource, accepted: entry };
}

// ---- Clients ------------------------------------------------------------------------------------------------------

/**
 * The official client, which pays by a channel of its own.
 *
 * @param {object} [options]
 * @param {import("viem").LocalAccount} [options.account] who pays; the stage's payer without it
 * @param {string} [options.salt] of the channel; another one with each call without it
 * @param {import("../../stage/chain.mjs").Chain} [options.chain] lets the client read its channel from the chain, as one
 *   does that has lost its own state
 * @param {(version: number, entries: object[]) => object} [options.select] chooses among the entries on offer; the first
 *   one for channels without it
 * @param {object} [options.more] of the official scheme's options: `depositStrategy`, `voucherSigner`, …
 * @returns {import("../../stage/client.mjs").Payer & ChannelPayer}
 *
 * @typedef {object} ChannelPayer
 * @property {string} salt
 * @property {(entry: object) => object} configFor the channel that it uses for an entry of `accepts`
 * @property {(entry: object) => string} idFor that channel's id
 * @property {(entry: object) => Promise<object | undefined>} known what it knows of that channel
 * @property {(entry: object, record?: object) => Promise<void>} know has it believe something else of it, or nothing
 * @property {(url: string, amount?: string) => Promise<object>} refund asks for all that is left, or for so much of it
 */
export function makeChannelPayer({ account = payerAccount, salt = freshSalt(), chain, select, more } = {}) {
  const byChannel = (_, entries) => entries.find(({ scheme }) => scheme === "batch-settlement") ?? entries[0];
  const signer = chain && { readContract: (args) => chain.client.readContract(args) };
  const payer = makePayer({ account, select: select ?? byChannel, channels: { ...more, salt }, signer });
  const idFor = (entry) => channelIdOf(payer.channels.buildChannelConfig(entry));
  return {
    ...payer,
    salt,
    configFor: (entry) => payer.channels.buildChannelConfig(entry),
    idFor,
    known: (entry) => payer.storage.get(idFor(entry)),
    know: (entry, record) => (record ? payer.storage.set(idFor(entry), record) : payer.storage.delete(idFor(entry))),
    refund: (url, amount) => payer.channels.refund(url, { fetch: payer.watched, ...(amount && { amount }) }),
  };
}

/**
 * The official Python client, which pays by a channel of its own; see `python_channels.py` for the steps and their
 * results.
 *
 * @param {"httpx" | "requests"} library
 * @param {object[]} steps
 * @param {object} [options]
 * @param {import("viem").HDAccount} [options.account] who pays
 * @param {string} [options.salt] of the channel
 * @param {string} [options.rpcUrl] lets the client read its channel from the chain
 * @returns {Promise<object[]>} a result for each step
 */
export async function byPython(library, steps, { account = payerAccount, salt = freshSalt(), rpcUrl } = {}) {
  const python = join(checkout, ".venv", "bin", "python");
  const script = fileURLToPath(new URL("python_channels.py", import.meta.url));
  const key = `0x${Buffer.from(account.getHdKey().privateKey).toString("hex")}`;
  const env = { ...process.env, PAYER_KEY: key, SALT: salt, ...(rpcUrl && { RPC_URL: rpcUrl }) };
  const { stdout } = await promisify(execFile)(python, [script, library, JSON.stringify(steps)], { env, timeout: 60_000 });
  return JSON.parse(stdout);
}

// ---- The official server --------------------------------------------------------------------------------------------

/**
 * The official server with channels: express, its middleware and its scheme, before the stage's facilitator.
 *
 * @param {object} options
 * @param {string} options.facilitatorUrl
 * @param {string} [options.amount] atomic units: the ceiling of a request
 * @param {import("viem").LocalAccount} [options.authorizer] the server's own; the facilitator's without it
 * @param {"eip3009" | "permit2"} [options.method] of deposits
 * @param {object} [options.scheme] more of the official scheme's options: `withdrawDelay`, `enforceMinDeposit`, `storage`, …
 * @returns {Promise<OfficialServer>}
 *
 * @typedef {object} OfficialServer
 * @property {string} url where something is sold
 * @property {{charge: string | null, status: number, holds: Promise<void> | null}} next what it does with the next
 *   requests: charges less than the ceiling, answers with that status, waits for a promise before
 * @property {import("@x402/evm/batch-settlement/server").BatchSettlementEvmScheme} scheme its `getStorage()` knows the
 *   channels
 * @property {import("@x402/evm/batch-settlement/server").BatchSettlementChannelManager} manager claims, settles, refunds
 * @property {number} served how many requests its handler saw
 * @property {() => Promise<void>} stop
 */
export async function startOfficialServer({ facilitatorUrl, amount = "10000", authorizer, method, scheme: options = {} }) {
  const facilitator = new HTTPFacilitatorClient({ url: facilitatorUrl });
  const scheme = new ServerScheme(payTo, { ...options, ...(authorizer && { receiverAuthorizerSigner: authorizer }) });
  const resources = new x402ResourceServer(facilitator).register(NETWORK, scheme);
  const extra = { name: "USDC", version: "2", ...(method && { assetTransferMethod: method }) };
  const accepts = { scheme: "batch-settlement", network: NETWORK, payTo, price: { amount, asset: USDC, extra } };
  const app = express();
  app.use(paymentMiddleware({ "GET /weather": { accepts, description: "Weather data", mimeType: "application/json" } }, resources));
  const result = { next: { charge: null, status: 200, holds: null }, served: 0 };
  app.get("/weather", async (_, response) => {
    result.served += 1;
    const { charge, status, holds } = result.next;
    await holds;
    if (charge !== null) setSettlementOverrides(response, { amount: charge });
    response.status(status).json({ report: "sunny" });
  });
  const server = app.listen(0, "127.0.0.1");
  await new Promise((resolve, reject) => server.once("listening", resolve).once("error", reject));
  return Object.assign(result, {
    url: `http://127.0.0.1:${server.address().port}/weather`,
    scheme,
    manager: scheme.createChannelManager(facilitator, NETWORK, USDC),
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}

// ---- The chain ----------------------------------------------------------------------------------------------------

const configArgs = (config) => ({ ...config, withdrawDelay: Number(config.withdrawDelay) });

/** Rows of a claim as the contract takes them. */
export const claimArgs = (rows) =>
  rows.map(({ voucher, signature, totalClaimed }) => ({
    voucher: { channel: configArgs(voucher.channel), maxClaimableAmount: BigInt(voucher.maxClaimableAmount) },
    signature,
    totalClaimed: BigInt(totalClaimed),
  }));

/** What a deposit payload's authorization is to the contract: the collector, and its data. */
export function collectorOf({ deposit: { authorization } }) {
  const { erc3009Authorization: erc3009, permit2Authorization: permit2 } = authorization;
  if (erc3009) {
    const { validAfter, validBefore, salt, signature } = erc3009;
    const types = [{ type: "uint256" }, { type: "uint256" }, { type: "uint256" }, { type: "bytes" }];
    const values = [BigInt(validAfter), BigInt(validBefore), BigInt(salt), signature];
    return [ERC3009_DEPOSIT_COLLECTOR, encodeAbiParameters(types, values)];
  }
  const types = [{ type: "uint256" }, { type: "uint256" }, { type: "bytes" }, { type: "bytes" }];
  const values = [BigInt(permit2.nonce), BigInt(permit2.deadline), permit2.signature, "0x"];
  return [PERMIT2_DEPOSIT_COLLECTOR, encodeAbiParameters(types, values)];
}

/**
 * What the chain knows of channels, and what payers and receivers can do there by themselves.
 *
 * @param {import("../../stage/chain.mjs").Chain} chain
 * @returns {ChannelChain}
 *
 * @typedef {object} ChannelChain
 * @property {(id: string) => Promise<OnChain>} read
 * @property {(receiver?: string) => Promise<{totalClaimed: bigint, totalSettled: bigint}>} receiver of USDC
 * @property {(functionName: string, args?: unknown[]) => Promise<any>} call reads a view of the contract
 * @property {(from: string, functionName: string, args: unknown[]) => Promise<string>} dryRun the name of the error with
 *   which a call would end, or `done`
 * @property {(from: string, functionName: string, args: unknown[]) => Promise<object>} send sends a transaction from one of
 *   `accounts.mjs`; the receipt, with `gasUsed`
 * @property {(config: object, amount: bigint, from?: string) => Promise<object>} initiateWithdraw by the payer
 * @property {(config: object, from?: string) => Promise<object>} finalizeWithdraw by the payer
 * @property {(payload: object) => Promise<object>} deposit sends a deposit payload as a facilitator would
 * @property {(seconds: number) => Promise<void>} pass moves the chain's clock on
 * @property {(filter?: {fromBlock?: bigint, id?: string}) => Promise<object[]>} events of the contract, oldest first:
 *   `eventName`, `args`, `transactionHash`, `blockNumber`
 * @property {(filter?: {fromBlock?: bigint, id?: string}) => Promise<bigint>} claimed the sum of all claims
 *
 * @typedef {object} OnChain
 * @property {bigint} balance
 * @property {bigint} totalClaimed
 * @property {bigint} refundNonce
 * @property {{amount: bigint, initiatedAt: number}} withdrawal `initiatedAt` is 0 if none is pending
 */
export function channelsOn(chain) {
  const call = (functionName, args = []) =>
    chain.client.readContract({ address: BATCH_SETTLEMENT, abi: CHANNEL_ABI, functionName, args });
  const send = async (from, functionName, args) => {
    const data = encodeFunctionData({ abi: CHANNEL_ABI, functionName, args });
    const hash = await chain.rpc("eth_sendTransaction", { from, to: BATCH_SETTLEMENT, data, gas: numberToHex(20_000_000) });
    const receipt = await chain.client.waitForTransactionReceipt({ hash });
    if (receipt.status !== "success") throw new Error(`${functionName} was reverted: ${hash}`);
    return receipt;
  };
  const events = async ({ fromBlock = 0n, id } = {}) => {
    // anvil takes a range that begins in the future for an error.
    if (fromBlock > (await chain.client.getBlockNumber())) return [];
    const logs = await chain.client.getLogs({ address: BATCH_SETTLEMENT, fromBlock });
    return parseEventLogs({ abi: CHANNEL_ABI, logs }).filter(({ args }) => id === undefined || args.channelId === id.toLowerCase());
  };
  return {
    call,
    send,
    events,
    read: async (id) => {
      const views = ["channels", "pendingWithdrawals", "refundNonce"].map((view) => call(view, [id]));
      const [[balance, totalClaimed], [amount, initiatedAt], refundNonce] = await Promise.all(views);
      return { balance, totalClaimed, refundNonce, withdrawal: { amount, initiatedAt } };
    },
    receiver: async (receiver = payTo) => {
      const [totalClaimed, totalSettled] = await call("receivers", [receiver, USDC]);
      return { totalClaimed, totalSettled };
    },
    dryRun: async (from, functionName, args) => {
      try {
        await chain.client.simulateContract({ account: from, address: BATCH_SETTLEMENT, abi: CHANNEL_ABI, functionName, args });
        return "done";
      } catch (error) {
        const { data, reason, raw } = error.walk((cause) => "raw" in cause) ?? { reason: error.shortMessage };
        return data?.errorName === "Error" ? reason : (data?.errorName ?? raw ?? reason);
      }
    },
    initiateWithdraw: (config, amount, from = config.payer) => send(from, "initiateWithdraw", [configArgs(config), amount]),
    finalizeWithdraw: (config, from = config.payer) => send(from, "finalizeWithdraw", [configArgs(config)]),
    deposit: (payload) => {
      const args = [configArgs(payload.channelConfig), BigInt(payload.deposit.amount), ...collectorOf(payload)];
      return send(payerAccount.address, "deposit", args);
    },
    pass: async (seconds) => {
      await chain.rpc("evm_increaseTime", seconds);
      await chain.rpc("evm_mine");
    },
    claimed: async (filter) => {
      const claims = (await events(filter)).filter(({ eventName }) => eventName === "Claimed");
      return claims.reduce((sum, { args }) => sum + args.claimAmount, 0n);
    },
  };
}

// ---- The facilitator ------------------------------------------------------------------------------------------------

/** The requirement that a server sends with a claim, a settlement or a refund. */
export const OPERATOR_TERMS = { scheme: "batch-settlement", network: NETWORK, asset: USDC, amount: "0", payTo, maxTimeoutSeconds: 0, extra: {} };

/**
 * Asks a facilitator, as a server does.
 *
 * @param {{url: string}} facilitator
 * @param {"/verify" | "/settle"} path
 * @param {object} payment a whole payment, or what a server sends by itself: `{type: "claim" | "settle" | "refund", …}`
 * @param {object} [changes] keys of the requirement to add or replace
 */
export async function askFacilitator(facilitator, path, payment, changes = {}) {
  const paymentPayload = payment.payload ? payment : { x402Version: 2, accepted: OPERATOR_TERMS, payload: payment };
  const paymentRequirements = { ...paymentPayload.accepted, ...changes };
  const response = await fetch(facilitator.url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ x402Version: 2, paymentPayload, paymentRequirements }),
  });
  return response.json();
}
