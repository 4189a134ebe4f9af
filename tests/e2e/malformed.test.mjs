/**
 * Headers and paths that are no sense at all, down to bytes that are no text. Every one has a defined answer, and the
 * next request finds the filter alive: a crash would take down all requests of the worker.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import {
  ask,
  assertAlive,
  assertNoTerms,
  assertServed,
  assertTerms,
  encoded,
  eventually,
  openGateway,
  openBackends,
  pay,
  paymentFor,
  sendBytes,
  since,
  withUpstream,
} from "./support.mjs";

const backends = await openBackends();
const gateway = await openGateway(backends);
// One that logs as lines of text, in which whoever writes a line break writes a line.
const textLog = join(backends.run.path, "text-access.log");
const lines = await openGateway(backends, {
  edit: ({ static_resources: { listeners } }) => {
    const [file] = listeners[0].filter_chains[0].filters[0].typed_config.access_log;
    const inline_string = "%RESPONSE_CODE% %FILTER_STATE(wasm.x402_outcome:PLAIN)% reason=%FILTER_STATE(wasm.x402_reason:PLAIN)%\n";
    file.typed_config = { "@type": file.typed_config["@type"], path: textLog, log_format: { text_format_source: { inline_string } } };
  },
});

const withHeader = (value) => ask(gateway, "/weather", { headers: { "payment-signature": value } });

/** What holds of every malformed payment: 400, a JSON error, and nobody hears of it. */
async function assertMalformed(cases) {
  const mark = await since(gateway);
  for (const [what, value] of Object.entries(cases)) {
    const answer = await withHeader(value).catch((error) => assert.fail(`${what}: ${error.message}`));
    assert.equal(answer.status, 400, `${what}: ${answer.status} ${answer.text}`);
    assertNoTerms(answer, 400);
  }
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
}

afterEach(async () => {
  assert.equal((await ask(gateway, "/healthz")).status, 200);
  assert.equal((await ask(gateway, "/weather")).status, 402);
  await assertAlive(gateway);
});

test("What is not standard base64 is malformed", async () => {
  const honest = encoded(await paymentFor(gateway, "/weather"));
  await assertMalformed({
    "not base64": "!!!notbase64",
    "base64url": encoded(`{"x":"${"\xfb\xff\xbe?>".repeat(4)}"}`).replaceAll("+", "-").replaceAll("/", "_"),
    "a character too many": `${honest}=`,
    "a group of one": "e",
    "white space inside": `${honest.slice(0, 40)} ${honest.slice(40)}`,
    "a list": `${honest},${honest}`,
    "a list with a blank": `${honest}, e30=`,
    "quotes": `"${honest}"`,
    "a scheme before it": `x402 ${honest}`,
    "the JSON itself": JSON.stringify({ x402Version: 2 }),
    "percent encoding": encodeURIComponent(honest),
    "bits behind the end": "e31=",
    "only padding": "====",
  });
});

test("What is not JSON of the right shape is malformed", async () => {
  await assertMalformed({
    "nothing": encoded(" "),
    "a word": encoded("payment"),
    "null": encoded("null"),
    "a number": encoded("402"),
    "a list": encoded("[]"),
    "an empty object": encoded("{}"),
    "a text of JSON": encoded(JSON.stringify(JSON.stringify({ x402Version: 2 }))),
    "half of it": encoded('{"x402Version":2,"accepted":{'),
    "two of it": encoded("{}{}"),
    "text behind it": encoded(`${JSON.stringify(await paymentFor(gateway, "/weather"))} and more`),
    "bytes that are no text": Buffer.from([0x7b, 0xff, 0xfe, 0x7d]).toString("base64"),
    "zeros": Buffer.alloc(300).toString("base64"),
    "a comment": encoded("/* */ {}"),
    "single quotes": encoded("{'x402Version':2}"),
  });
});

test("A header without a value is malformed", async () => {
  for (const value of ["", " ", "\t"]) {
    const answer = await withHeader(value);
    assert.ok([400, 402].includes(answer.status), `${answer.status}`);
    assert.equal(typeof answer.json().error, "string");
  }
});

