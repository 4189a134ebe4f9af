/** A real etcd: one or three members on loopback, with certificates, and the Envoy cluster that leads to them. */
import { execFile, execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { claimPorts } from "./ports.mjs";
import { startProcess, until } from "./processes.mjs";

/** Debian's package `etcd-server`. */
export const ETCD = process.env.ETCD ?? "/usr/bin/etcd";
const ETCDCTL = process.env.ETCDCTL ?? "/usr/bin/etcdctl";

/** The name by which Envoy and the members' certificates know them. */
const NAME = "etcd.example.com";

// An authority, a certificate for the members, and one for clients whose common name is their user in etcd.
function makeCertificates(directory) {
  mkdirSync(directory, { recursive: true });
  const openssl = (...args) => execFileSync("openssl", args, { cwd: directory, stdio: "pipe" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ledger", "-days", "2");
  const issue = (name, subject, extensions) => {
    writeFileSync(join(directory, `${name}.ext`), extensions);
    openssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", subject);
    openssl("x509", "-req", "-in", `${name}.csr`, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", `${name}.crt`, "-extfile", `${name}.ext`);
  };
  issue("server", `/CN=${NAME}`, `subjectAltName=DNS:${NAME},DNS:localhost,IP:127.0.0.1\n`);
  issue("gate", "/CN=x402-gate", "extendedKeyUsage=clientAuth\n");
  issue("root", "/CN=root", "extendedKeyUsage=clientAuth\n");
  return Object.fromEntries(["ca", "server", "gate", "root"].flatMap((name) => [
    [name, join(directory, `${name}.crt`)],
    [`${name}Key`, join(directory, `${name}.key`)],
  ]));
}

/**
 * Starts etcd.
 *
 * @param {object} options
 * @param {ReturnType<typeof import("./processes.mjs").makeRunDirectory>} options.run
 * @param {1 | 3} [options.size] members
 * @param {number} [options.quota] bytes of the store, see --quota-backend-bytes
 * @returns {Promise<Etcd>}
 *
 * @typedef {object} Etcd
 * @property {{name: string, port: number, kill: () => void, pause: () => void, resume: () => void, start: () => Promise<void>}[]} members
 * @property {(bootstrap: object, over?: {ports?: number[]}) => void} edit adds the cluster `etcd` to a bootstrap of Envoy's
 * @property {(...args: string[]) => string} ctl runs etcdctl as root
 * @property {() => Promise<{name: string}>} leader
 * @property {() => Promise<void>} stop
 */
export async function startEtcd({ run, size = 3, quota }) {
  const claims = await Promise.all([claimPorts()]);
  const [ports] = claims;
  const free = [ports.gateway, ports.gatewayAdmin, ports.chain, ports.facilitator, ports.inference, ports.inferenceAdmin];
  const directory = join(run.path, `etcd-${ports.gateway}`);
  const certificates = makeCertificates(directory);
  const plan = Array.from({ length: size }, (_, index) => ({ name: `etcd-${index}`, port: free[2 * index], peer: free[2 * index + 1] }));
  const cluster = plan.map(({ name, peer }) => `${name}=http://127.0.0.1:${peer}`).join(",");
  const begin = ({ name, port, peer }) =>
    startProcess({
      name: `${name}-${port}`,
      command: ETCD,
      run,
      args: [
        ["--name", name, "--data-dir", join(directory, name)],
        ["--listen-client-urls", `https://127.0.0.1:${port}`, "--advertise-client-urls", `https://127.0.0.1:${port}`],
        ["--listen-peer-urls", `http://127.0.0.1:${peer}`, "--initial-advertise-peer-urls", `http://127.0.0.1:${peer}`],
        ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--initial-cluster-token", "x402"],
        ["--cert-file", certificates.server, "--key-file", certificates.serverKey, "--client-cert-auth", "--trusted-ca-file", certificates.ca],
        ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "5m", "--log-level", "warn"],
        quota ? ["--quota-backend-bytes", String(quota)] : [],
      ].flat(),
    });
  const endpoints = plan.map(({ port }) => `https://127.0.0.1:${port}`);
  const commandAt = (where, args) => [
    ETCDCTL,
    ["--endpoints", where, "--cacert", certificates.ca, "--cert", certificates.root, "--key", certificates.rootKey, "--command-timeout", "10s", ...args],
    { encoding: "utf8", env: { ...process.env, ETCDCTL_API: "3" }, stdio: ["ignore", "pipe", "pipe"] },
  ];
  // Not one that this process waits for: its own clients run meanwhile.
  const ctlAt = async (where, args) => (await promisify(execFile)(...commandAt(where, args))).stdout;
  const ctl = (...args) => execFileSync(...commandAt(endpoints.join(","), args));
  const members = plan.map((member) => {
    let process_ = begin(member);
    const signal = (name) => process.kill(process_.pid, name);
    return {
      name: member.name,
      port: member.port,
      kill: () => signal("SIGKILL"),
      pause: () => signal("SIGSTOP"),
      resume: () => signal("SIGCONT"),
      start: async () => {
        await process_.stop();
        process_ = begin(member);
        await until(async () => (await ctlAt(`https://127.0.0.1:${member.port}`, ["endpoint", "health"]), true), { what: member.name, timeoutMs: 30_000 });
      },
      stop: async () => {
        if (!process_.ended()) signal("SIGCONT");
        await process_.stop();
      },
    };
  });
  const stop = async () => {
    await Promise.all(members.map((member) => member.stop()));
    await ports.release();
  };
  try {
    for (const endpoint of endpoints) {
      await until(async () => (await ctlAt(endpoint, ["endpoint", "health"]), true), { what: endpoint, timeoutMs: 60_000 });
    }
    // Users are names of certificates: the gate may touch the ledger's records alone.
    ctl("user", "add", "root", "--no-password");
    ctl("user", "grant-role", "root", "root");
    ctl("role", "add", "x402");
    ctl("role", "grant-permission", "x402", "--prefix=true", "readwrite", "x402:");
    ctl("user", "add", "x402-gate", "--no-password");
    ctl("user", "grant-role", "x402-gate", "x402");
    ctl("auth", "enable");
  } catch (error) {
    await stop();
    throw error;
  }
  const edit = (bootstrap, { ports: at = plan.map(({ port }) => port) } = {}) => {
    bootstrap.static_resources.clusters.push({
      name: "etcd",
      type: "STATIC",
      connect_timeout: "0.5s",
      // A member that is dead or cut off costs a try each time it is asked.
      outlier_detection: { consecutive_5xx: 2, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100, interval: "1s", base_ejection_time: "2s", max_ejection_percent: 67 },
      health_checks: [{ timeout: "0.5s", interval: "1s", unhealthy_threshold: 1, healthy_threshold: 1, no_traffic_interval: "1s", tcp_health_check: {} }],
      typed_extension_protocol_options: {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
          "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
          explicit_http_config: { http2_protocol_options: {} },
        },
      },
      load_assignment: {
        cluster_name: "etcd",
        endpoints: [{ lb_endpoints: at.map((port) => ({ endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: port } } } })) }],
      },
      transport_socket: {
        name: "envoy.transport_sockets.tls",
        typed_config: {
          "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
          sni: NAME,
          common_tls_context: {
            tls_certificates: [{ certificate_chain: { filename: certificates.gate }, private_key: { filename: certificates.gateKey } }],
            validation_context: {
              trusted_ca: { filename: certificates.ca },
              match_typed_subject_alt_names: [{ san_type: "DNS", matcher: { exact: NAME } }],
            },
          },
        },
      },
    });
  };
  const leader = async () => {
    for (const member of members) {
      try {
        const [{ Status }] = JSON.parse(await ctlAt(`https://127.0.0.1:${member.port}`, ["--command-timeout", "2s", "endpoint", "status", "-w", "json"]));
        if (Status.leader === Status.header.member_id) return member;
      } catch {
        // It is down.
      }
    }
    throw new Error("etcd has no leader");
  };
  return { members, edit, ctl, leader, certificates, stop };
}
