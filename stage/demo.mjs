/**
 * `make demo`: one paid request, told step by step, and then a channel that pays for many. Its exit status is 0 only if
 * the chain says that the money moved once, as it should, and the answer came from the model; and that what the channel's
 * calls were charged was paid out, to the atomic unit.
 */
import { STATUS_CODES } from "node:http";
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { decodePaymentRequiredHeader } from "@x402/core/http";
import { formatUnits } from "viem";
import { payerAccount, payTo } from "./accounts.mjs";
import { NETWORK, USDC } from "./chain.mjs";
import { playChannel } from "./channel-demo.mjs";
import { makePayer } from "./client.mjs";
import { MODEL } from "./inference.mjs";
import { startStage } from "./stage.mjs";
import { bold, green, item, line, red, short, step } from "./terminal.mjs";

const PATH = "/v1/chat/completions";
const PRICE = 10_000n; // atomic units of USDC: the $0.01 of envoy/demo.yaml
const PROMPT = "I have no account and no API key, but I brought a cent.";
const REQUEST = {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model: MODEL, messages: [{ role: "user", content: PROMPT }] }),
};

const usdc = (atomic) => `${formatUnits(BigInt(atomic), 6)} USDC`;
const answered = (status) => `${status} ${STATUS_CODES[status] ?? ""}`.trim();
const same = (a, b) => String(a).toLowerCase() === String(b).toLowerCase();

async function timed(action) {
  const started = performance.now();
  return [await action(), performance.now() - started];
}

class Shortfall extends Error {}

/** Ends the demo with a sentence for the reader unless the condition holds. */
function demand(condition, sentence) {
  if (!condition) throw new Shortfall(sentence);
}

/**
 * Plays the demo on a running stage and tells it on the terminal.
 *
 * @param {Pick<Awaited<ReturnType<typeof startStage>>, "url" | "chain" | "inference">} stage
 * @returns {Promise<void>} rejects with a sentence that says what fell short
 */
