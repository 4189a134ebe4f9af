/**
 * A small world of its own for each test file: a network with names, pods with addresses and root directories of their own, an
 * authority that everyone in it trusts, a Kubernetes API server, a registry of images, a chain and the official facilitator
 * behind TLS at the name that the manifests call it by.
 *
 * It runs as root within namespaces (`tests/mesh/run.mjs` makes them): network, mounts, processes. All of it ends with them.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmodSync, existsSync, lchownSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { createServer as createTlsServer } from "node:https";
import { createServer as createPlainServer, request as requestHttp } from "node:http";
import { dirname, join, resolve } from "node:path";
import { after } from "node:test";
import { promisify } from "node:util";
import { BASE, startChain } from "../../stage/chain.mjs";
import { startFacilitator } from "../../stage/facilitator.mjs";
import { checkout, startProcess, until } from "../../stage/processes.mjs";
import { makeAuthority } from "./certificates.mjs";
import { openCluster } from "./cluster.mjs";

const run = promisify(execFile);

/** Where run.mjs has mounted a file system in memory for the world. */
export const directory = process.env.MESH_WORLD ?? "";
if (!directory) throw new Error("tests of the mesh run in a world of their own: node tests/mesh/run.mjs FILE");

/** Where `make test-mesh` puts the programs of the control planes. */
export const programs = join(checkout, ".tools", "mesh", "bin");

/** How long anything may take on a busy machine. */
export const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 120_000);

/** Debian's bundle of authorities: what Istio, Envoy Gateway and the registry's clients trust. */
const BUNDLE = "/etc/ssl/certs/ca-certificates.crt";

/** Envoy's user in the pods of Istio: what it sends itself is not captured. */
export const PROXY_UID = 1337;

const BRIDGE = "10.1.0.1";
/** The facilitator's name in the manifests; it is there by another one too, which begins with `other-`. */
const NAME = "facilitator.example.com";
/** The path at which a node of the chain answers by the facilitator's name. */
export const NODE = "/rpc";
const [FACILITATOR, REGISTRY] = ["10.1.0.2", "10.1.0.3"];

/** The module that the world's registry holds as x402-proxy-wasm:0.1.0. */
export const WASM = process.env.WASM ?? join(checkout, "target", "wasm32-unknown-unknown", "release", "x402_proxy_wasm.wasm");

/** A build that panics where a request asks for it: `make build-provoke-panic`. */
export const PANICKING = process.env.PANICKING ?? join(checkout, "target", "provoke-panic", "wasm32-unknown-unknown", "release", "x402_proxy_wasm.wasm");

/** The module of the release before this one, where the history reaches so far back. */
export const PREVIOUS = process.env.PREVIOUS ?? join(checkout, ".tools", "previous.wasm");

/** Envoy itself: Python's package carries it. */
export const ENVOY = process.env.ENVOY ?? envoyOf(join(checkout, ".venv", "lib"));

function envoyOf(lib) {
  const found = readdirSync(lib).map((python) => join(lib, python, "site-packages", "envoy", "_bin", "envoy")).find(existsSync);
  if (!found) throw new Error("Envoy is not there: run `make setup`");
  return found;
}

/** Runs a program to its end. @returns {Promise<string>} what it printed */
export async function sh(command, ...args) {
  const { stdout } = await run(command, args, { maxBuffer: 64_000_000 });
  return stdout;
}

/** Waits until a check gives something, on a busy machine. */
export async function eventually(check, what, process_, timeoutMs = PATIENCE_MS) {
  let last = "it gave nothing";
  const noted = async () => {
    try {
      return await check();
    } catch (error) {
      last = error.message;
      throw error;
    }
  };
  try {
    return await until(noted, { what, process: process_, timeoutMs });
  } catch (error) {
    error.message += `\nat last: ${last}`;
    throw error;
  }
}

// What startProcess takes for a run directory: nothing is noted, since everything ends with the world.
const logs = { path: join(directory, "logs"), note: () => {}, forget: () => {} };

