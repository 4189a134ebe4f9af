/** Nobody but the facilitator can say that a payment is settled: not in a sidecar, a gateway or a waypoint of Istio. */
import { test } from "node:test";
import { openAmbient, openEdge, openIstio, PORTS } from "./istio.mjs";
import { assertBelievesTheFacilitatorAlone, untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/sidecar", "istio/components/gateway"] });

test("A sidecar believes the facilitator alone", async () => {
  const weather = await istio.sidecar("weather", { labels: { app: "weather" } });
  await cluster.service("weather", { selector: { app: "weather" }, ports: PORTS, pods: [weather.pod] });
  await weather.ready();
  await assertBelievesTheFacilitatorAlone(world, `http://${weather.pod.ip}:8080/weather`, weather.log);
});

test("A gateway believes the facilitator alone", async () => {
  const { proxies: [edge] } = await openEdge(world, istio);
  await untilForSale(`${edge.url}/weather`);
  await assertBelievesTheFacilitatorAlone(world, `${edge.url}/weather`, edge.log);
});

test("A waypoint believes the facilitator alone", async () => {
  const { waypoint, send } = await openAmbient(world, istio);
  await untilForSale("http://weather.ambient/weather", { send });
  await assertBelievesTheFacilitatorAlone(world, "http://weather.ambient/weather", waypoint.proxy.log, { send });
});
