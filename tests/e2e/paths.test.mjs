/**
 * Attempts to reach what is for sale without paying, by path, host, method or header. The upstream must not hear of a
 * request that it could take for a priced one; what is free must still pass.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  ask,
  assertOwnAnswer,
  assertServed,
  headerSeen,
  openGateway,
  openHttp2,
  openBackends,
  pay,
  paymentFor,
  pluginOf,
  sendBytes,
  since,
} from "./support.mjs";

const backends = await openBackends();

const gateway = await openGateway(backends, {
  plugin: pluginOf({
    routes: [
      { name: "today", match: { path: "/weather/today" }, price: "$0.001" },
      { name: "read", match: { methods: ["GET"], path: "/read" }, price: "$0.001" },
      { name: "write", match: { methods: ["POST"], path: "/write" }, price: "$0.001" },
      { name: "user", match: { path: "/users/{id}" }, price: "$0.001" },
      { name: "files", match: { path: "/files/{*rest}" }, price: "$0.001" },
      { name: "umlaut", match: { path: "/Straßen/Übersicht" }, price: "$0.001" },
      { match: { path: "/projects/{*rest}" }, free: true },
      { match: { path: "/healthz" }, free: true },
    ],
  }),
});

// All but the documentation is for sale.
const shop = await openGateway(backends, {
  plugin: pluginOf({
    routes: [
      { match: { path: "/docs/{*rest}" }, free: true },
      { name: "cheap", match: { path: "/cheap/{*rest}" }, price: "$0.001" },
      { name: "dear", match: { path: "/dear" }, price: "$1" },
      { name: "rest", match: { path: "/{*rest}" }, price: "$0.01" },
    ],
  }),
});

const hosted = await openGateway(backends, {
  plugin: pluginOf({
    routes: [
      { name: "api", match: { hosts: ["api.example.com", "*.models.example.com"], path: "/weather/today" }, price: "$0.001" },
    ],
  }),
});

const deny = await openGateway(backends, {
  plugin: pluginOf({
    routes: [{ name: "read", match: { methods: ["GET"], path: "/read" }, price: "$0.001" }, { match: { path: "/healthz" }, free: true }],
    unmatched: "deny",
  }),
});

/** Sends each target; the answer's status must be among those expected, and the upstream hears of none. */
async function sellsNothing(at, targets, statuses, options) {
  const mark = await since(at);
  for (const target of targets) {
    const answer = await ask(at, target, options).catch((error) => assert.fail(`${JSON.stringify(target)}: ${error.message}`));
    assert.deepEqual(mark.seen(), [], `${JSON.stringify(target)} reached the upstream`);
    assert.ok(statuses.includes(answer.status), `${JSON.stringify(target)}: ${answer.status} ${answer.text}`);
    if (answer.status === 402) assert.equal(answer.terms.accepts.length, 1);
  }
}

/** Sends each target; each must reach the upstream as it is. */
async function passes(at, targets, options = {}) {
  const mark = await since(at);
  for (const target of targets) {
    const answer = await ask(at, target, options);
    assert.equal(answer.status, 200, `${JSON.stringify(target)}: ${answer.status} ${answer.text}`);
  }
  assert.deepEqual(mark.seen().map(({ path }) => path), targets);
  assert.deepEqual(mark.calls(), []);
}

// ---- Paths --------------------------------------------------------------------------------------------------------

