/**
 * Facilitators that refuse, fail, lie or talk nonsense. A refusal is told with its reason; everything that is not
 * clearly yes or no is unknown, and an unknown outcome is never answered with terms: an honest client would pay again.
 * The same payment, sent again once the facilitator has come to its senses, buys its one response.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { claimPorts } from "../../stage/ports.mjs";
import {
  ask,
  assertNoTerms,
  assertOwnAnswer,
  assertServed,
  assertTerms,
  assertUnknown,
  NETWORK,
  openGateway,
  openBackends,
  pay,
  payerAccount,
  paymentFor,
  pluginOf,
  since,
} from "./support.mjs";

const USED = "invalid_exact_evm_nonce_already_used";
const HASH = `0x${"7a".repeat(32)}`;
const STRANGER = "0x90F79bf6EB2c4f870365E785982E1f101E93b906";

const backends = await openBackends();
const plugin = pluginOf({ facilitator: { timeout: "0.3s" } });
const gateway = await openGateway(backends, { plugin, facilitator: "fake" });
const { fake } = gateway;
const local = await openGateway(backends, { plugin: pluginOf({ facilitator: { timeout: "0.3s", verify: "local" } }), facilitator: "fake" });

const valid = { isValid: true, payer: payerAccount.address };
const settled = { success: true, transaction: HASH, network: NETWORK, payer: payerAccount.address };
const pending = { ...settled, success: false, errorReason: "settlement_pending" };

/** Nothing that speaks for or against the payment: [what, answer, status]. `yes` is what a yes would look like. */
const nonsense = (yes) => [
  ["an empty object", { json: {} }, 502],
  ["an empty list", { json: [] }, 502],
  ["a list with a yes in it", { json: [yes] }, 502],
  ["null", { json: null }, 502],
  ["true", { json: true }, 502],
  ["a text", { json: JSON.stringify(yes) }, 502],
  ["nothing", { body: "" }, 502],
  ["HTML", { body: "<html><body>Welcome</body></html>", headers: { "content-type": "text/html" } }, 502],
  ["half of a yes", { body: JSON.stringify(yes).slice(0, -9) }, 502],
  ["a yes and more", { body: `${JSON.stringify(yes)}{}` }, 502],
  ["a yes that is no text", { body: Buffer.from(JSON.stringify(yes).replace(/"payer":"0x7/, '"payer":"\xff'), "latin1") }, 502],
  ["a yes inside of something", { json: { data: yes } }, 502],
  ["a yes with status 500", { status: 500, json: yes }, 502],
  ["an error with status 500", { status: 500, json: { error: "internal" } }, 502],
  ["a yes with status 502", { status: 502, json: yes }, 502],
  ["status 204", { status: 204, headers: { "content-length": "0" } }, 502],
  ["a yes with status 400", { status: 400, json: yes }, 502],
  ["an error with status 401", { status: 401, json: { error: "no such key" } }, 502],
  ["an error with status 404", { status: 404, json: { error: "not found" } }, 502],
  ["an error with status 429", { status: 429, json: { error: "slow down" } }, 502],
  ["a redirect to a yes", { status: 302, headers: { location: "/elsewhere" }, json: yes }, 502],
  ["a lasting redirect to a yes", { status: 308, headers: { location: "/elsewhere" }, json: yes }, 502],
  ["a yes of 3 MiB", { json: { ...yes, padding: "x".repeat(3 * 1024 * 1024) } }, 502],
  ["a yes of 65 KiB", { json: { ...yes, padding: "x".repeat(65 * 1024) } }, 502],
  ["a closed connection", { instead: "close" }, 502],
  ["half an answer", { json: yes, instead: "break" }, 502],
  ["no answer", { instead: "never" }, 504],
  ["status 504 of its own", { status: 504, json: yes }, 504],
  ["status 503 of its own", { status: 503, json: yes }, 502],
];

const VERIFY_NONSENSE = [
  ...nonsense(valid),
  ["a yes in quotes", { json: { ...valid, isValid: "true" } }, 502],
  ["a yes in figures", { json: { ...valid, isValid: 1 } }, 502],
  ["no and yes", { body: '{"isValid":false,"isValid":true}' }, 502],
  ["yes and no", { body: '{"isValid":true,"invalidReason":"x","isValid":false}' }, 502],
  ["the fields of a yes in a row", { json: [true, null, payerAccount.address] }, 502],
  ["a yes to another's payment", { json: { ...valid, payer: STRANGER } }, 502],
  ["a yes to a payer that is no text", { json: { ...valid, payer: 7 } }, 502],
  ["a yes with status 402", { status: 402, json: valid }, 502],
  ["a settlement", { json: settled }, 502],
];

const SETTLE_NONSENSE = [
  ...nonsense(settled),
  ["a verification", { json: valid }, 502],
  ["a verification and a success", { json: { ...valid, success: true } }, 502],
  ["the fields of a success in a row", { json: [true, null, HASH, NETWORK, payerAccount.address] }, 502],
  ["a success in quotes", { json: { ...settled, success: "true" } }, 502],
  ["a success in figures", { json: { ...settled, success: 1 } }, 502],
  ["no and yes", { body: JSON.stringify(settled).replace("{", '{"success":false,') }, 502],
  ["a success without a transaction", { json: { ...settled, transaction: undefined } }, 502],
  ["a success with an empty transaction", { json: { ...settled, transaction: "" } }, 502],
  ["a success with null for a transaction", { json: { ...settled, transaction: null } }, 502],
  ["a success with half a transaction", { json: { ...settled, transaction: HASH.slice(0, 40) } }, 502],
  ["a success on another network", { json: { ...settled, network: "eip155:8453" } }, 502],
  ["a success for another payer", { json: { ...settled, payer: STRANGER } }, 502],
  ["a success with a reason against it", { json: { ...settled, errorReason: "invalid_transaction_state" } }, 502],
  ["a success with status 400", { status: 400, json: settled }, 502],
  ["a failure with status 500", { status: 500, json: { success: false, errorReason: "unexpected_settle_error" } }, 502],
  ["a success on a network that is no text", { json: { ...settled, network: 84532 } }, 502],
  ["a success for a payer that is no text", { json: { ...settled, payer: [payerAccount.address] } }, 502],
  ["a success that names its network twice", { body: JSON.stringify(settled).replace("{", `{"network":"${NETWORK}",`) }, 502],
  ["a success with 63 digits", { json: { ...settled, transaction: HASH.slice(0, -1) } }, 502],
  ["a success with zeros", { json: { ...settled, transaction: `0x${"0".repeat(64)}` } }, 502],
  ["a success with a transaction in an object", { json: { ...settled, transaction: { hash: HASH } } }, 502],
  ["a success with status 402", { status: 402, json: settled }, 502],
  ["a success that is compressed", { body: gzipSync(JSON.stringify(settled)), headers: { "content-encoding": "gzip" } }, 502],
  ["a success in UTF-16", { body: Buffer.from(`\ufeff${JSON.stringify(settled)}`, "utf16le") }, 502],
  ["a success of 10 MB", { json: { ...settled, padding: "x".repeat(10_000_000) } }, 502],
  ["a success in chunks that break off", { json: settled, headers: { "transfer-encoding": "chunked", "content-length": undefined }, instead: "break" }, 502],
  ["429 with Retry-After", { status: 429, headers: { "retry-after": "3600" }, json: { error: "slow down" } }, 502],
  ["terms with status 402", { status: 402, json: { x402Version: 2, error: "pay me", accepts: [] } }, 502],
  ["a refusal in an object", { json: { success: false, errorReason: { code: "insufficient_funds" } } }, 502],
  ["a refusal that looks like a known one", { json: { success: false, errorReason: "insufficient_funds_" } }, 502],
  ["a refusal in capitals", { json: { success: false, errorReason: "INSUFFICIENT_FUNDS" } }, 502],
  ["a refusal behind other words", { json: { success: false, errorReason: "note: insufficient_funds" } }, 502],
  ["a known refusal that names a transaction", { json: { success: false, errorReason: "insufficient_funds", transaction: HASH } }, 502],
  ["a pending settlement, twice", { json: pending, times: 2 }, 502],
];

const scripted = (path, { times = 1, ...answer }) => fake.script(path, ...Array(times).fill(answer));

// ---- What is written in another way -------------------------------------------------------------------------------

for (const [what, change] of [
  ["status 201", (yes) => ({ status: 201, json: yes })],
  ["status 202", (yes) => ({ status: 202, json: yes })],
  ["a byte order mark", (yes) => ({ body: `\ufeff${JSON.stringify(yes)}` })],
  ["no network", (yes) => ({ json: { ...yes, network: undefined } })],
  ["an empty network", (yes) => ({ json: { ...yes, network: "" } })],
  ["the network's name in version 1", (yes) => ({ json: { ...yes, network: "base-sepolia" } })],
  ["a transaction without 0x", (yes) => ({ json: { ...yes, transaction: yes.transaction?.slice(2) } })],
]) {
  test(`A yes with ${what} is one`, async () => {
    const payment = await paymentFor(gateway, "/any/x");
    scripted("/verify", change(valid));
    scripted("/settle", change(settled));
    assertServed(await pay(gateway, "/any/x", payment), { transaction: HASH });
  });
}

// ---- What is neither yes nor no -----------------------------------------------------------------------------------

for (const [what, answer, status] of VERIFY_NONSENSE) {
  test(`Where the answer of /verify is ${what}, the client gets ${status} and may come again`, async () => {
    const [payment, mark] = [await paymentFor(gateway, "/any/x"), await since(gateway)];
    scripted("/verify", answer);
    assertUnknown(await pay(gateway, "/any/x", payment), status);
    assert.deepEqual(mark.seen(), []);
    assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify"]);
    assertServed(await pay(gateway, "/any/x", payment));
    assertTerms(await pay(gateway, "/any/x", payment), USED);
    assert.equal(mark.seen().length, 1);
    assert.equal(mark.calls("/settle").length, 1);
  });
}

for (const [how, target, requests] of [["after the response", "/any/x", 2], ["upfront", "/upfront/x", 1]]) {
  for (const [what, answer, status] of SETTLE_NONSENSE) {
    test(`Paying ${how}: where the answer of /settle is ${what}, the client gets ${status}, and the same payment is picked up`, async () => {
      const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
      scripted("/settle", answer);
      const unknown = await pay(gateway, target, payment);
      assertUnknown(unknown, status);
      // Of a settlement that is not certain, the client is told the transaction where one is named, and nothing else.
      if (unknown.receipt) {
        const { success, errorReason, transaction } = unknown.receipt;
        assert.deepEqual({ success, errorReason, transaction }, { success: false, errorReason: "settlement_pending", transaction: HASH });
      }
      const asked = mark.calls("/settle").length;
      const served = await pay(gateway, target, payment);
      assertServed(served);
      assert.equal(mark.calls("/settle").length, asked + 1, "the settlement was not asked for again");
      assert.equal(served.receipt.transaction, mark.calls("/settle").at(-1).answer.transaction);
      assertTerms(await pay(gateway, target, payment), USED);
      assert.equal(mark.calls("/settle").length, asked + 1);
      assert.equal(mark.seen().length, requests);
      assert.deepEqual(mark.calls("/elsewhere"), [], "a redirect was followed");
      const [first, ...others] = mark.calls("/settle");
      for (const other of others) assert.deepEqual(other.request, first.request, "not the identical settlement");
    });
  }

  test(`Paying ${how}: an outcome that stays unknown is never answered with terms`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    const refused = { json: { success: false, errorReason: USED, transaction: "", network: NETWORK } };
    fake.script("/settle", { instead: "close" }, refused, { status: 500, json: {} }, refused);
    for (const _ of [1, 2, 3, 4]) assertUnknown(await pay(gateway, target, payment), 502);
    assert.equal(mark.calls("/settle").length, 4);
    assertServed(await pay(gateway, target, payment));
  });

  test(`Paying ${how}: sixteen clients that pick up an unknown payment at once get one response`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    fake.script("/settle", { instead: "close" });
    assertUnknown(await pay(gateway, target, payment), 502);
    const answers = await Promise.all(Array.from({ length: 16 }, () => pay(gateway, target, payment)));
    assert.equal(answers.filter(({ status }) => status === 200).length, 1);
    for (const answer of answers.filter(({ status }) => status !== 200)) {
      if (answer.status === 409) assertNoTerms(answer, 409);
      else assertTerms(answer, USED);
    }
    assert.equal(mark.calls("/settle").length, 2);
  });

  test(`Paying ${how}: a pending settlement is asked for again, and the client notices nothing`, async () => {
    const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
    fake.script("/settle", { json: pending }, { json: settled });
    assertServed(await pay(gateway, target, payment), { transaction: HASH });
    const [first, second, ...more] = mark.calls("/settle");
    assert.deepEqual(second.request, first.request);
    assert.deepEqual(more, []);
    assert.equal(mark.seen().length, 1);
  });

  test(`Paying ${how}: a settlement that was pending and is then refused is unknown, for it may have moved`, async () => {
    const payment = await paymentFor(gateway, target);
    fake.script("/settle", { json: pending }, { json: { success: false, errorReason: USED, transaction: "", network: NETWORK } });
    assertUnknown(await pay(gateway, target, payment), 502);
    assertServed(await pay(gateway, target, payment));
  });
}

// ---- Refusals -----------------------------------------------------------------------------------------------------

test("A payment that /verify refuses is answered with terms and the facilitator's reason", async () => {
  const no = (invalidReason, more) => ({ isValid: false, invalidReason, ...more });
  const odd = 'a reason nobody has heard of: "ünïcode" <b>';
  for (const [answer, reason] of [
    [{ json: no("invalid_exact_evm_insufficient_balance", { payer: payerAccount.address }) }, "invalid_exact_evm_insufficient_balance"],
    [{ json: no("insufficient_funds") }, "insufficient_funds"],
    [{ json: no(odd) }, odd],
    [{ status: 400, json: no("invalid_payload") }, "invalid_payload"],
    [{ json: no(USED, { payer: null, extra: {} }) }, USED],
  ]) {
    const [payment, mark] = [await paymentFor(gateway, "/any/x"), await since(gateway)];
    fake.script("/verify", answer);
    assertTerms(await pay(gateway, "/any/x", payment), reason);
    assert.deepEqual(mark.seen(), []);
    assert.deepEqual(mark.calls("/settle"), []);
    // Refused is not spent: balances can be topped up.
    assertServed(await pay(gateway, "/any/x", payment));
  }
});

test("A facilitator that repeats the operator's keys tells them neither the client nor the log", async () => {
  const key = "sk-0123/456789abcdef==";
  const keyed = await openGateway(backends, {
    plugin: pluginOf({ facilitator: { timeout: "2s", headers: { authorization: `Bearer ${key}` } } }),
    facilitator: "fake",
  });
  const said = `insufficient_funds: no account for Bearer ${key}`;
  const inPhp = (json) => JSON.stringify(json).replaceAll("/", "\\/");
  for (const [target, path, answer, status] of [
    ["/any/x", "/verify", { json: { isValid: false, invalidReason: said } }, 402],
    ["/any/x", "/verify", { body: inPhp({ isValid: false, invalidReason: said }) }, 402],
    ["/upfront/x", "/settle", { json: { success: false, errorReason: said } }, 402],
    ["/upfront/x", "/settle", { status: 401, body: inPhp({ error: said }) }, 502],
  ]) {
    const payment = await paymentFor(keyed, target);
    keyed.fake.script(path, answer);
    const refused = await pay(keyed, target, payment);
    assert.equal(refused.status, status);
    const told = [refused.text, JSON.stringify(refused.terms), JSON.stringify(refused.receipt)].join("\n");
    assert.ok(!told.includes("456789abcdef"), told);
    if (status === 402) assert.match(told, /no account for Bearer …/);
  }
  assert.ok(!keyed.envoy.logs().includes("456789abcdef"), "a key stands in the log");
});

test("Where the payer has yet to approve Permit2, the status is 412", async () => {
  const payment = await paymentFor(gateway, "/any/x");
  fake.script("/verify", { json: { isValid: false, invalidReason: "permit2_allowance_required" } });
  const answer = await pay(gateway, "/any/x", payment);
  assertOwnAnswer(answer, 412);
  assert.equal(answer.terms.error, "permit2_allowance_required");
});

for (const [how, target] of [["after the response", "/any/x"], ["upfront", "/upfront/x"]]) {
  test(`Paying ${how}: a refused settlement is a 402 with its receipt, and nothing of the upstream's comes through`, async () => {
    const no = { success: false, errorReason: "insufficient_funds" };
    for (const answer of [
      { json: { ...no, transaction: "", network: NETWORK, payer: payerAccount.address } },
      { status: 400, json: no },
    ]) {
      const [payment, mark] = [await paymentFor(gateway, target), await since(gateway)];
      fake.script("/settle", answer);
      gateway.inference.intercept = (_, response) => {
        response.writeHead(200, { "set-cookie": "secret=1", "x-secret": "1" }).end("the goods");
      };
      const refused = await pay(gateway, target, payment).finally(() => (gateway.inference.intercept = null));
      assertOwnAnswer(refused, 402);
      assert.deepEqual(refused.receipt, {
        success: false,
        errorReason: "insufficient_funds",
        payer: payerAccount.address,
        transaction: "",
        network: NETWORK,
      });
      assert.equal(refused.get("set-cookie"), undefined);
      assert.equal(refused.get("x-secret"), undefined);
      assert.ok(!refused.text.includes("goods"));
      assert.equal(mark.seen().length, target === "/any/x" ? 1 : 0);
      assertServed(await pay(gateway, target, payment));
    }
  });
}

// ---- How the facilitator is called --------------------------------------------------------------------------------

test("A yes may leave out the payer, and may say more than is understood", async () => {
  const payment = await paymentFor(gateway, "/any/x");
  fake.script("/verify", { json: { isValid: true, invalidReason: undefined, extra: { a: [1] }, more: null } });
  const more = { ...settled, payer: undefined, amount: "2000", extra: { gas: 1 } };
  fake.script("/settle", { json: more, headers: { "content-type": "text/plain" } });
  assertServed(await pay(gateway, "/any/x", payment), { transaction: HASH });
});

test("What the facilitator says in headers does not reach the client", async () => {
  const headers = { "extension-responses": "e30=", "set-cookie": "a=b", "x-facilitator": "1", "cache-control": "public" };
  for (const target of ["/any/x", "/upfront/x"]) {
    const payment = await paymentFor(gateway, target);
    fake.script("/verify", { json: valid, headers });
    fake.script("/settle", { json: settled, headers });
    const answer = await pay(gateway, target, payment);
    assertServed(answer, { transaction: HASH });
    for (const name of ["extension-responses", "set-cookie", "x-facilitator"]) assert.equal(answer.get(name), undefined);
    assert.equal(answer.get("cache-control"), "private");
  }
  fake.reset();
});

test("Calls go to the configured path and carry the configured headers", async () => {
  const keyed = await openGateway(backends, { plugin, facilitator: "fake" });
  const withKey = await openGateway(backends, {
    plugin: pluginOf({
      facilitator: { url: `${keyed.fake.url}/base/v2/`, headers: { "X-Api-Key": "secret", authorization: "Bearer fake" } },
    }),
    facilitator: keyed.fake.url,
  });
  const answer = await pay(withKey, "/any/x", await paymentFor(withKey, "/any/x"));
  assertServed(answer);
  // The first gateway, too, has asked this facilitator what it supports.
  const calls = keyed.fake.calls.filter(({ path }) => path.startsWith("/base/"));
  const posts = calls.filter(({ path }) => path !== "/base/v2/supported");
  assert.deepEqual(posts.map(({ method, path }) => `${method} ${path}`), ["POST /base/v2/verify", "POST /base/v2/settle"]);
  for (const { method, headers } of calls) {
    assert.equal(headers["x-api-key"], "secret");
    assert.equal(headers.authorization, "Bearer fake");
    assert.equal(headers.host, new URL(keyed.fake.url).host);
    assert.equal(headers["content-type"], method === "POST" ? "application/json" : undefined);
  }
  assert.ok(!withKey.envoy.logs().includes("Bearer fake"), "a key stands in the log");
  assert.ok(!answer.headers.some(([, value]) => value.includes("secret")));
});

test("Verified locally, a wrong yes of /verify plays no part, and /settle decides", async () => {
  const [payment, mark] = [await paymentFor(local, "/any/x"), await since(local)];
  local.fake.always("/verify", { json: valid });
  local.fake.script("/settle", { json: valid });
  assertUnknown(await pay(local, "/any/x", payment), 502);
  assertServed(await pay(local, "/any/x", payment));
  assert.deepEqual(mark.calls("/verify"), []);
});

const ports = await claimPorts();
const unreachable = [
  ["is dead", { facilitator: `http://127.0.0.1:${ports.spare1}` }],
  ["has no cluster", { plugin: pluginOf({ facilitator: { cluster: "nowhere" } }) }],
  ["has a cluster without endpoints", { clusters: { facilitator: null } }],
];
backends.atEnd(ports.release);

for (const [what, options] of unreachable) {
  test(`A facilitator that ${what} costs nobody money, and nothing is served`, async () => {
    for (const verify of ["remote", "local"]) {
      const plugin = options.plugin ?? pluginOf({ facilitator: {} });
      const url = options.facilitator?.startsWith("http") ? { url: options.facilitator } : {};
      const lost = await openGateway(backends, {
        ...options,
        plugin: { ...plugin, facilitator: { ...plugin.facilitator, ...url, verify } },
      });
      for (const target of ["/any/x", "/upfront/x"]) {
        const payment = await paymentFor(lost, target);
        for (const _ of [1, 2]) {
          const answer = await pay(lost, target, payment);
          assertUnknown(answer, 502);
          assert.equal(answer.receipt, null);
        }
      }
      assert.equal((await ask(lost, "/healthz")).status, 200);
    }
  });
}
