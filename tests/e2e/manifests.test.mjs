/**
 * The configurations in envoy/: each Envoy file is taken by Envoy and pays, each manifest fits the schema of its kind, and
 * what each gives the filter is taken by the filter.
 */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import * as gatewayModels from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1";
import * as extensionModels from "@kubernetes-models/istio/extensions.istio.io/v1alpha1";
import * as networkModels from "@kubernetes-models/istio/networking.istio.io/v1";
import * as filterModels from "@kubernetes-models/istio/networking.istio.io/v1alpha3";
import { parse, parseAllDocuments } from "yaml";
import { makePayer } from "../../stage/client.mjs";
import { ENVOY, WASM } from "../../stage/envoy.mjs";
import { startEtcd } from "../../stage/etcd.mjs";
import { checkout, startProcess, until } from "../../stage/processes.mjs";
import { startStage } from "../../stage/stage.mjs";
import { openBackends, pluginOf } from "./support.mjs";

/** The status that curl gets; 000 where there is none. It can choose host and certificate, which fetch cannot. */
const curl = async (...args) => {
  const options = { cwd: directory };
  const result = await promisify(execFile)("curl", ["-s", "-o", "/dev/null", "-w", "%{http_code}", ...args], options).catch((error) => error);
  return result.stdout;
};

const directory = mkdtempSync(join(tmpdir(), "x402-manifests-"));
const backends = await openBackends();
backends.atEnd(async () => rmSync(directory, { recursive: true, force: true }));

const read = (file) => readFileSync(join(checkout, "envoy", file), "utf8");
const MODELS = { ...gatewayModels, ...extensionModels, ...networkModels, EnvoyFilter: filterModels.EnvoyFilter };

const FOLDERS = ["istio", "envoy-gateway"];
const manifests = FOLDERS.flatMap((folder) =>
  readdirSync(join(checkout, "envoy", folder))
    .filter((file) => file.endsWith(".yaml"))
    .flatMap((file) => parseAllDocuments(read(`${folder}/${file}`)).map((document) => [`${folder}/${file}`, document.toJS()])),
);

/** The one document of a kind in a file. */
const manifest = (file, kind) => manifests.find(([where, document]) => where === file && document.kind === kind)[1];

/** Starts the filter with what a manifest gives it; its first route asks for payment. */
async function assertTaken(plugin, where) {
  const clusters = { [plugin.facilitator.cluster]: backends.facilitator.port };
  const stage = await startStage({ backends, plugin, clusters, allowOnHeadersStopIteration: true });
  try {
    const [{ match, price }] = plugin.routes;
    const body = price?.models ? JSON.stringify({ model: "any", messages: [] }) : undefined;
    const response = await fetch(stage.url + match.path, { method: match.methods?.[0] ?? "GET", body });
    // Scheme upto is offered once the facilitator has named its account on that network, and this one has none there.
    const status = plugin.routes[0].accepts?.every(({ scheme }) => scheme === "upto") ? 503 : 402;
    assert.equal(response.status, status, where);
  } finally {
    await stage.stop();
  }
}

test("There are manifests for Istio and for Envoy Gateway", () => {
  const kinds = manifests.map(([, { kind }]) => kind).sort();
  assert.deepEqual(kinds, [
    "DestinationRule", "DestinationRule", "EnvoyExtensionPolicy", "EnvoyFilter", "EnvoyFilter", "EnvoyFilter", "EnvoyPatchPolicy", "EnvoyPatchPolicy",
    "EnvoyPatchPolicy", "EnvoyProxy", "PodMonitor", "PodMonitor", "ServiceEntry", "ServiceEntry", "TrafficExtension", "WasmPlugin", "WasmPlugin", "WasmPlugin",
  ]);
});

test("All of them can be applied together: no two of a kind have one name", () => {
  const names = manifests.map(([, { kind, metadata }]) => `${kind} ${metadata.name}`);
  assert.deepEqual(names.filter((name, index) => names.indexOf(name) !== index), []);
});

