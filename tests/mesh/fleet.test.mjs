/** The fleet in Istio: two replicas of a gateway that share a ledger in etcd. */
import { documents } from "./cluster.mjs";
import { testFleet } from "./fleet.mjs";
import { openEdge, openIstio } from "./istio.mjs";
import { ISTIO_CLUSTER, openLedger, storeAt } from "./ledger.mjs";
import { untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
const ledger = await openLedger(world);
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/ledger"] });
const [plugin] = documents("istio/gateway.yaml");
plugin.spec.pluginConfig.ledger = storeAt(ISTIO_CLUSTER);
await cluster.apply(plugin);
const edge = await openEdge(world, istio, "default", { replicas: 2, prepare: ledger.mount });
const urlOf = ({ url }) => `${url}/weather`;
for (const proxy of edge.proxies) await untilForSale(urlOf(proxy));

testFleet({ world, ledger, proxies: edge.proxies, start: edge.start, urlOf });
