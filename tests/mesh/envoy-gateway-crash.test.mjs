/** A filter that crashes in Envoy Gateway: nothing is unpaid, and it is loaded anew, as the shipped patch of its failure policy says. */
import { test } from "node:test";
import { edge, openEnvoyGateway } from "./envoy-gateway.mjs";
import { plainApi, PORTS } from "./istio.mjs";
import { assertOutlivesPanic } from "./selling.mjs";
import { openWorld, PANICKING } from "./world.mjs";

const world = await openWorld({ wasm: PANICKING });
const gateway = await openEnvoyGateway(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "envoy-gateway/base" });
const api = await plainApi(world, "api", { labels: { app: "api" } });
await cluster.service("api", { selector: { app: "api" }, ports: PORTS, pods: [api] });
await cluster.apply(...edge({ infrastructure: { parametersRef: { group: "gateway.envoyproxy.io", kind: "EnvoyProxy", name: "x402" } } }));
const proxy = await gateway.gatewayPod("edge", "edge");
await proxy.ready();

test("A crash in a gateway of Envoy Gateway", () => assertOutlivesPanic(world, `http://${proxy.pod.ip}:8080/weather`, proxy.log));
