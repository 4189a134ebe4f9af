/** The official TypeScript client pays through the gateway: what it gets, what the upstream sees, where the money goes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { accounts } from "../../stage/accounts.mjs";
import { makePayer } from "../../stage/client.mjs";
import {
  assertServed,
  assertTerms,
  eventually,
  headerSeen,
  NETWORK,
  openGateway,
  openHttp2,
  openBackends,
  pay,
  payerAccount,
  paying,
  paymentFor,
  payTo,
  pluginOf,
  recorded,
  signPayment,
  quote,
  since,
  withUpstream,
} from "./support.mjs";

const backends = await openBackends();
const gateway = await openGateway(backends);
const payer = payerAccount.address;

const balances = () => Promise.all([backends.chain.balanceOf(payer), backends.chain.balanceOf(payTo)]);

/** The one movement of money since a mark, which must be the one of this payment. */
async function theTransfer(mark, { value, nonce, transaction }) {
  const transfers = await mark.transfers();
  assert.equal(transfers.length, 1);
  const { block: _, ...transfer } = transfers[0];
  assert.deepEqual(transfer, { from: payer, to: payTo, value, transaction, authorizer: payer, nonce });
}

test("The official client pays for a GET: response, receipt, transfer and balances agree", async () => {
  const [mark, before] = [await since(gateway), await balances()];
  const client = makePayer();
  const response = await client.fetch(`${gateway.url}/weather`);
  const [unpaid, paid] = client.exchanges;
  assert.equal(unpaid.status, 402);
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), { city: "Lisbon", celsius: 21, sky: "clear" });
  assert.equal(client.exchanges.length, 2);
  assert.equal(client.signatures.length, 1);

  const { transaction } = paid.receipt;
  assert.deepEqual(paid.receipt, { success: true, payer, transaction, network: NETWORK });
  await theTransfer(mark, { value: 1000n, nonce: client.signatures[0].message.nonce, transaction });
  const after = await balances();
  assert.deepEqual([before[0] - after[0], after[1] - before[1]], [1000n, 1000n]);
  assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify", "/settle"]);
});

test("The official client pays for a POST, and its body arrives", async () => {
  const mark = await since(gateway);
  const client = makePayer();
  const prompt = "Does a body survive being paid for?";
  const response = await client.fetch(`${gateway.url}/any/v1/chat`, { method: "POST", body: prompt });
  assert.equal(response.status, 200);
  await response.text();
  assert.equal(mark.seen().length, 1);
  let heard;
  await withUpstream(
    gateway,
    async (request, upstream) => {
      heard = "";
      for await (const chunk of request) heard += chunk;
      upstream.end("ok");
    },
    async () => {
      const again = await makePayer().fetch(`${gateway.url}/any/v1/chat`, { method: "POST", body: prompt });
      assert.equal(await again.text(), "ok");
    },
  );
  assert.equal(heard, prompt);
});

test("The upstream sees one request, without the payment, and who paid how much", async () => {
  const mark = await since(gateway);
  const response = await makePayer().fetch(`${gateway.url}/any/thing?q=1`, {
    headers: { accept: "text/plain", "x-x402-payer": "0xdead", "X_X402_Amount": "1", "x-x402-anything": "1" },
  });
  await response.text();
  const seen = mark.seen();
  assert.equal(seen.length, 1);
  assert.equal(seen[0].path, "/any/thing?q=1");
  assert.deepEqual(headerSeen(seen[0], "x-x402-payer"), [payer]);
  assert.deepEqual(headerSeen(seen[0], "x-x402-network"), [NETWORK]);
  assert.deepEqual(headerSeen(seen[0], "x-x402-amount"), ["2000"]);
  assert.deepEqual(headerSeen(seen[0], "accept"), ["text/plain"]);
  const names = seen[0].headers.map(([name]) => name.toLowerCase().replaceAll("_", "-"));
  assert.deepEqual(names.filter((name) => /payment|^x-x402-/.test(name)).sort(), [
    "x-x402-amount",
    "x-x402-id",
    "x-x402-network",
    "x-x402-payer",
  ]);
});

test("The facilitator gets the payment as the client sent it and the entry as the gateway offered it", async () => {
  const mark = await since(gateway);
  const { accepts, resource } = await quote(gateway, "/weather");
  const payment = { ...(await signPayment(accepts[0], { resource })), extensions: { note: { "ünïcode": [1, null] } } };
  assertServed(await pay(gateway, "/weather", payment));
  const official = recorded("v2-exact-eip3009").server_to_facilitator.map(({ request }) => Object.keys(request.body));
  for (const [index, path] of ["/verify", "/settle"].entries()) {
    const call = mark.calls()[index];
    assert.equal(call.path, path);
    assert.deepEqual(call.request, { x402Version: 2, paymentPayload: payment, paymentRequirements: accepts[0] });
    assert.deepEqual(Object.keys(call.request), official[index]);
    assert.match(call.headers["content-type"], /^application\/json/);
    assert.equal(call.headers.host, new URL(backends.facilitator.url).host);
  }
});

test("A paid response is private; where the upstream forbids storing it altogether, that stays", async () => {
  const cases = [
    [undefined, "private"],
    ["public, max-age=3600", "private"],
    ["no-store", "no-store"],
    ["No-Store, must-revalidate", "No-Store, must-revalidate"],
    ["max-age=60, private", "max-age=60, private"],
  ];
  for (const target of ["/any/cache", "/upfront/cache"]) {
    for (const [given, expected] of cases) {
      const payment = await paymentFor(gateway, target);
      const answer = await withUpstream(
        gateway,
        (_, response) => response.writeHead(200, given ? { "cache-control": given } : {}).end("ok"),
        () => pay(gateway, target, payment),
      );
      assertServed(answer);
      assert.equal(answer.get("cache-control"), expected, `${target}: ${given}`);
      assert.equal(answer.text, "ok");
    }
  }
});

