/**
 * Payments in which something is wrong. Each is refused before the upstream hears of it and before anyone is asked
 * to settle it, and none of them uses up the honest payment that it was made from.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { serializeErc6492Signature } from "viem";
import { accounts } from "../../stage/accounts.mjs";
import {
  assertNoTerms,
  assertServed,
  assertTerms,
  now,
  openGateway,
  openBackends,
  pay,
  payerAccount,
  paymentFor,
  pluginOf,
  quote,
  signPayment,
  since,
} from "./support.mjs";

const backends = await openBackends();
const gateway = await openGateway(backends);
const local = await openGateway(backends, { plugin: pluginOf({ facilitator: { verify: "local" } }) });

const SIGNATURE = "invalid_exact_evm_signature";
const RECIPIENT = "invalid_exact_evm_recipient_mismatch";
const VALUE = "invalid_exact_evm_payload_authorization_value_mismatch";
const EXPIRED = "invalid_exact_evm_payload_authorization_valid_before";
const EARLY = "invalid_exact_evm_payload_authorization_valid_after";
const NO_MATCH = "No matching payment requirements";
const MALFORMED = 400;

const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const stranger = accounts[4];

/** What is no amount, or not written as one. */
const NO_AMOUNTS = [
  ...[1000.5, -1000, true, "0x3e8", "1000.0", "+1000", "-1000", " 1000", "1000 ", "1e3", "", "1_000", "1000n", "१०००"],
  String(2n ** 256n),
];

const clone = (value) => structuredClone(value);

/** Takes the signature apart, lets `change` work on the numbers, and puts it together. */
function resigned(payment, change) {
  const { signature } = payment.payload;
  const number = (from, to) => BigInt(`0x${signature.slice(from, to)}`);
  const parts = { r: number(2, 66), s: number(66, 130), v: number(130) };
  const { r, s, v } = { ...parts, ...change(parts) };
  const hex = (number, bytes) => number.toString(16).padStart(bytes * 2, "0");
  const copy = clone(payment);
  copy.payload.signature = `0x${hex(r, 32)}${hex(s, 32)}${hex(v, 1)}`;
  return copy;
}

/** A payment whose part at `path` is another; `undefined` leaves it out. */
function altered(payment, path, value) {
  const copy = clone(payment);
  const keys = path.split(".");
  const last = keys.pop();
  const parent = keys.reduce((object, key) => object[key], copy);
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  return copy;
}

const bytesFlipped = (payment) =>
  [0, 15, 31, 32, 47, 63].map((position) => {
    const signature = Buffer.from(payment.payload.signature.slice(2), "hex");
    signature[position] ^= 1;
    return [`byte ${position} of the signature flipped`, altered(payment, "payload.signature", `0x${signature.toString("hex")}`), SIGNATURE];
  });

