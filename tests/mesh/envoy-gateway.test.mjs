/** Envoy Gateway sells by the manifests as they are shipped, and believes the facilitator alone. */
import { test } from "node:test";
import { edge, openEnvoyGateway } from "./envoy-gateway.mjs";
import { plainApi, PORTS } from "./istio.mjs";
import { assertBelievesTheFacilitatorAlone, assertSells, untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

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

test("A gateway sells", async () => {
  await untilForSale(url);
  await assertSells(world, url);
});

test("It believes the facilitator alone", () => assertBelievesTheFacilitatorAlone(world, url, proxy.log));