test("What the upstream exposes to scripts of other origins stays beside the receipt", async () => {
  const answer = await withUpstream(
    gateway,
    (_, response) => response.writeHead(200, { "access-control-expose-headers": "X-Rate-Limit" }).end("ok"),
    async () => pay(gateway, "/any/cors", await paymentFor(gateway, "/any/cors")),
  );
  assertServed(answer);
  assert.match(answer.get("access-control-expose-headers"), /X-Rate-Limit/);
});

test("A receipt that the upstream itself sends does not stand beside the gateway's", async () => {
  const answer = await withUpstream(
    gateway,
    (_, response) => response.writeHead(200, { "payment-response": "e30=", "payment-required": "e30=" }).end("ok"),
    async () => pay(gateway, "/any/forged", await paymentFor(gateway, "/any/forged")),
  );
  assert.equal(answer.headers.filter(([name]) => name === "payment-response").length, 1);
  assert.equal(answer.receipt.success, true);
});

test("Over HTTP/2 a payment buys its response once", async () => {
  const mark = await since(gateway);
  const { ask, close } = openHttp2(gateway);
  const path = "/any/http2";
  const { accepts, resource } = (await ask({ ":path": path })).terms;
  assert.equal(resource.url, gateway.url + path);
  const payment = await signPayment(accepts[0], { resource });
  const paid = await ask({ ":path": path, ...paying(payment) }, "a body");
  assertServed(paid);
  assert.equal(paid.get("cache-control"), "private");
  assertTerms(await ask({ ":path": path, ...paying(payment) }, "a body"), "invalid_exact_evm_nonce_already_used");
  close();
  await theTransfer(mark, { value: 2000n, nonce: payment.payload.authorization.nonce, transaction: paid.receipt.transaction });
  assert.deepEqual(mark.seen().map(({ method }) => method), ["POST"]);
});

test("Paid upfront, the money moves before the upstream hears of the request, and it is told the transaction", async () => {
  const mark = await since(gateway);
  const client = makePayer();
  let movedBefore;
  const response = await withUpstream(
    gateway,
    async () => {
      movedBefore = await mark.transfers();
      return false;
    },
    () => client.fetch(`${gateway.url}/upfront/thing`, { method: "POST", body: "x" }),
  );
  assert.equal(response.status, 200);
  await response.text();
  const [unpaid, paid] = client.exchanges;
  assert.equal(unpaid.terms.accepts[0].extra.paymentFlow, "upfront");
  assert.equal(movedBefore.length, 1, "the money had not moved when the upstream was asked");
  assert.deepEqual(mark.calls().map(({ path }) => path), ["/settle"]);
  const [seen] = mark.seen();
  assert.ok(mark.calls()[0].at <= seen.at);
  assert.deepEqual(headerSeen(seen, "x-x402-transaction"), [paid.receipt.transaction]);
  assert.deepEqual(headerSeen(seen, "x-x402-amount"), ["3000"]);
  await theTransfer(mark, { value: 3000n, nonce: client.signatures[0].message.nonce, transaction: paid.receipt.transaction });
});

test("Verified locally, a payment costs one call of the facilitator", async () => {
  const local = await openGateway(backends, { plugin: pluginOf({ facilitator: { verify: "local" } }) });
  for (const target of ["/any/x", "/upfront/x"]) {
    const mark = await since(local);
    const client = makePayer();
    const response = await client.fetch(local.url + target);
    assert.equal(response.status, 200);
    await response.text();
    assert.deepEqual(mark.calls().map(({ path }) => path), ["/settle"]);
    assert.equal(mark.seen().length, 1);
    assert.equal((await mark.transfers()).length, 1);
  }
});

test("A payer without money is refused with the facilitator's reason, and the upstream is left alone", async () => {
  const mark = await since(gateway);
  const client = makePayer({ account: accounts[5] });
  const response = await client.fetch(`${gateway.url}/weather`);
  assert.equal(response.status, 402);
  const refused = client.exchanges[1];
  assert.equal(refused.terms.error, "invalid_exact_evm_insufficient_balance");
  assert.equal(refused.receipt, null);
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify"]);

  // Upfront nobody verifies; the settlement itself is refused.
  const upfront = makePayer({ account: accounts[5] });
  assert.equal((await upfront.fetch(`${gateway.url}/upfront/x`)).status, 402);
  assert.equal(upfront.exchanges[1].receipt.success, false);
  assert.equal(upfront.exchanges[1].receipt.errorReason, "invalid_exact_evm_insufficient_balance");
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(await mark.transfers(), []);
});

test("Access logs reach the payer, the amount and the transaction", async () => {
  const client = makePayer();
  const response = await client.fetch(`${gateway.url}/any/logged`);
  await response.text();
  const entry = await eventually(
    () => gateway.envoy.accessLog().find(({ path, status }) => path === "/any/logged" && status === 200),
    "the access log shows the paid request",
  );
  assert.equal(entry.payer, payer);
  assert.equal(entry.network, NETWORK);
  assert.equal(entry.amount, "2000");
  assert.equal(entry.transaction, client.exchanges[1].receipt.transaction);
  assert.deepEqual([entry.route, entry.outcome], ["any", "served"]);
  const unpaid = gateway.envoy.accessLog().find(({ path, status }) => path === "/any/logged" && status === 402);
  assert.deepEqual([unpaid.route, unpaid.outcome, unpaid.payer], ["any", "unpaid", null]);
});