/** What is changed in a payment after it was signed: [what, payment, 400 or the official reason]. */
function afterSigning(payment) {
  const { authorization, signature } = payment.payload;
  const { accepted } = payment;
  const later = String(Number(authorization.validBefore) + 1);
  const change = (path, value, expected) => [`${path} = ${JSON.stringify(value)}`, altered(payment, path, value), expected];
  return [
    change("payload.authorization.from", stranger.address, SIGNATURE),
    change("payload.authorization.to", stranger.address, RECIPIENT),
    change("payload.authorization.value", String(BigInt(authorization.value) - 1n), VALUE),
    change("payload.authorization.value", String(BigInt(authorization.value) + 1n), VALUE),
    change("payload.authorization.value", "0", VALUE),
    change("payload.authorization.validAfter", "1", SIGNATURE),
    change("payload.authorization.validAfter", String(now() + 3600), EARLY),
    change("payload.authorization.validBefore", later, SIGNATURE),
    // The signature is looked at before the clock, as the official verifier has it.
    change("payload.authorization.validBefore", String(now() - 1), SIGNATURE),
    change("payload.authorization.nonce", `0x${"ab".repeat(32)}`, SIGNATURE),
    ...bytesFlipped(payment),
    change("payload.signature", "0x", SIGNATURE),
    change("payload.signature", `0x${"00".repeat(65)}`, SIGNATURE),
    change("payload.signature", signature.slice(0, -2), SIGNATURE),
    ["r = 0", resigned(payment, () => ({ r: 0n })), SIGNATURE],
    ["s = 0", resigned(payment, () => ({ s: 0n })), SIGNATURE],
    ["r = the order", resigned(payment, () => ({ r: ORDER })), SIGNATURE],
    ["a high s, with the v that fits", resigned(payment, ({ s, v }) => ({ s: ORDER - s, v: 55n - v })), SIGNATURE],
    ["v = 0 or 1", resigned(payment, ({ v }) => ({ v: v - 27n })), SIGNATURE],
    ["the other v", resigned(payment, ({ v }) => ({ v: 55n - v })), SIGNATURE],
    ["v = 29", resigned(payment, () => ({ v: 29n })), SIGNATURE],
    ["v = 255", resigned(payment, () => ({ v: 255n })), SIGNATURE],
    change("accepted.scheme", "upto", NO_MATCH),
    change("accepted.scheme", "EXACT", NO_MATCH),
    change("accepted.network", "eip155:8453", NO_MATCH),
    change("accepted.network", "base-sepolia", NO_MATCH),
    change("accepted.amount", "1", NO_MATCH),
    change("accepted.asset", stranger.address, NO_MATCH),
    change("accepted.payTo", stranger.address, NO_MATCH),
    change("accepted.maxTimeoutSeconds", accepted.maxTimeoutSeconds + 1, NO_MATCH),
    change("accepted.extra.name", "USD Coin", NO_MATCH),
    change("accepted.extra.version", "1", NO_MATCH),
    change("accepted.extra", undefined, NO_MATCH),
    change("x402Version", 1, MALFORMED),
    change("x402Version", 3, MALFORMED),
    change("x402Version", "2", MALFORMED),
    change("x402Version", undefined, MALFORMED),
    change("accepted", undefined, MALFORMED),
    change("payload", undefined, MALFORMED),
    change("payload", {}, MALFORMED),
    change("payload", "0x", MALFORMED),
    change("payload.authorization", undefined, MALFORMED),
    change("payload.authorization", [authorization], MALFORMED),
    change("payload.signature", undefined, MALFORMED),
    change("payload.signature", signature.slice(2), MALFORMED),
    change("payload.signature", `${signature.slice(0, -1)}g`, MALFORMED),
    change("payload.signature", signature.slice(0, -1), MALFORMED),
    change("payload.signature", null, MALFORMED),
    ...Object.keys(authorization).map((key) => change(`payload.authorization.${key}`, undefined, MALFORMED)),
    ...Object.keys(authorization).map((key) => change(`payload.authorization.${key}`, null, MALFORMED)),
    ...NO_AMOUNTS.map((value) => change("payload.authorization.value", value, MALFORMED)),
    ...[Number(later) + 0.5, `0x${Number(later).toString(16)}`, `${later}.5`, "", String(2n ** 256n)].map((value) =>
      change("payload.authorization.validBefore", value, MALFORMED),
    ),
    change("payload.authorization.validAfter", 0.5, MALFORMED),
    change("payload.authorization.validAfter", "-1", MALFORMED),
    ...["0x", "0x00", `0x${"ab".repeat(31)}`, `0x${"ab".repeat(33)}`, "ab".repeat(32), `0X${"ab".repeat(32)}`, 1].map(
      (value) => change("payload.authorization.nonce", value, MALFORMED),
    ),
    ...["0x", authorization.from.slice(2), authorization.from.slice(0, -1), `${authorization.from} `, "vitalik.eth"].map((value) =>
      change("payload.authorization.from", value, MALFORMED),
    ),
  ];
}

