/**
 * Secrets that come from the environment, and the tokens that Coinbase's hosted facilitator wants. The facilitator here is
 * a fake one, which checks each token as the hosted one does: whose it is, which call it is for, and that it is signed.
 */
import assert from "node:assert/strict";
import { generateKeyPairSync, verify } from "node:crypto";
import { test } from "node:test";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { ask, assertServed, eventually, handing, openBackends, openGateway, pay, paymentFor, pluginOf, WEATHER } from "./support.mjs";

const backends = await openBackends();

const KEY_ID = "organizations/e2e/apiKeys/1";
const HEADER = "s3cr3t-header-of-the-environment";

const edwards = generateKeyPairSync("ed25519");
const nist = generateKeyPairSync("ec", { namedCurve: "P-256" });
const jwk = edwards.privateKey.export({ format: "jwk" });
const SECRETS = {
  EdDSA: Buffer.concat([jwk.d, jwk.x].map((half) => Buffer.from(half, "base64url"))).toString("base64"),
  ES256: nist.privateKey.export({ format: "pem", type: "sec1" }),
};
const PUBLIC = { EdDSA: edwards.publicKey, ES256: nist.publicKey };
Object.assign(process.env, { E2E_HEADER: HEADER, E2E_ID: KEY_ID, E2E_EDDSA: SECRETS.EdDSA, E2E_ES256: SECRETS.ES256, E2E_EMPTY: "" });

const plugin = (variable) =>
  pluginOf({
    routes: [WEATHER],
    facilitator: {
      headers: { "x-api-key": { env: "E2E_HEADER" } },
      auth: { cdp: { key_id: KEY_ID, key_secret: { env: variable } } },
    },
  });

/** Checks the token of a call. @returns {string} its nonce */
function checked(call, algorithm, authority) {
  const [scheme, token] = call.headers.authorization.split(" ");
  assert.equal(scheme, "Bearer");
  const [header, claims, signature] = token.split(".");
  const read = (part) => JSON.parse(Buffer.from(part, "base64url").toString("utf8"));
  const { nonce, ...rest } = read(header);
  assert.deepEqual(rest, { alg: algorithm, kid: KEY_ID, typ: "JWT" });
  assert.match(nonce, /^[0-9a-f]{32}$/);
  const { iat, nbf, exp, ...said } = read(claims);
  assert.deepEqual(said, { sub: KEY_ID, iss: "cdp", uris: [`${call.method} ${authority}${call.path}`] });
  const now = Date.now() / 1000;
  assert.ok(iat === nbf && exp === nbf + 120 && nbf <= now && now < exp, `${nbf} to ${exp} at ${now}`);
  const key = algorithm === "ES256" ? { key: PUBLIC.ES256, dsaEncoding: "ieee-p1363" } : PUBLIC.EdDSA;
  const bytes = Buffer.from(`${header}.${claims}`);
  const isSigned = verify(algorithm === "ES256" ? "sha256" : null, bytes, key, Buffer.from(signature, "base64url"));
  assert.ok(isSigned, "the signature is another's");
  return nonce;
}

const VARIABLES = { EdDSA: "E2E_EDDSA", ES256: "E2E_ES256" };
const gateways = {};
for (const [algorithm, variable] of Object.entries(VARIABLES)) {
  gateways[algorithm] = await openGateway(backends, {
    facilitator: "fake",
    plugin: plugin(variable),
    edit: handing("E2E_HEADER", variable),
  });
}

