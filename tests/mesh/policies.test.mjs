/** Beside other policies of a mesh: REGISTRY_ONLY, a Sidecar resource, STRICT mutual TLS, authentication and authorization. */
import assert from "node:assert/strict";
import { generateKeyPairSync } from "node:crypto";
import { test } from "node:test";
import { openIstio, PORTS } from "./istio.mjs";
import { assertSells } from "./selling.mjs";
import { eventually, openWorld } from "./world.mjs";

const world = await openWorld();
const istio = await openIstio(world, { mesh: { outboundTrafficPolicy: { mode: "REGISTRY_ONLY" } } });
const { cluster } = world;
await cluster.applyOverlay({ base: "istio/base", components: ["istio/components/sidecar"] });
for (const namespace of ["shop", "bank"]) await cluster.namespace(namespace);
// Nothing but the facilitator can be reached from this namespace.
await cluster.apply({
  apiVersion: "networking.istio.io/v1", kind: "Sidecar", metadata: { name: "default" },
  spec: { egress: [{ hosts: ["./facilitator.example.com", "istio-system/*"] }], outboundTrafficPolicy: { mode: "REGISTRY_ONLY" } },
});
const weather = await istio.sidecar("weather", { labels: { app: "weather" } });
await cluster.service("weather", { selector: { app: "weather" }, ports: PORTS, pods: [weather.pod] });
const [shop, bank] = await Promise.all(["shop", "bank"].map((namespace) => istio.sidecar(`${namespace}-web`, { namespace, api: false })));
await Promise.all([weather, shop, bank].map((proxy) => proxy.ready()));
const url = `http://${weather.pod.ip}:8080/weather`;

/** Calls from within a pod. @returns {Promise<string>} the status; 000 where there is no answer */
const from = ({ pod }, ...headers) =>
  pod
    .exec("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", ...headers.flatMap((header) => ["-H", header]), "http://weather.default.svc.cluster.local/weather")
    .catch(({ stdout }) => stdout);

test("REGISTRY_ONLY, and a Sidecar resource that lists the facilitator alone: it sells", () => assertSells(world, url));

test("An AuthorizationPolicy comes first: who is denied is not asked to pay", async () => {
  const policy = {
    apiVersion: "security.istio.io/v1", kind: "AuthorizationPolicy", metadata: { name: "no-bank" },
    spec: { selector: { matchLabels: { app: "weather" } }, action: "DENY", rules: [{ from: [{ source: { namespaces: ["bank"] } }] }] },
  };
  assert.equal(await from(bank), "402");
  await cluster.apply(policy);
  await eventually(async () => (await from(bank)) === "403", "the policy denies");
  assert.equal(await from(shop), "200", "free_for");
  await cluster.remove("/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/no-bank");
  await eventually(async () => (await from(bank)) === "402", "the policy is gone");
});

test("A RequestAuthentication comes first: a token that is none is refused before any payment", async () => {
  const { publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwks = JSON.stringify({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "1", use: "sig", alg: "RS256" }] });
  await cluster.apply({
    apiVersion: "security.istio.io/v1", kind: "RequestAuthentication", metadata: { name: "tokens" },
    spec: { selector: { matchLabels: { app: "weather" } }, jwtRules: [{ issuer: "https://issuer.example.com", jwks }] },
  });
  await eventually(async () => (await from(bank, "authorization: Bearer a.b.c")) === "401", "the token is refused");
  assert.equal(await from(bank), "402", "who shows none pays");
});

test("STRICT mutual TLS: strangers reach nothing, callers of the mesh pay or pass as ever", async () => {
  await cluster.apply({ apiVersion: "security.istio.io/v1", kind: "PeerAuthentication", metadata: { name: "default" }, spec: { mtls: { mode: "STRICT" } } });
  await eventually(async () => fetch(url).then(() => false, () => true), "plain text is refused");
  assert.equal(await from(shop), "200");
  assert.equal(await from(bank), "402");
});
