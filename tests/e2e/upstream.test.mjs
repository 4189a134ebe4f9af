/**
 * What happens when the upstream fails. Paying after the response, an error costs nothing and the same payment buys a
 * good response later; paying upfront, the payment that has moved buys its response when it comes again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ask,
  assertServed,
  assertTerms,
  headerSeen,
  openGateway,
  openBackends,
  pay,
  payerAccount,
  paymentFor,
  since,
  withUpstream,
} from "./support.mjs";

const USED = "invalid_exact_evm_nonce_already_used";

const backends = await openBackends();
const gateway = await openGateway(backends);
const dead = await openGateway(backends, { clusters: { api: backends.ports.spare1 } });
const empty = await openGateway(backends, { clusters: { api: null } });

const json = (status) => (_, response) =>
  response.writeHead(status, { "content-type": "application/json", "x-from-upstream": "yes" }).end('{"error":"upstream"}');

// [what, how the upstream answers, what the client gets]
const FAILURES = [
  ["answers 500", json(500), 500],
  ["answers 503", json(503), 503],
  ["answers 404", json(404), 404],
  ["answers 400", json(400), 400],
  ["answers 402 of its own", json(402), 402],
  ["answers 429", json(429), 429],
  ["answers 599", json(599), 599],
  ["hangs up before it answers", (request) => request.socket.destroy(), 503],
  ["breaks off in the middle of its head", (request) => request.socket.end("HTTP/1.1 200 OK\r\ncontent-le"), [502, 503]],
  ["answers something else than HTTP", (request) => request.socket.end("no such thing\r\n\r\n"), [502, 503]],
];

const assertStatus = (answer, expected) =>
  assert.ok([expected].flat().includes(answer.status), `${answer.status} in place of ${expected}: ${answer.text}`);

for (const [what, fails, status] of FAILURES) {
  test(`Paying after the response: where the upstream ${what}, nothing is settled, and the payment buys a good one`, async () => {
    const [payment, mark] = [await paymentFor(gateway, "/any/x"), await since(gateway)];
    for (const _ of [1, 2]) {
      const failed = await withUpstream(gateway, fails, () => pay(gateway, "/any/x", payment));
      assertStatus(failed, status);
      assert.equal(failed.receipt, null);
      if (failed.get("x-from-upstream")) assert.equal(failed.text, '{"error":"upstream"}');
    }
    assert.equal(mark.seen().length, 2);
    assert.deepEqual(mark.calls("/settle"), []);
    assert.deepEqual(await mark.transfers(), []);

    assertServed(await pay(gateway, "/any/x", payment));
    assertTerms(await pay(gateway, "/any/x", payment), USED);
    assert.equal(mark.seen().length, 3);
    assert.equal((await mark.transfers()).length, 1);
  });

  test(`Paying upfront: where the upstream ${what}, the receipt comes along, and the payment buys a good response`, async () => {
    const [payment, mark] = [await paymentFor(gateway, "/upfront/x"), await since(gateway)];
    const transactions = new Set();
    for (const _ of [1, 2]) {
      const failed = await withUpstream(gateway, fails, () => pay(gateway, "/upfront/x", payment));
      assertStatus(failed, status);
      assert.equal(failed.receipt.success, true);
      assert.equal(failed.receipt.payer, payerAccount.address);
      transactions.add(failed.receipt.transaction);
    }
    const good = await pay(gateway, "/upfront/x", payment);
    assertServed(good);
    transactions.add(good.receipt.transaction);
    assertTerms(await pay(gateway, "/upfront/x", payment), USED);

    const [transfer, ...more] = await mark.transfers();
    assert.deepEqual(more, [], "the money moved more than once");
    assert.deepEqual([...transactions], [transfer.transaction]);
    assert.equal(mark.calls("/settle").length, 1);
    assert.equal(mark.seen().length, 3);
    for (const seen of mark.seen()) assert.deepEqual(headerSeen(seen, "x-x402-transaction"), [transfer.transaction]);
  });
}

for (const [what, at] of [["is down", dead], ["has no endpoints", empty]]) {
  test(`Where the upstream ${what}, paying after the response costs nothing`, async () => {
    const [payment, mark] = [await paymentFor(at, "/any/x"), await since(at)];
    for (const _ of [1, 2]) {
      const answer = await pay(at, "/any/x", payment);
      assert.equal(answer.status, 503);
      assert.equal(answer.receipt, null);
      assert.equal(answer.terms, null);
    }
    assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify", "/verify"]);
    assert.deepEqual(await mark.transfers(), []);
  });

  test(`Where the upstream ${what}, a payment upfront moves once and stays good`, async () => {
    const [payment, mark] = [await paymentFor(at, "/upfront/x"), await since(at)];
    for (const _ of [1, 2]) {
      const answer = await pay(at, "/upfront/x", payment);
      assert.equal(answer.status, 503);
      assert.equal(answer.receipt.success, true);
    }
    assert.equal(mark.calls("/settle").length, 1);
    assert.equal((await mark.transfers()).length, 1);
  });
}

test("The upstream's answers below 400 are all sold", async () => {
  for (const target of ["/any/x", "/upfront/x"]) {
    for (const [status, headers, body] of [
      [201, { location: "/made" }, "made"],
      [204, {}, undefined],
      [206, { "content-range": "bytes 0-1/9" }, "ok"],
      [302, { location: "/elsewhere" }, ""],
      [304, { etag: '"a"' }, undefined],
    ]) {
      const payment = await paymentFor(gateway, target);
      const answer = await withUpstream(
        gateway,
        (_, response) => response.writeHead(status, headers).end(body),
        () => pay(gateway, target, payment),
      );
      assert.equal(answer.status, status);
      assert.equal(answer.receipt?.success, true, `${target} ${status}`);
      for (const [name, value] of Object.entries(headers)) assert.equal(answer.get(name), value);
    }
  }
});

test("An interim answer of the upstream is not taken for the answer", async () => {
  for (const target of ["/any/x", "/upfront/x"]) {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    const failed = await withUpstream(
      gateway,
      (_, response) => {
        response.writeContinue();
        response.writeEarlyHints({ link: "</style.css>; rel=preload" });
        response.writeHead(500).end("failed");
      },
      () => pay(gateway, target, payment, { method: "POST", body: "x", headers: { expect: "100-continue" } }),
    );
    assert.equal(failed.status, 500);
    const served = await withUpstream(
      gateway,
      (_, response) => {
        response.writeEarlyHints({ link: "</style.css>; rel=preload" });
        response.writeHead(200).end("good");
      },
      () => pay(gateway, target, payment),
    );
    assertServed(served);
    assert.equal(served.text, "good");
    assert.equal((await mark.transfers()).length, 1);
  }
});

test("HEAD is sold as GET is, without a body", async () => {
  for (const target of ["/any/x", "/upfront/x"]) {
    const [payment, mark] = [await paymentFor(gateway, target, { method: "HEAD" }), await since(gateway)];
    const answer = await pay(gateway, target, payment, { method: "HEAD" });
    assert.equal(answer.status, 200);
    assert.equal(answer.receipt.success, true);
    assert.equal(answer.bytes.length, 0);
    assert.equal(mark.seen()[0].method, "HEAD");
    assert.equal((await mark.transfers()).length, 1);
  }
});

test("Where Envoy gives up on a slow upstream, nothing is settled, and the payment is still good", async () => {
  const hasty = await openGateway(backends, {
    edit: ({ static_resources: { listeners } }) => {
      const { route_config } = listeners[0].filter_chains[0].filters[0].typed_config;
      route_config.virtual_hosts[0].routes[0].route.timeout = "0.2s";
    },
  });
  const [payment, mark] = [await paymentFor(hasty, "/any/x"), await since(hasty)];
  const late = await withUpstream(hasty, () => {}, () => pay(hasty, "/any/x", payment));
  assert.equal(late.status, 504);
  assert.deepEqual(mark.calls("/settle"), []);
  assertServed(await pay(hasty, "/any/x", payment));

  const upfront = await paymentFor(hasty, "/upfront/x");
  const failed = await withUpstream(hasty, () => {}, () => pay(hasty, "/upfront/x", upfront));
  assert.equal(failed.status, 504);
  assert.equal(failed.receipt.success, true);
  assertServed(await pay(hasty, "/upfront/x", upfront), { transaction: failed.receipt.transaction });
  assert.equal((await mark.transfers()).length, 2);
});

test("The upstream's failure on a free route is no business of the filter's", async () => {
  const answer = await ask(gateway, "/fail");
  assert.equal(answer.status, 500);
  assert.equal(answer.get("cache-control"), undefined);
  assert.equal(answer.get("access-control-expose-headers"), undefined);
});
