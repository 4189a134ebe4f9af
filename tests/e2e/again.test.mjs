/**
 * Requests that come by more than once: begun anew by the proxy itself, shown to two instances of the filter, or sent again
 * by a client that did not wait for what it had paid for.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ask,
  assertNoTerms,
  assertServed,
  eventually,
  headerSeen,
  latch,
  openGateway,
  openBackends,
  pay,
  paying,
  paymentFor,
  pluginOf,
  send,
  since,
  UPFRONT,
  withUpstream,
} from "./support.mjs";

const AFTER = { name: "after", match: { path: "/after/{*rest}" }, price: "$0.002" };
const JOINT = { name: "joint", match: { path: "/joint/{*rest}" }, price: "$0.002", settle: "concurrent" };
const ROUTES = [UPFRONT, AFTER, JOINT];

const backends = await openBackends();
const managerOf = ({ static_resources: { listeners } }) => listeners[0].filter_chains[0].filters[0].typed_config;

const SAID = ["id", "payer", "network", "amount", "transaction"].map((name) => `x-x402-${name}`);

// The proxy follows redirects of the upstream by itself, and shows it nothing of what the filter says.
const redirecting = await openGateway(backends, {
  plugin: pluginOf({ routes: ROUTES }),
  edit(bootstrap) {
    const { route_config: table } = managerOf(bootstrap);
    table.request_headers_to_remove = SAID;
    for (const { routes } of table.virtual_hosts) {
      for (const { route } of routes) {
        if (route) route.internal_redirect_policy = { max_internal_redirects: 3, redirect_response_codes: [302, 307], allow_cross_scheme_redirect: true };
      }
    }
  },
});

const twice = await openGateway(backends, {
  plugin: pluginOf({ routes: ROUTES }),
  edit(bootstrap) {
    const { http_filters: filters } = managerOf(bootstrap);
    const own = filters.findIndex(({ typed_config: { "@type": type } }) => type.endsWith("wasm.v3.Wasm"));
    filters.splice(own, 0, { ...filters[own], name: "x402-once-more" });
  },
});

const plain = await openGateway(backends, { plugin: pluginOf({ routes: ROUTES }) });

/** An upstream that sends whoever asks for a priced path elsewhere. */
const elsewhere = (location) => (request, response) => {
  if (request.url === location) return void response.writeHead(200).end("THE GOODS");
  response.writeHead(302, { location: `http://${request.headers.host}${location}` }).end();
};

for (const location of ["/free/goods", "/after/goods"]) {
  for (const [path, mayMove] of [["/after/x", 0], ["/upfront/x", 1], ["/joint/x", 1]]) {
    test(`A redirect inside the proxy, of ${path} to ${location}, gets neither goods nor terms, and the log says so`, async () => {
      const [payment, mark] = [await paymentFor(redirecting, path), await since(redirecting)];
      const answer = await withUpstream(redirecting, elsewhere(location), () => pay(redirecting, path, payment));
      assertNoTerms(answer, 502);
      assert.match(answer.json().error, /redirected/);
      assert.ok((await mark.transfers()).length <= mayMove);
      await eventually(() => redirecting.envoy.logs().includes(`route=${path.split("/")[1]} outcome=redirected`), "the log tells of it");
      // What may have moved is not lost.
      await eventually(async () => (await pay(redirecting, path, payment)).status === 200, "the same payment is served without the redirect");
      assert.equal((await mark.transfers()).length, 1);
    });
  }
}

test("A redirect of what is free is followed, and one to what is priced is asked to pay", async () => {
  const followed = await withUpstream(redirecting, elsewhere("/free/goods"), () => ask(redirecting, "/free/x"));
  assert.equal(followed.text, "THE GOODS");
  const asked = await withUpstream(redirecting, elsewhere("/after/goods"), () => ask(redirecting, "/free/x"));
  assert.equal(asked.status, 402);
});