/** What is signed as it stands, and wrong. */
async function signedSo(entry) {
  const other = async (what, changes, expected) => [what, await signPayment(entry, changes), expected];
  const word = "0x" + "11".repeat(32);
  return [
    await other("money to somebody else", { authorization: { to: stranger.address } }, RECIPIENT),
    await other("less money", { authorization: { value: String(BigInt(entry.amount) - 1n) } }, VALUE),
    await other("more money", { authorization: { value: String(BigInt(entry.amount) + 1n) } }, VALUE),
    await other("expired", { authorization: { validBefore: String(now() - 1) } }, EXPIRED),
    await other("expired long ago", { authorization: { validBefore: "0" } }, EXPIRED),
    await other("about to expire", { authorization: { validBefore: String(now() + 5) } }, EXPIRED),
    await other("not yet valid", { authorization: { validAfter: String(now() + 60) } }, EARLY),
    await other("never valid", { authorization: { validAfter: String(2n ** 256n - 1n) } }, EARLY),
    await other("for another chain", { domain: { chainId: 8453 } }, SIGNATURE),
    await other("under another name", { domain: { name: "USD Coin" } }, SIGNATURE),
    await other("under another version", { domain: { version: "1" } }, SIGNATURE),
    await other("for another token", { domain: { verifyingContract: stranger.address } }, SIGNATURE),
    await other("under a domain with a salt", { domain: { salt: word } }, SIGNATURE),
    await other("signed by a stranger", { account: stranger, authorization: { from: payerAccount.address } }, SIGNATURE),
    [
      "signed as another type of transfer",
      await (async () => {
        const payment = await signPayment(entry);
        payment.payload.signature = await payerAccount.signTypedData({
          domain: { name: entry.extra.name, version: entry.extra.version, chainId: 84_532, verifyingContract: entry.asset },
          types: {
            ReceiveWithAuthorization: [
              { name: "from", type: "address" },
              { name: "to", type: "address" },
              { name: "value", type: "uint256" },
              { name: "validAfter", type: "uint256" },
              { name: "validBefore", type: "uint256" },
              { name: "nonce", type: "bytes32" },
            ],
          },
          primaryType: "ReceiveWithAuthorization",
          message: payment.payload.authorization,
        });
        return payment;
      })(),
      SIGNATURE,
    ],
    [
      "signed as a message",
      await (async () => {
        const payment = await signPayment(entry);
        payment.payload.signature = await payerAccount.signMessage({ message: JSON.stringify(payment.payload.authorization) });
        return payment;
      })(),
      SIGNATURE,
    ],
  ];
}

function assertRefused(answer, expected, what) {
  try {
    if (expected === MALFORMED) assertNoTerms(answer, 400);
    else assertTerms(answer, expected);
  } catch (error) {
    error.message = `${what}: ${error.message}`;
    throw error;
  }
}

for (const [how, at, target] of [
  ["after the response", gateway, "/weather"],
  ["upfront", gateway, "/upfront/x"],
  ["after the response, verified locally", local, "/weather"],
]) {
  test(`Paying ${how}: whatever is altered in a signed payment, it is refused, and the payment is still good`, async () => {
    const [honest, mark] = [await paymentFor(at, target), await since(at)];
    for (const [what, payment, expected] of afterSigning(honest)) {
      assertRefused(await pay(at, target, payment), expected, what);
    }
    assert.deepEqual(mark.seen(), [], "the upstream was asked");
    assert.deepEqual(mark.calls(), [], "the facilitator was asked");
    assertServed(await pay(at, target, honest));
    assert.equal((await mark.transfers()).length, 1);
  });

  test(`Paying ${how}: a payment that was signed for something else is refused`, async () => {
    const [{ accepts }, mark] = [await quote(at, target), await since(at)];
    for (const [what, payment, expected] of await signedSo(accepts[0])) {
      assertRefused(await pay(at, target, payment), expected, what);
    }
    assert.deepEqual(mark.seen(), [], "the upstream was asked");
    assert.deepEqual(mark.calls(), [], "the facilitator was asked");
    assert.deepEqual(await mark.transfers(), []);
  });
}

