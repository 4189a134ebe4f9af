/**
 * Hostile payers with channels, against two workers on a real chain: who tries to be served for money that is not there, that
 * is already given back, or that has paid once; and who fills the ledger with what is worth nothing.
 *
 * The facilitator is the official one, behind a relay that delays its answers where a test says so.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { accounts } from "../../stage/accounts.mjs";
import { sendJson } from "../../stage/servers.mjs";
import { channelEntry, channelIdOf, channelOf, channelsOn, freshSalt, signChannelPayment } from "./channels-support.mjs";
import {
  ask, DEFAULTS, eventually, everyWorkerSells, latch, openBackends, openGateway, pay, payerAccount, paying, send, since,
} from "./support.mjs";

const PRICE = 10_000n;
const SECRET = "a secret of the tests' own";
const accepts = [{ scheme: "batch-settlement", network: "base-sepolia", asset: "USDC" }];
const backends = await openBackends({ balances: { [payerAccount.address]: 1_000_000_000n } });
const on = channelsOn(backends.chain);
const gateway = await openGateway(backends, {
  facilitator: "fake",
  plugin: {
    facilitator: { timeout: "5s" },
    defaults: DEFAULTS,
    channels: { claim_every: "1s", claim_above: "$100", flush: { path: "/internal/flush", secret: SECRET } },
    routes: [
      { name: "any", match: { path: "/any/{*rest}" }, price: "$0.01", accepts },
      { name: "dear", match: { path: "/dear/{*rest}" }, price: "$0.02", accepts },
      {
        name: "chat",
        match: { methods: ["POST"], path: "/v1/chat/completions" },
        price: { usage: "openai", models: { "fake-echo-1": { input: "$2.50", output: "$10.00" } }, max_output_tokens: 1000 },
        accepts: [{ ...accepts[0], min_deposit: "$0.10" }],
      },
    ],
    unmatched: "free",
  },
  concurrency: 2,
  allowOnHeadersStopIteration: true,
});
const { fake } = gateway;

/** Asks the official facilitator. */
const official = async (path, body) => {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  return (await fetch(backends.facilitator.url + path, body ? post : {})).json();
};
for (const path of ["/supported", "/verify", "/settle"]) fake.always(path, async (body) => ({ json: await official(path, body) }));
await everyWorkerSells(gateway, "/any/x");

const entry = channelEntry(String(PRICE));
const sign = (salt, total, more = {}) => signChannelPayment(entry, { total, config: { salt, ...more.config }, ...more });

/** A channel that its payer has put money into by itself: the gateway has never heard of it. */
async function depositedAlone(amount) {
  const salt = freshSalt();
  await on.deposit((await sign(salt, PRICE, { type: "deposit", amount })).payload);
  return salt;
}

/** A channel that is opened by its first request. */
async function opened(amount = 200_000) {
  const salt = freshSalt();
  const answer = await pay(gateway, "/any/x", await sign(salt, PRICE, { type: "deposit", amount }));
  assert.equal(answer.status, 200, answer.text);
  return salt;
}

const idOf = (salt) => channelIdOf(channelOf(entry, { salt }));
const REASON = "invalid_batch_settlement_evm_";

/** A figure of Envoy's stats, once the keeper has been through the whole ledger. */
async function statOf(name) {
  const stats = await gateway.envoy.stats(`x402.${name}`);
  return Object.entries(stats).filter(([key]) => key.includes(`x402.${name}.`)).reduce((sum, [, value]) => sum + value, 0);
}

// ---- What is given back ---------------------------------------------------------------------------------------------

