/** Extensions of the protocol, held against the official package's own validators and helpers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { extractDiscoveryInfo, validateBazaarRouteExtensions, validateDiscoveryExtension } from "@x402/extensions/bazaar";
import {
  appendPaymentIdentifierToExtensions,
  generatePaymentId,
  isPaymentIdentifierRequired,
  validatePaymentIdentifier,
} from "@x402/extensions/payment-identifier";
import {
  decodeSignedOffers,
  extractOffersFromPaymentRequired,
  extractReceiptFromResponse,
  findAcceptsObjectFromSignedOffer,
  verifyOfferSignatureEIP712,
  verifyReceiptMatchesOffer,
  verifyReceiptSignatureEIP712,
} from "@x402/extensions/offer-receipt";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { toClientEvmSigner } from "@x402/evm";
import { startFacilitator } from "../../stage/facilitator.mjs";
import { EIP2612_GAS_SPONSORING, declareEip2612GasSponsoringExtension, declareErc20ApprovalGasSponsoringExtension } from "@x402/extensions";
import { ask, assertServed, assertTerms, DEFAULTS, eventually, NETWORK, openGateway, openBackends, pay, payerAccount, pluginOf, signPayment, since } from "./support.mjs";

const backends = await openBackends();
const [usdc] = DEFAULTS.accepts;
const query = {
  query: { city: "Paris", days: 3 },
  query_schema: { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } }, required: ["city"] },
  output: { weather: "sunny", temperature: 21.5 },
  output_schema: { type: "object", properties: { weather: { type: "string" } } },
};
const body = { body: { prompt: "Hello" }, body_schema: { type: "object", properties: { prompt: { type: "string" } } } };
const routes = [
  { match: { methods: ["GET"], path: "/query" }, price: "$0.001", extensions: { bazaar: query } },
  { match: { methods: ["POST"], path: "/body" }, price: "$0.001", extensions: { bazaar: { ...body, output: { text: "Hi" } } } },
  { match: { methods: ["PUT"], path: "/plain" }, price: "$0.001", extensions: { bazaar: {} } },
  {
    match: { path: "/cities/{city}/days/{day}" },
    price: "$0.001",
    extensions: { bazaar: { method: "get", path_params: { city: "Paris", day: "1" }, path_params_schema: { type: "object" } } },
  },
  { match: { path: "/optional" }, price: "$0.001", extensions: { payment_identifier: "optional" } },
  { match: { path: "/required" }, price: "$0.001", extensions: { payment_identifier: "required" } },
  { match: { path: "/permit2" }, price: "$0.001", accepts: [{ ...usdc, transfer_method: "permit2" }, usdc] },
];
const gateway = await openGateway(backends, { plugin: pluginOf({ routes }) });

const declared = async (target, method) => (await ask(gateway, target, { method })).terms.extensions;

for (const [method, target, template] of [
  ["GET", "/query"],
  ["POST", "/body"],
  ["PUT", "/plain"],
  ["GET", "/cities/Rome/days/7", "/cities/:city/days/:day"],
]) {
  test(`bazaar: what ${method} ${target} takes and gives is valid, and can be read`, async () => {
    const terms = (await ask(gateway, target, { method })).terms;
    const { bazaar } = terms.extensions;
    assert.deepEqual(validateDiscoveryExtension(bazaar), { valid: true });
    const warnings = [];
    const { warn } = console;
    console.warn = (text) => warnings.push(text);
    validateBazaarRouteExtensions({ [`${method} ${target}`]: { accepts: [], extensions: { bazaar } } });
    console.warn = warn;
    assert.deepEqual(warnings, []);
    assert.equal(bazaar.routeTemplate, template);
    const found = extractDiscoveryInfo({ x402Version: 2, ...terms, accepted: terms.accepts[0], payload: {} }, terms.accepts[0]);
    assert.equal(found.method, method);
    assert.ok(found.resourceUrl.endsWith(template ?? target), found.resourceUrl);
  });
}

test("bazaar: the examples are those of the configuration, in the terms and in the catalogue", async () => {
  const { info } = (await declared("/query")).bazaar;
  assert.deepEqual(info.input, { type: "http", method: "GET", queryParams: query.query });
  assert.deepEqual(info.output, { type: "json", example: query.output });
  assert.deepEqual((await declared("/body", "POST")).bazaar.info.input, { type: "http", method: "POST", bodyType: "json", body: body.body });
  const { items } = (await ask(gateway, "/.well-known/x402")).json();
  assert.deepEqual(items[0].extensions.bazaar.info, info);
  assert.equal(items[4].extensions, undefined);
});

/** A payment of its own, with a name for it. */
async function named(target, id) {
  const { accepts, resource, extensions } = (await ask(gateway, target)).terms;
  return { ...(await signPayment(accepts[0], { resource })), extensions: appendPaymentIdentifierToExtensions(structuredClone(extensions), id) };
}

