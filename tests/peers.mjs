/**
 * Suites of others, run on the filter in a real Envoy with the official client: PyPI's `hostile-facilitator` (a facilitator that
 * settles and says something else; counted is how often a purchase was paid) and `x402-conformance` (the form of a 402).
 *
 * Usage: node tests/peers.mjs; the suites are installed into .tools/peers (or PEERS, another directory). It exits with 1 where one of them is not content.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { payTo } from "../stage/accounts.mjs";
import { makePayer } from "../stage/client.mjs";
import { checkout } from "../stage/processes.mjs";
import { startStage } from "../stage/stage.mjs";

const SUITES = ["hostile-facilitator==0.2.2", "x402-conformance==1.6.0"];
const TRIES = 3;

const plugin = {
  defaults: {
    pay_to: payTo,
    accepts: [{ scheme: "exact", network: "base-sepolia", asset: "USDC" }],
    settle: "before",
  },
  routes: [{ name: "peers", match: { path: "/any/{*rest}" }, price: "$0.002" }],
  unmatched: "free",
};

function install() {
  const directory = process.env.PEERS ?? join(checkout, ".tools", "peers");
  const bin = join(directory, "bin");
  if (!existsSync(join(bin, "x402conf"))) {
    execFileSync(process.env.PYTHON ?? "python3", ["-m", "venv", directory]);
    execFileSync(join(bin, "pip"), ["install", "--quiet", "--disable-pip-version-check", ...SUITES]);
  }
  return bin;
}

/** Buys one response, as a client that knows the protocol: where nobody knows what became of a payment it asks, and sends the same one again. */
async function buy(facilitator) {
  const stage = await startStage({ label: "peers", plugin, facilitator });
  try {
    const url = `${stage.url}/any/purchase`;
    const payer = makePayer();
    let response = await payer.fetch(url);
    const payment = payer.exchanges.at(-1).sent.get("payment-signature");
    for (let tries = 1; response.status >= 500 && tries < TRIES; tries += 1) {
      const { nonce } = payer.signatures.at(-1).message;
      // What it says decides nothing: only the same payment is safe to send, whatever has become of it.
      await fetch(`${facilitator}/reconcile?nonce=${nonce}`).then((answer) => answer.text()).catch(() => {});
      response = await fetch(url, { headers: { "payment-signature": payment } });
    }
    console.log(response.status, await response.text());
  } finally {
    await stage.stop();
  }
}

async function main() {
  const bin = install();
  const own = fileURLToPath(import.meta.url);
  const inherit = { stdio: "inherit" };
  const hostile = spawnSync(join(bin, "hostile-facilitator"), ["test", "--", process.execPath, own, "--buy"], inherit);
  const stage = await startStage({ label: "peers", plugin });
  const form = spawnSync(join(bin, "x402conf"), ["resource", "--fail-on-error", `${stage.url}/any/purchase`], inherit);
  await stage.stop();
  process.exitCode = hostile.status === 0 && form.status === 0 ? 0 : 1;
}

await (process.argv[2] === "--buy" ? buy(process.env.FACILITATOR_URL) : main());
