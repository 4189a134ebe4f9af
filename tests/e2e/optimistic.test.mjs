/** `settle: optimistic`: responses that leave before their payments settle, by the official client, on a real chain. */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { x402Client, x402HTTPClient } from "@x402/core/client";
import { encodeFunctionData, parseAbi } from "viem";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { accounts } from "../../stage/accounts.mjs";
import { makePayer } from "../../stage/client.mjs";
import { startStage } from "../../stage/stage.mjs";
import { DEFAULTS, NETWORK, USDC, assertAlive, assertServed, eventually, latch, openBackends, openGateway, pay, payerAccount, paymentFor, payTo, since, withUpstream } from "./support.mjs";

const PRICE = 1000n;
const pluginOf = (more = {}) => ({
  defaults: { ...DEFAULTS, settle: "optimistic", exposure: { payer: "$0.003", total: "$0.005" } },
  routes: [{ name: "fast", match: { path: "/any/{*rest}" }, price: "$0.001" }],
  unmatched: "free",
  ...more,
});

const backends = await openBackends();
const { chain } = backends;

/** The official facilitator, whose settlements wait while they are held. */
async function openRelay() {
  let held = null;
  let drops = false;
  const settlements = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    if (request.url === "/settle") {
      settlements.push(JSON.parse(Buffer.concat(chunks)));
      await held?.opened;
      if (drops) return;
    }
    const init = { method: request.method, headers: { "content-type": "application/json" } };
    if (request.method === "POST") init.body = Buffer.concat(chunks);
    const answer = await fetch(backends.facilitator.url + request.url, init);
    response.writeHead(answer.status, { "content-type": "application/json" });
    response.end(Buffer.from(await answer.arrayBuffer()));
  });
  server.keepAliveTimeout = 0;
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  backends.atEnd(async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    settlements,
    hold: () => (held = latch()),
    release: () => {
      held?.open();
      held = null;
    },
    drop: () => (drops = true),
  };
}

/** A new account with this much. */
async function freshPayer(amount) {
  const account = privateKeyToAccount(generatePrivateKey());
  await chain.mint(account.address, amount);
  return account;
}

/** Sends money of an account elsewhere, by a transaction of its own. */
async function spend(account, amount) {
  const abi = parseAbi(["function transfer(address to, uint256 value) returns (bool)"]);
  const data = encodeFunctionData({ abi, functionName: "transfer", args: [accounts[3].address, amount] });
  await chain.rpc("anvil_setBalance", account.address, "0xde0b6b3a7640000");
  await chain.rpc("anvil_impersonateAccount", account.address);
  const hash = await chain.rpc("eth_sendTransaction", { from: account.address, to: USDC, data, gas: "0xf4240" });
  const receipt = await eventually(() => chain.rpc("eth_getTransactionReceipt", hash), "the money has gone elsewhere");
  assert.equal(receipt.status, "0x1");
}

const stat = (name) => `wasmcustom.network=.=${NETWORK};.;asset=.=${USDC};.;x402_${name}`;
const valueOf = async (gateway, name) => Object.entries(await gateway.envoy.stats(`x402.${name}`)).find(([key]) => key.startsWith(stat(name)))?.[1] ?? 0;
const openIs = (gateway, units) =>
  eventually(async () => (await valueOf(gateway, "exposure")) === units, `${units} atomic units are open`, 5000);

const pendingReceipt = (account) => ({ success: true, payer: account.address, transaction: "", network: NETWORK, extra: { settlement: "pending" } });

const relay = await openRelay();
const gateway = await openGateway(backends, { facilitator: relay.url, plugin: pluginOf(), concurrency: 2 });

test("The official client has its response before the money moves, which it does behind it", async () => {
  const account = await freshPayer(10n * PRICE);
  const payer = makePayer({ account });
  const before = await chain.balanceOf(payTo);
  relay.hold();
  const response = await payer.fetch(`${gateway.url}/any/official`);
  assert.equal(response.status, 200);
  await response.arrayBuffer();
  const { receipt, received } = payer.exchanges.at(-1);
  assert.deepEqual(receipt, pendingReceipt(account));
  const parsed = new x402HTTPClient(new x402Client()).parsePaymentResult({ status: 200, getHeader: (name) => received.get(name), body: "" });
  assert.equal(parsed.paymentStatus, "settled");
  assert.deepEqual(parsed.header.extra, { settlement: "pending" });
  assert.equal(await chain.balanceOf(payTo), before);
  await openIs(gateway, Number(PRICE));
  relay.release();
  await eventually(async () => (await chain.balanceOf(payTo)) === before + PRICE, "the payment settles");
  await openIs(gateway, 0);
  await eventually(() => /outcome=settled_later .*payer="0x[0-9a-fA-F]{40}".*transaction="0x[0-9a-f]{64}"/.test(gateway.envoy.logs()), "the log names the transaction");
});