test("All that speak of the stats' labels name the same", () => {
  const rulesOf = ({ stats_config }) => stats_config.stats_tags.map(({ tag_name, regex }) => [tag_name, regex]);
  const rules = rulesOf(parse(manifest("envoy-gateway/proxy.yaml", "EnvoyProxy").spec.bootstrap.value));
  // The form of Istio's own extraStatTags.
  assert.deepEqual(rules.map(([name]) => [name, `(${name}=\\.=(.*?);\\.;)`]), rules);
  for (const file of ["demo.yaml", "gateway.yaml"]) assert.deepEqual(rulesOf(parse(read(file).replace(/\$\{\w+\}/g, "1"))), rules, file);
  const [, listed] = /extraStatTags: \[(.*?)\]/.exec(readFileSync(join(checkout, "docs", "mesh.md"), "utf8"));
  assert.deepEqual(listed.split(", "), rules.map(([name]) => name));
});

/** The same as a kind whose schema there is: a TrafficExtension is a WasmPlugin whose fields of the module stand under `wasm`. */
function asKnown(manifest) {
  if (manifest.kind !== "TrafficExtension") return manifest;
  const { wasm, ...spec } = manifest.spec;
  return { ...manifest, kind: "WasmPlugin", spec: { ...spec, ...wasm } };
}

for (const [file, known] of manifests.filter(([, { kind }]) => kind !== "PodMonitor")) {
  const manifest = asKnown(known);
  test(`${file}: ${known.kind} fits its schema`, () => {
    const Model = MODELS[manifest.kind];
    assert.ok(Model, `no schema of ${manifest.kind}`);
    const model = new Model(manifest);
    assert.equal(model.apiVersion, manifest.apiVersion);
    model.validate();
    const broken = structuredClone(manifest);
    broken.spec = { ...broken.spec, targetRefs: 7, targetRef: 7, hosts: 7, host: 7, configPatches: 7, provider: 7 };
    assert.throws(() => new Model(broken).validate(), "a schema that takes anything says nothing");
  });
}

for (const [file, { spec }] of manifests.map(([file, one]) => [file, asKnown(one)]).filter(([, { kind }]) => kind === "WasmPlugin")) {
  test(`${file}: the filter takes its configuration`, () => assertTaken(spec.pluginConfig, file));
  test(`${file}: a crash closes, and is over by itself`, () => assert.equal(spec.failStrategy, "FAIL_RELOAD"));
}

test("envoy-gateway/policy.yaml: the filter takes its configuration", () => {
  const [, { spec }] = manifests.find(([, { kind }]) => kind === "EnvoyExtensionPolicy");
  assert.equal(spec.wasm[0].failOpen, false);
  return assertTaken(spec.wasm[0].config, "policy.yaml");
});

test("istio/envoyfilter.yaml: Envoy takes the filter, and the filter its configuration", async () => {
  const { spec } = manifest("istio/envoyfilter.yaml", "EnvoyFilter");
  const [filter, place] = spec.configPatches.map(({ patch }) => patch.value);
  assert.equal(place.name, filter.name, "the place that the filter is found for");
  const { configuration } = filter.typed_config.config;
  await assertTaken(configuration.value, "envoyfilter.yaml");
  const local = structuredClone(filter);
  local.typed_config.config.vm_config.code = { local: { filename: WASM } };
  const edit = ({ static_resources: { listeners } }) => {
    const filters = listeners[0].filter_chains[0].filters[0].typed_config.http_filters;
    filters.splice(0, 1, local);
  };
  const stage = await startStage({ backends, clusters: { [configuration.value.facilitator.cluster]: backends.facilitator.port }, edit });
  await stage.stop();
});

test("envoy-gateway/policy.yaml: the patches are for the filter that the policy makes, and for the gateway's listener", () => {
  const policy = manifest("envoy-gateway/policy.yaml", "EnvoyExtensionPolicy");
  const { spec } = manifest("envoy-gateway/policy.yaml", "EnvoyPatchPolicy");
  const values = spec.jsonPatches.map(({ type, name, operation: { op, jsonPath, path, value } }) => {
    assert.deepEqual([type, name, op], ["type.googleapis.com/envoy.config.listener.v3.Listener", "default/edge/http", "add"]);
    assert.equal(jsonPath, `..http_filters[?(@.name=="envoy.filters.http.wasm/envoyextensionpolicy/default/${policy.metadata.name}/wasm/0")].typed_config.config`);
    return [path, value];
  });
  assert.deepEqual(values, [["failure_policy", "FAIL_RELOAD"], ["allow_on_headers_stop_iteration", true]]);
});