const children = [];

function start(name, command, args, env) {
  const path = command.startsWith("/") ? command : ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map((bin) => join(bin, command)).find(existsSync);
  const child = startProcess({ name, command: path ?? command, args, env, run: logs });
  children.push(child);
  // Envoy opens /dev/stdout anew, as whatever user it runs.
  chmodSync(child.logPath, 0o666);
  return child;
}

/** Names and addresses, for everybody in the world. */
function openNames() {
  const file = join(directory, "hosts");
  const names = new Map();
  let server = null;
  const write = () => writeFileSync(file, [...names].map(([name, address]) => `${address} ${name}\n`).join(""));
  return {
    add: (address, ...all) => {
      for (const name of all) names.set(name, address);
      write();
      // It reads the file anew.
      if (server) process.kill(server.pid, "SIGHUP");
    },
    serve: async () => {
      write();
      server = start("dnsmasq", "dnsmasq", [
        ["-k", "-u", "root", "--no-resolv", "--no-hosts", `--addn-hosts=${file}`, "--pid-file="],
        [`--listen-address=${BRIDGE}`, "--bind-interfaces", "--local=/#/", "--local-ttl=1"],
      ].flat());
    },
  };
}

async function openNetwork(authority) {
  await sh("ip", "link", "set", "lo", "up");
  // An address of its own: a bridge without one takes that of a pod, another one with each pod that comes, and is lost to its neighbours.
  await sh("ip", "link", "add", "mesh", "address", "02:00:00:00:00:01", "type", "bridge");
  for (const address of [BRIDGE, FACILITATOR, REGISTRY]) await sh("ip", "address", "add", `${address}/16`, "dev", "mesh");
  await sh("ip", "link", "set", "mesh", "up");
  const own = { "/etc/hosts": `127.0.0.1 localhost\n${FACILITATOR} ${NAME}\n${REGISTRY} registry.example.com\n`, "/etc/resolv.conf": `nameserver ${BRIDGE}\n` };
  own[BUNDLE] = readFileSync(BUNDLE, "utf8") + readFileSync(authority.ca, "utf8");
  for (const [path, text] of Object.entries(own)) {
    const file = join(directory, path.replaceAll("/", "_"));
    writeFileSync(file, text);
    await sh("mount", "--bind", file, path);
  }
  return own;
}

/** Where a path of a root directory is for this process: a link in it (/var/run) leads within it, and not out of it. */
function resolveWithin(root, path) {
  let at = "/";
  for (const part of path.split("/").filter(Boolean)) {
    const next = join(at, part);
    const link = lstatSync(join(root, next), { throwIfNoEntry: false })?.isSymbolicLink();
    at = link ? resolveWithin(root, resolve(at, readlinkSync(join(root, next)))).slice(root.length) : next;
  }
  return join(root, at);
}

/**
 * A pod: a network namespace with an address, and a root directory whose changes are its own.
 *
 * @typedef {object} Pod
 * @property {string} name
 * @property {string} ip
 * @property {(path: string, content: string | Buffer, uid?: number) => void} write a file in its root
 * @property {(path: string) => string} read
 * @property {(path: string) => string} path where a file of its root is for this process
 * @property {(path: string, uid?: number) => void} mkdir
 * @property {(label: string, command: string[], options?: {env?: Record<string, string>, uid?: number}) => ReturnType<typeof startProcess>} start
 * @property {(...command: string[]) => Promise<string>} exec runs a program in it, as root, to its end
 * @property {() => Promise<void>} stop ends its processes, and takes it off the network
 */