test("A payment buys one response, while it is pending and afterwards", async () => {
  const account = await freshPayer(10n * PRICE);
  const payment = await paymentFor(gateway, "/any/once", { account });
  relay.hold();
  const first = await pay(gateway, "/any/once", payment);
  assert.deepEqual([first.status, first.receipt], [200, pendingReceipt(account)]);
  const again = await pay(gateway, "/any/once", payment);
  assert.deepEqual([again.status, again.terms.error], [402, "invalid_exact_evm_nonce_already_used"]);
  relay.release();
  await openIs(gateway, 0);
  assert.equal((await pay(gateway, "/any/once", payment)).status, 402);
});

test("An error of the API costs nothing, and nothing stays open", async () => {
  const account = await freshPayer(10n * PRICE);
  const payment = await paymentFor(gateway, "/any/error", { account });
  const settlements = relay.settlements.length;
  const failing = (_, response) => {
    response.writeHead(500);
    response.end("broken");
    return true;
  };
  const failed = await withUpstream(gateway, failing, () => pay(gateway, "/any/error", payment));
  assert.deepEqual([failed.status, failed.receipt], [500, null]);
  assert.equal(relay.settlements.length, settlements);
  await openIs(gateway, 0);
  assert.equal((await pay(gateway, "/any/error", payment)).status, 200);
  await openIs(gateway, 0);
});

test("Beyond what may be open of a payer, and of all, the response waits for its settlement", async () => {
  const [first, second, third] = [await freshPayer(100n * PRICE), accounts[1], await freshPayer(100n * PRICE)];
  relay.hold();
  const buy = async (account) => pay(gateway, "/any/bounds", await paymentFor(gateway, "/any/bounds", { account }));
  for (const account of [first, first, first, second, second]) {
    const answer = await buy(account);
    assert.deepEqual([answer.status, answer.receipt], [200, pendingReceipt(account)]);
  }
  await openIs(gateway, 5000);
  let answered = 0;
  const waiting = [first, third].map((account) => buy(account).finally(() => answered++));
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(answered, 0);
  relay.release();
  for (const [index, answer] of (await Promise.all(waiting)).entries()) {
    assertServed(answer, { payer: [first, third][index].address });
  }
  await openIs(gateway, 0);
  assert.equal((await buy(third)).receipt.extra?.settlement, "pending");
  await openIs(gateway, 0);
});

test("A payer whose money is gone when the payment is settled owes, pays that, and buys again", async () => {
  const account = await freshPayer(PRICE);
  const payer = makePayer({ account });
  const mark = await since(gateway);
  relay.hold();
  assert.equal((await payer.fetch(`${gateway.url}/any/debt`)).status, 200);
  await spend(account, PRICE);
  relay.release();
  await eventually(() => /outcome=lost .*reason="/.test(gateway.envoy.logs()), "the loss is in the log");
  assert.equal(await valueOf(gateway, "losses"), 1);
  assert.equal(await valueOf(gateway, "lost"), Number(PRICE));
  await openIs(gateway, Number(PRICE));
  // Others are served.
  const other = await pay(gateway, "/any/debt", await paymentFor(gateway, "/any/debt"));
  assert.equal(other.receipt.extra.settlement, "pending");

  // Without money it is the facilitator who says no.
  assert.equal((await payer.fetch(`${gateway.url}/any/debt`)).status, 402);
  await chain.mint(account.address, 10n * PRICE);
  const paid = await payer.fetch(`${gateway.url}/any/debt`);
  assert.equal(paid.status, 402);
  const { receipt, terms } = payer.exchanges.at(-1);
  assert.match(terms.error, /^payment_owed: this payment has settled, and paid 1000 atomic units .* nothing more is owed: pay for this request$/);
  assert.deepEqual([receipt.success, receipt.extra], [true, { settlement: "debt", paid: "1000", owed: "0" }]);
  assert.match(receipt.transaction, /^0x[0-9a-f]{64}$/);
  const again = await payer.fetch(`${gateway.url}/any/debt`);
  assert.equal(again.status, 200);
  assert.equal(payer.exchanges.at(-1).receipt.extra.settlement, "pending");
  await openIs(gateway, 0);
  const payers = [account.address, payerAccount.address];
  const paidBy = async () => (await mark.transfers()).filter(({ from, to }) => to === payTo && payers.includes(from));
  await eventually(async () => (await paidBy()).length === 3, "debt, and two responses are paid");
  assert.ok((await paidBy()).every(({ value }) => value === PRICE));
});

test("A process that ends forgets what was open, and loses no more than that", async () => {
  const slow = await openRelay();
  const stage = await startStage({ backends, facilitator: slow.url, plugin: pluginOf() });
  const first = { ...stage, port: stage.envoy.port };
  const before = await chain.balanceOf(payTo);
  slow.hold();
  const buy = async (gateway) => pay(gateway, "/any/restart", await paymentFor(gateway, "/any/restart"));
  for (let call = 0; call < 3; call++) assert.equal((await buy(first)).receipt.extra.settlement, "pending");
  await openIs(first, 3000);
  await assertAlive(first);
  await stage.stop();
  slow.drop();
  slow.release();
  const second = await openGateway(backends, { plugin: pluginOf() });
  assert.equal((await buy(second)).receipt.extra.settlement, "pending");
  await eventually(async () => (await chain.balanceOf(payTo)) === before + PRICE, "what is sold since is paid");
  await openIs(second, 0);
});