const LENIENT = [
  "/weather/today",
  "/weather/today?q=1",
  "/weather/today?",
  "/weather/today??/healthz",
  "/Weather/TODAY",
  "/weather/today/",
  "/weather/today//",
  "//weather//today",
  "///weather///today///",
  "/weather//today",
  "/./weather/today",
  "/weather/./today",
  "/weather/today/.",
  "/weather/today/./",
  "/weather/today/x/..",
  "/x/../weather/today",
  "/x/y/../../weather/today",
  "/weather/x/..//today",
  "/weather/x//../today",
  "/../weather/today",
  "/../../../../weather/today",
  "/healthz/../weather/today",
  "/projects/../weather/today",
  "/projects/x/../../weather/today",
  "/weather;v=1/today;jsessionid=2",
  "/weather/today;",
  "/weather/today/;a",
  "/;/weather/today",
  "/;a/weather/today",
  "/x/..;/weather/today",
  "/x/..;a=b/weather/today",
  "/weather/.;/today",
  "/%77eather/today",
  "/weather/%74%6F%64%61%79",
  "/%57EATHER/%54ODAY",
  "/weather/today%3fq=1",
  "/weather/today%3Fq=1",
  "/weather/today%23top",
  "//evil.example/weather/today",
  "//evil.example/x/../weather/today",
  "/users/1",
  "/USERS/healthz",
  "/users/../users/1/",
  "/files",
  "/files/",
  "/FILES//a/../b",
  "/stra%C3%9Fen/%C3%BCbersicht",
  "/STRA%c3%9fEN/%C3%9CBERSICHT/",
];

const AMBIGUOUS = [
  "/weather%2ftoday",
  "/weather%2Ftoday",
  "/weather%252ftoday",
  "/weather%25252ftoday",
  "/weather%5ctoday",
  "/weather%5Ctoday",
  "/weather%255ctoday",
  "/weather\\today",
  "\\weather\\today",
  "/x\\..\\weather\\today",
  "/weather/%2e%2e/weather/today",
  "/x/%2e./weather/today",
  "/x/.%2E/weather/today",
  "/%2e/weather/today",
  "/weather/%2E/today",
  "/x/%2e%2e;/weather/today",
  "/x%2f..%2fweather/today",
  "/x%2f%2e%2e%2fweather/today",
  "/x/%252e%252e/weather/today",
  "/projects/%2e%2e/weather/today",
  "/projects/..%2f..%2fweather/today",
  "/projects/..%2fweather%2ftoday",
  "/projects/a%2f..%2f..%2fweather/today",
  "/projects/..%5cweather/today",
  "/projects/%252e%252e%252fweather/today",
  "/projects/..%00/weather/today",
  "/%c0%ae%c0%ae/weather/today",
  "/weather%c0%aftoday",
  "/weather/today%00",
  "/weather/today%00.html",
  "/weather/today%0a",
  "/weather/today%0d%0ax-a:b",
  "/weather/today%09",
  "/weather/today%7f",
  "/weather/today%",
  "/weather/today%2",
  "/weather/today%zz",
  "/weather/toda%u0079",
  "/weather%u002ftoday",
  "/weather/today%3bx",
  "/weather%3b/today",
  "/%",
  "/%ff/weather/today",
  "/users%2f1",
  "/users/1%2f2",
  "/files%2fa",
  `/${"a//".repeat(3_000)}`,
  `/${"a/../".repeat(2_000)}weather/today`,
];

// What Envoy itself may refuse before the filter sees it.
const STRANGE_REQUEST_LINES = [
  "/weather/today#top",
  "/weather/today\x7f",
  "weather/today",
  "*",
  "?",
  "",
  "/weather/today\tx",
  "/healthz /weather/today",
  " /weather/today",
  "/weather/tod\x00ay",
];

test("A priced path has to be paid for in every spelling that a lenient upstream takes for it", async () => {
  await sellsNothing(gateway, LENIENT, [402]);
});

test("Parameters may reach to the end of the path, slashes and all, as RFC 1808 has it", async () => {
  await sellsNothing(gateway, ["/weather/today;a=/healthz", "/weather/today;/x", "/weather/today;x=1/../y"], [400, 402]);
});

test("A path that servers read differently is refused where one reading is priced", async () => {
  const mark = await since(gateway);
  await sellsNothing(gateway, AMBIGUOUS, [400]);
  for (const target of AMBIGUOUS.slice(0, 3)) assertOwnAnswer(await ask(gateway, target), 400);
  assert.deepEqual(mark.calls(), []);
});

