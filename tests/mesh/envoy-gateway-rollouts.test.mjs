/** What is rolled out in Envoy Gateway while clients pay: a configuration, and a build of the module, whose code runs then. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { documents } from "./cluster.mjs";
import { edge, openEnvoyGateway } from "./envoy-gateway.mjs";
import { plainApi, PORTS } from "./istio.mjs";
import { loadOn } from "./load.mjs";
import { assertOutlivesPanic, fetchAnew, PROVOKE, untilForSale } from "./selling.mjs";
import { openWorld, PANICKING } from "./world.mjs";

const world = await openWorld();
const gateway = await openEnvoyGateway(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "envoy-gateway/base" });
const api = await plainApi(world, "api", { labels: { app: "api" } });
await cluster.service("api", { selector: { app: "api" }, ports: PORTS, pods: [api] });
await cluster.apply(...edge({ infrastructure: { parametersRef: { group: "gateway.envoyproxy.io", kind: "EnvoyProxy", name: "x402" } } }));
const proxy = await gateway.gatewayPod("edge", "edge");
await proxy.ready();
const url = `http://${proxy.pod.ip}:8080/weather`;
await untilForSale(url);
const underLoad = loadOn(world, () => [url], { send: fetchAnew });

/** Rolls out the policy as it is shipped, with another tag of the image wherever the image is named. */
async function rollOut(tag, description) {
  const [{ spec, ...policy }] = documents("envoy-gateway/policy.yaml");
  const [wasm] = JSON.parse(JSON.stringify(spec.wasm).replaceAll("x402-proxy-wasm:0.1.0", `x402-proxy-wasm:${tag}`));
  wasm.config.routes[0].description = description;
  await cluster.apply({ ...policy, spec: { ...spec, wasm: [wasm] } });
  await untilForSale(url, { description });
}

test("A new configuration", () => underLoad(() => rollOut("0.1.0", "configured anew")));

test("A new build of the module: its code runs, and outlives a crash", async () => {
  await world.registry.push(PANICKING, "x402-proxy-wasm:0.1.1");
  assert.equal((await fetchAnew(url, PROVOKE)).status, 402, "the build of before does not panic");
  await underLoad(() => rollOut("0.1.1", "another build"));
  await assertOutlivesPanic(world, url, proxy.log);
});

test("The build of before", async () => {
  await underLoad(() => rollOut("0.1.0", "the build of before"));
  assert.equal((await fetchAnew(url, PROVOKE)).status, 402);
});