test("istio/waypoint.yaml: the waypoint gets a cluster for the facilitator", () => {
  const { metadata, spec } = manifest("istio/waypoint.yaml", "EnvoyFilter");
  const service = metadata.annotations["envoyfilter.istio.io/referenced-services"];
  assert.deepEqual(manifest("istio/facilitator.yaml", "ServiceEntry").spec.hosts, [service]);
  assert.equal(spec.configPatches[0].match.cluster.service, service);
});

test("envoy-gateway/facilitator.yaml: Envoy takes the cluster", async () => {
  const { spec } = manifest("envoy-gateway/facilitator.yaml", "EnvoyPatchPolicy");
  const cluster = spec.jsonPatches[0].operation.value;
  const edit = ({ static_resources }) => static_resources.clusters.push(cluster);
  await (await startStage({ backends, edit })).stop();
});

let etcd;

/** A payment is claimed in a real etcd by way of the cluster of this name, which is made of the stage's own. */
async function assertClaims(name, fleet, clusterOf) {
  etcd ??= startEtcd({ run: backends.run }).then((started) => (backends.atEnd(started.stop), started));
  const store = await etcd;
  const facilitator = { cluster: "facilitator", url: backends.facilitator.url };
  const plugin = pluginOf({ facilitator, ledger: { store: { etcd: { cluster: name, fleet } } } });
  const edit = (bootstrap) => {
    store.edit(bootstrap);
    const { clusters } = bootstrap.static_resources;
    clusters.push(clusterOf(clusters.pop(), store.certificates));
  };
  const stage = await startStage({ backends, plugin, edit });
  try {
    await until(async () => (await fetch(`${stage.url}/weather`)).status === 402, { what: `the store by ${name}` });
    assert.equal((await makePayer().fetch(`${stage.url}/weather`)).status, 200);
    const prefix = `x402:${fleet}:c:`;
    assert.match(store.ctl("get", "--prefix", "--keys-only", prefix), new RegExp(`^${prefix}[0-9a-f]{64}$`, "m"));
  } finally {
    await stage.stop();
  }
}

test("envoy-gateway/ledger.yaml: the cluster leads to a real etcd, and a payment is claimed there", () =>
  assertClaims("x402-ledger", "edge", (own, certificates) => {
    const { spec } = manifest("envoy-gateway/ledger.yaml", "EnvoyPatchPolicy");
    const text = JSON.stringify(spec.jsonPatches[0].operation.value)
      .replaceAll("/etc/x402/ledger/tls.crt", certificates.gate)
      .replaceAll("/etc/x402/ledger/tls.key", certificates.gateKey)
      .replaceAll("/etc/x402/ledger/ca.crt", certificates.ca);
    const cluster = JSON.parse(text);
    assert.equal(cluster.load_assignment.endpoints[0].lb_endpoints.length, own.load_assignment.endpoints[0].lb_endpoints.length);
    cluster.type = "STATIC";
    cluster.load_assignment.endpoints = own.load_assignment.endpoints;
    return cluster;
  }));

test("istio/ledger.yaml: a cluster of Istio's name, with what the manifest merges, leads to a real etcd", () => {
  const [entry, rule, filter] = ["ServiceEntry", "DestinationRule", "EnvoyFilter"].map((kind) => manifest("istio/ledger.yaml", kind).spec);
  const [[host], [{ number }], [{ match, patch }]] = [entry.hosts, entry.ports, filter.configPatches];
  assert.deepEqual(match.cluster, { service: host, portNumber: number });
  assert.deepEqual([rule.host, rule.trafficPolicy.tls.subjectAltNames], [host, [host]]);
  const name = `outbound|${number}||${host}`;
  return assertClaims(name, "mesh", (own) => {
    assert.equal(own.transport_socket.typed_config.sni, host);
    return { ...own, name, load_assignment: { ...own.load_assignment, cluster_name: name }, ...patch.value };
  });
});

