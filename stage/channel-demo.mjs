/**
 * The second half of `make demo`: one deposit into a channel, twenty calls, and one claim, beside the same calls paid for
 * one by one.
 */
import { randomBytes } from "node:crypto";
import { decodePaymentRequiredHeader } from "@x402/core/http";
import { formatUnits, parseAbi } from "viem";
import { payTo } from "./accounts.mjs";
import { makePayer } from "./client.mjs";
import { BATCH_SETTLEMENT } from "./contracts.mjs";
import { until } from "./processes.mjs";
import { item, line, short, step } from "./terminal.mjs";

const PATH = "/forecast";
const PRICE = 1_000n; // atomic units of USDC: the $0.001 of envoy/demo.yaml
const CALLS = 20;
const CALLS_BY_EXACT = 3;
const ABI = parseAbi(["function channels(bytes32 channelId) view returns (uint128 balance, uint128 totalClaimed)"]);

/** Longer than it takes until the filter looks, claims, and has the claim paid out. */
const CLAIMED_WITHIN_MS = 60_000;

const usdc = (atomic) => `${formatUnits(atomic, 6)} USDC`;
const typeOf = ({ request }) => request?.paymentPayload?.payload?.type;
const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0n);
const rounded = (number) => (number < 10 ? number.toFixed(1) : Math.round(number).toLocaleString("en-US"));

/** Chooses the entry of a scheme among those on offer. */
const byScheme = (scheme) => (_, entries) => entries.find((entry) => entry.scheme === scheme) ?? entries[0];

/**
 * Plays the channel on a running stage and tells it on the terminal.
 *
 * @param {Pick<Awaited<ReturnType<typeof import("./stage.mjs").startStage>>, "url" | "chain" | "facilitator" | "inference">} stage
 * @param {object} options
 * @param {number} options.from number of the first step
 * @param {(condition: unknown, sentence: string) => void} options.demand ends the demo with a sentence unless the condition
 *   holds
 * @returns {Promise<{calls: number, claims: number}>} rejects with a sentence that says what fell short
 */
export async function playChannel({ url, chain, facilitator, inference }, { from, demand }) {
  // A worker offers channels once its facilitator has said who authorizes claims.
  const offered = async () => {
    const response = await fetch(url + PATH);
    await response.arrayBuffer();
    const { accepts } = decodePaymentRequiredHeader(response.headers.get("payment-required"));
    return accepts.some(({ scheme }) => scheme === "batch-settlement");
  };
  await until(offered, { what: "the offer of a channel", timeoutMs: 20_000 });

  const callsOf = (path) => facilitator.calls.filter((call) => call.path === path);
  const asked = () => callsOf("/verify").length + callsOf("/settle").length;
  const gasOf = async (transactions) => {
    const receipts = await Promise.all(transactions.map((hash) => chain.client.getTransactionReceipt({ hash })));
    return sum(receipts.map(({ gasUsed }) => gasUsed));
  };
  const served = inference.count(PATH);
  const buy = async (payer) => {
    const response = await payer.fetch(url + PATH);
    await response.arrayBuffer();
    const exchange = payer.exchanges.at(-1);
    demand(response.status === 200 && exchange.receipt?.success, `A call was answered ${response.status}: ${exchange.terms?.error}.`);
    return exchange;
  };

  // ---- One by one ----
  let before = asked();
  const exact = { times: [], transactions: [] };
  const payer = makePayer({ select: byScheme("exact") });
  for (let call = 1; call <= CALLS_BY_EXACT; call++) {
    const { ms, receipt } = await buy(payer);
    exact.times.push(ms);
    exact.transactions.push(receipt.transaction);
  }
  exact.callouts = asked() - before;
  exact.gas = await gasOf(exact.transactions);

  // ---- Out of a channel ----
  const [balance, settled] = [await chain.balanceOf(payTo), callsOf("/settle").length];
  before = asked();
  const client = makePayer({ select: byScheme("batch-settlement"), channels: { salt: `0x${randomBytes(32).toString("hex")}` } });
  const deposit = await buy(client);
  const { extra, amount, transaction } = deposit.receipt;
  const id = extra.channelState.channelId;
  step(from, "Put money into a channel", deposit.ms);
  item("request", `GET ${PATH}, PAYMENT-SIGNATURE: a deposit, and a voucher for ${PRICE}`);
  item("channel", short(id));
  item("deposited", `${usdc(BigInt(amount))} by transaction ${short(transaction)}`);
  item("charged", `${extra.chargedAmount}`);

  const times = [];
  let last = deposit;
  for (let call = 2; call <= CALLS; call++) times.push((last = await buy(client)).ms);
  const { channelState } = last.receipt.extra;
  const charged = BigInt(channelState.chargedCumulativeAmount);
  const calledOut = asked() - before;
  step(from + 1, `Call ${CALLS - 1} times more: a signature each, and nothing else`, times.reduce((all, ms) => all + ms, 0));
  item("each", `${rounded(median(times))} ms from request to response`);
  item("charged", `${charged} of ${channelState.balance} atomic units`);
  item("callouts", `${calledOut} in all ${CALLS} calls: verify and settle of the deposit`);
  demand(charged === PRICE * BigInt(CALLS), `${charged} was charged, and ${PRICE * BigInt(CALLS)} should have been.`);
  demand(inference.count(PATH) - served === CALLS + CALLS_BY_EXACT, "The API saw another number of calls than were paid for.");

  // ---- The claim ----
  const started = performance.now();
  const operations = (type) => callsOf("/settle").slice(settled).filter((call) => typeOf(call) === type && call.answer?.success);
  const read = () => chain.client.readContract({ address: BATCH_SETTLEMENT, abi: ABI, functionName: "channels", args: [id] });
  const isPaidOut = async () => (await chain.balanceOf(payTo)) - balance >= charged;
  line();
  line("   … and the filter claims in the background: 5 s after the first voucher, as configured, once it looks …");
  await until(isPaidOut, { what: "the claim", timeoutMs: CLAIMED_WITHIN_MS });
  await until(async () => operations("settle").length >= 1, { what: "the facilitator's answer", timeoutMs: 5_000 });
  const [claims, payouts] = [operations("claim"), operations("settle")];
  const [, claimed] = await read();
  const received = (await chain.balanceOf(payTo)) - balance;
  step(from + 2, "Claim it all at once", performance.now() - started);
  for (const { answer } of claims) item("claim", `transaction ${short(answer.transaction)}`);
  for (const { answer } of payouts) item("paid out", `transaction ${short(answer.transaction)}`);
  item("paid to", `+${usdc(received)}`);
  demand(claimed === charged, `${claimed} was claimed, and ${charged} was charged.`);
  demand(received === charged, `${usdc(received)} was paid out, and ${usdc(charged)} was charged.`);

  const gas = await gasOf([transaction, ...[...claims, ...payouts].map(({ answer }) => answer.transaction)]);
  step(from + 3, "What a call costs");
  const row = (name, ...cells) => item(name, cells.map((cell) => String(cell).padStart(14)).join(""));
  row("", "exact", "a channel", "");
  row("time", `${rounded(median(exact.times))} ms`, `${rounded(median(times))} ms`);
  const callouts = calledOut + claims.length + payouts.length;
  row("callouts", rounded(exact.callouts / CALLS_BY_EXACT), (callouts / CALLS).toFixed(1));
  row("gas", rounded(Number(exact.gas) / CALLS_BY_EXACT), rounded(Number(gas) / CALLS));
  item("", `of a channel: deposit, claim and payout, shared by ${CALLS} calls; the more calls, the less each`);
  return { calls: CALLS, claims: claims.length };
}
