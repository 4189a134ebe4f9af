/**
 * What a hostile review found and proved against a real Envoy, each attack as it was made.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ANY,
  ask,
  assertServed,
  assertTerms,
  assertUnknown,
  eventually,
  latch,
  openGateway,
  openBackends,
  pay,
  paying,
  paymentFor,
  pluginOf,
  send,
  signPayment,
  quote,
  since,
  UPFRONT,
  WEATHER,
  withUpstream,
} from "./support.mjs";

const JOINT = { name: "joint", match: { path: "/joint/{*rest}" }, price: "$0.002", settle: "concurrent" };

const backends = await openBackends();
const gateway = await openGateway(backends, {
  facilitator: "fake",
  plugin: pluginOf({ routes: [WEATHER, ANY, UPFRONT, JOINT] }),
});
const { fake } = gateway;

test("A payment with keys in another case beside its own is refused, or goes on as it was read", async () => {
  const [{ accepts }, mark] = [await quote(gateway, "/any/x"), await since(gateway)];
  const [shown, smuggled] = [await signPayment(accepts[0]), await signPayment(accepts[0])];
  const { authorization, signature } = smuggled.payload;
  const inner = { ...shown, payload: { ...shown.payload, Authorization: authorization, Signature: signature } };
  assert.equal((await pay(gateway, "/any/x", inner)).status, 400);
  const outer = { ...shown, Payload: smuggled.payload, PAYLOAD: smuggled.payload, Accepted: smuggled.accepted };
  assertServed(await pay(gateway, "/any/x", outer));
  for (const { request } of mark.calls()) {
    assert.deepEqual(Object.keys(request.paymentPayload).sort(), ["accepted", "payload", "x402Version"]);
    assert.deepEqual(request.paymentPayload.payload, shown.payload);
  }
});

test("Of the answer to a preflight only what concerns origins comes back", async () => {
  const goods = (_, response) => {
    response.writeHead(200, { "access-control-allow-origin": "https://app.example", vary: "origin", "x-secret": "1" });
    response.end("THE GOODS");
  };
  await withUpstream(gateway, goods, async () => {
    const headers = { origin: "https://app.example", "access-control-request-method": "GET" };
    const answer = await ask(gateway, "/weather", { method: "OPTIONS", headers });
    assert.equal(answer.status, 200);
    assert.equal(answer.text, "");
    assert.equal(answer.get("access-control-allow-origin"), "https://app.example");
    assert.equal(answer.get("x-secret"), undefined);
  });
});

test("A response that begins before its request has ended is delivered, and so is the rest of the request", async () => {
  const payment = await paymentFor(gateway, "/any/x", { method: "POST" });
  const [held, mark] = [latch(), await since(gateway)];
  fake.script("/settle", async () => {
    await held.opened;
    return { json: { success: true, transaction: `0x${"ab".repeat(32)}`, network: "eip155:84532", payer: payment.payload.authorization.from } };
  });
  const early = (request, response) => {
    let received = 0;
    request.on("data", (data) => (received += data.length));
    request.on("end", () => response.end(`received ${received}`));
    response.writeHead(200);
    response.write("early ");
  };
  await withUpstream(gateway, early, async () => {
    const { socket, answer } = send(gateway, "/any/x", {
      method: "POST",
      headers: { ...paying(payment), "transfer-encoding": "chunked" },
      rest: "5\r\nhello\r\n",
    });
    await eventually(() => mark.calls("/settle").length === 1, "/settle is asked");
    socket.write("5\r\nworld\r\n0\r\n\r\n");
    held.open();
    assert.equal((await answer).text, "early received 10");
  });
});

test("A settlement that succeeds for a client that has gone buys its response when the payment comes again, once", async () => {
  for (const target of ["/any/x", "/upfront/x", "/joint/x"]) {
    const [payment, mark, held] = [await paymentFor(gateway, target), await since(gateway), latch()];
    fake.script("/settle", async () => {
      await held.opened;
      return { json: { success: true, transaction: `0x${"cd".repeat(32)}`, network: "eip155:84532", payer: payment.payload.authorization.from } };
    });
    const { socket, answer } = send(gateway, target, { headers: paying(payment) });
    answer.catch(() => {});
    await eventually(() => mark.calls("/settle").length === 1, "/settle is asked");
    socket.destroy();
    await eventually(async () => (await pay(gateway, target, payment)).status === 409, "the payment is in flight");
    held.open();
    const again = await eventually(async () => {
      const answer = await pay(gateway, target, payment);
      return answer.status === 409 ? null : answer;
    }, "the settlement is recorded");
    assertServed(again, { transaction: `0x${"cd".repeat(32)}` });
    assertTerms(await pay(gateway, target, payment), "invalid_exact_evm_nonce_already_used");
    assert.equal(mark.calls("/settle").length, 1, target);
  }
});

test("Refusals that leave open whether the money has moved are not refusals, and small differences in a yes are none", async () => {
  // Its own gateway: what stays unknown is asked about again, and those calls are not to be counted elsewhere.
  const doubtful = await openGateway(backends, { facilitator: "fake", plugin: pluginOf({ routes: [ANY] }) });
  const payer = (payment) => payment.payload.authorization.from;
  const hash = `0x${"ef".repeat(32)}`;
  for (const unsure of [
    { errorReason: "Timed out while waiting for the receipt", transaction: hash },
    { errorReason: "invalid_exact_evm_transaction_failed", transaction: "" },
  ]) {
    const payment = await paymentFor(doubtful, "/any/x");
    doubtful.fake.script("/settle", { json: { success: false, network: "eip155:84532", payer: payer(payment), ...unsure } });
    assertUnknown(await pay(doubtful, "/any/x", payment), 502);
  }
  for (const oddity of [{ errorReason: "" }, { payer: "" }, { payer: null }]) {
    const payment = await paymentFor(doubtful, "/any/x");
    doubtful.fake.script("/settle", { json: { success: true, transaction: hash, network: "eip155:84532", payer: payer(payment).toUpperCase().replace("0X", "0x"), ...oddity } });
    assertServed(await pay(doubtful, "/any/x", payment), { transaction: hash });
  }
  const payment = await paymentFor(doubtful, "/any/x");
  doubtful.fake.script("/settle", { json: { success: true, transaction: `0x${"00".repeat(32)}`, network: "eip155:84532", payer: payer(payment) } });
  assertUnknown(await pay(doubtful, "/any/x", payment), 502);
});

test("Nobody collects another's settled payment with a signature of their own making", async () => {
  const contract = { ...ANY, name: "contract", match: { path: "/contract/{*rest}" }, settle: "before" };
  const other = await openGateway(backends, { facilitator: "fake", plugin: pluginOf({ routes: [contract] }) });
  const payment = await paymentFor(other, "/contract/x");
  payment.payload.signature = `0x${"11".repeat(80)}`;
  await withUpstream(other, (_, response) => response.writeHead(503).end(), () => pay(other, "/contract/x", payment));
  const forged = structuredClone(payment);
  forged.payload.signature = `0x${"22".repeat(80)}`;
  const mark = await since(other);
  assertTerms(await pay(other, "/contract/x", forged), "invalid_exact_evm_nonce_already_used");
  assert.deepEqual(mark.seen(), []);
  assertServed(await pay(other, "/contract/x", payment));
});

test("A header of twenty kilobytes is not echoed", async () => {
  const payment = await paymentFor(gateway, "/any/x");
  payment.payload.authorization.nonce = `0x${"0".repeat(20_000)}`;
  const answer = await pay(gateway, "/any/x", payment);
  assert.equal(answer.status, 400);
  assert.ok(answer.text.length < 1000);
});

test("Settlement beside the upstream's work waits for both, whoever comes first", async () => {
  for (const settleFirst of [true, false]) {
    const [payment, mark, upstream, settlement] = [await paymentFor(gateway, "/joint/x"), await since(gateway), latch(), latch()];
    assert.equal(payment.accepted.extra.paymentFlow, "upfront");
    fake.script("/settle", async () => {
      await settlement.opened;
      return { json: { success: true, transaction: `0x${"12".repeat(32)}`, network: "eip155:84532", payer: payment.payload.authorization.from } };
    });
    const slow = async () => {
      await upstream.opened;
      return false;
    };
    await withUpstream(gateway, slow, async () => {
      const answer = pay(gateway, "/joint/x", payment);
      let isThere = false;
      answer.then(() => (isThere = true));
      await eventually(() => mark.calls("/settle").length === 1 && mark.seen().length === 1, "both are asked");
      (settleFirst ? settlement : upstream).open();
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.equal(isThere, false);
      (settleFirst ? upstream : settlement).open();
      assertServed(await answer);
    });
    assert.deepEqual(mark.calls("/verify"), []);
  }
});

test("A settlement that is refused beside the upstream's work delivers nothing, and an upstream that fails keeps the payment good", async () => {
  const refused = await paymentFor(gateway, "/joint/x");
  fake.script("/settle", { json: { success: false, errorReason: "invalid_exact_evm_insufficient_balance", transaction: "", network: "eip155:84532" } });
  assert.equal((await pay(gateway, "/joint/x", refused)).status, 402);
  const [payment, mark] = [await paymentFor(gateway, "/joint/x"), await since(gateway)];
  await withUpstream(gateway, (_, response) => response.writeHead(500).end("broken"), async () => {
    const answer = await pay(gateway, "/joint/x", payment);
    assert.equal(answer.status, 500);
    assert.ok(answer.get("payment-response"));
  });
  assertServed(await pay(gateway, "/joint/x", payment));
  assert.equal(mark.calls("/settle").length, 1);
});