test("A request that was verified before a refund is not served out of what the refund has given back", async () => {
  const salt = await depositedAlone(1_000_000);
  const [refunding, answering] = [latch(), latch()];
  fake.script("/settle", async (body) => {
    await refunding.opened;
    return { json: await official("/settle", body) };
  });
  // The facilitator looks at the channel at once, and its answer takes its time.
  fake.script("/verify", async (body) => ({ json: await official("/verify", body), hold: answering.opened }));
  const mark = await since(gateway);
  const voucher = pay(gateway, "/any/x", await sign(salt, PRICE));
  await eventually(() => mark.calls("/verify").length === 1, "the voucher is verified");
  await sleep(100);
  const refund = pay(gateway, "/any/x", await sign(salt, 0, { type: "refund" }));
  await eventually(() => mark.calls("/settle").length === 1, "the refund is asked for");
  answering.open();
  await sleep(200);
  refunding.open();
  assert.equal((await refund).status, 200);
  assert.equal((await on.read(idOf(salt))).balance, 0n);
  const answer = await voucher;
  assert.equal(answer.status, 402, "it is served out of an empty channel");
  assert.equal(answer.terms.error, `${REASON}cumulative_exceeds_balance`);
  for (const total of [PRICE, 2n * PRICE]) assert.equal((await pay(gateway, "/any/x", await sign(salt, total))).status, 402);
  assert.deepEqual(mark.seen(), []);
});

// ---- What the payer puts in by itself -------------------------------------------------------------------------------