test("payment-identifier: the same name and payment get the ledger's answer, another payment 409", async () => {
  for (const target of ["/optional", "/required"]) {
    const extension = (await declared(target))["payment-identifier"];
    assert.deepEqual(validatePaymentIdentifier(extension), { valid: true });
    assert.equal(isPaymentIdentifierRequired(extension), target === "/required");
    const mark = await since(gateway);
    const id = generatePaymentId();
    const payment = await named(target, id);
    assertServed(await pay(gateway, target, payment));
    assertTerms(await pay(gateway, target, payment), "invalid_exact_evm_nonce_already_used");
    const conflict = await pay(gateway, target, await named(target, id));
    assert.equal(conflict.status, 409);
    assert.match(conflict.json().error, /payment-identifier/);
    assert.equal(mark.seen().length, 1);
    assert.equal((await mark.transfers()).length, 1);
    assertServed(await pay(gateway, target, await named(target, generatePaymentId())));
  }
});

test("payment-identifier: one that is wanted and missing, or malformed, is refused with a reason", async () => {
  for (const [target, change] of [
    ["/required", (payment) => delete payment.extensions],
    ["/required", (payment) => delete payment.extensions["payment-identifier"].info.id],
    ["/optional", (payment) => (payment.extensions["payment-identifier"].info.id = "short")],
  ]) {
    const payment = await named(target, generatePaymentId());
    change(payment);
    const answer = await pay(gateway, target, payment);
    assert.equal(answer.status, 400);
    assert.match(answer.json().error, /payment-identifier/);
  }
});

test("gas sponsoring is declared where the facilitator has it, as the official server does", async () => {
  const fakes = await openGateway(backends, { plugin: pluginOf({ routes, facilitator: { timeout: "1s" } }), facilitator: "fake" });
  const keys = ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"];
  const kinds = [{ x402Version: 2, scheme: "exact", network: NETWORK }, { x402Version: 2, scheme: "upto", network: NETWORK }];
  fakes.fake.always("/supported", { json: { kinds, extensions: [...keys, "unknown"] } });
  await eventually(async () => (await ask(fakes, "/permit2")).terms.extensions, "the filter has heard of the extensions");
  const { extensions } = (await ask(fakes, "/permit2")).terms;
  const official = { ...declareEip2612GasSponsoringExtension(), ...declareErc20ApprovalGasSponsoringExtension() };
  assert.deepEqual(Object.keys(extensions), keys);
  for (const key of keys) {
    const [own, theirs] = [extensions[key], official[key]];
    assert.equal(own.info.version, theirs.info.version);
    assert.deepEqual(own.schema.required.toSorted(), theirs.schema.required.toSorted());
    for (const [name, { pattern }] of Object.entries(theirs.schema.properties)) assert.equal(own.schema.properties[name].pattern, pattern, name);
  }
  assert.equal((await ask(fakes, "/query")).terms.extensions.eip2612GasSponsoring, undefined, "EIP-3009 needs no approval");
  assert.equal((await ask(gateway, "/permit2")).terms.extensions, undefined, "and the stage's facilitator has neither");
});

test("what a client adds to extensions reaches the facilitator unchanged", async () => {
  const { accepts, resource } = (await ask(gateway, "/query")).terms;
  const extensions = { eip2612GasSponsoring: { info: { amount: "1", nested: [1.5, null, { a: "ä" }] } }, mine: true };
  const mark = await since(gateway);
  assertServed(await pay(gateway, "/query", { ...(await signPayment(accepts[0], { resource })), extensions }));
  for (const { request } of mark.calls()) assert.deepEqual(request.paymentPayload.extensions, extensions);
});

test("HEAD and OPTIONS tell that a payment is due, without a body", async () => {
  for (const method of ["HEAD", "OPTIONS"]) {
    const answer = await ask(gateway, "/query", { method });
    assert.equal(answer.status, 402);
    assert.equal(answer.terms.accepts.length, 1);
    assert.equal(answer.bytes.length, 0, answer.text);
  }
});