function podMaker(own) {
  let serial = 0;
  return async (name) => {
    const number = ++serial;
    const [ip, device] = [`10.1.1.${number}`, `pod${number}`];
    const base = join(directory, "pods", name);
    const [upper, work, root] = ["upper", "work", "root"].map((part) => join(base, part));
    for (const path of [upper, work, root]) mkdirSync(path, { recursive: true });
    await sh("mount", "-t", "overlay", "overlay", "-o", `lowerdir=/,upperdir=${upper},workdir=${work}`, root);
    for (const path of ["/proc", "/dev", "/sys"]) await sh("mount", "--rbind", path, join(root, path));
    const real = (path) => resolveWithin(root, path);
    const mkdir = (path, uid = 0) => {
      const missing = [];
      for (let at = real(path); !existsSync(at); at = dirname(at)) missing.unshift(at);
      for (const at of missing) {
        mkdirSync(at);
        lchownSync(at, uid, uid);
      }
    };
    const write = (path, content, uid = 0) => {
      mkdir(dirname(path), uid);
      writeFileSync(real(path), content);
      lchownSync(real(path), uid, uid);
    };
    for (const [path, text] of Object.entries(own)) write(path, text);
    await sh("ip", "netns", "add", name);
    const within = ["-n", name];
    await sh("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name);
    await sh("ip", "link", "set", device, "master", "mesh", "up");
    await sh("ip", ...within, "address", "add", `${ip}/16`, "dev", "eth0");
    for (const link of ["lo", "eth0"]) await sh("ip", ...within, "link", "set", link, "up");
    await sh("ip", ...within, "route", "add", "default", "via", BRIDGE);
    // As in a container: whoever runs in it may listen on port 80.
    await sh("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0");
    const enter = (uid) => ["netns", "exec", name, "chroot", ...(uid ? [`--userspec=${uid}:${uid}`, "--groups="] : []), root];
    const processes = [];
    return {
      name,
      ip,
      write,
      mkdir,
      read: (path) => readFileSync(real(path), "utf8"),
      path: real,
      start: (label, command, { env, uid } = {}) => {
        const child = start(`${name}-${label}`, "ip", [...enter(uid), ...command], { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", HOME: "/tmp", ...env });
        processes.push(child);
        return child;
      },
      exec: (...command) => sh("ip", ...enter(), ...command),
      stop: async () => {
        await Promise.all(processes.map((process_) => process_.stop()));
        await sh("ip", "netns", "delete", name);
      },
    };
  };
}

/** The facilitator at its name: TLS before the real one, with the certificate that a test wants. */
async function frontFacilitator(authority, port, chainPort) {
  const front = { answers: null, loses: [] };
  const pass = (request, response) => {
    if (front.answers) return front.answers(request, response);
    const { method, url, headers } = request;
    const to = url === NODE ? { port: chainPort, path: "/" } : { port, path: url };
    const onward = requestHttp({ host: "127.0.0.1", ...to, method, headers }, (answer) => {
      if (front.loses.includes(url)) return answer.resume().on("end", () => response.destroy());
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  };
  const secrets = ([cert, key]) => ({ cert: readFileSync(cert), key: readFileSync(key) });
  const names = [NAME, `other-${NAME}`];
  const honest = secrets(authority.issue("facilitator", NAME, { alternative: names.map((name) => `DNS:${name}`).join() }));
  let server;
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  const listen = async (make) => {
    if (server) await close();
    server = make();
    server.keepAliveTimeout = 0;
    await new Promise((resolve) => server.listen(443, FACILITATOR, resolve));
  };
  await listen(() => createTlsServer(honest, pass));
  // `answers` answers in the facilitator's place; what the paths in `loses` answer is lost.
  return Object.assign(front, {
    /** Shows another certificate, [file, file of the key]; connections that are open are closed. */
    show: (certificate) => listen(() => createTlsServer(secrets(certificate), pass)),
    /** Speaks plain text where TLS is expected. */
    undress: () => listen(() => createPlainServer(pass)),
    restore: () => listen(() => createTlsServer(honest, pass)),
    stop: close,
  });
}

/** A registry of images at its name, behind TLS; `push` is what a release does. */
async function openRegistry(authority) {
  const [certificate, key] = authority.issue("registry", "registry.example.com");
  const config = join(directory, "registry.yaml");
  writeFileSync(config, JSON.stringify({
    version: 0.1,
    storage: { filesystem: { rootdirectory: join(directory, "registry") } },
    http: { addr: `${REGISTRY}:443`, tls: { certificate, key } },
    log: { level: "warn" },
  }));
  const child = start("registry", "docker-registry", ["serve", config]);
  writeFileSync(join(directory, "policy.json"), JSON.stringify({ default: [{ type: "insecureAcceptAnything" }] }));
  await eventually(async () => sh("curl", "-sf", "https://registry.example.com/v2/").then(() => true), "the registry", child);
  let serial = 0;
  return {
    /** Puts a module into an image and pushes it. @returns {Promise<string>} the manifest's digest, sha256:… */
    push: async (wasm, name = "x402-proxy-wasm:0.1.0") => {
      const image = join(directory, `image-${++serial}`);
      await sh(process.execPath, join(checkout, "stage", "oci.mjs"), wasm, image);
      await sh("skopeo", "--policy", join(directory, "policy.json"), "copy", "--quiet", `oci:${image}`, `docker://registry.example.com/${name}`);
      return JSON.parse(readFileSync(join(image, "index.json"), "utf8")).manifests[0].digest;
    },
    stop: child.stop,
  };
}

/**
 * Opens the world; it ends with the test file.
 *
 * @param {object} [options]
 * @param {string} [options.wasm] the module in the registry
 * @returns {Promise<World>}
 *
 * @typedef {object} World
 * @property {Awaited<ReturnType<typeof startChain>>} chain a chain that is taken for Base
 * @property {Awaited<ReturnType<typeof startFacilitator>>} facilitator
 * @property {Awaited<ReturnType<typeof frontFacilitator>>} front
 * @property {ReturnType<typeof makeAuthority>} authority trusted by all
 * @property {Awaited<ReturnType<typeof openRegistry>>} registry
 * @property {Awaited<ReturnType<typeof openCluster>>} cluster
 * @property {(name: string) => Promise<Pod>} pod
 * @property {ReturnType<typeof openNames>} names
 * @property {typeof start} start a process of the world itself
 * @property {string} digest of the image
 */
export async function openWorld({ wasm = WASM } = {}) {
  const began = performance.now();
  assert.ok(existsSync(wasm), `${wasm} is not there: run \`make build\``);
  mkdirSync(logs.path, { recursive: true });
  const stops = [];
  // Nobody needs to part in good order: their world ends too. What still ran would hold the test file.
  after(async () => {
    for (const child of children) if (!child.ended()) process.kill(child.pid, "SIGKILL");
    await Promise.all(stops.map((stop) => stop()));
    setTimeout(() => process.exit(), 5_000).unref();
  });
  const authority = makeAuthority(join(directory, "public"));
  const own = await openNetwork(authority);
  const names = openNames();
  names.add(FACILITATOR, NAME, `other-${NAME}`);
  names.add(REGISTRY, "registry.example.com");
  await names.serve();
  const pod = podMaker(own);
  const [chain, cluster, registry] = await Promise.all([
    startChain({ port: 8545, run: logs, as: BASE }).then((one) => (stops.push(one.stop), one)),
    openCluster({ directory, authority, start, eventually, address: BRIDGE, programs, names }),
    openRegistry(authority),
  ]);
  const facilitator = await startFacilitator({ port: 4021, rpcUrl: chain.rpcUrl, as: BASE });
  const front = await frontFacilitator(authority, facilitator.port, Number(new URL(chain.rpcUrl).port));
  stops.push(facilitator.stop, front.stop);
  const digest = await registry.push(wasm);
  const world = { chain, facilitator, front, authority, registry, cluster, pod, names, digest, start };
  if (process.env.MESH_VERBOSE) console.log(`# the world is open after ${Math.round(performance.now() - began)} ms`);
  return world;
}
