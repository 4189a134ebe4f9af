/** Requests without a payment: the terms that both generations of clients get, in the official packages' shape. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { test } from "node:test";
import { assertOwnAnswer, ask, openGateway, openBackends, pluginOf, recorded, since, UPFRONT, WEATHER } from "./support.mjs";

const backends = await openBackends();
const gateway = await openGateway(backends);

const official = recorded("v2-exact-eip3009").client_to_server[0].response.decoded["PAYMENT-REQUIRED"];
const officialV1 = recorded("v1-exact").client_to_server[0].response.body;
const officialUpfront = recorded("v2-exact-upfront").client_to_server[0].response.decoded["PAYMENT-REQUIRED"];

test("An unpaid request gets the terms of version 2 to the letter as the official server writes them", async () => {
  const mark = await since(gateway);
  const answer = await ask(gateway, "/weather");
  assertOwnAnswer(answer, 402);
  const url = `${gateway.url}/weather`;
  const expected = { ...official, resource: { ...official.resource, url } };
  // The order of the keys too: this text is what clients have been tested with.
  assert.equal(JSON.stringify(answer.terms), JSON.stringify(expected));
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
});

test("The body of the same answer holds the terms of version 1", async () => {
  const answer = await ask(gateway, "/weather");
  const { outputSchema: _, ...entry } = officialV1.accepts[0];
  assert.deepEqual(answer.json(), {
    x402Version: 1,
    error: "X-PAYMENT header is required",
    accepts: [{ ...entry, resource: `${gateway.url}/weather`, maxTimeoutSeconds: 300 }],
  });
  for (const [key, type] of Object.entries({ maxAmountRequired: "string", maxTimeoutSeconds: "number", payTo: "string" })) {
    assert.equal(typeof answer.json().accepts[0][key], type, key);
  }
});

test("No intermediary may store the terms, and scripts of other origins may read them", async () => {
  const answer = await ask(gateway, "/weather", { headers: { origin: "https://app.example" } });
  assert.equal(answer.get("cache-control"), "no-store");
  assert.deepEqual(answer.get("access-control-expose-headers").split(/,\s*/), [
    "PAYMENT-REQUIRED",
    "PAYMENT-RESPONSE",
    "X-PAYMENT-RESPONSE",
  ]);
});

test("HEAD gets the headers of the terms and no body", async () => {
  const mark = await since(gateway);
  const [head, get] = [await ask(gateway, "/weather", { method: "HEAD" }), await ask(gateway, "/weather")];
  assert.equal(head.status, 402);
  assert.deepEqual(head.terms, get.terms);
  assert.equal(head.get("cache-control"), "no-store");
  assert.equal(head.get("content-length"), String(get.bytes.length));
  assert.deepEqual(mark.seen(), []);

  // Two on one connection: a body behind the first head would be taken for the second.
  const both = connect({ port: gateway.port, host: "127.0.0.1" });
  both.write("HEAD /weather HTTP/1.1\r\nhost: a\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
  let text = "";
  for await (const chunk of both) {
    text += chunk.toString("latin1");
    if (text.includes('"status":"ok"')) break;
  }
  assert.match(text, /^HTTP\/1\.1 402 [^]*?\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
});

test("A route that is paid upfront says so in extra, as the official server does", async () => {
  const { accepts } = (await ask(gateway, "/upfront/x")).terms;
  assert.deepEqual(accepts[0].extra, officialUpfront.accepts[0].extra);
  assert.deepEqual((await ask(gateway, "/upfront/x")).json().accepts[0].extra, officialUpfront.accepts[0].extra);
});

test("The URL of the resource is the one that the client used, with host and query", async () => {
  for (const [host, target] of [
    ["api.example.com", "/weather?city=Lisbon&unit=C"],
    ["API.example.com:8443", "/weather?q=%22%3E%3Cscript%3E"],
    ["api.example.com", "/Weather/"],
  ]) {
    const answer = await ask(gateway, target, { host });
    assertOwnAnswer(answer, 402);
    assert.equal(answer.terms.resource.url, `http://${host}${target}`);
    assert.equal(answer.json().accepts[0].resource, `http://${host}${target}`);
  }
});

test("At the edge a client's own x-forwarded-proto is not believed", async () => {
  const answer = await ask(gateway, "/weather", { headers: { "x-forwarded-proto": "https" } });
  assert.equal(answer.terms.resource.url, `${gateway.url}/weather`);
});

test("Behind a TLS proxy the URL of the resource begins with https", async () => {
  const inner = await openGateway(backends, {
    edit: ({ static_resources: { listeners } }) => {
      listeners[0].filter_chains[0].filters[0].typed_config.use_remote_address = false;
    },
  });
  const of = async (proto) => (await ask(inner, "/weather", { headers: { "x-forwarded-proto": proto } })).terms.resource.url;
  assert.equal(await of("https"), `https://127.0.0.1:${inner.port}/weather`);
  assert.equal(await of("http"), `http://127.0.0.1:${inner.port}/weather`);
  assert.match(await of("javascript"), /^https?:\/\/127\.0\.0\.1/);
});

test("A body sent along with an unpaid request reaches nobody, and the connection survives", async () => {
  const mark = await since(gateway);
  const body = Buffer.alloc(256 * 1024, "x");
  const answer = await ask(gateway, "/any/upload", { method: "POST", body });
  assertOwnAnswer(answer, 402);
  assert.deepEqual(mark.seen(), []);
  // Two requests on one connection: the first with a small body, which the gateway has to get out of the way.
  const first = await fetch(`${gateway.url}/any/a`, { method: "POST", body: "small" });
  assert.equal(first.status, 402);
  await first.text();
  const second = await fetch(`${gateway.url}/healthz`);
  assert.equal(second.status, 200);
  await second.text();
});

test("What is free stays free, and what is not matched is refused where the configuration says so", async () => {
  assert.equal((await ask(gateway, "/healthz")).status, 200);
  const strict = await openGateway(backends, {
    plugin: pluginOf({ routes: [WEATHER, UPFRONT, { match: { path: "/healthz" }, free: true }], unmatched: "deny" }),
  });
  const mark = await since(strict);
  assert.equal((await ask(strict, "/healthz")).status, 200);
  assert.equal((await ask(strict, "/weather")).status, 402);
  for (const [target, method] of [["/other", "GET"], ["/weather", "POST"], ["/healthz/x", "GET"], ["/Healthz", "GET"], ["/", "GET"]]) {
    const refused = await ask(strict, target, { method });
    assertOwnAnswer(refused, 403);
    assert.equal(typeof refused.json().error, "string");
    assert.equal(refused.terms, null);
  }
  assert.deepEqual(mark.seen().map(({ path }) => path), ["/healthz"]);
});
