/** A page of another origin pays with the official client, in a real Chromium that holds to the rules of CORS. */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { buildSync } from "esbuild";
import { toHex } from "viem";
import { checkout } from "../../stage/processes.mjs";
import { findChromium, startBrowser } from "./browser.mjs";
import { NETWORK, openGateway, openBackends, payerAccount, pluginOf, since } from "./support.mjs";

/** The official client for a browser, with the payer's key in it. */
const SCRIPT = `
  import { registerExactEvmScheme } from "@x402/evm/exact/client";
  import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
  import { privateKeyToAccount } from "viem/accounts";
  window.pay = async (url) => {
    const signer = privateKeyToAccount("${toHex(payerAccount.getHdKey().privateKey)}");
    const paid = wrapFetchWithPayment(fetch, registerExactEvmScheme(new x402Client(), { signer }));
    const response = await paid(url);
    const receipt = response.headers.get("payment-response");
    return { status: response.status, body: await response.text(), receipt: receipt && JSON.parse(atob(receipt)) };
  };`;
const { outputFiles } = buildSync({
  stdin: { contents: SCRIPT, resolveDir: checkout },
  bundle: true,
  format: "iife",
  platform: "browser",
  write: false,
  logLevel: "error",
});

/** An app on an origin of its own. */
function startApp() {
  const server = createServer((request, response) => {
    const isScript = request.url === "/app.js";
    response.writeHead(200, { "content-type": isScript ? "text/javascript" : "text/html" });
    response.end(isScript ? outputFiles[0].text : `<!doctype html><title>An app</title><link rel="icon" href="data:,"><script src="/app.js"></script>`);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve({ url: `http://127.0.0.1:${server.address().port}`, server })));
}

const backends = await openBackends();
const [app, stranger] = [await startApp(), await startApp()];
const browser = await startBrowser(findChromium());
for (const { server } of [app, stranger]) backends.atEnd(async () => server.close());
backends.atEnd(browser.stop);
const gateway = await openGateway(backends, { plugin: pluginOf({ cors: { origins: [app.url] } }) });

async function inTab(origin, act) {
  const tab = await browser.openTab();
  try {
    await tab.open(origin);
    return await act(tab);
  } finally {
    await tab.close();
  }
}

test("A page of an admitted origin reads the terms, pays, and reads response and receipt", async () => {
  const mark = await since(gateway);
  for (const path of ["/weather", "/upfront/app"]) {
    const { status, body, receipt } = await inTab(app.url, (tab) => tab.evaluate(`window.pay("${gateway.url}${path}")`));
    assert.equal(status, 200, body);
    assert.equal(receipt.success, true);
    assert.equal(receipt.network, NETWORK);
  }
  assert.equal((await mark.transfers()).length, 2);
  assert.equal(mark.seen().length, 2, "the preflights are the filter's to answer");
});

test("A page of another origin gets nothing to read, and pays nothing", async () => {
  const mark = await since(gateway);
  const failure = await inTab(stranger.url, (tab) => tab.evaluate(`window.pay("${gateway.url}/weather").then(() => "paid", String)`));
  assert.match(failure, /Failed to fetch/);
  assert.deepEqual([mark.seen(), await mark.transfers()], [[], []]);
});
