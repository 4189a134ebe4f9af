/** Two Envoys that share one ledger in etcd: every money rule of the single proxy holds across both. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startEtcd } from "../../stage/etcd.mjs";
import {
  ask,
  assertNoTerms,
  assertServed,
  assertTerms,
  eventually,
  openBackends,
  openGateway,
  pay,
  paying,
  paymentFor,
  pluginOf,
  send,
  since,
  UPFRONT,
  withUpstream,
  latch,
} from "./support.mjs";

const AFTER = { name: "after", match: { path: "/after/{*rest}" }, price: "$0.002" };
const JOINT = { name: "joint", match: { path: "/joint/{*rest}" }, price: "$0.002", settle: "concurrent" };
const LOCAL = { name: "local", match: { path: "/local/{*rest}" }, price: "$0.002", settle: "before" };
const plugin = pluginOf({
  routes: [UPFRONT, AFTER, JOINT, LOCAL],
  ledger: { store: { etcd: { cluster: "etcd", fleet: "shop", timeout: "1s" } } },
});

const backends = await openBackends();
const etcd = await startEtcd({ run: backends.run });
backends.atEnd(etcd.stop);
const open = () => openGateway(backends, { plugin, concurrency: 2, edit: (bootstrap) => etcd.edit(bootstrap) });
const [a, b] = [await open(), await open()];

await eventually(async () => /store answers/.test(a.envoy.logs()) && /store answers/.test(b.envoy.logs()), "the store to be reached");

for (const route of ["upfront", "after", "joint"]) {
  test(`a payment that settled at one proxy buys nothing at the other (${route})`, async () => {
    const payment = await paymentFor(a, `/${route}/x`);
    const [seenA, seenB] = [await since(a), await since(b)];
    assertServed(await pay(a, `/${route}/x`, payment));
    const again = await pay(b, `/${route}/x`, payment);
    assertTerms(again, "invalid_exact_evm_nonce_already_used");
    assertTerms(await pay(a, `/${route}/x`, payment), "invalid_exact_evm_nonce_already_used");
    void seenA, seenB;
  });

  test(`the same payment at both at once buys one response (${route})`, async () => {
    for (let round = 0; round < 8; round++) {
      const payment = await paymentFor(a, `/${route}/x`);
      const answers = await Promise.all([pay(a, `/${route}/x`, payment), pay(b, `/${route}/x`, payment)]);
      assert.equal(answers.filter(({ status }) => status === 200).length, 1, answers.map(({ status, text }) => `${status} ${text}`).join("\n"));
    }
  });
}
