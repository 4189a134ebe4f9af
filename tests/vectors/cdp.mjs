/**
 * Writes `cdp.json`: keys of the Coinbase Developer Platform in every form, and the tokens that the official generators
 * (npm `@coinbase/cdp-sdk`, and `@coinbase/x402` by way of it) make with them, at a fixed time and with fixed random bytes.
 *
 *   node tests/vectors/cdp.mjs           writes the file
 *   node tests/vectors/cdp.mjs --check   fails where the file differs from what would be written
 *
 * All keys are throwaway ones, made here of a label. Signatures on P-256 are random in the official generator: the vectors
 * hold what it signs, with the signature of RFC 6979 as `@noble/curves` makes it, which WebCrypto has to take.
 */
import assert from "node:assert/strict";
import { createHash, createPrivateKey, createPublicKey, webcrypto } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createAuthHeader, createCdpAuthHeaders } from "@coinbase/x402";
import { generateJwt } from "@coinbase/cdp-sdk/auth";
import { p256 } from "@noble/curves/p256";

const check = process.argv.includes("--check");
const NOW = 1_750_000_000;
const NONCE = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
const HOST = "api.cdp.coinbase.com";
const seedOf = (label) => createHash("sha256").update(label).digest();

const der = (tag, ...parts) => {
  const content = Buffer.concat(parts);
  return Buffer.concat([Buffer.from(content.length < 128 ? [tag, content.length] : [tag, 0x81, content.length]), content]);
};

/** A key of Ed25519 as the portal shows it. */
function ed25519(label) {
  const seed = seedOf(label);
  const key = createPrivateKey({
    key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]),
    format: "der",
    type: "pkcs8",
  });
  const publicKey = createPublicKey(key).export({ format: "der", type: "spki" }).subarray(-32);
  return { key, secret: Buffer.concat([seed, publicKey]).toString("base64") };
}

/** A key on P-256, in PEM of either form. */
function ecdsa(label, curve = "06082a8648ce3d030107") {
  const scalar = seedOf(label);
  const point = Buffer.from(p256.getPublicKey(scalar, false));
  const parameters = Buffer.from(curve, "hex");
  const sec1 = der(0x30, Buffer.from("020101", "hex"), der(4, scalar), der(0xa0, parameters), der(0xa1, der(3, Buffer.from([0]), point)));
  const pem = (label, bytes) =>
    `-----BEGIN ${label}-----\n${bytes.toString("base64").match(/.{1,64}/g).join("\n")}\n-----END ${label}-----\n`;
  const key = createPrivateKey(pem("EC PRIVATE KEY", sec1));
  return { key, scalar, sec1: pem("EC PRIVATE KEY", sec1), pkcs8: key.export({ format: "pem", type: "pkcs8" }), pem };
}

const CALLS = [
  ["POST", "/platform/v2/x402/verify"],
  ["POST", "/platform/v2/x402/settle"],
  ["GET", "/platform/v2/x402/supported"],
];

/** Runs the official generator at a fixed time, with fixed random bytes. */
async function officially(act) {
  const [now, random] = [Date.now, webcrypto.getRandomValues];
  Date.now = () => NOW * 1000;
  webcrypto.getRandomValues = (bytes) => (bytes.set(NONCE.subarray(0, bytes.length)), bytes);
  try {
    return await act();
  } finally {
    [Date.now, webcrypto.getRandomValues] = [now, random];
  }
}

const decoded = (part) => JSON.parse(Buffer.from(part, "base64url").toString("utf8"));

async function tokens(keyId, key, secret, sign) {
  return Promise.all(
    CALLS.map(async ([method, path]) => {
      const jwt = await officially(() =>
        generateJwt({ apiKeyId: keyId, apiKeySecret: secret, requestMethod: method, requestHost: HOST, requestPath: path }),
      );
      const [header, claims, signature] = jwt.split(".");
      assert.equal(decoded(header).nonce, NONCE.toString("hex"));
      assert.equal(decoded(claims).nbf, NOW);
      const signed = `${header}.${claims}`;
      const token = `${signed}.${sign ? await sign(signed) : signature}`;
      return { method, authority: HOST, path, token };
    }),
  );
}

