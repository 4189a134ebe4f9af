/**
 * Solana's scheme `exact`, and schemes that the filter does not know: offered as the facilitator has them, checked as far
 * as that goes, and judged by it. The official client pays; the facilitator is a fake that verifies as the official one
 * does and moves nothing.
 */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { createKeyPairSignerFromPrivateKeyBytes, getAddressDecoder, getBase58Decoder } from "@solana/kit";
import { ExactSvmScheme as Client } from "@x402/svm/exact/client";
import { ExactSvmScheme as Facilitator } from "@x402/svm/exact/facilitator";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { fakeSigner, startFakeSolana } from "./fake-solana.mjs";
import { ask, assertTerms, encoded, eventually, openGateway, openBackends, pluginOf } from "./support.mjs";

const NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";
const digest = (text) => new Uint8Array(createHash("sha256").update(text).digest());
const signer = (label) => createKeyPairSignerFromPrivateKeyBytes(digest(`test: ${label}`));
const [payer, recipient, feePayer] = [await signer("payer"), (await signer("recipient")).address, (await signer("fee payer")).address];

const backends = await openBackends();
const node = await startFakeSolana({ blockhash: getAddressDecoder().decode(digest("blockhash")) });
backends.atEnd(node.stop);

const solana = { scheme: "exact", network: "solana-devnet", asset: "USDC", pay_to: recipient };
const invoice = {
  scheme: "invoice",
  network: "eip155:84532",
  asset: { address: "points", decimals: 2, usd_pegged: true },
  pay_to: "shop-7",
  extra: { desk: 3 },
};
const routes = ["after", "before", "concurrent"].map((settle) => ({ name: settle, match: { path: `/${settle}` }, price: "$0.001", settle }));
const gateway = await openGateway(backends, {
  plugin: pluginOf({
    facilitator: { timeout: "1s", verify: "local" },
    defaults: { accepts: [solana] },
    routes: [...routes, { name: "invoice", match: { path: "/invoice" }, price: "$1", accepts: [invoice] }],
  }),
  facilitator: "fake",
});
const { fake } = gateway;
const official = new Facilitator(fakeSigner(feePayer));

const kinds = [
  { x402Version: 2, scheme: "exact", network: NETWORK, extra: { feePayer } },
  { x402Version: 1, scheme: "exact", network: "solana-devnet", extra: { feePayer } },
  { x402Version: 2, scheme: "invoice", network: "eip155:84532", extra: { clerk: "ann", desk: 9 } },
];
const transactionName = () => getBase58Decoder().decode(randomBytes(64));
fake.always("/supported", { json: { kinds, extensions: [], signers: {} } });
fake.always("/verify", async ({ paymentPayload, paymentRequirements }) =>
  paymentRequirements.scheme === "exact"
    ? { json: await official.verify(paymentPayload, paymentRequirements) }
    : { json: paymentPayload.payload.code === "good" ? { isValid: true, payer: "ann@example.com" } : { isValid: false, invalidReason: "no_such_invoice" } },
);
fake.always("/settle", async ({ paymentRequirements: { network, scheme } }) => ({
  json: { success: true, transaction: transactionName(), network, payer: scheme === "exact" ? payer.address : "ann@example.com" },
}));
await eventually(async () => (await ask(gateway, "/after")).status === 402, "the filter has heard what the facilitator supports");

const client = new Client(payer, { rpcUrl: node.url });
const fetchPaid = wrapFetchWithPayment(fetch, new x402Client().register("solana:*", client));
const entryOf = async (target) => (await ask(gateway, target)).terms.accepts[0];
const paymentFor = async (target) => {
  const accepted = await entryOf(target);
  return { ...(await client.createPaymentPayload(2, accepted)), accepted };
};
const buy = (target, payment) => ask(gateway, target, { headers: { "payment-signature": encoded(payment) } });

test("the terms hold what the facilitator supplies", async () => {
  const answer = await ask(gateway, "/after");
  assert.deepEqual(answer.terms.accepts, [
    {
      scheme: "exact",
      network: NETWORK,
      amount: "1000",
      asset: "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
      payTo: recipient,
      maxTimeoutSeconds: 300,
      extra: { feePayer },
    },
  ]);
  assert.deepEqual((await entryOf("/invoice")).extra, { desk: 3, clerk: "ann" }, "and the configuration goes before");
});