test("offer-receipt: what is asked and what was delivered is signed, as the official package checks it", async () => {
  const key = generatePrivateKey();
  const seller = privateKeyToAccount(key).address;
  const accepts = [usdc, { ...usdc, network: "base" }];
  const priced = [
    { match: { hosts: ["127.0.0.1"], path: "/weather" }, price: "$0.001", accepts },
    { match: { hosts: ["127.0.0.1"], path: "/upfront" }, price: "$0.001", settle: "before" },
  ];
  const signing = await openGateway(backends, { plugin: pluginOf({ routes: priced, offer_receipt: { key, transaction: true } }) });
  for (const target of ["/weather?city=Paris", "/upfront"]) {
    const url = `${signing.url}${target}`;
    const { terms } = await ask(signing, target);
    const offers = extractOffersFromPaymentRequired(terms);
    assert.equal(offers.length, terms.accepts.length);
    for (const [index, offer] of offers.entries()) {
      assert.equal((await verifyOfferSignatureEIP712(offer)).signer, seller);
      assert.equal(offer.payload.resourceUrl, url);
      assert.deepEqual(findAcceptsObjectFromSignedOffer(offer, terms.accepts), terms.accepts[index]);
    }
    const client = registerExactEvmScheme(new x402Client(), { signer: payerAccount });
    const response = await wrapFetchWithPayment(fetch, client)(url);
    assert.equal(response.status, 200);
    const receipt = extractReceiptFromResponse(response);
    assert.equal((await verifyReceiptSignatureEIP712(receipt)).signer, seller);
    assert.ok(verifyReceiptMatchesOffer(receipt, decodeSignedOffers(offers)[0], [payerAccount.address]));
    const { transaction } = JSON.parse(Buffer.from(response.headers.get("payment-response"), "base64"));
    assert.equal(receipt.payload.transaction, transaction);
  }
});

test("offer-receipt: a seller signs for its own hosts and origins, and not for any that a client names", async () => {
  const key = generatePrivateKey();
  const priced = [
    { name: "anywhere", match: { path: "/anywhere" }, price: "$0.001" },
    { name: "hosts", match: { hosts: ["*.example.com"], path: "/hosts" }, price: "$0.001" },
  ];
  const as = (host) => ({ host });
  const plugin = (more) => pluginOf({ routes: priced, offer_receipt: { key }, ...more });
  const open = await openGateway(backends, { plugin: plugin() });
  assert.match(open.envoy.logs(), /\[warning\]\[wasm\].*offer_receipt: signs nothing for 1 routes \(the first is anywhere\)/);
  const shown = async (gateway, target, host) => {
    const { terms } = await ask(gateway, target, as(host));
    const offers = terms.extensions?.["offer-receipt"] ? extractOffersFromPaymentRequired(terms) : [];
    for (const { payload } of offers) assert.equal(payload.resourceUrl, terms.resource.url);
    return [terms.resource.url, offers.length > 0];
  };
  assert.deepEqual(await shown(open, "/anywhere", "bank.example"), ["http://bank.example/anywhere", false]);
  assert.deepEqual(await shown(open, "/hosts", "API.example.com"), ["http://api.example.com/hosts", true]);
  const { terms } = await ask(open, "/anywhere", as("bank.example"));
  const paid = await pay(open, "/anywhere", await signPayment(terms.accepts[0], { resource: terms.resource }), as("bank.example"));
  assertServed(paid);
  assert.equal(paid.receipt.extensions, undefined);
  const vouched = await openGateway(backends, { plugin: plugin({ origins: ["https://api.example.com", "http://shop.example.com:8080"] }) });
  assert.doesNotMatch(vouched.envoy.logs(), /offer_receipt: signs nothing/);
  assert.deepEqual(await shown(vouched, "/anywhere", "bank.example"), ["https://api.example.com/anywhere", true]);
  assert.deepEqual(await shown(vouched, "/hosts", "shop.example.com:8080"), ["http://shop.example.com:8080/hosts", true]);
  const { resources } = (await ask(vouched, "/.well-known/x402", as("bank.example"))).json();
  assert.deepEqual(resources, ["https://api.example.com/anywhere"]);
});

test("eip2612GasSponsoring: an account without gas, that has approved nothing, pays by Permit2", async () => {
  const facilitator = await startFacilitator({ port: backends.ports.spare3, rpcUrl: backends.chain.rpcUrl, extensions: [EIP2612_GAS_SPONSORING] });
  backends.atEnd(facilitator.stop);
  const accepts = [{ ...usdc, transfer_method: "permit2" }];
  const sponsored = await openGateway(backends, {
    plugin: pluginOf({ routes: [{ match: { path: "/weather" }, price: "$0.001", accepts }] }),
    facilitator: facilitator.url,
  });
  await eventually(async () => (await ask(sponsored, "/weather")).terms?.extensions?.[EIP2612_GAS_SPONSORING.key], "the filter has heard what the facilitator has");
  const account = privateKeyToAccount(generatePrivateKey());
  await backends.chain.mint(account.address, 5_000n);
  const client = registerExactEvmScheme(new x402Client(), { signer: toClientEvmSigner(account, backends.chain.client) });
  const response = await wrapFetchWithPayment(fetch, client)(`${sponsored.url}/weather`);
  assert.equal(response.status, 200);
  assert.equal(await backends.chain.balanceOf(account.address), 4_000n);
  const [settlement] = facilitator.calls.filter(({ path }) => path === "/settle");
  assert.equal(settlement.request.paymentPayload.extensions[EIP2612_GAS_SPONSORING.key].info.from, account.address);
});
