/**
 * Secrets that come from the environment, and the tokens that Coinbase's hosted facilitator wants. The facilitator here is
 * a fake one, which checks each token as the hosted one does: whose it is, which call it is for, and that it is signed.
 */
import assert from "node:assert/strict";
import { generateKeyPairSync, verify } from "node:crypto";
import { test } from "node:test";
import { ask, assertServed, eventually, openGate, openRooms, pay, paymentFor, pluginOf, WEATHER } from "./support.mjs";

const rooms = await openRooms();

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
Object.assign(process.env, { E2E_HEADER: HEADER, E2E_EDDSA: SECRETS.EdDSA, E2E_ES256: SECRETS.ES256, E2E_EMPTY: "" });

/** Has Envoy hand these variables of its own environment to the filter. */
const handing =
  (...names) =>
  (bootstrap) => {
    const { http_filters } = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0].typed_config;
    const { config } = http_filters.find(({ name }) => name === "x402").typed_config;
    config.vm_config.environment_variables = { host_env_keys: names };
  };

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

const GATES = { EdDSA: "E2E_EDDSA", ES256: "E2E_ES256" };
const gates = {};
for (const [algorithm, variable] of Object.entries(GATES)) {
  gates[algorithm] = await openGate(rooms, {
    facilitator: "fake",
    plugin: plugin(variable),
    edit: handing("E2E_HEADER", variable),
  });
}

for (const [algorithm, gate] of Object.entries(gates)) {
  test(`A fake facilitator that checks tokens takes every call (${algorithm})`, async () => {
    await eventually(() => gate.fake.count("/supported") > 0, "the facilitator is asked what it supports");
    for (let round = 0; round < 2; round++) assertServed(await pay(gate, "/weather", await paymentFor(gate, "/weather")));
    const authority = new URL(gate.fake.url).host;
    const nonces = gate.fake.calls.map((call) => [`${call.method} ${call.path}`, checked(call, algorithm, authority)]);
    for (const call of gate.fake.calls) assert.equal(call.headers["x-api-key"], HEADER);
    // Each is signed once, and used again. The main thread, which serves nobody, asks too what the facilitator supports.
    for (const [what, most] of [["GET /supported", 2], ["POST /verify", 1], ["POST /settle", 1]]) {
      const used = nonces.filter(([called]) => called === what).map(([, nonce]) => nonce);
      assert.ok(used.length >= 1, what);
      assert.ok(new Set(used).size <= most, `${what}: ${used}`);
    }
    assert.ok(new Set(nonces.map(([call, nonce]) => `${call} ${nonce}`)).size === new Set(nonces.map(([, nonce]) => nonce)).size);
  });

  test(`Neither /config_dump nor the log shows a secret, nor a token that the facilitator repeats (${algorithm})`, async () => {
    gate.fake.script("/verify", () => ({ status: 401, json: { error: gate.fake.calls.at(-1).headers.authorization } }));
    const refused = await pay(gate, "/weather", await paymentFor(gate, "/weather"));
    assert.notEqual(refused.status, 200);
    const dump = await gate.envoy.admin("/config_dump?include_eds");
    assert.match(dump, /E2E_HEADER/);
    const secrets = [HEADER, ...SECRETS[algorithm].split("\n").filter((line) => line && !line.startsWith("-----")), "eyJ"];
    for (const secret of secrets) {
      assert.ok(!dump.includes(secret), "/config_dump shows a secret");
      assert.ok(!gate.envoy.logs().includes(secret), "the log shows a secret");
      assert.ok(!refused.text.includes(secret), "the client is shown a secret");
    }
  });
}

test("A variable that the filter does not see, or that is empty, refuses the configuration by its name", async () => {
  for (const [variable, names] of [
    ["E2E_EDDSA", ["E2E_HEADER"]],
    ["E2E_EMPTY", ["E2E_HEADER", "E2E_EMPTY"]],
    ["E2E_NOWHERE", ["E2E_HEADER", "E2E_NOWHERE"]],
  ]) {
    const opening = openGate(rooms, { facilitator: "fake", plugin: plugin(variable), edit: handing(...names) });
    const failure = await opening.then(() => assert.fail(`${variable} is taken`), (error) => error);
    const said = `facilitator.auth.cdp.key_secret: needs the environment variable ${variable}, which the filter does not see`;
    assert.ok(failure.logs?.includes(said), failure.logs ?? String(failure));
  }
  assert.equal((await ask(gates.EdDSA, "/weather")).status, 402, "the others serve on");
});