for (const { name } of routes) {
  test(`the official client pays, settled ${name}`, async () => {
    const response = await fetchPaid(`${gateway.url}/${name}`);
    assert.equal(response.status, 200);
    const receipt = JSON.parse(Buffer.from(response.headers.get("payment-response"), "base64"));
    assert.deepEqual({ ...receipt, transaction: "" }, { success: true, payer: payer.address, network: NETWORK, transaction: "" });
    assert.match(receipt.transaction, /^[1-9A-HJ-NP-Za-km-z]{80,88}$/);
    const calls = fake.calls.slice(-2).map(({ path }) => path);
    assert.equal(calls.at(-1), "/settle");
    assert.equal(calls.includes("/verify"), name === "after", "the filter alone cannot tell whether it would settle");
  });
}

test("a payment buys one response, and a forged one none", async () => {
  const payment = await paymentFor("/after");
  assert.equal((await buy("/after", payment)).status, 200);
  assertTerms(await buy("/after", payment), "invalid_exact_evm_nonce_already_used");

  const settlements = fake.count("/settle") + fake.count("/verify");
  const forged = await paymentFor("/after");
  const bytes = Buffer.from(forged.payload.transaction, "base64");
  bytes[70] ^= 1;
  forged.payload.transaction = bytes.toString("base64");
  assertTerms(await buy("/after", forged), "invalid_exact_svm_payload_signature_invalid");
  const cheap = await paymentFor("/after");
  const { payload } = await client.createPaymentPayload(2, { ...cheap.accepted, amount: "1" });
  assertTerms(await buy("/after", { ...cheap, payload }), "invalid_exact_svm_payload_amount_mismatch");
  assert.equal(fake.count("/settle") + fake.count("/verify"), settlements, "nobody is asked about these");
});

test("a settlement that nobody heard is found out, and buys its response once", async () => {
  const payment = await paymentFor("/before");
  fake.script("/settle", { instead: "close" });
  const first = await buy("/before", payment);
  assert.deepEqual([first.status, first.get("payment-required")], [502, undefined]);
  await eventually(async () => (await buy("/before", payment)).status === 200, "the same payment is served");
  assert.equal((await buy("/before", payment)).status, 402);
});

test("a scheme that nobody here knows is the facilitator's to judge", async () => {
  const accepted = await entryOf("/invoice");
  const payment = (code) => ({ x402Version: 2, accepted, payload: { code, number: 1.5 } });
  assertTerms(await buy("/invoice", payment("bad")), "no_such_invoice");
  const answer = await buy("/invoice", payment("good"));
  assert.equal(answer.status, 200);
  assert.equal(answer.receipt.payer, "ann@example.com");
  const { paymentPayload, paymentRequirements } = fake.calls.at(-1).request;
  assert.deepEqual([paymentPayload.payload, paymentRequirements], [{ code: "good", number: 1.5 }, accepted]);
  assertTerms(await buy("/invoice", payment("good")), "invalid_exact_evm_nonce_already_used");
});

test("what the facilitator does not settle is left out, and said in the log", async () => {
  const lonely = await openGateway(backends, {
    plugin: pluginOf({
      facilitator: { timeout: "1s" },
      routes: [
        { name: "one", match: { path: "/one" }, price: "$0.001", accepts: [solana] },
        { name: "two", match: { path: "/two" }, price: "$0.001", accepts: [{ ...solana, network: "solana" }] },
      ],
    }),
    facilitator: "fake",
  });
  lonely.fake.always("/supported", { json: { kinds } });
  await eventually(async () => (await ask(lonely, "/one")).status === 402, "the filter has heard what is supported");
  const answer = await ask(lonely, "/two");
  assert.deepEqual([answer.status, answer.get("retry-after")], [503, "1"]);
  assert.match(lonely.envoy.logs(), /does not settle scheme exact on solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp/);
});
