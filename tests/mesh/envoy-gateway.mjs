/** Envoy Gateway in the world: its control plane, and the proxies whose Deployments it writes. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";
import { checkout } from "../../stage/processes.mjs";
import { ENVOY, eventually, programs } from "./world.mjs";

const SHARE = join(checkout, ".tools", "mesh", "share", "envoy-gateway");
/** The namespace of its control plane and of its proxies. */
export const NAMESPACE = "envoy-gateway-system";
const CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller";

/** The user of Envoy's image. */
const ENVOY_UID = 65532;

const decoded = (data) => Object.fromEntries(Object.entries(data ?? {}).map(([key, value]) => [key, Buffer.from(value, "base64")]));

/**
 * Starts Envoy Gateway, with a GatewayClass `eg` of it.
 *
 * @param {import("./world.mjs").World} world
 */
export async function openEnvoyGateway(world) {
  const { cluster } = world;
  await cluster.apply(...readdirSync(SHARE).sort().map((file) => readFileSync(join(SHARE, file), "utf8")));
  await cluster.namespace(NAMESPACE, { accounts: ["envoy-gateway"] });
  const pod = await world.pod("envoy-gateway");
  world.names.add(pod.ip, `envoy-gateway.${NAMESPACE}.svc.cluster.local`, `envoy-gateway.${NAMESPACE}.svc`);
  pod.write("/etc/envoy-gateway/kubeconfig", cluster.kubeconfig);
  pod.write("/etc/envoy-gateway/config.yaml", stringify({
    apiVersion: "gateway.envoyproxy.io/v1alpha1",
    kind: "EnvoyGateway",
    gateway: { controllerName: CONTROLLER },
    provider: { type: "Kubernetes", kubernetes: { leaderElection: { disable: true }, proxyTopologyInjector: { disabled: true } } },
    extensionApis: { enableEnvoyPatchPolicy: true },
  }));
  const env = { KUBECONFIG: "/etc/envoy-gateway/kubeconfig", ENVOY_GATEWAY_NAMESPACE: NAMESPACE, KUBERNETES_CLUSTER_DOMAIN: "cluster.local" };
  const program = join(programs, "envoy-gateway");
  await pod.start("certgen", [program, "certgen", "--disable-topology-injector"], { env }).onEnd;
  const secret = async (name) => decoded((await cluster.get(`/api/v1/namespaces/${NAMESPACE}/secrets/${name}`))?.data);
  for (const [file, bytes] of Object.entries(await secret("envoy-gateway"))) pod.write(`/certs/${file}`, bytes);
  const child = pod.start("server", [program, "server", "--config-path", "/etc/envoy-gateway/config.yaml"], { env });
  await cluster.apply({
    apiVersion: "gateway.networking.k8s.io/v1", kind: "GatewayClass", metadata: { name: "eg" }, spec: { controllerName: CONTROLLER },
  });
  const accepted = async () => {
    const { status } = await cluster.get("/apis/gateway.networking.k8s.io/v1/gatewayclasses/eg");
    return status?.conditions?.some(({ type, status: is }) => type === "Accepted" && is === "True");
  };
  await eventually(accepted, "Envoy Gateway", child);

  // What a kubelet does of a pod's volumes.
  async function mount(proxy, template, container) {
    for (const { name, mountPath } of container.volumeMounts ?? []) {
      const volume = template.volumes.find((one) => one.name === name);
      const at = (resource, of) => cluster.get(`/api/v1/namespaces/${NAMESPACE}/${resource}/${of}`);
      proxy.mkdir(mountPath, ENVOY_UID);
      let files = {};
      if (volume.secret) files = decoded((await at("secrets", volume.secret.secretName))?.data);
      if (volume.configMap) {
        const { data } = await at("configmaps", volume.configMap.name);
        const items = volume.configMap.items ?? Object.keys(data).map((key) => ({ key, path: key }));
        files = Object.fromEntries(items.map(({ key, path }) => [path, data[key]]));
      }
      for (const [file, content] of Object.entries(files)) proxy.write(join(mountPath, file), content, ENVOY_UID);
    }
  }

  /**
   * Starts a proxy as the Deployment of a gateway says.
   *
   * @param {string} name the pod's
   * @param {string} gateway
   */
  async function gatewayPod(name, gateway) {
    const selector = `labelSelector=gateway.envoyproxy.io%2Fowning-gateway-name%3D${gateway}`;
    const list = () => cluster.get(`/apis/apps/v1/namespaces/${NAMESPACE}/deployments?${selector}`);
    const deployment = await eventually(async () => (await list()).items[0], `the Deployment of the gateway ${gateway}`, child);
    const template = deployment.spec.template.spec;
    const container = template.containers.find((one) => one.name === "envoy");
    const proxy = await world.pod(name);
    await mount(proxy, template, container);
    const fields = { "metadata.name": name, "metadata.namespace": NAMESPACE };
    const variables = Object.fromEntries((container.env ?? []).map(({ name: key, value, valueFrom }) => [key, value ?? fields[valueFrom?.fieldRef?.fieldPath] ?? ""]));
    const filled = container.args.map((arg) => arg.replace(/\$\((\w+)\)/g, (_, key) => variables[key]));
    const envoy = proxy.start("proxy", [ENVOY, ...filled, "--disable-hot-restart", "--concurrency", "2"], { env: variables, uid: ENVOY_UID });
    const admin = (path, ...options) => proxy.exec("curl", "-sS", "--max-time", "20", ...options, `http://127.0.0.1:19000${path}`);
    return {
      pod: proxy,
      child: envoy,
      log: envoy.log,
      admin,
      metrics: () => proxy.exec("curl", "-sS", "--max-time", "20", `http://${proxy.ip}:19001/stats/prometheus`),
      ready: () => eventually(async () => (await admin("/ready")).startsWith("LIVE"), `the proxy ${name}`, envoy),
    };
  }

  return { pod, log: child.log, gatewayPod };
}

/** A Gateway of the class `eg`, and its route to the service `api`. */
export const edge = ({ port = 8080, ...more } = {}) => [
  {
    apiVersion: "gateway.networking.k8s.io/v1", kind: "Gateway", metadata: { name: "edge", namespace: "default" },
    spec: { gatewayClassName: "eg", listeners: [{ name: "http", port, protocol: "HTTP" }], ...more },
  },
  routeToApi("edge"),
];

/** A route of a Gateway to the service `api`. */
export const routeToApi = (gateway) => ({
  apiVersion: "gateway.networking.k8s.io/v1", kind: "HTTPRoute", metadata: { name: "api", namespace: "default" },
  spec: { parentRefs: [{ name: gateway }], rules: [{ backendRefs: [{ name: "api", port: 80 }] }] },
});
