/** What Envoy's own filters do beside the payment filter: envoy/recipes, each put into a running gateway. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { accounts } from "../../stage/accounts.mjs";
import { checkout } from "../../stage/processes.mjs";
import { ask, assertServed, openGateway, openBackends, pay, paymentFor, signPayment, quote, since } from "./support.mjs";

const recipe = (name) => parse(readFileSync(join(checkout, "envoy", "recipes", `${name}.yaml`), "utf8"));
const backends = await openBackends({ balances: Object.fromEntries([1, 3].map((index) => [accounts[index].address, 10_000_000n])) });

/** Puts a filter before or behind the payment filter, with its rate limits in every route. */
const withFilter = (name, offset) => ({ static_resources: { listeners } }) => {
  const { http_filter, rate_limits } = recipe(name);
  const manager = listeners[0].filter_chains[0].filters[0].typed_config;
  manager.http_filters.splice(manager.http_filters.findIndex((filter) => filter.name === "x402") + offset, 0, http_filter);
  for (const { routes } of manager.route_config.virtual_hosts) for (const { route } of routes) route.rate_limits = rate_limits;
};

const times = (count, act) => Array.from({ length: count }).reduce(async (done, _) => [...(await done), await act()], []);

test("Requests for terms alone are limited, and paying ones are not", async () => {
  const gateway = await openGateway(backends, { facilitator: "fake", edit: withFilter("unpaid", 0) });
  const { accepts } = await quote(gateway, "/weather");
  const statuses = await times(6, async () => (await ask(gateway, "/weather")).status);
  assert.deepEqual(statuses, [402, 402, 402, 402, 429, 429]);
  for (const _ of [1, 2, 3]) assertServed(await pay(gateway, "/weather", await signPayment(accepts[0])));
});

test("Each payer has a limit of his own, and what is over it costs nothing", async () => {
  const gateway = await openGateway(backends, { edit: withFilter("per-payer", 1) });
  const mark = await since(gateway);
  const by = async (account) => (await pay(gateway, "/weather", await paymentFor(gateway, "/weather", { account }))).status;
  assert.deepEqual(await times(3, () => by(accounts[1])), [200, 200, 429]);
  assert.deepEqual(await times(2, () => by(accounts[3])), [200, 200]);
  assert.equal((await mark.transfers()).length, 4);
});

test("The facilitator's key comes from Envoy's secrets, and the filter does not know it", async () => {
  const { secret, typed_extension_protocol_options } = recipe("credentials");
  const edit = ({ static_resources }) => {
    static_resources.secrets = [secret];
    Object.assign(static_resources.clusters.find(({ name }) => name === "facilitator"), { typed_extension_protocol_options });
  };
  const gateway = await openGateway(backends, { edit });
  const mark = await since(gateway);
  assertServed(await pay(gateway, "/weather", await paymentFor(gateway, "/weather")));
  assert.deepEqual(mark.calls().map(({ path, headers }) => [path, headers["x-api-key"]]), [["/verify", "the-key"], ["/settle", "the-key"]]);
  assert.ok(!gateway.envoy.logs().includes("the-key"));
});