/** Streams a completion. @returns {Promise<{answer: object, cost: bigint}>} and what it was worth */
async function streamed(payment) {
  const body = JSON.stringify({ model: "fake-echo-1", messages: [{ role: "user", content: "one two three" }], max_tokens: 100, stream: true, stream_options: { include_usage: true } });
  const answer = await ask(gateway, "/v1/chat/completions", { method: "POST", body, headers: { "content-type": "application/json", ...(payment && paying(payment)) } });
  const usage = /"usage":(\{"prompt.*?\}\s*\})/.exec(answer.text);
  const { prompt_tokens: input, completion_tokens: output } = usage ? JSON.parse(usage[1]) : { prompt_tokens: 0, completion_tokens: 0 };
  return { answer, cost: BigInt(Math.ceil(input * 2.5 + output * 10)) };
}

test("A stream is charged though its payer has made the deposit itself, before the facilitator could", async () => {
  const salt = freshSalt();
  const [dear] = (await streamed()).answer.terms.accepts;
  const payment = await signChannelPayment(dear, { type: "deposit", total: dear.amount, amount: 100_000, config: { salt } });
  fake.script("/settle", async (body) => {
    await on.deposit(payment.payload);
    return { json: await official("/settle", body) };
  });
  const { answer, cost } = await streamed(payment);
  assert.equal(answer.status, 200);
  assert.ok(cost > 0n);
  assert.equal((await on.read(idOf(salt))).balance, 100_000n);
  // Whether the deposit has come about is not known, so the facilitator is asked, and takes no voucher of less than 1.
  const corrected = await pay(gateway, "/any/count", await sign(salt, 1));
  assert.equal(corrected.terms?.accepts[0].extra.channelState?.chargedCumulativeAmount, String(cost), corrected.text);
});

// ---- What fills the ledger ------------------------------------------------------------------------------------------

test("A deposit does not vouch for what was charged before it: nothing that cannot be claimed stays in the ledger", async () => {
  const salts = Array.from({ length: 6 }, freshSalt);
  backends.inference.intercept = async (request, response) => (sendJson(response, 500, {}), true);
  const mark = await since(gateway);
  try {
    for (const salt of salts.slice(0, 3)) {
      const answer = await pay(gateway, "/any/x", await sign(salt, 900_000, { type: "deposit", amount: 1_000_000 }));
      assert.equal(answer.status, 402);
      assert.equal(answer.terms.error, `${REASON}cumulative_exceeds_balance`);
    }
    // An honest deposit whose request fails leaves nothing to claim either.
    for (const salt of salts.slice(3)) {
      assert.equal((await pay(gateway, "/any/x", await sign(salt, PRICE, { type: "deposit", amount: 100_000 }))).status, 500);
    }
  } finally {
    backends.inference.intercept = null;
  }
  // The keeper has been through the whole ledger, and what others have charged is claimed.
  await sleep(20_000);
  const ids = salts.map(idOf);
  const claimed = mark.calls("/settle").flatMap(({ request }) => request.paymentPayload.payload.claims ?? []);
  assert.deepEqual(claimed.filter(({ voucher }) => ids.includes(channelIdOf(voucher.channel))), []);
  // A claim that began late is told a round of the keeper later.
  await eventually(async () => (await statOf("unclaimed")) === 0, "nothing is unclaimed", 60_000);
});

// ---- What is signed once ------------------------------------------------------------------------------------------------

/** The same payment, written in other ways: some are the same to whoever reads them, and some are nothing. */
function spellings(payment) {
  const { payload, accepted } = payment;
  const { voucher, channelConfig } = payload;
  const text = JSON.stringify(payment);
  const withVoucher = (changes) => ({ ...payment, payload: { ...payload, voucher: { ...voucher, ...changes } } });
  const upper = (hex) => `0x${hex.slice(2).toUpperCase()}`;
  const reversed = (object) => Object.fromEntries(Object.entries(object).reverse());
  const total = voucher.maxClaimableAmount;
  return [
    payment,
    reversed(payment),
    { ...payment, payload: reversed({ ...payload, voucher: reversed(voucher), channelConfig: reversed(channelConfig) }) },
    JSON.stringify(payment, null, 2),
    `\ufeff${text}`,
    ` ${text}\n`,
    withVoucher({ channelId: upper(voucher.channelId) }),
    withVoucher({ channelId: voucher.channelId.toUpperCase() }),
    withVoucher({ signature: upper(voucher.signature) }),
    withVoucher({ maxClaimableAmount: `0${total}` }),
    withVoucher({ maxClaimableAmount: ` ${total}` }),
    withVoucher({ maxClaimableAmount: `+${total}` }),
    withVoucher({ maxClaimableAmount: Number(total) }),
    withVoucher({ maxClaimableAmount: `0x${BigInt(total).toString(16)}` }),
    withVoucher({ maxClaimableAmount: `${total}.0` }),
    withVoucher({ maxClaimableAmount: [...total].map((digit) => String.fromCodePoint(0xff10 + Number(digit))).join("") }),
    { ...payment, payload: { ...payload, channelConfig: { ...channelConfig, payer: channelConfig.payer.toLowerCase() } } },
    { ...payment, payload: { ...payload, channelConfig: { ...channelConfig, withdrawDelay: String(channelConfig.withdrawDelay) } } },
    { ...payment, payload: { ...payload, type: "Voucher" } },
    { ...payment, payload: { ...payload, more: "something" } },
    text.replace('"maxClaimableAmount"', '"maxClaimableAmount":"1","maxClaimableAmount"'),
    text.replace('"type"', '"type":"refund","type"'),
    text.replaceAll("voucher", "\\u0076oucher"),
    { ...payment, accepted: { ...accepted, amount: "1" } },
    { ...payment, accepted: { ...accepted, extra: { ...accepted.extra, withdrawDelay: 901 } } },
    { ...payment, resource: { url: "http://127.0.0.1/dear/x" } },
  ];
}

test("However a voucher is written, it buys its response, and that once more where it was lost, and no more", async () => {
  const salt = await opened();
  const [mark, payment] = [await since(gateway), await sign(salt, 2n * PRICE)];
  const all = spellings(payment);
  for (let round = 0; round < 3; round++) {
    const answers = await Promise.all(all.map((spelling) => pay(gateway, "/any/x", spelling)));
    for (const { status } of answers) assert.ok([200, 400, 402, 409].includes(status), String(status));
  }
  assert.ok(mark.seen().length >= 1 && mark.seen().length <= 2, `the upstream saw ${mark.seen().length} requests`);
  // Of other channels, what was charged is claimed and what is in doubt is settled once more meanwhile, in the background.
  const isInBackground = ({ path, request }) => {
    const { type, channelConfig } = request?.paymentPayload.payload ?? {};
    return path === "/settle" && (["claim", "settle"].includes(type) || (type === "deposit" && channelConfig.salt !== salt));
  };
  assert.deepEqual(mark.calls().filter((call) => !isInBackground(call)), []);
  const next = await pay(gateway, "/any/x", await sign(salt, 3n * PRICE));
  assert.equal(next.receipt.extra.channelState.chargedCumulativeAmount, "30000");
});

test("What is not the next total, or not of this channel, buys nothing", async () => {
  const [salt, other] = [await opened(), await opened()];
  const mark = await since(gateway);
  const payment = await sign(salt, 2n * PRICE);
  const ofOther = await sign(other, 2n * PRICE);
  const [huge, negative] = [2n ** 128n - 1n, { maxClaimableAmount: "-1" }];
  const payload = (changes) => ({ ...payment, payload: { ...payment.payload, ...changes } });
  const attempts = [
    ["/dear/x", payment],
    ["/any/x", await sign(salt, huge)],
    ["/any/x", await sign(salt, huge, { type: "deposit", amount: huge })],
    ["/any/x", await sign(salt, 2n * PRICE, { type: "deposit", amount: 0 })],
    ["/any/x", await sign(salt, 30n * PRICE, { type: "deposit", amount: 1 })],
    ["/any/x", await sign(salt, 2n * PRICE, { voucher: negative })],
    ["/any/x", await sign(salt, 2n * PRICE, { high: true })],
    ["/any/x", await sign(salt, 2n * PRICE, { signer: accounts[5] })],
    ["/any/x", await sign(salt, 2n * PRICE, { domain: { chainId: 8453 } })],
    ["/any/x", payload({ voucher: ofOther.payload.voucher })],
    ["/any/x", payload({ channelConfig: ofOther.payload.channelConfig })],
    ["/any/x", payload({ channelConfig: { ...payment.payload.channelConfig, receiver: payerAccount.address } })],
    ["/any/x", payload({ channelConfig: { ...payment.payload.channelConfig, withdrawDelay: 899 } })],
    ["/any/x", await sign(salt, 2n * PRICE, { config: { salt, receiver: payerAccount.address } })],
    ["/any/x", await sign(salt, 2n * PRICE, { config: { salt, receiverAuthorizer: payerAccount.address } })],
    ["/any/x", await sign(salt, 2n * PRICE, { config: { salt, payerAuthorizer: `0x${"00".repeat(20)}` } })],
    ["/any/x", await sign(salt, 2n * PRICE, { config: { salt, withdrawDelay: 1 } })],
    ["/any/x", await sign(salt, PRICE, { type: "refund", amount: 0 })],
    ["/any/x", await sign(salt, PRICE - 1n, { type: "refund" })],
    ["/any/x", await sign(salt, 100n * PRICE, { type: "refund" })],
  ];
  for (const [index, [path, attempt]] of attempts.entries()) {
    const { status } = await pay(gateway, path, attempt);
    assert.ok([400, 402].includes(status), `${index}: ${status}`);
  }
  assert.deepEqual([mark.seen(), mark.calls("/settle").filter(({ request }) => request.paymentPayload.payload.type !== "claim" && request.paymentPayload.payload.type !== "settle")], [[], []]);
  // Neither of the two was kept from its payer.
  for (const one of [salt, other]) assert.equal((await pay(gateway, "/any/x", await sign(one, 2n * PRICE))).status, 200);
});

test("A payer that does everything at once gets no more than what is claimed of its channel in the end", async () => {
  const random = (below) => Math.floor(Math.random() * below);
  const salt = await opened(50_000);
  const id = idOf(salt);
  const stats = {};
  let [served, maybe, number] = [1, 0, 0];
  async function act() {
    const path = `/any/all-at-once-${++number}`;
    // Mostly the next total, but others know of what is under way, too.
    const next = BigInt(Math.max(0, served + maybe + [0, 0, 0, 0, 1, 1, 2, -1][random(8)]));
    const kind = ["voucher", "voucher", "voucher", "voucher", "deposit", "refund", "part"][random(7)];
    const payment = {
      voucher: () => sign(salt, (next + 1n) * PRICE),
      deposit: () => sign(salt, (next + 1n) * PRICE, { type: "deposit", amount: 10_000 * (1 + random(6)) }),
      refund: () => sign(salt, next * PRICE, { type: "refund" }),
      part: () => sign(salt, next * PRICE, { type: "refund", amount: 1 + random(30_000) }),
    };
    const { socket, answer } = send(gateway, path, { headers: paying(await payment[kind]()) });
    const leaves = random(5) === 0 && setTimeout(() => socket.destroy(), random(120));
    const { status } = await answer.catch(() => ({ status: "left" }));
    clearTimeout(leaves);
    stats[`${kind} ${status}`] = (stats[`${kind} ${status}`] ?? 0) + 1;
    const buys = kind === "voucher" || kind === "deposit";
    if (status === 200 && buys) served++;
    // Whether it was charged, who has left does not know; the next corrective answer would tell.
    const { balance, totalClaimed } = await on.read(id);
    assert.ok(balance >= totalClaimed);
  }
  await Promise.all([1, 2, 3, 4, 5].map(async () => {
    for (let call = 0; call < 16; call++) {
      await act();
      if (random(6) === 0) {
        // Whether the deposit has come about is not known, so the facilitator is asked, and takes no voucher of less than 1.
  const corrected = await pay(gateway, "/any/count", await sign(salt, 1));
        const state = corrected.terms?.accepts[0].extra.channelState;
        if (state) maybe = Number(BigInt(state.chargedCumulativeAmount) / PRICE) - served;
      }
    }
  }));
  await sleep(3_000);
  const flushed = await ask(gateway, "/internal/flush", { method: "POST", headers: { authorization: `Bearer ${SECRET}` } }).catch(() => null);
  assert.ok(flushed === null || flushed.status === 200, flushed?.text);
  const { totalClaimed } = await eventually(async () => {
    const state = await on.read(id);
    return state.totalClaimed >= BigInt(served) * PRICE && state;
  }, `what was served is claimed: ${served} ${JSON.stringify(stats)}`, 20_000);
  assert.ok(totalClaimed >= BigInt(served) * PRICE);
});

test("A wish to have everything claimed is heard from nobody but the operator, however its path is written", async () => {
  const headers = { authorization: `Bearer ${SECRET}` };
  for (const authorization of [`Bearer ${SECRET}x`, `Bearer ${SECRET.toUpperCase()}`, `Basic ${SECRET}`, "Bearer", SECRET]) {
    assert.equal((await ask(gateway, "/internal/flush", { method: "POST", headers: { authorization } })).status, 404, authorization);
  }
  const twice = [["authorization", headers.authorization], ["authorization", "Bearer wrong"]];
  assert.notEqual((await ask(gateway, "/internal/flush", { method: "POST", headers: twice })).status, 200);
  const forged = { "x-forwarded-client-cert": 'URI="spiffe://cluster.local/ns/x/sa/operator"' };
  assert.equal((await ask(gateway, "/internal/flush", { method: "POST", headers: forged })).status, 404);
  const logs = () => gateway.envoy.logs().split("all channels are claimed now").length;
  const before = logs();
  for (const path of ["//internal/flush", "/internal/flush/", "/internal/%66lush", "/internal/./flush", "/internal/flush?x", "/INTERNAL/flush", "/internal/flush;x"]) {
    await ask(gateway, path, { method: "POST" });
  }
  assert.equal(logs(), before);
});