test("A request line that is out of order sells nothing, whoever refuses it", async () => {
  await sellsNothing(gateway, STRANGE_REQUEST_LINES, [400, 402, 404]);
});

test("A payment does not make an ambiguous path any clearer", async () => {
  const mark = await since(gateway);
  const payment = await paymentFor(gateway, "/weather/today");
  for (const target of AMBIGUOUS.slice(0, 20)) assert.equal((await pay(gateway, target, payment)).status, 400, target);
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
  assertServed(await pay(gateway, "/weather/today", payment));
});

test("A paid request reaches the upstream under the path that the client wrote", async () => {
  for (const target of ["/Weather/./TODAY/?q=%2F", "//weather//today;v=1"]) {
    const mark = await since(gateway);
    assertServed(await pay(gateway, target, await paymentFor(gateway, target)));
    assert.deepEqual(mark.seen().map(({ path }) => path), [target]);
  }
});

test("Free paths pass as they are, strange ones too where nothing for sale could be meant", async () => {
  await passes(gateway, [
    "/healthz",
    "/healthz?x=/weather/today",
    "/projects/",
    "/projects/a%20b",
    "/projects/group%2Fname",
    "/projects/a//b",
    "/projects/%E2%9C%93?a=%2e%2e/weather/today",
    "/other",
    "/weather",
    "/weather/tomorrow",
    "/weather/today/details",
    "/weather/todays",
    "/weathertoday",
    "/users",
    "/users/1/2",
  ]);
});

test("Where all is for sale, only the letter of the free route is free", async () => {
  await passes(shop, ["/docs/", "/docs/a%20b?c", "/docs/a/b"]);
  await sellsNothing(
    shop,
    [
      "/",
      "/DOCS/a",
      "//docs/a",
      "/docs",
      "/docs/../secret",
      "/docs/..;/secret",
      "/docs/a/../../secret",
      "/x/../docs/a",
      "/%64ocs/a",
      "/docs;x/a",
      "/docs/../docs/../secret",
      "/docs/./../secret",
    ],
    [402],
  );
  await sellsNothing(
    shop,
    [
      "/docs/%2e%2e/secret",
      "/docs/..%2fsecret",
      "/docs%2fa",
      "/docs/%2e%2e%2fsecret",
      "/docs/..%5csecret",
      "/docs\\..\\secret",
      "/docs/%00",
    ],
    [400],
  );
});

test("No path buys one route at the price of another", async () => {
  const mark = await since(shop);
  const payment = await paymentFor(shop, "/cheap/x");
  for (const target of ["/cheap/../dear", "//cheap/dear", "/cheap/..;x/dear", "/cheap/%2e%2e/dear", "/cheap/..%2fdear"]) {
    assert.equal((await pay(shop, target, payment)).status, 400, target);
    assert.equal((await ask(shop, target)).status, 400, target);
  }
  assert.deepEqual(mark.seen(), []);
  assertServed(await pay(shop, "/cheap/x", payment));
});

// ---- Request lines, hosts -----------------------------------------------------------------------------------------

test("An absolute request target is routed by what it says", async () => {
  const at = `127.0.0.1:${gateway.port}`;
  await sellsNothing(
    gateway,
    [
      `http://${at}/weather/today`,
      `HTTP://${at}/Weather/today`,
      `https://${at}/weather/today`,
      `http://user@${at}//weather/today`,
      "http://evil.example/weather/today",
    ],
    [400, 402, 403],
  );
  const mark = await since(gateway);
  const answer = await ask(gateway, `http://${at}/healthz`, { host: "other.example" });
  assert.equal(answer.status, 200);
  assert.deepEqual(mark.seen().map(({ path }) => path), ["/healthz"]);
});

