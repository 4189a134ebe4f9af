/**
 * Bodies under a fixed price: only the head of a response is ever held, and bodies of any size stream, in both
 * directions. All of it under each of the two ways in which Envoy may treat a filter that holds headers.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import {
  ask,
  assertServed,
  assertTerms,
  eventually,
  headerSeen,
  latch,
  NETWORK,
  openGateway,
  openHttp2,
  openBackends,
  pay,
  payerAccount,
  paying,
  paymentFor,
  send,
  since,
  withUpstream,
} from "./support.mjs";

const MIB = 1024 * 1024;
const USED = "invalid_exact_evm_nonce_already_used";
const LARGE = randomBytes(8 * MIB);
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

const backends = await openBackends();
const gateways = {
  "without allow_on_headers_stop_iteration": await openGateway(backends, { facilitator: "fake", allowOnHeadersStopIteration: false }),
  "with allow_on_headers_stop_iteration": await openGateway(backends, { facilitator: "fake", allowOnHeadersStopIteration: true }),
};
const onChain = await openGateway(backends, { allowOnHeadersStopIteration: true });

/** Lets the upstream answer paid requests in another way while `action` runs; the others go their way. */
const withGoods = (gateway, intercept, action) =>
  withUpstream(gateway, (request, response) => (request.url === "/healthz" ? false : intercept(request, response)), action);

/** Other requests go their way; whatever could leak out of one that is held has had the time to. */
async function othersGoTheirWay(gateway) {
  for (let i = 0; i < 10; i++) assert.equal((await ask(gateway, "/healthz")).status, 200);
}

