/** The official Python client pays through the gateway. It reads headers more strictly than the TypeScript client. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { toHex } from "viem";
import { checkout } from "../../stage/processes.mjs";
import { headerSeen, NETWORK, openGate, openRooms, payerAccount, payTo, since } from "./support.mjs";

const run = promisify(execFile);
const python = join(checkout, ".venv", "bin", "python");
const script = fileURLToPath(new URL("python_client.py", import.meta.url));

const rooms = await openRooms();
const gate = await openGate(rooms);

const key = toHex(payerAccount.getHdKey().privateKey);

async function client(...args) {
  const { stdout } = await run(python, [script, ...args], { env: { ...process.env, PAYER_KEY: key }, timeout: 30_000 });
  return JSON.parse(stdout);
}

for (const [name, target, value] of [
  ["after the response", "/any/python", 2000n],
  ["upfront", "/upfront/python", 3000n],
]) {
  test(`The official Python client pays ${name}`, async () => {
    const mark = await since(gate);
    const { status, body, receipt, cache_control } = await client("POST", gate.url + target, "body");
    assert.equal(status, 200, body);
    assert.equal(cache_control, "private");
    assert.equal(receipt.success, true);
    assert.equal(receipt.network, NETWORK);
    assert.equal(receipt.payer, payerAccount.address);
    const transfers = await mark.transfers();
    assert.deepEqual(
      transfers.map(({ from, to, value, transaction }) => ({ from, to, value, transaction })),
      [{ from: payerAccount.address, to: payTo, value, transaction: receipt.transaction }],
    );
    assert.equal(mark.seen().length, 1);
    assert.deepEqual(headerSeen(mark.seen()[0], "x-x402-payer"), [payerAccount.address]);
    assert.deepEqual(headerSeen(mark.seen()[0], "payment-signature"), []);
  });
}

test("The official Python client leaves a free path unpaid", async () => {
  const mark = await since(gate);
  const { status, receipt } = await client("GET", `${gate.url}/healthz`);
  assert.equal(status, 200);
  assert.equal(receipt, null);
  assert.deepEqual(mark.calls(), []);
});
