/** The fleet in Envoy Gateway: two replicas of its proxy that share a ledger in etcd. */
import { documents } from "./cluster.mjs";
import { edge, NAMESPACE, openEnvoyGateway } from "./envoy-gateway.mjs";
import { testFleet } from "./fleet.mjs";
import { plainApi, PORTS } from "./istio.mjs";
import { openLedger, storeAt } from "./ledger.mjs";
import { untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

const world = await openWorld();
const gateway = await openEnvoyGateway(world);
const { cluster } = world;
const ledger = await openLedger(world);
await cluster.apply({ apiVersion: "v1", kind: "Secret", metadata: { name: "x402-ledger", namespace: NAMESPACE }, stringData: ledger.secret });
await cluster.applyOverlay({ base: "envoy-gateway/base", components: ["envoy-gateway/components/ledger"] });
const [policy] = documents("envoy-gateway/policy.yaml");
policy.spec.wasm[0].config.ledger = storeAt("x402-ledger");
await cluster.apply(policy);
const api = await plainApi(world, "api", { labels: { app: "api" } });
await cluster.service("api", { selector: { app: "api" }, ports: PORTS, pods: [api] });
await cluster.apply(...edge({ infrastructure: { parametersRef: { group: "gateway.envoyproxy.io", kind: "EnvoyProxy", name: "x402" } } }));

const proxies = [];
let serial = 0;
async function start() {
  const proxy = await gateway.gatewayPod(`edge-${++serial}`, "edge");
  await proxy.ready();
  proxies.push(proxy);
}
await start();
await start();
const urlOf = ({ pod }) => `http://${pod.ip}:8080/weather`;
for (const proxy of proxies) await untilForSale(urlOf(proxy));

testFleet({ world, ledger, proxies, start, urlOf });
