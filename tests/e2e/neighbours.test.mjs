/**
 * What other parts of the proxy have to do with the filter: another plugin that shares its data without having been told to, and
 * the listener of a waypoint that knows who calls.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, DEFAULTS, openBackends, openGateway, pluginOf } from "./support.mjs";

const backends = await openBackends();
const managerOf = ({ static_resources: { listeners } }) => listeners[0].filter_chains[0].filters[0];

/** A gateway with two plugins, called `one` and `two`, of a VM of this name; their configurations are the same, or are not. */
const openPair = (vmId, { differ }) =>
  openGateway(backends, {
    edit: (bootstrap) => {
      const filters = managerOf(bootstrap).typed_config.http_filters;
      const [one] = filters;
      one.name = one.typed_config.config.name = "one";
      one.typed_config.config.vm_config.vm_id = vmId;
      const two = structuredClone(one);
      two.name = two.typed_config.config.name = "two";
      const { configuration } = two.typed_config.config;
      if (differ) configuration.value = JSON.stringify({ ...JSON.parse(configuration.value), unmatched: "deny" });
      filters.unshift(two);
    },
  });

for (const [what, vmId, options, isTold] of [
  ["share a ledger without having been told to are named", "", { differ: true }, true],
  ["share one by the name of their VM are not", "shared", { differ: true }, false],
  ["are the same are not", "", { differ: false }, false],
]) {
  test(`Two plugins that ${what}`, async () => {
    const gateway = await openPair(vmId, options);
    assert.equal((await ask(gateway, "/weather")).status, 402);
    assert.equal(/no vm_id parts it from "(one|two)"/.test(gateway.envoy.logs()), isTold);
  });
}

/** A gateway behind a listener that has left this name of its caller, as a waypoint of Istio does. */
const openWaypoint = (name) =>
  openGateway(backends, {
    plugin: pluginOf({ facilitator: {}, defaults: { ...DEFAULTS, free_for: { principals: ["spiffe://cluster.local/ns/shop/*"] } } }),
    edit: (bootstrap) => {
      bootstrap.static_resources.listeners[0].filter_chains[0].filters.unshift({
        name: "envoy.filters.network.set_filter_state",
        typed_config: {
          "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
          on_new_connection: [
            {
              object_key: "io.istio.peer_principal",
              factory_key: "envoy.hashable_string",
              format_string: { text_format_source: { inline_string: name } },
            },
          ],
        },
      });
    },
  });

test("Whom a waypoint knows by a name of the list need not pay, and nobody becomes that by what he sends", async () => {
  const shop = "spiffe://cluster.local/ns/shop/sa/web";
  const forged = { "x-forwarded-client-cert": `URI=${shop}`, "io.istio.peer_principal": shop, "x-istio-peer-principal": shop };
  for (const [name, isFree] of [[shop, true], ["spiffe://cluster.local/ns/bank/sa/web", false], [`${shop},spiffe://cluster.local/ns/bank/sa/web`, false]]) {
    const gateway = await openWaypoint(name);
    for (const headers of [{}, forged]) {
      const answer = await ask(gateway, "/weather", { headers });
      assert.equal(answer.status, isFree ? 200 : 402, answer.text);
    }
  }
});
