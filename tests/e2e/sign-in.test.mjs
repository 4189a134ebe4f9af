/** Payers who come back: the official clients pay once, and sign in from then on. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { createKeyPairSignerFromPrivateKeyBytes, getAddressDecoder, getBase58Decoder } from "@solana/kit";
import { registerExactEvmScheme } from "@x402/evm/exact/client";
import { createSIWxClientExtension, createSIWxPayload, encodeSIWxHeader, verifySIWxSignature, wrapFetchWithSIWx } from "@x402/extensions/sign-in-with-x";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";
import { startFakeSolana } from "./fake-solana.mjs";
import { ask, assertTerms, eventually, headerSeen, NETWORK, openGateway, openBackends, payerAccount, pluginOf, since } from "./support.mjs";

const SOLANA = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1";
const HEADER = "sign-in-with-x";

const backends = await openBackends();
const signIn = (lasts) => ({ extensions: { sign_in_with_x: { lasts, statement: "Read on without paying again" } } });
const gateway = await openGateway(backends, {
  concurrency: 2,
  plugin: pluginOf({
    routes: [
      { name: "articles", match: { path: "/articles/{*rest}" }, price: "$0.001", ...signIn("3600s") },
      { name: "upfront", match: { path: "/upfront/{*rest}" }, price: "$0.001", settle: "before", ...signIn("3600s") },
      { name: "brief", match: { path: "/brief/{*rest}" }, price: "$0.001", ...signIn("2s") },
    ],
  }),
});

/** The official client that pays where it must. */
const paying = (fetched) => wrapFetchWithPayment(fetched, registerExactEvmScheme(new x402Client(), { signer: payerAccount }));

/** What the official client would send to sign in at a URL, by its challenge. */
async function proofFor(url, account = payerAccount) {
  const response = await fetch(url);
  const { extensions } = JSON.parse(Buffer.from(response.headers.get("payment-required"), "base64"));
  const { info, supportedChains } = extensions[HEADER];
  return createSIWxPayload({ ...info, ...supportedChains[0] }, account, url);
}

const comeBack = (url, proof, headers = {}) => fetch(url, { headers: { [HEADER]: encodeSIWxHeader(proof), ...headers } });

const BOTH = {
  "wrapFetchWithSIWx around the fetch that pays": () => paying(wrapFetchWithSIWx(fetch, payerAccount)),
  "the extension of the client that pays": () => {
    const client = registerExactEvmScheme(new x402Client(), { signer: payerAccount });
    return wrapFetchWithPayment(fetch, client.registerExtension(createSIWxClientExtension({ signers: [payerAccount] })));
  },
};
for (const [name, clientOf] of Object.entries(BOTH)) {
  for (const route of ["articles", "upfront"]) {
    test(`the official client pays once and then signs in: ${name}, ${route}`, async () => {
      const [url, fetched, mark] = [`${gateway.url}/${route}/${createHash("md5").update(name).digest("hex")}?page=1`, clientOf(), await since(gateway)];
      const first = await fetched(url);
      assert.deepEqual([first.status, Boolean(first.headers.get("payment-response"))], [200, true]);
      for (const query of ["?page=1", "?page=2"]) {
        const again = await fetched(url.replace("?page=1", query));
        assert.deepEqual([again.status, again.headers.get("payment-response")], [200, null]);
        assert.equal(again.headers.get("cache-control"), "private");
      }
      assert.equal(mark.calls("/settle").length, 1);
      assert.equal((await mark.transfers()).length, 1);
      const seen = mark.seen();
      assert.equal(seen.length, 3);
      for (const one of seen.slice(1)) {
        assert.deepEqual(headerSeen(one, "x-x402-payer"), [payerAccount.address]);
        assert.deepEqual(headerSeen(one, "x-x402-network"), []);
        assert.deepEqual(headerSeen(one, HEADER), []);
      }
    });
  }
}