test("A key that stands twice is malformed, in whatever spelling", async () => {
  const json = JSON.stringify(await paymentFor(gateway, "/weather"));
  const twice = (key, value, again = key) => encoded(json.replace(`"${key}":`, `"${again}":${JSON.stringify(value)},"${key}":`));
  await assertMalformed({
    "version": twice("x402Version", 2),
    "payload": twice("payload", {}),
    "authorization": twice("authorization", {}),
    "signature": twice("signature", "0x"),
    "from": twice("from", "0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
    "to": twice("to", "0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
    "value": twice("value", "1"),
    "the same value": twice("value", "1000"),
    "nonce": twice("nonce", `0x${"ab".repeat(32)}`),
    "valid before": twice("validBefore", "1"),
    "nonce, escaped": twice("nonce", `0x${"ab".repeat(32)}`, "\\u006eonce"),
    "accepted": twice("accepted", {}),
    "amount": twice("amount", "1"),
    "pay to": twice("payTo", "0x90F79bf6EB2c4f870365E785982E1f101E93b906"),
    "network": twice("network", "eip155:1"),
    "extra": twice("extra", {}),
    "the token's name": twice("name", "USDC"),
  });
});

test("A value of another type is malformed", async () => {
  const payment = await paymentFor(gateway, "/weather");
  const { accepted } = payment;
  const of = (changes) => encoded({ ...payment, ...changes });
  await assertMalformed({
    "a number for the amount": of({ accepted: { ...accepted, amount: 1000 } }),
    "a text for the lifetime": of({ accepted: { ...accepted, maxTimeoutSeconds: "300" } }),
    "a fraction for the lifetime": of({ accepted: { ...accepted, maxTimeoutSeconds: 300.5 } }),
    "a list for the entry": of({ accepted: [accepted] }),
    "an index for the entry": of({ accepted: 0 }),
    "the fields of the whole in a row": encoded([2, accepted, payment.payload]),
    "the fields of the entry in a row": of({ accepted: Object.values(accepted) }),
    "the fields of the payload in a row": of({ payload: Object.values(payment.payload) }),
    "the fields of the authorization in a row": of({
      payload: { ...payment.payload, authorization: Object.values(payment.payload.authorization) },
    }),
    "the fields of extra in a row": of({ accepted: { ...accepted, extra: Object.values(accepted.extra) } }),
    "a list for the network": of({ accepted: { ...accepted, network: [accepted.network] } }),
    "a text for extra": of({ accepted: { ...accepted, extra: "USDC" } }),
    "a text for the version": of({ x402Version: "2" }),
    "a fraction for the version": encoded(JSON.stringify(payment).replace('"x402Version":2', '"x402Version":2.5')),
    "an endless version": encoded(JSON.stringify(payment).replace('"x402Version":2', '"x402Version":1e999')),
    "half a character": encoded(JSON.stringify(payment).replace('"nonce":"0x', '"nonce":"\\ud800')),
    "a text for the payload": of({ payload: encoded(payment.payload) }),
    "true for the authorization": of({ payload: { ...payment.payload, authorization: true } }),
  });
});

test("Deeply nested JSON is answered like any other nonsense", async () => {
  const depth = 11_000; // As deep as the limit on the header's length allows.
  const deep = "[".repeat(depth) + "]".repeat(depth);
  await assertMalformed({
    "lists": encoded(deep),
    "lists without an end": encoded("[".repeat(2 * depth)),
    "objects without an end": encoded('{"a":'.repeat(depth / 3)),
    "payload": encoded(`{"x402Version":2,"payload":${deep}}`),
    "accepted": encoded(`{"x402Version":2,"accepted":${deep}}`),
  });
  // Where the gateway has no interest in what is nested, the payment may pass.
  const json = JSON.stringify(await paymentFor(gateway, "/weather"));
  const nested = "[".repeat(depth - 1000) + "]".repeat(depth - 1000);
  const answer = await withHeader(encoded(json.replace(/\}$/, `,"extensions":${nested}}`)));
  assert.ok([200, 400].includes(answer.status), `${answer.status}: ${answer.text}`);
});

test("A header beyond all measure is refused", async () => {
  await assertMalformed({
    "33 KB": "A".repeat(33 * 1024),
    "59 KB": "A".repeat(59 * 1024),
    "59 KB of JSON": encoded(JSON.stringify({ x402Version: 2, padding: "x".repeat(43 * 1024) })),
  });
  const answer = await withHeader("A".repeat(61 * 1024)); // Envoy's own limit is 60 KiB for all headers.
  assert.equal(answer.status, 431);
  const mark = await since(gateway);
  for (const size of [10, 20, 40]) {
    const padded = { ...(await paymentFor(gateway, "/weather")), extensions: { padding: "x".repeat(size * 1024) } };
    const answer = await pay(gateway, "/weather", padded);
    if (size < 20) assertServed(answer);
    else if (answer.status !== 200) assertNoTerms(answer, 400);
  }
  assert.ok(mark.seen().length >= 1);
});

test("One payment under both headers is one, and a byte order mark before it is nothing", async () => {
  const payment = await paymentFor(gateway, "/weather");
  const [plain, marked] = [encoded(JSON.stringify(payment)), encoded(`\ufeff${JSON.stringify(payment)}`)];
  const twice = (first, second) => ask(gateway, "/weather", { headers: [["payment-signature", first], ["x-payment", second]] });
  assertServed(await twice(plain, plain));
  assertTerms(await twice(plain, plain), "invalid_exact_evm_nonce_already_used");
  assertTerms(await withHeader(marked), "invalid_exact_evm_nonce_already_used");
});

test("More than one payment is malformed, whether or not they are the same", async () => {
  const mark = await since(gateway);
  const [one, two] = [encoded(await paymentFor(gateway, "/weather")), encoded(await paymentFor(gateway, "/weather"))];
  for (const headers of [
    [["payment-signature", one], ["payment-signature", one]],
    [["payment-signature", one], ["PAYMENT-SIGNATURE", two]],
    [["payment-signature", ""], ["payment-signature", two]],
    [["payment-signature", one], ["payment-signature", ""]],
    [["payment-signature", one], ["x-payment", two]],
    [["x-payment", one], ["payment-signature", two]],
    [["payment-signature", one], ["x-payment", ""]],
    [["payment-signature", one], ["accept", "*/*"], ["payment-signature", "!"], ["x-payment", two]],
  ]) {
    assertNoTerms(await ask(gateway, "/weather", { headers }), 400);
  }
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
});

test("A payment under a name that only looks like the header's is none, and reaches nobody", async () => {
  const [value, mark] = [encoded(await paymentFor(gateway, "/weather")), await since(gateway)];
  for (const name of ["payment_signature", "x-payment-signature", "payment-signature-", "x402-payment", "authorization"]) {
    assertTerms(await ask(gateway, "/weather", { headers: { [name]: value } }), "Payment required");
  }
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
});

test("A malformed payment of version 1 is answered, and buys nothing", async () => {
  const mark = await since(gateway);
  for (const value of ["!!!", "e30=", "", encoded({ x402Version: 1, scheme: "exact", network: "base-sepolia", payload: {} }), "\xff"]) {
    const answer = await ask(gateway, "/weather", { headers: { "x-payment": value } });
    assert.ok([400, 402].includes(answer.status), `${answer.status}`);
    assert.equal(typeof answer.json().error, "string");
  }
  const twice = await ask(gateway, "/weather", { headers: [["x-payment", "e30="], ["x-payment", "e30="]] });
  assert.ok([400, 402].includes(twice.status));
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
});

test("Bytes that are no text are answered in the payment's header", async () => {
  await assertMalformed({ "one byte": "\xff", "two bytes": "\xc3\x28", "among others": "e3\x80\xff0=", "Latin-1": "é".repeat(99) });
});

test("Bytes that are no text pass in headers that are nobody's business", async () => {
  const junk = [["x-junk", "\xff\xfe\x80"], ["cookie", "a=\xc0\xaf"], ["user-agent", "\xf0\x28\x8c\x28"], ["referer", "\xed\xa0\x80"]];
  assert.equal((await ask(gateway, "/healthz", { headers: junk })).status, 200);
  assertTerms(await ask(gateway, "/weather", { headers: junk }), "Payment required");
  for (const target of ["/any/x", "/upfront/x"]) {
    const payment = await paymentFor(gateway, target);
    assertServed(await pay(gateway, target, payment, { headers: { "x-junk": "\xff\xfe\x80", cookie: "a=\xc0\xaf" } }));
  }
});

test("Bytes that are no text in headers that the filter reads are no crash", async () => {
  for (const headers of [
    { "x-forwarded-proto": "\xff" },
    { origin: "\xff", "access-control-request-method": "\xff" },
    { "x-x402-payer": "\xff", "x-original-url": "\xff", "x-http-method-override": "\xff\x80" },
    { "x-x402-\x80": "1" },
    { "x-request-id": "\xff" },
  ]) {
    for (const [target, method] of [["/weather", "GET"], ["/healthz", "GET"], ["/any/x", "OPTIONS"]]) {
      const answer = await ask(gateway, target, { method, headers });
      assert.ok([200, 400, 402].includes(answer.status), `${answer.status}`);
      if (target === "/weather") assert.notEqual(answer.status, 200);
    }
  }
});

test("Bytes that are no text in the path or the host sell nothing", async () => {
  const mark = await since(gateway);
  for (const target of ["/weather\xff", "/\xff", "/weather?q=\xff", "/any/\xc3\x28", "/any/\x80?\xff", "/upfront/\xed\xa0\x80"]) {
    const answer = await ask(gateway, target);
    assert.ok([400, 402].includes(answer.status), `${JSON.stringify(target)}: ${answer.status}`);
    if (answer.status === 402) assert.equal(answer.terms.x402Version, 2);
  }
  for (const host of ["\xff", "a\xffb", "ex\xe4mple.com", ""]) {
    const answer = await ask(gateway, "/weather", { host });
    assert.ok([400, 402].includes(answer.status), `${JSON.stringify(host)}: ${answer.status}`);
  }
  assert.deepEqual(mark.seen(), []);
});

test("Bytes that are no text in the upstream's headers come through, and the money moves", async () => {
  for (const target of ["/any/x", "/upfront/x"]) {
    const payment = await paymentFor(gateway, target);
    const answer = await withUpstream(
      gateway,
      (_, response) => {
        response.socket.end(
          Buffer.from("HTTP/1.1 200 OK\r\ncache-control: \xff\r\nx-junk: \xfe\x80\r\ncontent-length: 2\r\n\r\nok", "latin1"),
        );
      },
      () => pay(gateway, target, payment),
    );
    assertServed(answer);
    assert.equal(answer.text, "ok");
    assert.equal(answer.get("x-junk"), "\xfe\x80");
  }
});

test("What is no HTTP at all is Envoy's to refuse, and no crash", async () => {
  for (const bytes of [
    "GET /weather\r\n\r\n",
    "GET /weather HTTP/1.1\r\n\r\n",
    "GET /weather HTTP/9.9\r\nhost: a\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00",
    "GET /weather HTTP/1.1\r\nhost: a\r\npayment-signature\xff: e30=\r\n\r\n",
    "GET /weather HTTP/1.1\r\nhost: a\r\npayment-signature: e3\x0030=\r\n\r\n",
    "GET /weather HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
  ]) {
    const { socket, answer } = sendBytes(gateway.port, bytes);
    socket.end();
    const status = await answer.then(({ status }) => status, () => "closed");
    assert.ok([400, 402, 426, 505, "closed"].includes(status), `${JSON.stringify(bytes)}: ${status}`);
  }
});

test("Many connections that send nonsense at once leave the filter as it was", async () => {
  const values = ["\xff", "!", "e30=", encoded("[".repeat(9000)), "A".repeat(40_000), encoded({ x402Version: 2, accepted: {}, payload: {} })];
  const answers = await Promise.all(Array.from({ length: 60 }, (_, i) => withHeader(values[i % values.length])));
  for (const answer of answers) assertNoTerms(answer, 400);
  assertServed(await pay(gateway, "/weather", await paymentFor(gateway, "/weather")));
});

test("What a client writes into its payment forges no line of a log", async () => {
  const honest = await paymentFor(lines, "/weather");
  const forged = "a\r\n200 served reason=\u001b[2K\u0085\u2028\u202e\u200b\u007f";
  for (const change of [
    (payment) => (payment.payload.authorization.nonce = forged),
    (payment) => (payment.payload.authorization.value = { [forged]: 1 }),
    (payment) => (payment.payload.signature = [forged]),
  ]) {
    const payment = structuredClone(honest);
    change(payment);
    assert.equal((await pay(lines, "/weather", payment)).status, 400);
  }
  const seen = () => readFileSync(textLog, "utf8").split("\n").filter((line) => line.startsWith("400"));
  await eventually(() => seen().length === 3, "the access log");
  const log = readFileSync(textLog, "utf8");
  assert.doesNotMatch(log, /^200 served/m);
  assert.doesNotMatch(log, /(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
  assert.match(log, /^400 malformed reason=PAYMENT-SIGNATURE: .*a(\\u\{d\}\\u\{a\}|\\r\\n)200 served/m);
  const own = lines.envoy.logs().split("\n").filter((line) => line.includes("outcome=malformed"));
  assert.equal(own.length, 3);
});
