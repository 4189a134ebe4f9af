/**
 * Pays for a URL with the official client, and prints the answer and the receipt.
 *
 *   node stage/pay.mjs [-X METHOD] [-d BODY] [URL]
 *
 * Without a URL it asks the stage that `make up` started for a chat completion. PAYER_KEY (a private key,
 * 0x…) says who pays; without it the stage's payer does, whose money exists on the stage's chain only.
 */
import { parseArgs } from "node:util";
import { formatUnits } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { makePayer } from "./client.mjs";
import { MODEL } from "./inference.mjs";
import { dim, line } from "./terminal.mjs";
import { readState } from "./up.mjs";

const USAGE = "usage: node stage/pay.mjs [-X METHOD] [-d BODY] [URL]";
const PROMPT = "What does a cent buy these days?";

// curl's habits: a body makes it a POST, and one that looks like JSON is labelled so.
function requestFrom({ method, data }) {
  const headers = data?.match(/^\s*[[{]/) ? { "content-type": "application/json" } : {};
  return { method: method ?? (data === undefined ? "GET" : "POST"), body: data, headers };
}

// What is paid by its use is settled when it has ended: a stream of events has its receipt in a comment line at its end. (The
// trailer says the same, and `fetch` shows no trailers.)
function receiptIn(text) {
  const [, json] = [...text.matchAll(/^: payment-response (\{.*\})$/gm)].at(-1) ?? [];
  return json ? JSON.parse(json) : null;
}

async function main() {
  const { values, positionals } = parseArgs({
    options: { method: { type: "string", short: "X" }, data: { type: "string", short: "d" } },
    allowPositionals: true,
  });
  if (positionals.length > 1) throw new Error(USAGE);
  let [url] = positionals;
  if (!url) {
    const state = readState();
    if (!state) throw new Error(`nothing runs here: start it with \`make up\`, or name a URL\n${USAGE}`);
    url = `${state.urls.gateway}/v1/chat/completions`;
    values.data ??= JSON.stringify({ model: MODEL, messages: [{ role: "user", content: PROMPT }] });
  }

  const account = process.env.PAYER_KEY ? privateKeyToAccount(process.env.PAYER_KEY) : undefined;
  const payer = makePayer({ account });
  const response = await payer.fetch(url, requestFrom(values));
  const text = await response.text();
  line(text);

  const { terms } = payer.exchanges[0];
  const receipt = payer.exchanges.at(-1).receipt ?? receiptIn(text);
  const status = `HTTP ${response.status}`;
  if (!terms) line(dim(response.ok ? `${status}, free of charge` : `${status}, without terms`));
  else if (receipt?.success) {
    const amount = receipt.amount ?? payer.signatures.at(-1)?.message.value;
    line(dim(`${status}, paid ${formatUnits(BigInt(amount), 6)} USDC, transaction ${receipt.transaction}`));
  } else if (response.ok) line(dim(`${status}, without a receipt that can be read here`));
  else line(dim(`${status}, not paid: ${receipt?.errorReason ?? payer.exchanges.at(-1).terms?.error ?? "no receipt"}`));
  if (!response.ok) process.exitCode = 1;
}

await main().catch((error) => {
  console.error(error.cause ? `${error.message}: ${error.cause.message}` : error.message);
  process.exitCode = 1;
});