const edwards = ed25519("x402 vector cdp ed25519");
const nist = ecdsa("x402 vector cdp p256");
const id = "7a3c1a52-6f0e-4b8f-9c1d-2f6f3b0d9e11";
const longId = 'organizations/1f2e/apiKeys/"9d8c"';

/** The signature of RFC 6979, which WebCrypto has to take. */
async function signOnP256(text) {
  const hash = createHash("sha256").update(text).digest();
  const signature = Buffer.from(p256.sign(hash, nist.scalar, { lowS: false }).toCompactRawBytes());
  const jwk = createPublicKey(nist.key).export({ format: "jwk" });
  const key = await webcrypto.subtle.importKey("jwk", jwk, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
  assert.ok(await webcrypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, signature, Buffer.from(text)));
  return signature.toString("base64url");
}

// The facilitator's own package makes nothing else of a key.
const headers = await officially(() => createCdpAuthHeaders(id, edwards.secret)());
const official = await tokens(id, edwards.key, edwards.secret);
assert.deepEqual(
  [headers.verify, headers.settle, headers.supported].map(({ Authorization }) => Authorization),
  official.map(({ token }) => `Bearer ${token}`),
);
assert.equal(
  await officially(() => createAuthHeader(id, edwards.secret, "POST", HOST, CALLS[0][1])),
  `Bearer ${official[0].token}`,
);

const content = {
  note: "Written by cdp.mjs. Keys are throwaway ones. Every secret of a key gives the same tokens.",
  now: NOW,
  nonce: NONCE.toString("hex"),
  keys: [
    { name: "EdDSA", keyId: id, secrets: [edwards.secret, `${edwards.secret}\n`], tokens: official },
    {
      name: "ES256",
      keyId: longId,
      secrets: [nist.pkcs8, nist.sec1, nist.pkcs8.trim().replaceAll("\n", "\\n"), nist.sec1.replaceAll("\n", "\r\n")],
      tokens: await tokens(longId, nist.key, nist.pkcs8, signOnP256),
    },
  ],
  wrong: [
    ["another curve (secp256k1), SEC 1", nist.pem("EC PRIVATE KEY", der(0x30, Buffer.from("020101", "hex"), der(4, nist.scalar), der(0xa0, Buffer.from("06052b8104000a", "hex"))))],
    ["no curve, SEC 1", nist.pem("EC PRIVATE KEY", der(0x30, Buffer.from("020101", "hex"), der(4, nist.scalar)))],
    ["a scalar of 31 bytes", nist.pem("EC PRIVATE KEY", der(0x30, Buffer.from("020101", "hex"), der(4, nist.scalar.subarray(1)), der(0xa0, Buffer.from("06082a8648ce3d030107", "hex"))))],
    ["the scalar 0", nist.pem("EC PRIVATE KEY", der(0x30, Buffer.from("020101", "hex"), der(4, Buffer.alloc(32)), der(0xa0, Buffer.from("06082a8648ce3d030107", "hex"))))],
    ["Ed25519 in PKCS #8", edwards.key.export({ format: "pem", type: "pkcs8" })],
    ["a public key", createPublicKey(nist.key).export({ format: "pem", type: "spki" })],
    ["bytes behind the key", nist.pem("PRIVATE KEY", Buffer.concat([nist.key.export({ format: "der", type: "pkcs8" }), Buffer.from([0])]))],
    ["the seed alone", edwards.secret.slice(0, 43) + "="],
    ["other halves", Buffer.concat([seedOf("x402 vector cdp other"), Buffer.from(edwards.secret, "base64").subarray(32)]).toString("base64")],
  ].map(([name, secret]) => ({ name, secret })),
};

const file = new URL("cdp.json", import.meta.url);
const text = `${JSON.stringify(content, null, 2)}\n`;
if (!check) writeFileSync(file, text);
else assert.ok(readFileSync(file, "utf8") === text, "cdp.json is not what cdp.mjs writes");
