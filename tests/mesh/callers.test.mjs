/** Who calls: names that the mesh has proven pass where `free_for` says so, and names that somebody claims do not. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { shipped } from "./cluster.mjs";
import { identityOf, openEdge, openIstio, openWaypoint, PORTS, throughWaypoint } from "./istio.mjs";
import { assertSells, untilForSale } from "./selling.mjs";
import { openWorld } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world);
const { cluster } = world;
await cluster.apply(shipped("istio/facilitator.yaml"), shipped("istio/sidecar.yaml"));
for (const namespace of ["shop", "bank"]) await cluster.namespace(namespace, { accounts: ["web"] });
const weather = await istio.sidecar("weather", { labels: { app: "weather" } });
await cluster.service("weather", { selector: { app: "weather" }, ports: PORTS, pods: [weather.pod] });
const [shop, bank] = await Promise.all(["shop", "bank"].map((namespace) => istio.sidecar(`${namespace}-web`, { namespace, account: "web", api: false })));
await Promise.all([weather, shop, bank].map((proxy) => proxy.ready()));

await cluster.namespace("ambient", { labels: { "istio.io/dataplane-mode": "ambient" } });
await cluster.applyIn("ambient", shipped("istio/waypoint.yaml"));
const waypoint = await openWaypoint(world, istio, "ambient");
const URL_THERE = "http://weather.ambient/weather";

const FORGED = "x-forwarded-client-cert: By=spiffe://cluster.local/ns/default/sa/default;Hash=00;URI=spiffe://cluster.local/ns/shop/sa/web";

/** Calls from within a pod. @returns {Promise<string>} the status */
const from = ({ pod }, ...headers) =>
  pod.exec("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", ...headers.flatMap((header) => ["-H", header]), "http://weather.default.svc.cluster.local/weather");

test("Mutual TLS: a caller of the namespace that is free for passes, another pays", async () => {
  assert.equal(await from(shop), "200");
  assert.equal(await from(bank), "402");
});

test("A name that is only claimed is nobody's", async () => {
  const url = `http://${weather.pod.ip}:8080/weather`;
  assert.equal((await fetch(url)).status, 402);
  const [name, value] = FORGED.split(/: /);
  assert.equal((await fetch(url, { headers: { [name]: value } })).status, 402);
  assert.equal(await from(bank, FORGED), "402");
  assert.equal(await from(shop, FORGED), "200");
});

test("Through a waypoint the caller of the tunnel counts", async () => {
  const status = async (caller, init) => (await waypoint.sendAs(caller)(URL_THERE, init)).status;
  const [name, value] = FORGED.split(/: /);
  assert.equal(await status(shop), 200);
  assert.equal(await status(bank), 402);
  assert.equal(await status(bank, { headers: { [name]: value } }), 402);
});

test("Without a certificate nobody comes to a waypoint: neither by plain text nor by TLS alone", async () => {
  const nobody = { ...identityOf(bank), cert: undefined, key: undefined };
  const { ip } = waypoint.proxy.pod;
  const bare = (protocol) => throughWaypoint({ waypoint: ip, service: waypoint.service, identity: nobody, protocol });
  await assert.rejects(bare("https")(URL_THERE), /certificate required/);
  await assert.rejects(bare("http")(URL_THERE), /closed the connection/);
  await assert.rejects(fetch(`http://${ip}/weather`));
});

test("Who comes to a waypoint by plain text and a gateway pays: the gateway is the caller", async () => {
  const { proxies } = await openEdge(world, istio, "ambient", { env: { ISTIO_META_ENABLE_HBONE: "true" }, service: "weather" });
  const url = `${proxies[0].url}/weather`;
  await untilForSale(url);
  const [name, value] = FORGED.split(/: /);
  assert.equal((await fetch(url, { headers: { [name]: value } })).status, 402);
  await assertSells(world, url);
});
