/**
 * Clients that go away before they have their response. Whatever was under way then, the same payment can come again;
 * it is never served twice, and it never costs twice.
 */
import assert from "node:assert/strict";
import { connect as connectHttp2 } from "node:http2";
import { test } from "node:test";
import {
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
  since,
  withUpstream,
} from "./support.mjs";

const USED = "invalid_exact_evm_nonce_already_used";

const backends = await openBackends();
// A settlement without an answer is given up before these tests lose their patience.
const gateway = await openGateway(backends, { facilitator: "fake", concurrency: 2, plugin: pluginOf({ facilitator: { timeout: "3s" } }) });
const { fake } = gateway;

/** Sends a request with the payment, waits until it has come as far as `reached` says, and hangs up. */
async function hangUp(target, payment, reached, what) {
  const { socket } = send(gateway, target, { headers: paying(payment) });
  await eventually(reached, what);
  socket.destroy();
}

/** The same, over HTTP/2: the stream is reset, and the connection stays. */
async function resetStream(target, payment, reached, what) {
  const session = connectHttp2(gateway.url);
  const stream = session.request({ ":path": target, ...paying(payment) });
  stream.on("error", () => {});
  await eventually(reached, what);
  stream.close(8);
  await new Promise((resolve) => stream.once("close", resolve));
  session.close();
}

/** Sends the payment again until it is no longer at work for the request that was given up. */
const payAgain = (target, payment) =>
  eventually(async () => {
    const answer = await pay(gateway, target, payment);
    return answer.status === 409 ? null : answer;
  }, "the payment is free again");

for (const [how, goAway] of [["hangs up", hangUp], ["resets its stream (HTTP/2)", resetStream]]) {
  test(`A client that ${how} while its payment is verified can use it afterwards`, async () => {
    const [payment, mark, held] = [await paymentFor(gateway, "/any/x"), await since(gateway), latch()];
    fake.script("/verify", { hold: held.opened, json: { isValid: true, payer: payment.payload.authorization.from } });
    await goAway("/any/x", payment, () => mark.calls("/verify").length === 1, "/verify is asked");
    assertServed(await payAgain("/any/x", payment));
    held.open(); // The late yes is nobody's any more.
    assertTerms(await pay(gateway, "/any/x", payment), USED);
    assert.equal(mark.seen().length, 1);
    assert.equal(mark.calls("/settle").length, 1);
  });

  test(`A client that ${how} while the upstream works pays nothing, and can use its payment afterwards`, async () => {
    const [payment, mark, held] = [await paymentFor(gateway, "/any/x"), await since(gateway), latch()];
    let heldOnce = false;
    await withUpstream(
      gateway,
      async () => {
        if (!heldOnce) {
          heldOnce = true;
          await held.opened;
        }
        return false;
      },
      async () => {
        await goAway("/any/x", payment, () => mark.seen().length === 1, "the upstream is asked");
        assertServed(await payAgain("/any/x", payment));
      },
    );
    held.open();
    assertTerms(await pay(gateway, "/any/x", payment), USED);
    assert.equal(mark.seen().length, 2);
    assert.equal(mark.calls("/settle").length, 1);
  });

  for (const [when, target, requests] of [["after the response", "/any/x", 2], ["upfront", "/upfront/x", 1]]) {
    test(`A client that ${how} while its payment is settled ${when} is picked up where it stood, once`, async () => {
      const [payment, mark, held] = [await paymentFor(gateway, target), await since(gateway), latch()];
      fake.script("/settle", { hold: held.opened, instead: "close" });
      await goAway(target, payment, () => mark.calls("/settle").length === 1, "/settle is asked");
      assertServed(await payAgain(target, payment));
      held.open();
      assertTerms(await pay(gateway, target, payment), USED);
      const [first, second, ...more] = mark.calls("/settle");
      assert.deepEqual(second.request, first.request, "not the identical settlement");
      assert.deepEqual(more, []);
      assert.equal(mark.seen().length, requests);
    });
  }

  test(`A client that ${how} after it has paid upfront gets its response when it comes again, without paying again`, async () => {
    const [payment, mark, held] = [await paymentFor(gateway, "/upfront/x"), await since(gateway), latch()];
    let heldOnce = false;
    await withUpstream(
      gateway,
      async () => {
        if (!heldOnce) {
          heldOnce = true;
          await held.opened;
        }
        return false;
      },
      async () => {
        await goAway("/upfront/x", payment, () => mark.seen().length === 1, "the upstream is asked");
        const answer = await payAgain("/upfront/x", payment);
        assertServed(answer, { transaction: mark.calls("/settle")[0].answer.transaction });
      },
    );
    held.open();
    assertTerms(await pay(gateway, "/upfront/x", payment), USED);
    assert.equal(mark.calls("/settle").length, 1);
    assert.equal(mark.seen().length, 2);
  });
}

