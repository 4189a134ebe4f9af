/** A payment buys one response: sent again, sent many times at once, or spelled otherwise. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ask,
  assertNoTerms,
  assertServed,
  assertTerms,
  encoded,
  openGateway,
  openBackends,
  pay,
  paying,
  paymentFor,
  pluginOf,
  signPayment,
  since,
} from "./support.mjs";

const USED = "invalid_exact_evm_nonce_already_used";
const TARGETS = ["/any/x", "/upfront/x"];

const backends = await openBackends();
const plugin = pluginOf();
const gateway = await openGateway(backends, { plugin, concurrency: 2 });
const gullible = await openGateway(backends, { plugin, concurrency: 2, facilitator: "fake" });

/** One was served; the others were told that the payment is at work or has been used. */
function assertServedOnce(answers) {
  const served = answers.filter(({ status }) => status === 200);
  assert.equal(served.length, 1, `statuses ${answers.map(({ status }) => status)}`);
  assertServed(served[0]);
  for (const answer of answers.filter((answer) => answer !== served[0])) {
    if (answer.status === 409) {
      assertNoTerms(answer, 409);
      assert.match(answer.get("retry-after"), /^\d+$/);
    } else {
      assertTerms(answer, USED);
    }
  }
}

for (const target of TARGETS) {
  test(`The same payment again buys nothing: ${target}`, async () => {
    const mark = await since(gateway);
    const payment = await paymentFor(gateway, target);
    assertServed(await pay(gateway, target, payment));
    for (const _ of [1, 2, 3]) assertTerms(await pay(gateway, target, payment), USED);
    assert.equal(mark.seen().length, 1);
    assert.equal(mark.calls("/settle").length, 1);
    assert.equal((await mark.transfers()).length, 1);
  });

  test(`Sixteen times at once on two workers, one payment is served once: ${target}`, async () => {
    for (let round = 0; round < 3; round++) {
      const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
      assertServedOnce(await Promise.all(Array.from({ length: 16 }, () => pay(gateway, target, payment))));
      assert.equal(mark.seen().length, 1);
      assert.equal(mark.calls("/settle").length, 1);
      assert.equal((await mark.transfers()).length, 1);
    }
  });

  test(`Where the facilitator says yes to everything, the gateway itself serves one of thirty-two: ${target}`, async () => {
    for (let round = 0; round < 3; round++) {
      const [payment, mark] = [await paymentFor(gullible, target), await since(gullible)];
      assertServedOnce(await Promise.all(Array.from({ length: 32 }, () => pay(gullible, target, payment))));
      assert.equal(mark.seen().length, 1);
      assert.equal(mark.calls("/settle").length, 1);
      assertTerms(await pay(gullible, target, payment), USED);
      assert.equal(mark.calls("/settle").length, 1);
    }
  });
}

test("A payment spent on one route is spent on every other", async () => {
  const twin = await openGateway(backends, {
    plugin: pluginOf({ routes: ["/one", "/two"].map((path) => ({ match: { path }, price: "$0.002" })) }),
    facilitator: "fake",
  });
  const payment = await paymentFor(twin, "/one");
  const mark = await since(twin);
  assertServed(await pay(twin, "/one", payment));
  assertTerms(await pay(twin, "/two", payment), USED);
  assertTerms(await pay(twin, "/two?again", { ...payment, resource: { url: `${twin.url}/two` } }), USED);
  assert.equal(mark.seen().length, 1);
});

// ---- Other spellings of the same payment --------------------------------------------------------------------------

const reversed = (value) =>
  Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, inner]) => [key, inner && typeof inner === "object" && !Array.isArray(inner) ? reversed(inner) : inner]),
  );

const withAuthorization = (payment, changes) => ({
  ...payment,
  payload: { ...payment.payload, authorization: { ...payment.payload.authorization, ...changes } },
});

const upperHex = (text) => `0x${text.slice(2).toUpperCase()}`;

