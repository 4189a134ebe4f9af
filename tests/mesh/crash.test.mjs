/** What fails on the way: a filter that crashes, an image that is not there, and one that is another than was meant. Nothing is unpaid. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { documents } from "./cluster.mjs";
import { openAmbient, openEdge, openIstio, PORTS } from "./istio.mjs";
import { assertOutlivesPanic, assertSells, untilForSale } from "./selling.mjs";
import { eventually, openWorld, PANICKING } from "./world.mjs";

const world = await openWorld({ wasm: PANICKING });
const istio = await openIstio(world);
const { cluster } = world;
await cluster.applyOverlay({ base: "istio/base", components: ["sidecar", "gateway"].map((form) => `istio/components/${form}`) });

const edge = await openEdge(world, istio);
const url = `${edge.proxies[0].url}/weather`;

test("A crash in a sidecar", async () => {
  const weather = await istio.sidecar("weather", { labels: { app: "weather" } });
  await cluster.service("weather", { selector: { app: "weather" }, ports: PORTS, pods: [weather.pod] });
  await weather.ready();
  await assertOutlivesPanic(world, `http://${weather.pod.ip}:8080/weather`, weather.log);
});

test("A crash in a gateway", () => assertOutlivesPanic(world, url, edge.proxies[0].log));

test("A crash in a waypoint", async () => {
  const { waypoint, send } = await openAmbient(world, istio);
  await assertOutlivesPanic(world, "http://weather.ambient/weather", waypoint.proxy.log, { send });
});

/** A gateway of its own, with an image that cannot be used. */
async function assertClosed(change) {
  const [plugin] = documents("istio/gateway.yaml");
  change(plugin.spec);
  await cluster.apply(plugin);
  const fresh = await edge.start();
  await sleep(1000);
  for (let asked = 0; asked < 10; asked++) {
    const answer = await fetch(`${fresh.url}/weather`);
    assert.equal(answer.status, 403, await answer.clone().text());
    assert.match(await answer.text(), /RBAC: access denied/);
  }
  return fresh;
}

test("An image that is not there: closed, 403", async () => {
  const fresh = await assertClosed((spec) => (spec.url = "oci://registry.example.com/x402-proxy-wasm:9.9.9"));
  await eventually(async () => /x402-proxy-wasm:9\.9\.9/.test(fresh.log()), "the log names the image");
});

test("An image of another digest: closed, 403", async () => {
  const fresh = await assertClosed((spec) => (spec.sha256 = "00".repeat(32)));
  await eventually(async () => /sha256|digest|checksum/i.test(fresh.log()), "the log speaks of the digest");
});

test("The digest that was meant sells", async () => {
  const [plugin] = documents("istio/gateway.yaml");
  plugin.spec.sha256 = world.digest.replace("sha256:", "");
  await cluster.apply(plugin);
  const fresh = await edge.start();
  await untilForSale(`${fresh.url}/weather`);
  await assertSells(world, `${fresh.url}/weather`);
});
