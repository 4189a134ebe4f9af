/** The ledger of a fleet: three members of etcd in pods of their own, which take client certificates, as docs/fleet.md has it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { makeAuthority } from "./certificates.mjs";
import { directory, eventually, programs, PROXY_UID, sh } from "./world.mjs";

const NAME = "etcd.example.com";

/**
 * Starts etcd at the names of `ledger.yaml`.
 *
 * @param {import("./world.mjs").World} world
 * @returns {Promise<{mount: (pod: import("./world.mjs").Pod, uid?: number) => void, secret: Record<string, string>,
 *   ctl: (...args: string[]) => Promise<string>, members: import("./world.mjs").Pod[]}>} `mount` puts the proxies' certificate where the
 *   manifests look for it; `secret` has the same files
 */
export async function openLedger(world) {
  const authority = makeAuthority(join(directory, "ledger"));
  const files = (certificate) => [["tls.crt", certificate[0]], ["tls.key", certificate[1]], ["ca.crt", authority.ca]].map(([name, path]) => [name, readFileSync(path, "utf8")]);
  const gate = Object.fromEntries(files(authority.issue("gate", "x402-gate", { client: true })));
  const [rootCert, rootKey] = authority.issue("root", "root", { client: true });
  const members = await Promise.all([0, 1, 2].map((index) => world.pod(`etcd-${index}`)));
  const nameOf = ({ name }) => `${name}.${NAME}`;
  for (const pod of members) world.names.add(pod.ip, nameOf(pod));
  const cluster = members.map((pod) => `${pod.name}=http://${pod.ip}:2380`).join(",");
  for (const pod of members) {
    const server = files(authority.issue(pod.name, NAME, { alternative: `DNS:${NAME},DNS:${nameOf(pod)},IP:${pod.ip}` }));
    for (const [name, text] of server) pod.write(`/etc/etcd/${name}`, text);
    pod.start("etcd", [
      [join(programs, "etcd"), "--name", pod.name, "--data-dir", "/var/lib/etcd", "--unsafe-no-fsync", "--log-level", "warn"],
      ["--listen-client-urls", `https://${pod.ip}:2379`, "--advertise-client-urls", `https://${nameOf(pod)}:2379`],
      ["--listen-peer-urls", `http://${pod.ip}:2380`, "--initial-advertise-peer-urls", `http://${pod.ip}:2380`],
      ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--initial-cluster-token", "x402"],
      ["--client-cert-auth", "--trusted-ca-file", "/etc/etcd/ca.crt", "--cert-file", "/etc/etcd/tls.crt", "--key-file", "/etc/etcd/tls.key"],
    ].flat());
  }
  const ctl = (...args) =>
    sh(join(programs, "etcdctl"), "--endpoints", members.map(({ ip }) => `https://${ip}:2379`).join(","), "--cacert", authority.ca, "--cert", rootCert, "--key", rootKey, "--command-timeout", "20s", ...args);
  await eventually(() => ctl("endpoint", "health"), "etcd");
  await ctl("user", "add", "root", "--no-password");
  await ctl("user", "grant-role", "root", "root");
  await ctl("role", "add", "x402");
  await ctl("role", "grant-permission", "x402", "--prefix=true", "readwrite", "x402:");
  await ctl("user", "add", "x402-gate", "--no-password");
  await ctl("user", "grant-role", "x402-gate", "x402");
  await ctl("auth", "enable");
  return {
    members,
    ctl,
    secret: gate,
    mount: (pod, uid = PROXY_UID) => Object.entries(gate).forEach(([name, text]) => pod.write(`/etc/x402/ledger/${name}`, text, uid)),
  };
}

/** What a plugin's configuration says of it. @param {string} cluster Envoy's name of the cluster */
export const storeAt = (cluster) => ({ store: { etcd: { cluster, fleet: "shop", timeout: "2s" } } });

/** The cluster's name in Istio. */
export const ISTIO_CLUSTER = `outbound|2379||${NAME}`;