test("A signature in the form of 64 bytes (EIP-2098) is refused: the token does not take it", async () => {
  const [payment, mark] = [await paymentFor(gateway, "/weather"), await since(gateway)];
  const { signature } = payment.payload;
  const yParity = BigInt(`0x${signature.slice(130)}`) - 27n;
  const compact = (BigInt(`0x${signature.slice(66, 130)}`) | (yParity << 255n)).toString(16).padStart(64, "0");
  assertTerms(await pay(gateway, "/weather", altered(payment, "payload.signature", signature.slice(0, 66) + compact)), SIGNATURE);
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
});

for (const [how, at] of [["remotely", gateway], ["locally", local]]) {
  test(`Verifying ${how}: a signature longer than a key's is for the facilitator to judge, which refuses it here`, async () => {
    const [payment, mark] = [await paymentFor(at, "/weather"), await since(at)];
    const wrapped = serializeErc6492Signature({ address: stranger.address, data: "0x", signature: payment.payload.signature });
    for (const signature of [`${payment.payload.signature}00`, payment.payload.signature + "00".repeat(1000), wrapped]) {
      const answer = await pay(at, "/weather", altered(payment, "payload.signature", signature));
      assertTerms(answer, answer.terms?.error);
      assert.match(answer.terms.error, /^(invalid|eip6492)_/);
    }
    assert.deepEqual(mark.seen(), []);
    assert.deepEqual(mark.calls("/settle"), []);
    assert.equal(mark.calls("/verify").length, 3);
    assertServed(await pay(at, "/weather", payment));
  });
}

test("A payment that holds an authorization of another kind beside the checked one is refused", async () => {
  // Facilitators look for `permit2Authorization` first: what they would settle is not what the gateway has checked.
  const [payment, mark] = [await paymentFor(gateway, "/weather"), await since(gateway)];
  const { from, validBefore } = payment.payload.authorization;
  const permit2Authorization = {
    from,
    permitted: { token: payment.accepted.asset, amount: payment.accepted.amount },
    spender: "0x402085c248EeA27D92E8b30b2C58ed07f9E20001",
    nonce: "1",
    deadline: validBefore,
    witness: { to: payment.accepted.payTo, validAfter: "0" },
  };
  const both = altered(payment, "payload.permit2Authorization", permit2Authorization);
  const answer = await pay(gateway, "/weather", both);
  assert.ok([400, 402].includes(answer.status), `${answer.status}: ${answer.text}`);
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), [], "the facilitator was asked about another payment than the one that was checked");
  assertServed(await pay(gateway, "/weather", payment));
});

test("What lives longer than anybody signs is refused, and nobody is asked about it", async () => {
  for (const validBefore of [2n ** 256n - 1n, now() + 86_400, now() + 4_260]) {
    const [{ accepts }, mark] = [await quote(local, "/weather"), await since(local)];
    const answer = await pay(local, "/weather", await signPayment(accepts[0], { authorization: { validBefore: String(validBefore) } }));
    assertTerms(answer, "invalid_exact_evm_payload_authorization_valid_before");
    assert.deepEqual(mark.calls(), []);
  }
});

test("The local check is no stricter than official clients: unusual but honest payments are served", async () => {
  for (const [what, authorization] of [
    ["valid for eight seconds", { validBefore: String(now() + 8) }],
    ["valid since a while", { validAfter: String(now() - 600) }],
    ["valid for an hour whatever was asked, by a clock that is fast", { validBefore: String(now() + 3_600 + 590) }],
    ["with a nonce of zeros", { nonce: `0x${"00".repeat(32)}` }],
  ]) {
    const { accepts } = await quote(local, "/weather");
    const answer = await pay(local, "/weather", await signPayment(accepts[0], { authorization }));
    assert.equal(answer.status, 200, `${what}: ${answer.text}`);
  }
});
