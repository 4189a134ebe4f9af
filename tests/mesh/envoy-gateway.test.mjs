/** Envoy Gateway by the manifests as they are shipped: it sells, believes the facilitator alone, and closes without its image. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { documented, documents } from "./cluster.mjs";
import { edge, openEnvoyGateway } from "./envoy-gateway.mjs";
import { plainApi, PORTS } from "./istio.mjs";
import { assertBelievesTheFacilitatorAlone, assertSells, assertSellsByTheToken, fetchAnew, untilForSale } from "./selling.mjs";
import { eventually, openWorld } from "./world.mjs";

const world = await openWorld();
const gateway = await openEnvoyGateway(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "envoy-gateway/base" });
// As docs/mesh.md tells who wants to read in the log why a connection failed.
const layer = documented(/^\| Envoy, Envoy Gateway .*`(layered_runtime: .*)` \|$/m);
const [settings] = documents("envoy-gateway/proxy.yaml");
settings.spec.bootstrap.value += `${layer}\n`;
await cluster.apply(settings);
const api = await plainApi(world, "api", { labels: { app: "api" } });
await cluster.service("api", { selector: { app: "api" }, ports: PORTS, pods: [api] });
await cluster.apply(...edge({ infrastructure: { parametersRef: { group: "gateway.envoyproxy.io", kind: "EnvoyProxy", name: "x402" } } }));
const proxy = await gateway.gatewayPod("edge", "edge");
await proxy.ready();
const origin = `http://${proxy.pod.ip}:8080`;
const url = `${origin}/weather`;

/** Applies the policy as it is shipped, but for a change of what stands under `wasm`. */
async function applyPolicy(change) {
  const [policy] = documents("envoy-gateway/policy.yaml");
  change(policy.spec.wasm[0]);
  await cluster.apply(policy);
}

test("A gateway sells", async () => {
  await untilForSale(url);
  await assertSells(world, url);
});

test("It believes the facilitator alone", () => assertBelievesTheFacilitatorAlone(world, url, proxy.log));

test("It sells by the token", async () => {
  const [{ spec }] = documents("istio/envoyfilter.yaml");
  const { routes } = spec.configPatches[0].patch.value.typed_config.config.configuration.value;
  await applyPolicy(({ config }) => config.routes.push(...routes));
  await assertSellsByTheToken(world, `${origin}/v1/chat/completions`);
});

test("An image that is not there, or of another digest: closed, 500", async () => {
  for (const change of [(image) => (image.url = "registry.example.com/x402-proxy-wasm:9.9.9"), (image) => (image.sha256 = "00".repeat(32))]) {
    await applyPolicy(({ code }) => change(code.image));
    await eventually(async () => (await fetchAnew(url)).status === 500, "the route is closed");
    for (let asked = 0; asked < 10; asked++) assert.equal((await fetchAnew(url)).status, 500);
    await applyPolicy(() => {});
    await untilForSale(url);
  }
});