test("a message is taken once, by all workers together", async () => {
  const url = `${gateway.url}/articles/once`;
  assert.equal((await paying(fetch)(url)).status, 200);
  const proof = await proofFor(url);
  assert.deepEqual(await verifySIWxSignature(proof), { isValid: true, payer: payerAccount.address });
  const answers = await Promise.all(Array.from({ length: 20 }, () => comeBack(url, proof)));
  assert.equal(answers.filter(({ status }) => status === 200).length, 1);
  for (const refused of answers.filter(({ status }) => status !== 200)) {
    assert.equal(refused.status, 402);
    assert.equal(JSON.parse(Buffer.from(refused.headers.get("payment-required"), "base64")).error, "invalid_siwx_nonce");
  }
  const stats = await (await fetch(`http://127.0.0.1:${gateway.envoy.adminPort}/stats?filter=worker_[01].downstream_cx_total`)).text();
  const connections = [...stats.matchAll(/worker_\d.downstream_cx_total: (\d+)/g)].map(([, count]) => Number(count));
  assert.ok(connections.length === 2 && connections.every((count) => count >= 2), stats);
});

test("a right is the payer's, to what was paid for", async () => {
  const url = `${gateway.url}/articles/mine`;
  assert.equal((await paying(fetch)(url)).status, 200);
  const stranger = privateKeyToAccount(generatePrivateKey());
  assert.equal((await comeBack(url, await proofFor(url, stranger))).status, 402);
  const other = `${gateway.url}/articles/other`;
  assert.equal((await comeBack(other, await proofFor(other))).status, 402);
  const stolen = { ...(await proofFor(url, stranger)), address: payerAccount.address };
  const answer = await ask(gateway, "/articles/mine", { headers: { [HEADER]: encodeSIWxHeader(stolen) } });
  assertTerms(answer, "invalid_siwx_signature");
  const elsewhere = await ask(gateway, "/articles/mine", { headers: { [HEADER]: encodeSIWxHeader(await proofFor(url)) }, host: "other.example" });
  assertTerms(elsewhere, "invalid_siwx_domain_mismatch");
  assert.equal((await comeBack(url, await proofFor(url))).status, 200);
});

test("a right ends", async () => {
  const url = `${gateway.url}/brief/a`;
  assert.equal((await paying(fetch)(url)).status, 200);
  assert.equal((await comeBack(url, await proofFor(url))).status, 200);
  await eventually(async () => (await comeBack(url, await proofFor(url))).status === 402, "the right is over");
});

test("what is no sign-in is a 400", async () => {
  for (const value of ["!", "e30=", Buffer.from('{"domain":"a\\u0000"}').toString("base64")]) {
    const answer = await ask(gateway, "/articles/x", { headers: { [HEADER]: value } });
    assert.equal(answer.status, 400);
    assert.match(answer.json().error, /^SIGN-IN-WITH-X/);
  }
});

test("a wallet of Solana pays once and then signs in", async () => {
  const signer = (label) => createKeyPairSignerFromPrivateKeyBytes(new Uint8Array(createHash("sha256").update(label).digest()));
  const [payer, recipient, feePayer] = await Promise.all(["payer", "recipient", "fee payer"].map(signer));
  const node = await startFakeSolana({ blockhash: getAddressDecoder().decode(new Uint8Array(32).fill(7)) });
  backends.atEnd(node.stop);
  const accepts = [{ scheme: "exact", network: "solana-devnet", asset: "USDC", pay_to: recipient.address }];
  const other = await openGateway(backends, {
    plugin: pluginOf({
      facilitator: { timeout: "1s" },
      routes: [{ match: { path: "/articles/{*rest}" }, price: "$0.001", accepts, ...signIn("60s") }],
    }),
    facilitator: "fake",
  });
  other.fake.always("/supported", { json: { kinds: [{ x402Version: 2, scheme: "exact", network: SOLANA, extra: { feePayer: feePayer.address } }], extensions: [], signers: {} } });
  const transaction = getBase58Decoder().decode(new Uint8Array(64).fill(9));
  other.fake.always("/verify", { json: { isValid: true, payer: payer.address } });
  other.fake.always("/settle", { json: { success: true, transaction, network: SOLANA, payer: payer.address } });
  await eventually(async () => (await ask(other, "/articles/a")).status === 402, "the filter has heard what the facilitator supports");
  const client = new x402Client().register("solana:*", new ExactSvmScheme(payer, { rpcUrl: node.url }));
  const fetched = wrapFetchWithPayment(wrapFetchWithSIWx(fetch, payer), client);
  const first = await fetched(`${other.url}/articles/a`);
  assert.deepEqual([first.status, Boolean(first.headers.get("payment-response"))], [200, true]);
  const again = await fetched(`${other.url}/articles/a`);
  assert.deepEqual([again.status, again.headers.get("payment-response")], [200, null]);
  assert.equal(other.fake.count("/settle"), 1);
});