test("A host matches in any letter case, with a port, a user or a final dot", async () => {
  for (const host of [
    "api.example.com",
    "API.Example.COM",
    "api.example.com:80",
    "api.example.com:8443",
    "api.example.com.",
    "API.example.com.:80",
    "api.example.com:",
    "api.example.com..",
    "x.models.example.com",
    "X.y.Models.Example.com:1",
  ]) {
    await sellsNothing(hosted, ["/weather/today", "//Weather/today/"], [402], { host });
  }
  for (const host of ["example.com", "xapi.example.com", "api.example.com.evil.example", "models.example.com"]) {
    await passes(hosted, ["/weather/today"], { host });
  }
});

test("A host that is none to the letter sells nothing that an upstream could take it for", async () => {
  // Upstreams cut at the first colon or comma, where the gateway looks behind the last.
  for (const host of [
    "user@api.example.com",
    "api.example.com:80:80",
    "api.example.com:x",
    "api.example.com:80@",
    "api.example.com:80,free.example.com",
    "api.example.com,free.example.com",
    "free.example.com,api.example.com",
  ]) {
    await sellsNothing(hosted, ["/weather/today"], [400, 402, 403], { host }).catch((error) => {
      throw new Error(`${host}: ${error.message}`);
    });
  }
});

test("Two Host headers sell nothing that either of them names", async () => {
  for (const [host, other] of [["free.example.com", "api.example.com"], ["api.example.com", "free.example.com"]]) {
    await sellsNothing(hosted, ["/weather/today"], [400, 402, 403], { host, headers: { host: other } });
  }
});

test("A host in the target counts, and the upstream sees that one", async () => {
  const mark = await since(hosted);
  const priced = await ask(hosted, "http://api.example.com/weather/today", { host: "free.example.com" });
  assert.equal(priced.status, 402);
  assert.deepEqual(mark.seen(), []);
  const free = await ask(hosted, "http://free.example.com/weather/today", { host: "api.example.com" });
  assert.equal(free.status, 200);
  assert.deepEqual(headerSeen(mark.seen()[0], "host"), ["free.example.com"]);
});

test("A client cannot name a priced host to the upstream by another header", async () => {
  const mark = await since(hosted);
  for (const [name, value] of [
    ["x-forwarded-host", "api.example.com"],
    ["x-original-host", "api.example.com"],
    ["x-host", "api.example.com"],
    ["forwarded", "host=api.example.com"],
  ]) {
    const answer = await ask(hosted, "/weather/today", { host: "free.example.com", headers: { [name]: value } });
    if (answer.status !== 200) continue;
    assert.deepEqual(headerSeen(mark.seen().at(-1), name), [], name);
  }
});

test("What is behind a request on the same connection is a request of its own", async () => {
  const mark = await since(gateway);
  const { socket, answer } = sendBytes(
    gateway.port,
    "GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\nGET /weather/today HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
  );
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString("latin1")));
  assert.equal((await answer).status, 200);
  assert.deepEqual(mark.seen().map(({ path }) => path), ["/healthz"]);

  // A body that looks like a request stays a body.
  const inner = "GET /weather/today HTTP/1.1\r\nhost: a\r\n\r\n";
  assert.equal((await ask(gateway, "/healthz", { body: inner })).status, 200);
  const both = await sendBytes(
    gateway.port,
    `POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: ${inner.length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n${inner}`,
  ).answer;
  assert.equal(both.status, 400);
  assert.deepEqual(mark.seen().filter(({ path }) => path !== "/healthz"), []);
});

test("An upgrade, an expectation or a tunnel is no way around", async () => {
  for (const headers of [
    { connection: "upgrade", upgrade: "websocket", "sec-websocket-key": "x", "sec-websocket-version": "13" },
    { connection: "upgrade, http2-settings", upgrade: "h2c", "http2-settings": "AAMAAABkAAQAAP__" },
    { expect: "100-continue" },
    { te: "trailers" },
  ]) {
    await sellsNothing(gateway, ["/weather/today"], [400, 402, 403, 426], { headers });
  }
  const mark = await since(gateway);
  const { socket, answer } = sendBytes(gateway.port, "CONNECT /weather/today HTTP/1.1\r\nhost: a\r\n\r\n");
  socket.end();
  assert.notEqual(await answer.then(({ status }) => status, () => "closed"), 200);
  assert.deepEqual(mark.seen(), []);
});