for (const [how, gateway] of Object.entries(gateways)) {
  const { fake } = gateway;
  const title = (text) => `Envoy ${how}: ${text}`;

  for (const [when, target] of [["after the response", "/any/x"], ["upfront", "/upfront/x"]]) {
    test(title(`events arrive as they are produced, paid ${when}`), async () => {
      const [payment, mark, read] = [await paymentFor(gateway, target), await since(gateway), latch()];
      await withUpstream(
        gateway,
        async (_, response) => {
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.write("data: first\n\n");
          await read.opened; // The rest is produced only once the client has read the beginning.
          response.write("data: second\n\n");
          response.end("data: [DONE]\n\n");
        },
        async () => {
          const response = await fetch(gateway.url + target, { headers: paying(payment), signal: AbortSignal.timeout(10_000) });
          assert.equal(response.status, 200);
          assert.ok(response.headers.get("payment-response"));
          const decoder = new TextDecoder();
          let text = "";
          for await (const chunk of response.body) {
            text += decoder.decode(chunk, { stream: true });
            if (text.includes("first")) read.open();
          }
          assert.equal(text, "data: first\n\ndata: second\n\ndata: [DONE]\n\n");
        },
      );
      assert.equal(mark.calls("/settle").length, 1);
    });

    for (const [what, size] of [["a small body", 100], ["8 MiB", 8 * MIB]]) {
      const body = LARGE.subarray(0, size);

      test(title(`nothing of ${what} comes down before the money has moved, and then all of it, paid ${when}`), async () => {
        const [payment, mark, held] = [await paymentFor(gateway, target), await since(gateway), latch()];
        fake.script("/settle", { hold: held.opened, json: { ...settled(payment) } });
        const upstream = (_, response) => response.writeHead(200, { "content-length": body.length }).end(body);
        await withGoods(gateway, upstream, async () => {
          const { socket, answer } = send(gateway, target, { headers: paying(payment) });
          await eventually(() => mark.calls("/settle").length === 1, "/settle is asked");
          await othersGoTheirWay(gateway);
          assert.equal(socket.bytesRead, 0, "something came down before the payment was settled");
          held.open();
          const served = await answer;
          assertServed(served);
          assert.equal(digest(served.bytes), digest(body));
        });
        assertTerms(await pay(gateway, target, payment), USED);
        assert.equal(mark.calls("/settle").length, 1);
      });

      test(title(`${what} goes up whole while the payment is looked at, paid ${when}`), async () => {
        const [payment, mark, held] = [await paymentFor(gateway, target), await since(gateway), latch()];
        const question = target === "/any/x" ? "/verify" : "/settle";
        const yes = target === "/any/x" ? { isValid: true, payer: payerAccount.address } : settled(payment);
        fake.script(question, { hold: held.opened, json: yes });
        const hash = createHash("sha256");
        let length = 0;
        await withGoods(
          gateway,
          async (request, response) => {
            for await (const chunk of request) {
              hash.update(chunk);
              length += chunk.length;
            }
            response.end("received");
          },
          async () => {
            const { answer } = send(gateway, target, { method: "POST", headers: paying(payment), body });
            await eventually(() => mark.calls(question).length === 1, `${question} is asked`);
            await othersGoTheirWay(gateway);
            assert.equal(mark.seen().filter(({ path }) => path === target).length, 0);
            held.open();
            const served = await answer;
            assertServed(served);
            assert.equal(served.text, "received");
          },
        );
        assert.equal(length, body.length);
        assert.equal(hash.digest("hex"), digest(body));
      });
    }

    test(title(`chunks with trailers behind them go up, paid ${when}`), async () => {
      const payment = await paymentFor(gateway, target);
      let heard = "";
      const answer = await withUpstream(
        gateway,
        async (request, response) => {
          for await (const chunk of request) heard += chunk;
          response.end("ok");
        },
        () =>
          ask(gateway, target, {
            method: "POST",
            headers: { ...paying(payment), "transfer-encoding": "chunked", trailer: "x-sum" },
            rest: "5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 1\r\n\r\n",
          }),
      );
      assertServed(answer);
      assert.equal(heard, "hello world");
    });

    test(title(`an upstream's error comes down with its body, paid ${when}`), async () => {
      const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
      const failed = await withUpstream(
        gateway,
        (_, response) => response.writeHead(500, { "content-length": LARGE.length }).end(LARGE),
        () => pay(gateway, target, payment),
      );
      assert.equal(failed.status, 500);
      assert.equal(digest(failed.bytes), digest(LARGE));
      assert.equal(mark.calls("/settle").length, target === "/any/x" ? 0 : 1);
      assertServed(await pay(gateway, target, payment));
    });

    test(title(`a body is kept back whole where the settlement is refused, paid ${when}`), async () => {
      const payment = await paymentFor(gateway, target);
      fake.script("/settle", { json: { success: false, errorReason: "insufficient_funds" } });
      const refused = await withUpstream(
        gateway,
        (_, response) => response.writeHead(200).end(LARGE),
        () => pay(gateway, target, payment),
      );
      assert.equal(refused.status, 402);
      assert.ok(refused.bytes.length < 1000);
      assert.equal(refused.receipt.success, false);
    });
  }

  test(title("a body sent without a payment is answered with terms, however large"), async () => {
    const mark = await since(gateway);
    for (const body of ["small", LARGE.subarray(0, MIB / 4)]) {
      const answer = await ask(gateway, "/any/x", { method: "POST", body });
      assertTerms(answer, "Payment required");
    }
    assert.deepEqual(mark.seen(), []);
  });

  test(title("over HTTP/2 a request is paid for, beside others on the same connection"), async () => {
    const { ask: ask2, close } = openHttp2(gateway);
    try {
      const mark = await since(gateway);
      const [unpaid, free] = await Promise.all([ask2({ ":path": "/any/x" }), ask2({ ":path": "/healthz" })]);
      assertTerms(unpaid, "Payment required");
      assert.equal(free.status, 200);
      assert.equal(unpaid.terms.resource.url, `${gateway.url}/any/x`);
      const payment = await paymentFor(gateway, "/any/x");
      const answers = await Promise.all([
        ask2({ ":path": "/any/x", ...paying(payment) }, "hello"),
        ask2({ ":path": "/any/x", ...paying(payment) }, "hello"),
        ask2({ ":path": "/any/x" }, "hello"),
        ask2({ ":path": "/healthz" }),
      ]);
      const [one, two] = answers[0].status === 200 ? answers : [answers[1], answers[0]];
      assertServed(one);
      assert.ok([402, 409].includes(two.status));
      assertTerms(answers[2], "Payment required");
      assert.equal(answers[3].status, 200);
      assertTerms(await ask2({ ":path": "/any/x", ...paying(payment) }), USED);
      assert.equal(mark.seen().filter(({ path }) => path === "/any/x").length, 1);
      // Two payments in one request, as HTTP/2 has it.
      const twice = await ask2({ ":path": "/any/x", "payment-signature": ["e30=", "e30="] });
      assert.equal(twice.status, 400);
    } finally {
      close();
    }
  });
}

const settled = (payment) => ({
  success: true,
  transaction: `0x${randomBytes(32).toString("hex")}`,
  network: NETWORK,
  payer: payment.payload.authorization.from,
});

test("With allow_on_headers_stop_iteration the money moves on the chain as it does without", async () => {
  for (const [target, body] of [["/any/x", undefined], ["/any/x", "hello"], ["/upfront/x", undefined], ["/upfront/x", "hello"]]) {
    const [payment, mark] = [await paymentFor(onChain, target), await since(onChain)];
    const options = { method: body ? "POST" : "GET", body };
    const answer = await pay(onChain, target, payment, options);
    assertServed(answer);
    assertTerms(await pay(onChain, target, payment, options), USED);
    assert.equal(mark.seen().length, 1);
    assert.deepEqual(headerSeen(mark.seen()[0], "x-x402-payer"), [payerAccount.address]);
    assert.deepEqual((await mark.transfers()).map(({ transaction }) => transaction), [answer.receipt.transaction]);
  }
});