export async function playDemo({ url, chain, inference }) {
  const balances = async () => [await chain.balanceOf(payerAccount.address), await chain.balanceOf(payTo)];
  const before = await balances();
  const firstBlock = (await chain.client.getBlockNumber()) + 1n;

  // A free request first: it opens the connection, which would otherwise count as part of step 1.
  const health = await fetch(`${url}/healthz`);
  demand(health.status === 200, `The free path /healthz was answered ${answered(health.status)}.`);
  await health.arrayBuffer();

  const payer = makePayer();
  const response = await payer.fetch(url + PATH, REQUEST).catch((error) => error);
  const answerText = response instanceof Error ? "" : await response.text();
  const [unpaid, paid] = payer.exchanges;
  demand(unpaid, `The gateway could not be reached: ${response.cause?.message ?? response.message}.`);

  step(1, "Ask without paying", unpaid.ms);
  item("request", `POST ${PATH}`);
  item("answer", answered(unpaid.status));
  demand(unpaid.status === 402, "The unpaid request was not answered 402, so nobody was asked to pay.");
  demand(unpaid.terms, "The 402 carries no PAYMENT-REQUIRED header.");
  const [terms] = unpaid.terms.accepts;
  item("price", `${usdc(terms.amount)} (${terms.amount} atomic units)`);
  item("pay to", terms.payTo);
  item("network", `${terms.network} (Base Sepolia)`);
  item("asset", `${terms.asset} (${terms.extra?.name})`);
  item("for", `${unpaid.terms.resource.description}: ${unpaid.terms.resource.url}`);
  demand(BigInt(terms.amount) === PRICE, `The price is ${usdc(terms.amount)} and should be ${usdc(PRICE)}.`);
  demand(same(terms.payTo, payTo), `The money is to go to ${terms.payTo} and should go to ${payTo}.`);
  demand(terms.network === NETWORK && same(terms.asset, USDC), "The terms name another network or asset.");

  const [signed] = payer.signatures;
  demand(signed, `The official client did not sign: ${response.message}.`);
  const { domain, message } = signed;
  const secondsLeft = Number(message.validBefore) - Math.floor(Date.now() / 1000);
  step(2, "Sign an authorization to move that amount", signed.ms);
  item("type", `EIP-712 ${signed.primaryType} (EIP-3009)`);
  item("domain", `${domain.name}, version ${domain.version}, chain ${domain.chainId}, ${short(domain.verifyingContract)}`);
  item("from", message.from);
  item("to", message.to);
  item("value", `${message.value}`);
  item("valid", `for ${secondsLeft} s, until ${new Date(Number(message.validBefore) * 1000).toISOString()}`);
  item("nonce", short(message.nonce));
  item("signature", `${short(signed.signature)} (${(signed.signature.length - 2) / 2} bytes)`);

  demand(paid, `The official client did not send its payment: ${response.message}.`);
  step(3, "Ask again, with the payment", paid.ms);
  item("request", `POST ${PATH}, PAYMENT-SIGNATURE: ${paid.sent.get("payment-signature")?.slice(0, 20)}…`);
  item("answer", answered(paid.status));
  const refusal = paid.terms?.error ? ` (${paid.terms.error})` : "";
  demand(paid.status === 200, `The paid request was answered ${answered(paid.status)}${refusal}: ${answerText.slice(0, 200)}`);
  const completion = JSON.parse(answerText);
  const spoken = completion.choices[0].message.content;
  item(completion.model, `“${spoken}”`);
  const { prompt_tokens: input, completion_tokens: output } = completion.usage;
  item("usage", `${input} tokens in, ${output} out`);
  demand(spoken.includes(PROMPT), "The answer is not the model's.");
  demand(
    inference.count(PATH) === 1 && inference.seen.at(-1).id === completion.id,
    `The API should have seen one request for a completion, the paid one; it saw ${inference.count(PATH)}.`,
  );

  demand(paid.receipt, "The answer carries no PAYMENT-RESPONSE header.");
  const [moved, searchMs] = await timed(() => chain.transfers(firstBlock));
  step(4, "Look the receipt up on the chain", searchMs);
  const [transfer] = moved;
  item("transaction", paid.receipt.transaction);
  item("block", transfer ? `${transfer.block}` : "none");
  item("payer", paid.receipt.payer);
  demand(paid.receipt.success === true, `The receipt says that the settlement failed: ${paid.receipt.errorReason}.`);
  demand(moved.length === 1, `USDC moved ${moved.length} times and should have moved once.`);
  demand(transfer.value === PRICE, `${usdc(transfer.value)} moved, and ${usdc(PRICE)} should have.`);
  demand(same(transfer.from, payerAccount.address), `The money came from ${transfer.from}, not from the payer.`);
  demand(same(transfer.to, payTo), `The money went to ${transfer.to}, not to ${payTo}.`);
  demand(transfer.nonce === message.nonce, "The transfer did not use the authorization that was signed.");
  demand(transfer.transaction === paid.receipt.transaction, "The receipt names another transaction than the transfer's.");

  const [after, balancesMs] = await timed(balances);
  step(5, "Compare the balances", balancesMs);
  for (const [i, name] of ["payer", "paid to"].entries()) {
    const change = after[i] - before[i];
    item(name, `${usdc(before[i])}  →  ${usdc(after[i])}   (${change > 0n ? "+" : ""}${formatUnits(change, 6)})`);
  }
  demand(before[0] - after[0] === PRICE && after[1] - before[1] === PRICE, "The balances do not match the price.");

  const spent = { "payment-signature": paid.sent.get("payment-signature") };
  const [again, againMs] = await timed(() => fetch(url + PATH, { ...REQUEST, headers: { ...REQUEST.headers, ...spent } }));
  const leftover = await again.text();
  step(6, "Try the very same payment once more", againMs);
  item("answer", answered(again.status));
  const quote = again.headers.get("payment-required");
  item("reason", quote ? decodePaymentRequiredHeader(quote).error : leftover.slice(0, 100));
  demand(again.status >= 400 && !leftover.includes(PROMPT), "The spent payment bought a second answer.");
  demand(inference.count(PATH) === 1, "The spent payment reached the API.");
  const movedInAll = (await chain.transfers(firstBlock)).length;
  demand(movedInAll === 1, `After the second try USDC had moved ${movedInAll} times.`);
}

async function main() {
  const started = performance.now();
  let stage;
  try {
    stage = await startStage({ label: "demo" });
    const version = JSON.parse(await stage.envoy.admin("/server_info")).version.split("/")[1];
    line(bold("One request, paid for in USDC, through Envoy with the x402 filter"));
    line();
    item("gateway", `${stage.url}  Envoy ${version} with the filter`);
    item("API", `${stage.inference.url}  OpenAI-shaped; knows nothing of payments`);
    item("facilitator", `${stage.facilitator.url}  the official one (@x402/core)`);
    item("chain", `${stage.chain.rpcUrl}  anvil as Base Sepolia, with Circle's USDC`);
    item("started in", `${(performance.now() - started).toFixed(0)} ms`);
    await playDemo(stage);
    line();
    line(green(`The money moved once (${usdc(PRICE)}), the model answered once, the second try bought nothing.`));
    line();
    line(bold("Many requests, paid for out of a channel"));
    const { calls } = await playChannel(stage, { from: 7, demand });
    line();
    line(green(`${calls} calls, one deposit, and a claim: what was charged is what was paid out.`));
  } catch (error) {
    line();
    line(red(error instanceof Shortfall ? error.message : `The demo broke: ${error.message}`));
    if (stage) {
      stage.run.keep();
      line();
      line(`The logs are in ${relative(process.cwd(), stage.run.path)}/`);
    }
    process.exitCode = 1;
  } finally {
    await stage?.stop();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
