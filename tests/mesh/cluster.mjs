/**
 * A Kubernetes API server over etcd, and no controller: what controllers would write (the state of pods, EndpointSlices, tokens)
 * the tests write.
 */
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { join, relative } from "node:path";
import { promisify } from "node:util";
import { parseAllDocuments } from "yaml";
import { checkout } from "../../stage/processes.mjs";

const TOKEN = "mesh-admin";
const JSON_TYPE = "application/json";

/**
 * Starts etcd and the API server.
 *
 * @returns {Promise<Cluster>}
 *
 * @typedef {object} Cluster
 * @property {string} kubeconfig its text
 * @property {(...documents: (string | object)[]) => Promise<void>} apply manifests, as text or as objects
 * @property {(namespace: string, ...documents: (string | object)[]) => Promise<void>} applyIn the same, where they name no namespace
 * @property {(path: string) => Promise<object | null>} get an object by its path in the API; null where there is none
 * @property {(path: string) => Promise<void>} remove
 * @property {(path: string, patch: object) => Promise<object>} patch merges
 * @property {(namespace: string, account: string, audience: string) => Promise<string>} token of a service account
 */
export async function openCluster({ directory, authority, start, eventually, address, programs, names }) {
  const data = join(directory, "kubernetes");
  const [certificate, key] = authority.issue("kubernetes", "kubernetes", { alternative: `IP:${address},DNS:kubernetes.default.svc` });
  const [known, signer] = authority.issue("accounts", "accounts");
  const tokens = join(directory, "tokens.csv");
  writeFileSync(tokens, `${TOKEN},admin,1,system:masters\n`);
  start("etcd", join(programs, "etcd"), [
    ["--data-dir", data, "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379"],
    ["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn", "--unsafe-no-fsync"],
  ].flat());
  const server = start("kube-apiserver", join(programs, "kube-apiserver"), [
    ["--etcd-servers", "http://127.0.0.1:2379", "--secure-port", "6443", "--advertise-address", address],
    ["--tls-cert-file", certificate, "--tls-private-key-file", key, "--token-auth-file", tokens],
    ["--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16", "--endpoint-reconciler-type", "none"],
    ["--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", known, "--service-account-signing-key-file", signer],
    ["--api-audiences", "https://kubernetes.default.svc,istio-ca", "--disable-admission-plugins", "ServiceAccount"],
  ].flat());

  const agent = new Agent({ keepAlive: true, ca: readFileSync(authority.ca) });
  const call = (method, path, body, type = JSON_TYPE) =>
    new Promise((resolve, reject) => {
      const headers = { authorization: `Bearer ${TOKEN}`, ...(body && { "content-type": type }) };
      const sent = request({ agent, host: address, port: 6443, method, path, headers }, (response) => {
        const chunks = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString("utf8");
          if (response.statusCode === 404) return resolve(null);
          if (response.statusCode >= 300) return reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`));
          resolve(text.startsWith("{") ? JSON.parse(text) : text);
        });
      });
      sent.on("error", reject);
      sent.end(body && JSON.stringify(body));
    });
  await eventually(async () => (await call("GET", "/readyz")) === "ok", "the API server", server);

  const kubeconfig = JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "mesh", cluster: { server: `https://${address}:6443`, "certificate-authority-data": readFileSync(authority.ca).toString("base64") } }],
    users: [{ name: "admin", user: { token: TOKEN } }],
    contexts: [{ name: "mesh", context: { cluster: "mesh", user: "admin", namespace: "default" } }],
    "current-context": "mesh",
  });
  const file = join(directory, "kubeconfig");
  writeFileSync(file, kubeconfig);
  /** Runs kubectl. @returns {Promise<string>} what it prints */
  const kubectl = async (...args) => {
    const { stdout } = await promisify(execFile)(join(programs, "kubectl"), ["--kubeconfig", file, ...args], { maxBuffer: 64_000_000, env: { ...process.env, HOME: directory } });
    return stdout;
  };
  let serial = 0;
  const applyIn = async (namespace, ...documents) => {
    const text = documents.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join("\n---\n");
    const path = join(directory, `applied-${++serial}.yaml`);
    writeFileSync(path, text);
    await kubectl("apply", "--server-side", "--force-conflicts", ...(namespace ? ["--namespace", namespace] : []), "--validate=false", "-f", path);
  };
  const apply = (...documents) => applyIn(null, ...documents);
  await apply({ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "default", namespace: "default" } });
  return {
    kubeconfig,
    kubectl,
    apply,
    applyIn,
    /** Applies kustomizations below `envoy/`, as an overlay of an operator's does: `kubectl apply -k`. */
    applyOverlay: async ({ base, components = [], namespace = "default" }) => {
      const overlay = join(directory, `overlay-${++serial}`);
      mkdirSync(overlay);
      const at = (path) => relative(overlay, join(checkout, "envoy", path));
      const kustomization = {
        apiVersion: "kustomize.config.k8s.io/v1beta1",
        kind: "Kustomization",
        namespace,
        resources: base ? [at(base)] : [],
        components: components.map(at),
      };
      writeFileSync(join(overlay, "kustomization.yaml"), JSON.stringify(kustomization));
      await kubectl("apply", "--server-side", "-k", overlay);
    },
    get: (path) => call("GET", path),
    remove: (path) => call("DELETE", path),
    patch: (path, patch) => call("PATCH", path, patch, "application/merge-patch+json"),
    token: async (namespace, account, audience) => {
      const { status } = await call("POST", `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`, {
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenRequest",
        spec: { audiences: [audience], expirationSeconds: 86_400 },
      });
      return status.token;
    },
    /** Makes a namespace with the service account `default` and more of them. */
    namespace: (name, { labels = {}, accounts = [] } = {}) =>
      apply(
        { apiVersion: "v1", kind: "Namespace", metadata: { name, labels } },
        ...["default", ...accounts].map((account) => ({ apiVersion: "v1", kind: "ServiceAccount", metadata: { name: account, namespace: name } })),
      ),
    /** Tells the cluster of a pod that runs. */
    join: async (pod, { namespace = "default", labels = {}, account = "default" } = {}) => {
      await apply({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: pod.name, namespace, labels },
        spec: { serviceAccountName: account, nodeName: "mesh", containers: [{ name: "app", image: "app" }] },
      });
      await call("PATCH", `/api/v1/namespaces/${namespace}/pods/${pod.name}/status`, {
        status: { phase: "Running", podIP: pod.ip, podIPs: [{ ip: pod.ip }], conditions: [{ type: "Ready", status: "True" }] },
      }, "application/merge-patch+json");
    },
    /** Makes a service, and says which pods are behind it. @returns {Promise<string>} its address */
    service: async (name, { namespace = "default", labels = {}, selector, ports, pods }) => {
      await apply(
        { apiVersion: "v1", kind: "Service", metadata: { name, namespace, labels }, spec: { selector, ports } },
        {
          apiVersion: "discovery.k8s.io/v1",
          kind: "EndpointSlice",
          metadata: { name: `${name}-1`, namespace, labels: { "kubernetes.io/service-name": name } },
          addressType: "IPv4",
          ports: ports.map(({ name: portName, port, targetPort }) => ({ name: portName, port: targetPort ?? port, protocol: "TCP" })),
          endpoints: pods.map((pod) => ({ addresses: [pod.ip], conditions: { ready: true }, targetRef: { kind: "Pod", name: pod.name, namespace } })),
        },
      );
      const { spec } = await call("GET", `/api/v1/namespaces/${namespace}/services/${name}`);
      names.add(spec.clusterIP, `${name}.${namespace}.svc.cluster.local`, `${name}.${namespace}.svc`, `${name}.${namespace}`);
      return spec.clusterIP;
    },
  };
}

/** A shipped file's text. @param {string} path below `envoy/` */
export const shipped = (path) => readFileSync(join(checkout, "envoy", path), "utf8");

/** What docs/mesh.md says, by a pattern of which the first group is meant. */
export const documented = (pattern) => readFileSync(join(checkout, "docs", "mesh.md"), "utf8").match(pattern)[1];

/** What docs/mesh.md tells to write for a proxy of Istio: labels for stats, and why a connection failed for the log. */
export const PROXY_CONFIG = documented(/^proxy\.istio\.io\/config: \|\n((?: .*\n)+)/m).replace(/^ {2}/gm, "");

/** The documents of a shipped file, to be changed. */
export const documents = (path) => parseAllDocuments(shipped(path)).map((document) => document.toJS()).filter(Boolean);