/** The values of the header that say the same as the payment's own. */
const spellings = (payment) => {
  const { authorization, signature } = payment.payload;
  const json = JSON.stringify(payment);
  return {
    "with other white space": encoded(JSON.stringify(payment, null, "\t")),
    "with white space around": encoded(`\r\n ${json} \t\n`),
    "with its keys in another order": encoded(reversed(payment)),
    "without padding": encoded(`${json} `.padEnd(3 * Math.ceil(json.length / 3) + 1)).replace(/=+$/, ""),
    "with its nonce in upper case": encoded(withAuthorization(payment, { nonce: upperHex(authorization.nonce) })),
    "with its signature in upper case": encoded({ ...payment, payload: { ...payment.payload, signature: upperHex(signature) } }),
    "with its payer in lower case": encoded(withAuthorization(payment, { from: authorization.from.toLowerCase() })),
    "with its recipient in lower case": encoded(withAuthorization(payment, { to: authorization.to.toLowerCase() })),
    "with escapes in its strings": encoded(json.replace(authorization.nonce, authorization.nonce.replace("0x", "\\u0030\\u0078"))),
    "with escapes in its keys": encoded(json.replace('"nonce"', '"\\u006eonce"')),
    "with extensions": encoded({ ...payment, extensions: { random: { info: {} } } }),
    "with another resource": encoded({ ...payment, resource: { url: "https://elsewhere.example/", description: "", mimeType: "" } }),
    "with more in extra": encoded({ ...payment, accepted: { ...payment.accepted, extra: { ...payment.accepted.extra, salt: 1 } } }),
    "with its entry's addresses in lower case": encoded({
      ...payment,
      accepted: { ...payment.accepted, asset: payment.accepted.asset.toLowerCase(), payTo: payment.accepted.payTo.toLowerCase() },
    }),
  };
};

for (const [who, at] of [["the official facilitator", gateway], ["one that says yes to everything", gullible]]) {
  test(`A spent payment stays spent however it is spelled: ${who}`, async () => {
    const mark = await since(at);
    const payment = await paymentFor(at, "/any/x");
    assertServed(await pay(at, "/any/x", payment));
    const longer = { ...payment, payload: { ...payment.payload, signature: `${payment.payload.signature}00` } };
    for (const [how, header] of Object.entries({ ...spellings(payment), "with a longer signature": encoded(longer) })) {
      const answer = await ask(at, "/any/x", { headers: { "payment-signature": header } });
      if (answer.status !== 400) assertTerms(answer, USED);
      assert.ok([400, 402].includes(answer.status), how);
    }
    assert.equal(mark.seen().length, 1);
    assert.equal(mark.calls("/settle").length, 1);
  });

  test(`Sent at once in all its spellings, one payment is served once: ${who}`, async () => {
    const [payment, mark] = [await paymentFor(at, "/any/x"), await since(at)];
    const headers = [encoded(payment), ...Object.values(spellings(payment))];
    assertServedOnce(await Promise.all(headers.map((header) => ask(at, "/any/x", { headers: { "payment-signature": header } }))));
    assert.equal(mark.seen().length, 1);
    assert.equal(mark.calls("/settle").length, 1);
  });
}

test("Each of these spellings is good for a payment that is not spent", async () => {
  for (const how of Object.keys(spellings(await paymentFor(gateway, "/any/x")))) {
    const payment = await paymentFor(gateway, "/any/x");
    const answer = await ask(gateway, "/any/x", { headers: { "payment-signature": spellings(payment)[how] } });
    assert.equal(answer.status, 200, `${how}: ${answer.text}`);
  }
});

test("Different payments do not stand in each other's way", async () => {
  const { accepts } = (await ask(gateway, "/any/x")).terms;
  const payments = await Promise.all(Array.from({ length: 12 }, () => signPayment(accepts[0])));
  const mark = await since(gateway);
  const answers = await Promise.all(payments.map((payment) => ask(gateway, "/any/x", { headers: paying(payment) })));
  for (const answer of answers) assertServed(answer);
  assert.equal(mark.seen().length, 12);
  const transfers = await mark.transfers();
  assert.equal(new Set(transfers.map(({ nonce }) => nonce)).size, 12);
  assert.deepEqual(
    answers.map(({ receipt }) => receipt.transaction).sort(),
    transfers.map(({ transaction }) => transaction).sort(),
  );
});

test("A payment that was settled elsewhere is refused, and the upstream's answer is kept back", async () => {
  const [payment, mark] = [await paymentFor(gateway, "/any/x"), await since(gateway)];
  const { accepted: paymentRequirements } = payment;
  const settled = await fetch(`${backends.facilitator.url}/settle`, {
    method: "POST",
    body: JSON.stringify({ x402Version: 2, paymentPayload: payment, paymentRequirements }),
  });
  assert.equal((await settled.json()).success, true);
  assertTerms(await pay(gateway, "/any/x", payment), USED);
  assert.deepEqual(mark.seen(), []);

  // Verified here alone, it is the settlement that tells.
  const local = await openGateway(backends, { plugin: pluginOf({ facilitator: { verify: "local" } }) });
  const refused = await pay(local, "/any/x", payment);
  assertNoTerms(refused, 402);
  assert.deepEqual(
    { ...refused.receipt, payer: undefined },
    { success: false, errorReason: USED, transaction: "", network: payment.accepted.network, payer: undefined },
  );
  assert.equal((await mark.transfers()).length, 1);
});