for (const [algorithm, gateway] of Object.entries(gateways)) {
  test(`A fake facilitator that checks tokens takes every call (${algorithm})`, async () => {
    await eventually(() => gateway.fake.count("/supported") > 0, "the facilitator is asked what it supports");
    for (let round = 0; round < 2; round++) assertServed(await pay(gateway, "/weather", await paymentFor(gateway, "/weather")));
    const authority = new URL(gateway.fake.url).host;
    const nonces = gateway.fake.calls.map((call) => [`${call.method} ${call.path}`, checked(call, algorithm, authority)]);
    for (const call of gateway.fake.calls) assert.equal(call.headers["x-api-key"], HEADER);
    // Each is signed once, and used again. The main thread, which serves nobody, asks too what the facilitator supports.
    for (const [what, most] of [["GET /supported", 2], ["POST /verify", 1], ["POST /settle", 1]]) {
      const used = nonces.filter(([called]) => called === what).map(([, nonce]) => nonce);
      assert.ok(used.length >= 1, what);
      assert.ok(new Set(used).size <= most, `${what}: ${used}`);
    }
    assert.ok(new Set(nonces.map(([call, nonce]) => `${call} ${nonce}`)).size === new Set(nonces.map(([, nonce]) => nonce)).size);
  });

  test(`Neither /config_dump nor the log shows a secret, nor a token that the facilitator repeats (${algorithm})`, async () => {
    gateway.fake.script("/verify", () => ({ status: 401, json: { error: gateway.fake.calls.at(-1).headers.authorization } }));
    const refused = await pay(gateway, "/weather", await paymentFor(gateway, "/weather"));
    assert.notEqual(refused.status, 200);
    const dump = await gateway.envoy.admin("/config_dump?include_eds");
    assert.match(dump, /E2E_HEADER/);
    const secrets = [HEADER, ...SECRETS[algorithm].split("\n").filter((line) => line && !line.startsWith("-----")), "eyJ"];
    for (const secret of secrets) {
      assert.ok(!dump.includes(secret), "/config_dump shows a secret");
      assert.ok(!gateway.envoy.logs().includes(secret), "the log shows a secret");
      assert.ok(!refused.text.includes(secret), "the client is shown a secret");
    }
  });
}

test("Each of several facilitators gets tokens of its own key", async () => {
  const fakes = {};
  for (const algorithm of Object.keys(VARIABLES)) {
    fakes[algorithm] = await startFakeFacilitator();
    backends.atEnd(fakes[algorithm].stop);
  }
  const facilitators = Object.entries(fakes).map(([algorithm, { url }]) => ({
    cluster: algorithm,
    url,
    auth: { cdp: { key_id: { env: "E2E_ID" }, key_secret: { env: VARIABLES[algorithm] } } },
  }));
  const gateway = await openGateway(backends, {
    plugin: { ...pluginOf({ routes: [WEATHER] }), facilitators },
    clusters: Object.fromEntries(facilitators.map(({ cluster, url }) => [cluster, { address: "127.0.0.1", port: Number(new URL(url).port) }])),
    edit: handing("E2E_ID", ...Object.values(VARIABLES)),
  });
  // The first does not answer, so that the second is asked.
  fakes.EdDSA.always("/verify", { status: 503, json: {} });
  assertServed(await pay(gateway, "/weather", await paymentFor(gateway, "/weather")));
  for (const [algorithm, fake] of Object.entries(fakes)) {
    assert.ok(fake.count("/verify") > 0, algorithm);
    for (const call of fake.calls) checked(call, algorithm, new URL(fake.url).host);
  }
});

test("A variable that the filter does not see, or that is empty, refuses the configuration by its name", async () => {
  for (const [variable, names] of [
    ["E2E_EDDSA", ["E2E_HEADER"]],
    ["E2E_EMPTY", ["E2E_HEADER", "E2E_EMPTY"]],
    ["E2E_NOWHERE", ["E2E_HEADER", "E2E_NOWHERE"]],
  ]) {
    const opening = openGateway(backends, { facilitator: "fake", plugin: plugin(variable), edit: handing(...names) });
    const failure = await opening.then(() => assert.fail(`${variable} is taken`), (error) => error);
    const said = `facilitator.auth.cdp.key_secret: needs the environment variable ${variable}, which the filter does not see`;
    assert.ok(failure.logs?.includes(said), failure.logs ?? String(failure));
  }
  assert.equal((await ask(gateways.EdDSA, "/weather")).status, 402, "the others serve on");
});