test("Every manifest is in the base of its folder or in one component of its own, and each of those is a manifest", () => {
  for (const folder of FOLDERS) {
    const root = join(checkout, "envoy", folder);
    const parts = ["base", ...readdirSync(join(root, "components")).map((form) => `components/${form}`)];
    const listed = parts.flatMap((part) => {
      const { kind, resources } = parse(read(`${folder}/${part}/kustomization.yaml`));
      assert.equal(kind, part === "base" ? "Kustomization" : "Component");
      // kubectl takes no file from outside.
      return resources.map((file) => join(part, file));
    });
    assert.deepEqual(listed.filter((file) => !existsSync(join(root, file)) || lstatSync(join(root, file)).isSymbolicLink()), []);
    const linked = readdirSync(root).filter((file) => file.endsWith(".yaml")).map((file) => relative(root, realpathSync(join(root, file))));
    assert.deepEqual(linked.sort(), listed.sort());
    assert.ok(linked.every((file) => dirname(file) !== "."));
  }
});

test("`make dist` names the image by its digest, wherever it is named", () => {
  const node = (script, ...args) => execFileSync(process.execPath, [join(checkout, "stage", script), ...args], { stdio: "pipe" });
  const [module, dist] = [join(directory, "any.wasm"), join(directory, "dist")];
  writeFileSync(module, "not really");
  node("oci.mjs", module, join(dist, "image"));
  node("manifests.mjs", join(dist, "image"), dist, "registry.shop.example/x402:7");
  const [{ digest }] = JSON.parse(readFileSync(join(dist, "image", "index.json"), "utf8")).manifests;
  const hash = digest.replace("sha256:", "");
  const images = [];
  const modules = [];
  const look = (where, value) => {
    if (typeof value !== "object" || value === null) return;
    if (value.hostKeys) modules.push([where, value.hostKeys]);
    const url = value.url ?? value.http_uri?.uri;
    if (/registry/.test(url)) images.push([where, url.replace("oci://", ""), value.sha256]);
    Object.values(value).forEach((inner) => look(where, inner));
  };
  for (const folder of FOLDERS) {
    const names = readdirSync(join(dist, folder)).filter((file) => file.endsWith(".yaml"));
    assert.deepEqual(names, readdirSync(join(checkout, "envoy", folder)).filter((file) => file.endsWith(".yaml")));
    for (const name of names) {
      for (const document of parseAllDocuments(readFileSync(join(dist, folder, name), "utf8"))) look(name, document.toJS());
    }
  }
  const expected = ["envoyfilter", "gateway", "sidecar", "traffic-extension", "waypoint", "policy"];
  assert.deepEqual(images, expected.map((name) => [`${name}.yaml`, "registry.shop.example/x402:7", hash]));
  assert.deepEqual(modules, [["policy.yaml", [hash]]], "by which Envoy tells modules apart");
});