// ---- Methods ------------------------------------------------------------------------------------------------------

test("A price on GET covers HEAD and OPTIONS; a route without methods covers all", async () => {
  for (const method of ["GET", "HEAD", "OPTIONS"]) await sellsNothing(gateway, ["/read", "/READ/"], [402], { method });
  for (const method of ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]) {
    await sellsNothing(gateway, ["/weather/today"], [402], { method });
  }
  // Envoy may refuse these itself.
  for (const method of ["TRACE", "get", "Get", "gEt", "BREW", "PROPFIND", "M-SEARCH", "GET "]) {
    await sellsNothing(gateway, ["/weather/today"], [400, 402, 405], { method });
    if (method !== "TRACE" && method.trim().toUpperCase() === "GET") await sellsNothing(gateway, ["/read"], [400, 402], { method });
  }
  await passes(gateway, ["/read"], { method: "POST" });
  await passes(gateway, ["/write"], { method: "GET" });
  await sellsNothing(gateway, ["/write"], [402], { method: "POST" });
});

test("Where what is unmatched is denied, other methods and paths get 403", async () => {
  for (const method of ["POST", "PUT", "DELETE", "TRACE"]) await sellsNothing(deny, ["/read", "/other"], [403, 405], { method });
  await sellsNothing(deny, ["/read"], [402], { method: "HEAD" });
  await sellsNothing(deny, ["/read%2f", "/%2fread"], [400]);
  await sellsNothing(deny, ["/healthz/", "/Healthz", "//healthz", "/healthz%2f"], [400, 403]);
  await passes(deny, ["/healthz"]);
});

test("A browser's preflight passes; any other OPTIONS has to be paid for", async () => {
  const origin = { origin: "https://app.example" };
  const whole = { ...origin, "access-control-request-method": "GET" };
  const mark = await since(gateway);
  const answer = await ask(gateway, "/weather/today", {
    method: "OPTIONS",
    headers: { ...whole, "x-http-method-override": "GET", "x-original-url": "/weather/today", "x-x402-payer": "me" },
  });
  assert.equal(answer.status, 200);
  const [seen] = mark.seen();
  assert.equal(seen.method, "OPTIONS");
  for (const name of ["x-http-method-override", "x-original-url", "x-x402-payer"]) assert.deepEqual(headerSeen(seen, name), []);
  await sellsNothing(gateway, ["/weather/today"], [402], { method: "OPTIONS" });
  await sellsNothing(gateway, ["/weather/today"], [402], { method: "OPTIONS", headers: origin });
  await sellsNothing(gateway, ["/weather/today"], [402], { method: "OPTIONS", headers: { "access-control-request-method": "GET" } });
  await sellsNothing(gateway, ["/weather/today"], [402], { method: "GET", headers: whole });
  await sellsNothing(gateway, ["/weather/today"], [402], { method: "HEAD", headers: whole });
  await sellsNothing(gateway, ["/weather%2ftoday"], [400], { method: "OPTIONS", headers: whole });
});