test("Many clients that hang up at every stage leave every payment good for one response", async () => {
  const mark = await since(gateway);
  const payments = await Promise.all(Array.from({ length: 24 }, (_, i) => paymentFor(gateway, i % 2 ? "/any/x" : "/upfront/x")));
  const targetOf = (i) => (i % 2 ? "/any/x" : "/upfront/x");
  await Promise.all(
    payments.map(async (payment, i) => {
      const { socket, answer } = send(gateway, targetOf(i), { headers: paying(payment) });
      // Each a little later than the one before: before the request is read, in the middle of it, after the response.
      const patience = new Promise((resolve) => setTimeout(resolve, i % 8));
      await Promise.race([patience, answer.catch(() => {})]);
      socket.destroy();
    }),
  );
  const answers = await Promise.all(payments.map((payment, i) => payAgain(targetOf(i), payment)));
  for (const answer of answers) {
    if (answer.status === 200) assertServed(answer);
    else assertTerms(answer, USED); // Its response was on its way when the client left.
  }
  const again = await Promise.all(payments.map((payment, i) => payAgain(targetOf(i), payment)));
  for (const answer of again) assertTerms(answer, USED);
  const nonces = mark.calls("/settle").map(({ request }) => request.paymentPayload.payload.authorization.nonce);
  assert.equal(new Set(nonces).size, 24);
});

test("An upstream that breaks off while the payment is settled leaves the payment good for a response", async () => {
  const [payment, mark, held] = [await paymentFor(gateway, "/any/x"), await since(gateway), latch()];
  let upstream;
  gateway.inference.intercept = (request, response) => {
    response.writeHead(200, { "content-length": "1000" });
    response.write("the beginning");
    upstream = request.socket;
  };
  fake.script("/settle", async () => ((await held.opened), { instead: "close" }));
  const first = pay(gateway, "/any/x", payment).catch((error) => error);
  await eventually(() => mark.calls("/settle").length === 1, "/settle is asked");
  gateway.inference.intercept = null;
  upstream.destroy();
  const answer = await payAgain("/any/x", payment);
  held.open();
  const outcome = await first;
  // Envoy answers in the upstream's place, or cuts the connection; it does not ask for money.
  if (!(outcome instanceof Error)) {
    assert.ok(outcome.status >= 500, `${outcome.status}`);
    assert.equal(outcome.terms, null);
    assert.equal(outcome.receipt, null);
  }
  assertServed(answer);
  assertTerms(await pay(gateway, "/any/x", payment), USED);
  assert.equal(mark.calls("/settle").length, 2);
});

// ---- On a real chain ----------------------------------------------------------------------------------------------

/** Asks the official facilitator, which settles on the chain. */
const official = async (body) => {
  const response = await fetch(`${backends.facilitator.url}/settle`, { method: "POST", body: JSON.stringify(body) });
  return { json: await response.json() };
};

for (const [when, target] of [["after the response", "/any/x"], ["upfront", "/upfront/x"]]) {
  test(`Paying ${when}: money that moved while the answer got lost is never asked for again`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    fake.script(
      "/settle",
      async (body) => {
        await official(body);
        return { instead: "close" };
      },
      official,
      official,
    );
    assertUnknown(await pay(gateway, target, payment), 502);
    assert.equal((await mark.transfers()).length, 1);
    // The official facilitator refuses the same settlement now. Without another way to look, the outcome stays unknown.
    for (const _ of [1, 2]) {
      const answer = await pay(gateway, target, payment);
      if (answer.status === 200) break;
      assertUnknown(answer, 502);
    }
    assert.equal((await mark.transfers()).length, 1);
  });
}