/** A certificate authority, and certificates of it. */
function makeCertificates() {
  const openssl = (...args) => execFileSync("openssl", args, { cwd: directory, stdio: "pipe" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=mesh", "-days", "2");
  for (const [name, san] of [["tls", "DNS:weather.local"], ["shop", "URI:spiffe://cluster.local/ns/shop/sa/web"], ["bank", "URI:spiffe://cluster.local/ns/bank/sa/web"]]) {
    openssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`);
    writeFileSync(join(directory, `${name}.ext`), `subjectAltName=${san}\n`);
    openssl("x509", "-req", "-in", `${name}.csr`, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", `${name}.ext`, "-out", `${name}.crt`);
  }
  openssl("req", "-x509", ...key, "-keyout", "stranger.key", "-out", "stranger.crt", "-subj", "/CN=x", "-days", "2", "-addext", "subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/web");
}

/** A shipped file with this machine's paths, at free ports, its services on the stage. */
function onStage(file, services) {
  const text = read(file).replaceAll("${WASM}", WASM).replaceAll("${CERTIFICATES}", directory);
  const shipped = join(directory, file);
  writeFileSync(shipped, text);
  execFileSync(ENVOY, ["--mode", "validate", "-c", shipped, "--disable-hot-restart"], { stdio: "pipe" });
  const bootstrap = parse(text);
  bootstrap.admin.address.socket_address.port_value = backends.ports.spare2;
  bootstrap.static_resources.listeners[0].address.socket_address = { address: "127.0.0.1", port_value: backends.ports.spare1 };
  for (const cluster of bootstrap.static_resources.clusters) {
    const port = services[cluster.name];
    assert.ok(port, `${file}: the cluster ${cluster.name} is new`);
    cluster.type = "STATIC";
    delete cluster.transport_socket;
    cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address = { address: "127.0.0.1", port_value: port };
  }
  return bootstrap;
}

async function withEnvoy(name, bootstrap, act) {
  const config = join(directory, `${name}.json`);
  writeFileSync(config, JSON.stringify(bootstrap));
  const child = startProcess({ name, command: ENVOY, args: ["-c", config, "--disable-hot-restart", "--concurrency", "1"], run: backends.run });
  try {
    const ready = `http://127.0.0.1:${bootstrap.admin.address.socket_address.port_value}/ready`;
    await until(async () => (await fetch(ready)).ok, { what: name, process: child });
    await act(backends.ports.spare1);
  } finally {
    await child.stop();
  }
}

test("gateway.yaml is valid, and sells what it says", async () => {
  const { port } = backends.inference;
  const bootstrap = onStage("gateway.yaml", { inference: port, data: port, facilitator: backends.facilitator.port, "base-node": backends.chain.port ?? backends.ports.chain });
  // The stage's chain is Base Sepolia.
  const text = JSON.stringify(bootstrap).replaceAll('"network":"base"', '"network":"base-sepolia"').replaceAll('"rpc":{"base":', '"rpc":{"base-sepolia":');
  await withEnvoy("gateway", JSON.parse(text), async (port) => {
    const ask = (host, path, init = []) => curl("-H", `host: ${host}`, ...init, `http://127.0.0.1:${port}${path}`);
    assert.equal(await ask("data.example.com", "/anything"), "402");
    assert.equal(await ask("elsewhere.example.com", "/anything"), "403");
    assert.equal(await ask("data.example.com", "/healthz"), "200");
    await until(async () => (await ask("api.example.com", "/v1/chat/completions", ["-d", '{"model":"gpt-4o","messages":[]}'])) === "402", { what: "an offer" });
    assert.equal(await ask("api.example.com", "/v1/chat/completions", ["-d", '{"model":"gpt-9","messages":[]}']), "400");
  });
});

test("sidecar.yaml is valid; strangers pay, and callers of the mesh's namespace do not", async () => {
  makeCertificates();
  const bootstrap = onStage("sidecar.yaml", { service: backends.inference.port, facilitator: backends.facilitator.port });
  await withEnvoy("sidecar", bootstrap, async (port) => {
    const ask = (certificate) => {
      const own = certificate ? ["--cert", `${certificate}.crt`, "--key", `${certificate}.key`] : [];
      return curl("--cacert", "ca.crt", "--resolve", `weather.local:${port}:127.0.0.1`, ...own, `https://weather.local:${port}/weather`);
    };
    assert.equal(await ask(null), "402");
    assert.equal(await ask("shop"), "200");
    assert.equal(await ask("bank"), "402");
    assert.equal(await ask("stranger"), "000", "a certificate of nobody's is no certificate");
  });
});

test("compose.yaml: its stage starts, and an Envoy with the file that it writes sells", async () => {
  const { services } = parse(read("compose.yaml"));
  assert.match(services.envoy.image, /^envoyproxy\/envoy:v1\.\d+\.\d+$/);
  const [program, script, , , , file] = services.stage.command.split(" ");
  assert.equal(`${program} ${script}`, "node stage/backends.mjs");
  assert.equal(services.envoy.command, `envoy -c ${file}`);
  const port = backends.ports.spare3;
  const written = join(directory, "compose", "envoy.json");
  const stage = startProcess({
    name: "compose-stage",
    command: process.execPath,
    args: [join(checkout, script), "--listen", `127.0.0.1:${port}`, "--write", written],
    run: backends.run,
  });
  try {
    const bootstrap = await until(async () => JSON.parse(readFileSync(written, "utf8")), { what: "the stage", process: stage, timeoutMs: 60_000 });
    await withEnvoy("compose", bootstrap, async () => {
      const response = await makePayer().fetch(`http://127.0.0.1:${port}/weather`);
      assert.equal(response.status, 200);
    });
  } finally {
    await stage.stop();
  }
});
