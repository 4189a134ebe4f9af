/** Every official client pays through the gateway: of version 1 and of version 2, on the same routes. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { wrapAxiosWithPayment, x402Client } from "@x402/axios";
import axios from "axios";
import { toHex } from "viem";
import { withPaymentInterceptor } from "x402-axios";
import { wrapFetchWithPayment } from "x402-fetch";
import { checkout } from "../../stage/processes.mjs";
import { headerSeen, NETWORK, NETWORK_V1, openGateway, openBackends, payerAccount, payTo, since } from "./support.mjs";

const run = promisify(execFile);
const backends = await openBackends();
const gateway = await openGateway(backends);
const key = toHex(payerAccount.getHdKey().privateKey);

const decoded = (header) => (header ? JSON.parse(Buffer.from(header, "base64")) : null);

/** What a client of Node got, in the words of the Python scripts. */
const got = (status, body, header) => ({
  status,
  body,
  receipt: decoded(header("payment-response")),
  receipt_v1: decoded(header("x-payment-response")),
  cache_control: header("cache-control"),
});

async function byAxios(client, url, body) {
  const { status, data, headers } = await client.post(url, body);
  return got(status, data, (name) => headers[name] ?? null);
}

function byPython(environment, script, library) {
  const python = join(checkout, environment, "bin", "python");
  const path = fileURLToPath(new URL(script, import.meta.url));
  return async (url, body) => {
    const options = { env: { ...process.env, PAYER_KEY: key }, timeout: 30_000 };
    const { stdout } = await run(python, [path, library, "POST", url, body], options);
    return JSON.parse(stdout);
  };
}

const CLIENTS = {
  "x402-fetch (version 1)": async (url, body) => {
    const response = await wrapFetchWithPayment(fetch, payerAccount)(url, { method: "POST", body });
    return got(response.status, await response.text(), (name) => response.headers.get(name));
  },
  "x402-axios (version 1)": (url, body) => byAxios(withPaymentInterceptor(axios.create(), payerAccount), url, body),
  "Python's httpx (version 1)": byPython(".tools/python-v1", "python_client_v1.py", "httpx"),
  "Python's requests (version 1)": byPython(".tools/python-v1", "python_client_v1.py", "requests"),
  "@x402/axios": (url, body) => {
    const client = registerExactEvmScheme(new x402Client(), { signer: payerAccount });
    return byAxios(wrapAxiosWithPayment(axios.create(), client), url, body);
  },
  "Python's httpx": byPython(".venv", "python_client.py", "httpx"),
  "Python's requests": byPython(".venv", "python_client.py", "requests"),
};

for (const [name, post] of Object.entries(CLIENTS)) {
  const isV1 = name.includes("version 1");
  for (const [when, target, value] of [
    ["after the response", "/any/client", 2000n],
    ["upfront", "/upfront/client", 3000n],
  ]) {
    test(`${name} pays ${when}`, async () => {
      const mark = await since(gateway);
      const { status, body, receipt, receipt_v1, cache_control } = await post(gateway.url + target, "body");
      assert.equal(status, 200, body);
      assert.equal(cache_control, "private");
      const [own, other] = isV1 ? [receipt_v1, receipt] : [receipt, receipt_v1];
      assert.equal(other, null);
      assert.equal(own.success, true);
      assert.equal(own.network, isV1 ? NETWORK_V1 : NETWORK);
      assert.equal(own.payer, payerAccount.address);
      const transfers = await mark.transfers();
      assert.deepEqual(
        transfers.map(({ from, to, value, transaction }) => ({ from, to, value, transaction })),
        [{ from: payerAccount.address, to: payTo, value, transaction: own.transaction }],
      );
      assert.equal(mark.seen().length, 1);
      assert.deepEqual(headerSeen(mark.seen()[0], "x-x402-payer"), [payerAccount.address]);
      assert.deepEqual(headerSeen(mark.seen()[0], "x-x402-network"), [NETWORK]);
      for (const header of ["payment-signature", "x-payment"]) assert.deepEqual(headerSeen(mark.seen()[0], header), []);
      assert.deepEqual([...new Set(mark.calls().map(({ request }) => request.x402Version))], [isV1 ? 1 : 2]);
    });
  }
}

test("An official client leaves a free path unpaid", async () => {
  for (const library of ["httpx", "requests"]) {
    const mark = await since(gateway);
    const { status, receipt } = await byPython(".venv", "python_client.py", library)(`${gateway.url}/healthz`, "body");
    assert.equal(status, 200);
    assert.equal(receipt, null);
    assert.deepEqual(mark.calls(), []);
  }
});