test("A client cannot say that it has come by before", async () => {
  const headers = { "x-envoy-original-url": "http://h/after/x", "x-x402-id": "00", "x-x402-passed-here": "after" };
  assert.equal((await ask(plain, "/after/x", { headers })).status, 402);
  assert.equal((await ask(plain, "/free/x", { headers })).status, 200);
});

for (const path of ["/after/x", "/upfront/x", "/joint/x"]) {
  test(`Two instances of the filter in one chain charge once for ${path}`, async () => {
    const [payment, mark] = [await paymentFor(twice, path), await since(twice)];
    assertServed(await pay(twice, path, payment));
    assert.equal((await mark.transfers()).length, 1);
    const [seen] = mark.seen();
    assert.equal(headerSeen(seen, "x-x402-payer").length, 1, "the second has not taken away what the first said");
    const again = await pay(twice, path, payment);
    assert.equal(again.status, 402);
    assert.equal(mark.seen().length, 1);
  });
}

test("The upstream hears the same name of a payment at every try, and a settled payment has no more than so many", async () => {
  const [payment, mark] = [await paymentFor(plain, "/upfront/x"), await since(plain)];
  const { opened: never } = latch();
  const silent = (_, response) => void never.then(() => response.end());
  await withUpstream(plain, silent, async () => {
    // The first settles, and three redeem what it was settled for.
    for (let tries = 1; tries <= 4; tries++) {
      const { socket } = send(plain, "/upfront/x", { headers: paying(payment) });
      await eventually(() => mark.seen().length === tries, `the upstream hears try ${tries}`);
      socket.destroy();
      await eventually(() => plain.envoy.logs().split("outcome=abandoned").length === tries + 1, `try ${tries} is abandoned`);
    }
  });
  const ids = mark.seen().map((seen) => headerSeen(seen, "x-x402-id"));
  assert.match(ids[0][0], /^[0-9a-f]{64}$/);
  assert.deepEqual(ids, Array(4).fill(ids[0]));
  const answer = await pay(plain, "/upfront/x", payment);
  assertNoTerms(answer, 409);
  assert.equal(mark.seen().length, 4, "the upstream does not work for it any more");
  assert.equal((await mark.transfers()).length, 1);
});

test("An upstream that fails uses up no redemption", async () => {
  const payment = await paymentFor(plain, "/upfront/y");
  const failing = (_, response) => void response.writeHead(503).end();
  await withUpstream(plain, failing, async () => {
    for (let tries = 0; tries < 6; tries++) assert.equal((await pay(plain, "/upfront/y", payment)).status, 503);
  });
  assertServed(await pay(plain, "/upfront/y", payment));
});

test("A redirect inside the proxy uses up no redemption", async () => {
  const payment = await paymentFor(redirecting, "/upfront/z");
  await withUpstream(redirecting, elsewhere("/free/goods"), async () => {
    for (let tries = 0; tries < 6; tries++) assertNoTerms(await pay(redirecting, "/upfront/z", payment), 502);
  });
  assertServed(await pay(redirecting, "/upfront/z", payment));
});

test("A client that leaves before anything has moved, and a request that is served, stand in the log with their names", async () => {
  const payment = await paymentFor(plain, "/after/left");
  const mark = await since(plain);
  const { opened: never } = latch();
  await withUpstream(plain, (_, response) => void never.then(() => response.end()), async () => {
    const { socket } = send(plain, "/after/left", { headers: { ...paying(payment), "x-request-id": "who-left" } });
    await eventually(() => mark.seen().length === 1, "the upstream hears of it");
    socket.destroy();
    const isTold = (line) => line.includes("route=after outcome=left") && line.includes("request_id=");
    await eventually(() => plain.envoy.logs().split("\n").some(isTold), "the log tells who left");
  });
  assertServed(await pay(plain, "/after/left", payment));
  const isServed = (line) => line.includes("route=after outcome=served") && /request_id="[^"]+"/.test(line);
  await eventually(() => plain.envoy.logs().split("\n").some(isServed), "the log tells what was served");
});