test("What says more than a browser's preflight does is none", async () => {
  const whole = { origin: "https://app.example", "access-control-request-method": "GET" };
  const as = (headers, more) => sellsNothing(gateway, ["/weather/today"], [400, 402, 403], { method: "OPTIONS", headers, ...more });
  await as({ ...whole, origin: "" });
  await as({ ...whole, "access-control-request-method": "" });
  await as({ ...whole, connection: "upgrade", upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==" });
  await as(whole, { body: "GET" });
  // Of this Envoy takes the header away.
  await as({ ...whole, "transfer-encoding": "chunked" }, { rest: "3\r\nGET\r\n0\r\n\r\n" });
});

test("What is longer than anybody's is not worked on: a free path of any kind passes, and what is sold is refused", async () => {
  for (const alphabet of [";", "%3f", "/;", "a/", "%25"]) {
    // The upstream takes heads of 16 KiB.
    const path = alphabet.repeat(12_000 / alphabet.length);
    const mark = await since(gateway);
    assert.equal((await ask(gateway, `/projects/${path}`)).status, alphabet === "a/" ? 200 : 400, alphabet);
    assert.ok([400, 414].includes((await ask(gateway, `/files/${path}`)).status), alphabet);
    assert.ok(mark.seen().length <= 1);
  }
  await passes(gateway, ["/projects/100%25"]);
  const answer = await ask(gateway, `/weather/today?${"q".repeat(9_000)}`);
  assert.equal(answer.status, 414);
  assert.match(answer.text, /longer than 8192 bytes/);
});

// ---- Headers ------------------------------------------------------------------------------------------------------

/** The names in a list of the filter's own source, so that none is left out here. */
const listed = (name) => {
  const source = readFileSync(new URL("../../src/route/overrides.rs", import.meta.url), "utf8");
  const [, list] = source.match(new RegExp(`^pub const ${name}: [^=]* = \\[([^\\]]*)\\];`, "m"));
  return [...list.matchAll(/"([^"]+)"/g)].map(([, header]) => header);
};
const OVERRIDES = listed("OVERRIDES");
assert.ok(OVERRIDES.length >= 16);
const IDENTITY = ["x-x402-payer", "x-x402-network", "x-x402-amount", "x-x402-transaction", "x-x402-", "x-x402-future"];
const INNOCENT = { accept: "text/plain", "x-request-kind": "test", x402: "1", "x-x40-payer": "1", "my-x-x402-payer": "1" };

// As it is, in capitals, and with the underscores that CGI and its heirs take for hyphens.
const spelled = (name) => [name, name.toUpperCase(), name.replaceAll("-", "_"), name.replace("-", "_"), name.replace(/-([^-]*)$/, "_$1")];

for (const [how, target] of [["free", "/healthz"], ["unmatched", "/other"], ["priced and paid", "/weather/today"]]) {
  test(`No header by which a client could change what the upstream sees comes through a route that is ${how}`, async () => {
    // All spellings of all names are more than the filter removes from one request.
    for (const names of [OVERRIDES, IDENTITY]) {
      const forged = names.flatMap(spelled).map((name) => [name, "/weather/today"]);
      const payment = target === "/weather/today" ? await paymentFor(gateway, target) : null;
      const headers = [...forged, ...Object.entries(INNOCENT)];
      if (payment) headers.push(["payment-signature", Buffer.from(JSON.stringify(payment)).toString("base64")]);
      const mark = await since(gateway);
      const answer = await ask(gateway, target, { headers });
      assert.equal(answer.status, 200);
      const [seen] = mark.seen();
      assert.equal(seen.path, target);
      assert.deepEqual(seen.headers.filter(([, value]) => value === "/weather/today"), []);
      for (const [name, value] of Object.entries(INNOCENT)) assert.deepEqual(headerSeen(seen, name), [value]);
      const identity = seen.headers.filter(([name]) => /^x[-_]x402[-_]/i.test(name)).map(([name]) => name.toLowerCase());
      assert.deepEqual(identity.sort(), payment ? ["x-x402-amount", "x-x402-id", "x-x402-network", "x-x402-payer"] : []);
    }
  });
}

test("The operator may keep an overriding header, but none that says who paid", async () => {
  const kept = await openGateway(backends, { plugin: pluginOf({ keep_headers: ["X-Original-Url", "x-x402-payer"] }) }).catch((error) => error);
  if (kept instanceof Error) return assert.match(kept.logs, /keep_headers/); // Just as good: refused as a whole.
  const mark = await since(kept);
  await ask(kept, "/healthz", { headers: { "x-original-url": "/a", "x-rewrite-url": "/b", "x-x402-payer": "me" } });
  const [seen] = mark.seen();
  assert.deepEqual(headerSeen(seen, "x-original-url"), ["/a"]);
  assert.deepEqual(headerSeen(seen, "x-rewrite-url"), []);
  assert.deepEqual(headerSeen(seen, "x-x402-payer"), []);
});

test("A client cannot have the upstream drop what it is told about the payment", async () => {
  const payment = await paymentFor(gateway, "/weather/today");
  const mark = await since(gateway);
  const header = Buffer.from(JSON.stringify(payment)).toString("base64");
  const answer = await sendBytes(
    gateway.port,
    `GET /weather/today HTTP/1.1\r\nhost: a\r\nconnection: close, x-x402-payer, x-x402-amount\r\npayment-signature: ${header}\r\n\r\n`,
  ).answer;
  assertServed(answer);
  const [seen] = mark.seen();
  assert.equal(headerSeen(seen, "x-x402-payer").length, 1);
  assert.deepEqual(headerSeen(seen, "connection").filter((value) => /x402/i.test(value)), []);
});

test("A payment on a free route is nobody's business, and is not taken", async () => {
  const mark = await since(gateway);
  const payment = await paymentFor(gateway, "/weather/today");
  assert.equal((await pay(gateway, "/healthz", payment)).status, 200);
  assert.deepEqual(mark.calls(), []);
  assertServed(await pay(gateway, "/weather/today", payment));
});

// ---- HTTP/2 -------------------------------------------------------------------------------------------------------

/** Sends a request over HTTP/2, on a connection of its own. */
async function ask2(at, headers) {
  const { ask, close } = openHttp2(at);
  try {
    return await ask({ ":scheme": "http", ":authority": "a", ...headers });
  } finally {
    close();
  }
}

test("Over HTTP/2 the same spellings have to be paid for, and the same ones are refused", async () => {
  const mark = await since(gateway);
  for (const [targets, status] of [[LENIENT, 402], [AMBIGUOUS.filter((path) => path.startsWith("/")), 400]]) {
    for (const path of targets) {
      const answer = await ask2(gateway, { ":path": path });
      assert.ok(answer === null || answer.status === status, `${path}: ${answer?.status}`);
      assert.deepEqual(mark.seen(), [], `${path} reached the upstream`);
    }
  }
  const plain = await ask2(gateway, { ":path": "/weather/today" });
  assert.equal(plain.status, 402);
  assert.equal(plain.terms.x402Version, 2);
});

test("Over HTTP/2 no odd method, path, scheme or host gets around", async () => {
  const mark = await since(gateway);
  const hostedMark = await since(hosted);
  const odd = [
    { ":method": "get" },
    { ":method": "Get" },
    { ":method": "GeT", ":path": "/read" },
    { ":method": "get", ":path": "/read" },
    { ":method": "head", ":path": "/read" },
    { ":method": "options", ":path": "/read" },
    { ":method": "BREW" },
    { ":path": "weather/today" },
    { ":path": "/weather/today#top" },
    { ":path": "http://a/weather/today" },
    { ":path": "/weather/today\t" },
    { ":path": "/weather/today " },
    { ":scheme": "https" },
    { ":scheme": "HTTP" },
    { ":scheme": "ftp" },
    { ":authority": "" },
    { ":authority": "user:password@a:99999" },
    { host: "evil.example" },
  ];
  // All at once: where Envoy takes one for a breach of the protocol, it is a second before it closes the connection.
  const answers = await Promise.all(odd.map((headers) => ask2(gateway, { ":path": "/weather/today", ...headers })));
  for (const [i, answer] of answers.entries()) {
    assert.ok(answer === null || [400, 402, 404].includes(answer.status), `${JSON.stringify(odd[i])}: ${answer?.status}`);
  }
  assert.deepEqual(mark.seen(), []);
  const answer = await ask2(hosted, { ":path": "/weather/today", ":authority": "API.example.com:1", host: "free.example.com" });
  assert.ok(answer === null || [400, 402].includes(answer.status), `${answer?.status}`);
  assert.deepEqual(hostedMark.seen(), []);
});
