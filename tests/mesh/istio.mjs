/** Istio in the world: istiod, and pods with its agent as sidecars, gateways and waypoints. */
import { readFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { join } from "node:path";
import { stringify } from "yaml";
import { checkout } from "../../stage/processes.mjs";
import { parseAnswer } from "../e2e/support.mjs";
import { PROXY_CONFIG } from "./cluster.mjs";
import { ENVOY, eventually, programs, PROXY_UID } from "./world.mjs";

const share = (file) => readFileSync(join(checkout, ".tools", "mesh", "share", "istio", file), "utf8");
const ISTIOD = "istiod.istio-system.svc";
const TRUST_DOMAIN = "cluster.local";
/** Where the agent writes the certificate of a pod, for tests that call as it. */
const CERTIFICATES = "/etc/certificates";

/**
 * Starts istiod.
 *
 * @param {import("./world.mjs").World} world
 * @param {object} [options]
 * @param {object} [options.mesh] more of the mesh's configuration
 */
export async function openIstio(world, { mesh = {} } = {}) {
  const { cluster } = world;
  await cluster.apply(share("crd-all.gen.yaml"), share("gateway-api-crd.yaml"));
  await cluster.namespace("istio-system", { accounts: ["istiod"] });
  const istiod = await world.pod("istiod");
  world.names.add(istiod.ip, ISTIOD, `${ISTIOD}.cluster.local`);
  istiod.write("/etc/istio/kubeconfig", cluster.kubeconfig);
  // Of the telemetry that Istio turns on by itself a stock Envoy has no filter.
  istiod.write("/etc/istio/mesh.yaml", stringify({ defaultProviders: { metrics: [] }, trustDomain: TRUST_DOMAIN, rootNamespace: "istio-system", ...mesh }));
  istiod.write("/etc/istio/networks.yaml", "networks: {}\n");
  const child = istiod.start("istiod", [
    join(programs, "istiod"), "discovery",
    ...["--kubeconfig", "/etc/istio/kubeconfig", "--meshConfig", "/etc/istio/mesh.yaml", "--networksConfig", "/etc/istio/networks.yaml"],
    "--log_output_level=default:info",
  ], {
    env: {
      POD_NAME: "istiod", POD_NAMESPACE: "istio-system", SERVICE_ACCOUNT: "istiod", CLUSTER_ID: "Kubernetes",
      PILOT_ENABLE_ALPN_FILTER: "false", PILOT_ENABLE_METADATA_EXCHANGE: "false",
      PILOT_ENABLE_AMBIENT: "true", AMBIENT_ENABLE_MULTI_NETWORK_WAYPOINT: "false",
    },
  });
  await eventually(() => cluster.get("/api/v1/namespaces/default/configmaps/istio-ca-root-cert"), "istiod", child);
  const root = (await cluster.get("/api/v1/namespaces/default/configmaps/istio-ca-root-cert")).data["root-cert.pem"];

  /** What the injector puts beside an application, or a gateway's Deployment runs. */
  async function startAgent(pod, role, { namespace, labels, account, annotations = { "proxy.istio.io/config": PROXY_CONFIG }, env = {} }) {
    const quoted = (values) => Object.entries(values).map(([key, value]) => `${key}=${JSON.stringify(String(value))}\n`).join("");
    pod.write("/etc/istio/pod/labels", quoted(labels), PROXY_UID);
    pod.write("/etc/istio/pod/annotations", quoted(annotations), PROXY_UID);
    pod.mkdir("/etc/istio/proxy", PROXY_UID);
    pod.write("/var/run/secrets/tokens/istio-token", await cluster.token(namespace, account, "istio-ca"), PROXY_UID);
    pod.write("/var/run/secrets/istio/root-cert.pem", root, PROXY_UID);
    // A stock Envoy does not have the extension by which waypoints learn of workloads.
    pod.write("/var/lib/istio/envoy/envoy_bootstrap_tmpl.json", share("envoy_bootstrap.json").replaceAll("{{- if .metadata_discovery }}", "{{- if false }}"), PROXY_UID);
    pod.mkdir("/var/lib/istio/data", PROXY_UID);
    pod.mkdir(CERTIFICATES, PROXY_UID);
    const child = pod.start("proxy", [join(programs, "pilot-agent"), "proxy", role, "--domain", `${namespace}.svc.cluster.local`, "--log_output_level=default:info", "--proxyLogLevel=info"], {
      uid: PROXY_UID,
      env: {
        POD_NAME: pod.name, POD_NAMESPACE: namespace, INSTANCE_IP: pod.ip, HOST_IP: pod.ip, SERVICE_ACCOUNT: account, ISTIO_CPU_LIMIT: "2",
        CA_ADDR: `${ISTIOD}:15012`, PILOT_CERT_PROVIDER: "istiod", TRUST_DOMAIN,
        PROXY_CONFIG: JSON.stringify({ binaryPath: ENVOY, discoveryAddress: `${ISTIOD}:15012`, concurrency: 2 }),
        ISTIO_META_CLUSTER_ID: "Kubernetes", ISTIO_META_MESH_ID: TRUST_DOMAIN, ISTIO_META_NODE_NAME: "mesh",
        ISTIO_META_WORKLOAD_NAME: pod.name, OUTPUT_CERTS: CERTIFICATES, ...env,
      },
    });
    const proxy = {
      pod,
      log: child.log,
      ready: () => eventually(() => isReady(pod), `the proxy of ${pod.name}`, child),
      /** Envoy's admin interface. */
      admin: (path, ...options) => pod.exec("curl", "-sS", "--max-time", "20", ...options, `http://127.0.0.1:15000${path}`),
      /** What Prometheus would scrape: Envoy's stats, merged by the agent. */
      metrics: () => pod.exec("curl", "-sS", "--max-time", "20", "http://127.0.0.1:15020/stats/prometheus"),
      child,
    };
    return proxy;
  }

  /**
   * Starts a pod with a sidecar, and where it is wanted the API within it.
   *
   * @param {string} name
   * @param {object} [options]
   * @param {Record<string, string>} [options.labels]
   * @param {boolean} [options.api] whether the stage's API listens on its port 8080
   * @param {(pod: import("./world.mjs").Pod) => void} [options.prepare] puts files into its root, as a volume would
   */
  async function sidecar(name, { namespace = "default", labels = {}, account = "default", api = true, prepare, ...options } = {}) {
    const pod = await world.pod(name);
    prepare?.(pod);
    if (api) startApi(pod);
    const own = { ...labels, "security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": labels.app ?? name };
    await cluster.join(pod, { namespace, labels: own, account });
    await pod.exec(join(programs, "pilot-agent"), "istio-iptables", "-p", "15001", "-z", "15006", "-u", String(PROXY_UID), "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020,8081");
    return startAgent(pod, "sidecar", {
      namespace, labels: own, account, ...options,
      env: { ISTIO_META_INTERCEPTION_MODE: "REDIRECT", ISTIO_META_POD_PORTS: api ? '[{"containerPort":8080,"protocol":"TCP"}]' : "[]", ...options.env },
    });
  }

  /** Starts a proxy of a Gateway, and tells of its pods by a Service of that name. */
  async function gatewayPod(name, { gateway, namespace = "default", account = "default", role = "router", prepare, ...options }) {
    const pod = await world.pod(name);
    prepare?.(pod);
    const labels = { "gateway.networking.k8s.io/gateway-name": gateway, "istio.io/gateway-name": gateway };
    await cluster.join(pod, { namespace, labels, account });
    return startAgent(pod, role, { namespace, labels, account, ...options });
  }

  return { istiod, log: child.log, root, sidecar, gatewayPod, startAgent };
}

/** The ports of a service before the stage's API. */
export const PORTS = [{ name: "http", port: 80, targetPort: 8080, protocol: "TCP" }];

/**
 * Starts the waypoint of a namespace, and behind it the service `weather`.
 *
 * @returns {Promise<{proxy: object, service: string, sendAs: (caller: object) => typeof fetch}>} `service` is the service's address and
 *   port, `sendAs` sends as a pod with an agent does
 */
export async function openWaypoint(world, istio, namespace) {
  const { cluster } = world;
  await cluster.applyIn(namespace, {
    apiVersion: "gateway.networking.k8s.io/v1", kind: "Gateway", metadata: { name: "waypoint", labels: { "istio.io/waypoint-for": "service" } },
    spec: { gatewayClassName: "istio-waypoint", listeners: [{ name: "mesh", port: 15008, protocol: "HBONE" }] },
  });
  const weather = await plainApi(world, `${namespace}-weather`, { namespace, labels: { app: "weather" } });
  // What comes in by a gateway goes through the waypoint, too.
  const labels = { "istio.io/use-waypoint": "waypoint", "istio.io/ingress-use-waypoint": "true" };
  const address = await cluster.service("weather", { namespace, labels, selector: { app: "weather" }, ports: PORTS, pods: [weather] });
  const proxy = await istio.gatewayPod(`${namespace}-waypoint`, { gateway: "waypoint", namespace, role: "waypoint", env: { ISTIO_META_ENABLE_HBONE: "true" } });
  const ports = [15021, 15008].map((port) => ({ name: `port-${port}`, port, protocol: "TCP" }));
  await cluster.service("waypoint", { namespace, selector: { "gateway.networking.k8s.io/gateway-name": "waypoint" }, ports, pods: [proxy.pod] });
  await proxy.ready();
  const service = `${address}:80`;
  const sendAs = (caller) => throughWaypoint({ waypoint: proxy.pod.ip, service, identity: identityOf(caller) });
  return { proxy, service, sendAs };
}

/**
 * Starts a gateway of the Gateway API, and behind it the service `api`, or another one that is there.
 *
 * @param {string} namespace where the Gateway `edge`, its route and the API are
 * @param {object} [options] of gatewayPod; `replicas`: how many pods; `service`: which one is there
 * @returns {Promise<{proxies: object[], api: import("./world.mjs").Pod, urls: string[], start: () => Promise<object>}>}
 */
export async function openEdge(world, istio, namespace = "default", { replicas = 1, service, ...options } = {}) {
  const { cluster } = world;
  let api = null;
  if (!service) {
    api = await plainApi(world, `${namespace}-api`, { namespace, labels: { app: "api" } });
    await cluster.service("api", { namespace, selector: { app: "api" }, ports: PORTS, pods: [api] });
  }
  await cluster.applyIn(
    namespace,
    {
      apiVersion: "gateway.networking.k8s.io/v1", kind: "Gateway", metadata: { name: "edge" },
      spec: { gatewayClassName: "istio", listeners: [{ name: "http", port: 80, protocol: "HTTP" }] },
    },
    {
      apiVersion: "gateway.networking.k8s.io/v1", kind: "HTTPRoute", metadata: { name: "api" },
      spec: { parentRefs: [{ name: "edge" }], rules: [{ backendRefs: [{ name: service ?? "api", port: 80 }] }] },
    },
  );
  const proxies = [];
  const publish = (started) =>
    cluster.service("edge-istio", {
      namespace,
      selector: { "gateway.networking.k8s.io/gateway-name": "edge" },
      ports: [{ name: "http", port: 80, protocol: "TCP" }],
      pods: started.map(({ pod }) => pod),
    });
  let serial = 0;
  const start = async () => {
    const proxy = await istio.gatewayPod(`${namespace}-edge-${++serial}`, { gateway: "edge", namespace, ...options });
    await publish([...proxies, proxy]);
    await proxy.ready();
    proxies.push(Object.assign(proxy, { url: `http://${proxy.pod.ip}` }));
    return proxy;
  };
  while (proxies.length < replicas) await start();
  return { proxies, api, start };
}

/** Whether a proxy has all its configuration. */
const isReady = (pod) => pod.exec("curl", "-sf", "--max-time", "5", `http://${pod.ip}:15021/healthz/ready`).then(() => true);

/** Starts the stage's API in a pod, on port 8080. */
export const startApi = (pod) => pod.start("api", [process.execPath, join(checkout, "tests", "mesh", "app.mjs")]);

/** A pod with nothing but the API. */
export async function plainApi(world, name, { namespace = "default", labels = {} } = {}) {
  const pod = await world.pod(name);
  startApi(pod);
  await world.cluster.join(pod, { namespace, labels });
  return pod;
}

/** What the API in a pod has seen. @returns {Promise<import("../../stage/inference.mjs").Seen[]>} */
export const seenBy = async (pod) => JSON.parse(await pod.exec("curl", "-sf", "http://127.0.0.1:8081/__seen"));

/** The certificate of a pod with an agent, as Node takes it. */
export const identityOf = (proxy) => ({
  cert: proxy.pod.read(`${CERTIFICATES}/cert-chain.pem`),
  key: proxy.pod.read(`${CERTIFICATES}/key.pem`),
  ca: proxy.pod.read(`${CERTIFICATES}/root-cert.pem`),
});

/**
 * A `fetch` that goes through a waypoint, as ztunnel does: mutual TLS with a pod's certificate, `CONNECT` by HTTP/2 to the service's
 * address, and HTTP/1.1 within.
 *
 * @param {object} options
 * @param {string} options.waypoint its address
 * @param {string} options.service address and port of the service
 * @param {ReturnType<typeof identityOf>} options.identity the caller's
 * @param {"http" | "https"} [options.protocol] plain text, or TLS
 */
export function throughWaypoint({ waypoint, service, identity, protocol = "https" }) {
  return async (input, init) => {
    const request = new Request(input, init);
    const body = Buffer.from(await request.arrayBuffer());
    const session = connectHttp2(`${protocol}://${waypoint}:15008`, { ...identity, checkServerIdentity: () => undefined });
    // Whoever waits hears of it.
    session.setTimeout(30_000, () => session.destroy(new Error("the waypoint does not answer")));
    try {
      session.on("error", () => {});
      const tunnel = session.request({ ":method": "CONNECT", ":authority": service });
      await new Promise((resolve, reject) => {
        session.once("error", reject);
        tunnel.once("error", reject);
        tunnel.once("close", () => reject(new Error("the waypoint closed the connection")));
        tunnel.once("response", (headers) => (headers[":status"] === 200 ? resolve() : reject(new Error(`CONNECT: ${headers[":status"]}`))));
      });
      const { pathname, search, host } = new URL(request.url);
      const headers = { host, ...Object.fromEntries(request.headers), ...(body.length && { "content-length": body.length }) };
      const head = [`${request.method} ${pathname}${search} HTTP/1.1`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)];
      tunnel.write(Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`, "latin1"), body]));
      const answer = await new Promise((resolve, reject) => {
        let received = Buffer.alloc(0);
        tunnel.on("data", (chunk) => {
          received = Buffer.concat([received, chunk]);
          const whole = parseAnswer(received, request.method === "HEAD");
          if (whole) resolve(whole);
        });
        tunnel.on("error", reject);
        tunnel.on("close", () => reject(new Error("the tunnel closed before the response was whole")));
      });
      return new Response(answer.bytes.length ? answer.bytes : null, { status: answer.status, headers: answer.headers });
    } finally {
      session.destroy();
    }
  };
}

/** Opens a waypoint with the filter in the namespace `ambient`, and a caller in `bank` who comes through it by `send`. */
export async function openAmbient(world, istio) {
  const { cluster } = world;
  await cluster.namespace("ambient", { labels: { "istio.io/dataplane-mode": "ambient" } });
  await cluster.namespace("bank");
  await cluster.applyOverlay({ components: ["istio/components/waypoint"], namespace: "ambient" });
  const waypoint = await openWaypoint(world, istio, "ambient");
  const caller = await istio.sidecar("caller", { namespace: "bank", api: false });
  await caller.ready();
  return { waypoint, send: waypoint.sendAs(caller) };
}
