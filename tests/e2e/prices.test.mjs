/**
 * Prices and recipients that the filter does not know itself: model and limits from Envoy's own json_to_metadata filter,
 * prices from a service of the operator's, recipients from metadata. All without `allow_on_headers_stop_iteration`.
 */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { ask, assertNoTerms, assertServed, assertTerms, DEFAULTS, openGateway, openBackends, paying, signPayment } from "./support.mjs";

const NO_MATCH = "No matching payment requirements";
const JSON_TYPE = { "content-type": "application/json" };

/** A service of the operator's that knows prices: as many questions as it was asked, and the answer that it gives. */
const prices = { asked: [], status: 200, headers: {}, answer: { price: "$0.05" } };
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  prices.asked.push({ url: request.url, key: request.headers["x-key"], body: JSON.parse(Buffer.concat(chunks)) });
  response.writeHead(prices.status, { ...JSON_TYPE, ...prices.headers }).end(JSON.stringify(prices.answer));
});
server.keepAliveTimeout = 0;
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const backends = await openBackends();
backends.atEnd(async () => {
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeAllConnections();
  await closed;
});

const models = { "fake-echo-1": { input: "$2.50", output: "$10.00" } };
const quote = { cluster: "prices", url: `http://127.0.0.1:${server.address().port}/v1/quote`, headers: { "x-key": "secret" } };
const by = "x402.body";
const rule = (key) => ({ selectors: [{ key }], on_present: { metadata_namespace: by, key } });

/** Puts Envoy's own filters in front of ours. */
function withFilters(bootstrap) {
  const filters = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters;
  filters.unshift(
    {
      name: "json_to_metadata",
      typed_config: {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata",
        request_rules: { rules: ["model", "max_tokens", "n"].map(rule) },
      },
    },
    {
      name: "header_to_metadata",
      typed_config: {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        request_rules: [{ header: "x-mesh-pay-to", on_header_present: { metadata_namespace: "mesh", key: "pay_to" }, remove: true }],
      },
    },
  );
}

const gateway = await openGateway(backends, {
  facilitator: "fake",
  plugin: {
    defaults: DEFAULTS,
    routes: [
      { match: { path: "/v1/chat/completions" }, price: { usage: "openai", models, max_output_tokens: 100, metadata: by } },
      { match: { path: "/quoted/{*rest}" }, price: { quote } },
      { match: { path: "/mesh" }, price: "$0.001", pay_to: { metadata: { namespace: "mesh", key: "pay_to" } } },
    ],
    unmatched: "free",
  },
  clusters: { prices: server.address().port },
  edit: withFilters,
});

const chat = (text, headers = {}) =>
  ask(gateway, "/v1/chat/completions", { method: "POST", body: text, headers: { ...JSON_TYPE, ...headers } });

test("Without reading the body itself, the filter prices it by Envoy's metadata", async () => {
  const body = (more) => JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "Hello" }], ...more });
  for (const [more, output] of [[{}, 100], [{ max_tokens: 10 }, 10], [{ max_tokens: 10, n: 3 }, 30]]) {
    const text = body(more);
    const { terms } = await chat(text);
    assert.equal(terms.accepts[0].amount, String(Math.ceil(text.length * 2.5 + output * 10)));
  }
  const [small, large] = [body({ max_tokens: 10 }), body({ max_tokens: 1000 })];
  const payment = await signPayment((await chat(small)).terms.accepts[0]);
  assertTerms(await chat(large, paying(payment)), NO_MATCH);
  const answer = await chat(small, paying(payment));
  assertServed(answer);
  assert.equal(answer.json().choices[0].message.content, "You said: Hello");
});

test("What Envoy did not find in the body has no price", async () => {
  for (const [text, error] of [["{}", /names no model/], ["no JSON", /names no model/], ['{"model":"gpt-5"}', /has no price here/]]) {
    const answer = await chat(text);
    assertNoTerms(answer, 400);
    assert.match(answer.json().error, error);
  }
});

test("The operator's own service names the price, for as long as it says", async () => {
  prices.answer = { price: "$0.05" };
  const { terms } = await ask(gateway, "/quoted/a?b=c");
  assert.equal(terms.accepts[0].amount, "50000");
  assert.deepEqual(prices.asked.at(-1), { url: "/v1/quote", key: "secret", body: { method: "GET", path: "/quoted/a?b=c" } });
  const payment = await signPayment(terms.accepts[0]);
  assertServed(await ask(gateway, "/quoted/a?b=c", { headers: paying(payment) }));
  assert.equal(prices.asked.length, 2, "it is asked each time");

  prices.headers = { "cache-control": "max-age=60" };
  prices.answer = { amount: "700" };
  for (let i = 0; i < 3; i++) assert.equal((await ask(gateway, "/quoted/cached")).terms.accepts[0].amount, "700");
  assert.equal(prices.asked.length, 3, "and once where it says how long that holds");
  assert.equal((await ask(gateway, "/quoted/other")).terms.accepts[0].amount, "700");
  assert.equal(prices.asked.length, 4, "for the same question");
  prices.headers = {};
});

test("A service that names no price sells nothing", async () => {
  for (const [status, answer] of [[500, { amount: "1" }], [200, {}], [200, { amount: 1 }], [200, { amount: "0" }], [302, { amount: "1" }]]) {
    Object.assign(prices, { status, answer });
    const reply = await ask(gateway, "/quoted/none");
    assertNoTerms(reply, 503);
    assert.match(reply.get("retry-after"), /^\d+$/);
  }
  Object.assign(prices, { status: 200, answer: { price: "$0.05" } });
});

test("The mesh says who is paid, and only the mesh", async () => {
  const to = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65";
  const headers = { "x-mesh-pay-to": to };
  const { terms } = await ask(gateway, "/mesh", { headers });
  assert.equal(terms.accepts[0].payTo, to);
  const payment = await signPayment(terms.accepts[0]);
  assertServed(await ask(gateway, "/mesh", { headers: { ...headers, ...paying(payment) } }));
  assertNoTerms(await ask(gateway, "/mesh"), 503);
  assertNoTerms(await ask(gateway, "/mesh", { headers: { "x-mesh-pay-to": "nobody" } }), 503);
});
