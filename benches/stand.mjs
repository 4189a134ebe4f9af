/**
 * What benchmarks stand on: servers pinned to one core, everything else to another, and the load generator. All
 * servers are on 127.0.0.1 and end with the process that started them.
 */
import { execFileSync, spawn } from "node:child_process";
import { connect, createServer } from "node:net";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { privateKeyToAddress } from "viem/accounts";
import { WASM } from "../stage/envoy.mjs";
import { checkout, makeRunDirectory, startProcess, sweepDeadRuns, until } from "../stage/processes.mjs";

if (cpus().length < 2) throw new Error("benchmarks need two cores: one for the server under test, one for all others");

/** The core of the server under test. */
export const SERVER_CORE = 0;

/** The core of load generator, upstream and facilitator. */
export const OTHER_CORE = 1;

/** Who pays. The load generator has the same key. */
export const PAYER = privateKeyToAddress(`0x${"42".repeat(32)}`);

const ENVOY = join(checkout, ".venv", "bin", "envoy");
const TOOLS = join(checkout, "benches", "tools");
const AXUM = join(checkout, "benches", "axum");

/** Builds what is written in Rust, in the place where cargo does by itself. */
export function buildTools(...directories) {
  for (const name of directories) {
    execFileSync("cargo", ["build", "--quiet", "--release", "--locked"], { cwd: join(checkout, "benches", name), stdio: "inherit" });
  }
}

// ---- Processes ----------------------------------------------------------------------------------------------------

await sweepDeadRuns();

/** Where configurations and logs are while benchmarks run. */
export const run = makeRunDirectory("bench");

const started = [];

/** Ends all servers. */
export async function stopAll() {
  await Promise.all(started.splice(0).map((server) => server.stop()));
  run.remove();
}

/** A port that nobody listens on. */
export const freePort = () =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const answers = (port) =>
  new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    const answer = (yes) => (socket.destroy(), resolve(yes));
    socket.once("connect", () => answer(true));
    socket.once("error", () => answer(false));
  });

async function start({ name, command, args, port, core }) {
  const child = startProcess({ name, command, args, run });
  started.push(child);
  const pin = () => core !== null && execFileSync("taskset", ["-a", "-c", "-p", String(core), String(child.pid)], { stdio: "ignore" });
  pin();
  await until(() => answers(port), { what: name, process: child, timeoutMs: 60_000 });
  pin(); // Threads that it has started in the meantime.
  return { name, port, pid: child.pid, url: `http://127.0.0.1:${port}`, stop: child.stop, log: child.log };
}

// ---- Envoy --------------------------------------------------------------------------------------------------------

const ANSWER = JSON.stringify({ city: "Reykjavik", temperature: 4, unit: "C", summary: "light rain, wind from the south" });

/** What the upstream answers. */
export const upstreamAnswer = ANSWER;

const directly = (match, body) => ({
  match,
  direct_response: { status: 200, body: { inline_string: typeof body === "string" ? body : JSON.stringify(body) } },
  response_headers_to_add: [{ header: { key: "content-type", value: "application/json" }, append_action: "OVERWRITE_IF_EXISTS_OR_ADD" }],
});

const clusterOf = (name, port) => ({
  name,
  type: "STATIC",
  connect_timeout: "2s",
  // More than are ever under way at once: the default would turn some of them away.
  circuit_breakers: { thresholds: [{ max_connections: 10000, max_pending_requests: 10000, max_requests: 10000 }] },
  load_assignment: {
    cluster_name: name,
    endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: port } } } }] }],
  },
});

/**
 * Starts an Envoy without an access log.
 *
 * @param {object} options
 * @param {string} options.name
 * @param {number} [options.core] on which it runs; with several workers it has all
 * @param {number} [options.concurrency] workers
 * @param {object[]} options.routes Envoy's own
 * @param {object[]} [options.filters] in front of its router
 * @param {Record<string, number>} [options.clusters] name → port
 * @param {string} [options.logLevel] `info` is Envoy's own default
 * @param {(bootstrap: object) => void} [options.edit] changes the bootstrap in any other way
 */
export async function startEnvoy({ name, concurrency = 1, core = concurrency === 1 ? SERVER_CORE : null, routes, filters = [], clusters = {}, logLevel = "info", requestId = true, isAdministered = false, edit }) {
  const port = await freePort();
  const adminPort = isAdministered ? await freePort() : null;
  const manager = {
    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    stat_prefix: "bench",
    codec_type: "HTTP1",
    generate_request_id: requestId,
    http_filters: [
      ...filters,
      { name: "router", typed_config: { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } },
    ],
    route_config: { virtual_hosts: [{ name: "all", domains: ["*"], routes }] },
  };
  const bootstrap = {
    ...(adminPort && { admin: { address: { socket_address: { address: "127.0.0.1", port_value: adminPort } } } }),
    static_resources: {
      listeners: [
        {
          name: "bench",
          address: { socket_address: { address: "127.0.0.1", port_value: port } },
          filter_chains: [{ filters: [{ name: "http", typed_config: manager }] }],
        },
      ],
      clusters: Object.entries(clusters).map(([cluster, at]) => clusterOf(cluster, at)),
    },
  };
  edit?.(bootstrap);
  const config = join(run.path, `${name}.json`);
  writeFileSync(config, JSON.stringify(bootstrap, null, 2));
  const args = ["-c", config, "--disable-hot-restart", "--concurrency", String(concurrency), "--log-level", logLevel];
  const envoy = await start({ name, command: ENVOY, args, port, core });
  // It accepts connections before its worker has configured the filter; that takes a while where there are many routes.
  await until(async () => (await (await fetch(`${envoy.url}/direct`)).arrayBuffer(), true), { what: name, timeoutMs: 60_000 });
  /** The bytes that Envoy has allocated, by its own count: without those of the VM. */
  const allocated = async () => Number((await (await fetch(`http://127.0.0.1:${adminPort}/memory`)).json()).allocated);
  return { ...envoy, ...(adminPort && { allocated }) };
}

/** The upstream: an Envoy that answers by itself. */
export const startUpstream = () =>
  startEnvoy({ name: "upstream", core: OTHER_CORE, logLevel: "warn", requestId: false, routes: [directly({ prefix: "/" }, ANSWER)] });

/**
 * A facilitator that says yes at once, to everything, and moves no money: an Envoy that answers by itself. It reads what it is
 * asked before it answers: a direct response to a request whose body is still on its way closes the connection, and then each
 * callout opens another one.
 */
export const startFacilitatorStub = () =>
  startEnvoy({
    name: "facilitator-stub",
    filters: [{ name: "buffer", typed_config: { "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes: 65536 } }],
    core: OTHER_CORE,
    logLevel: "warn",
    requestId: false,
    routes: [
      directly({ path: "/verify" }, { isValid: true, payer: PAYER }),
      directly({ path: "/settle" }, { success: true, transaction: `0x${"5b".repeat(32)}`, network: "eip155:84532", payer: PAYER }),
      directly({ path: "/supported" }, { kinds: ["eip155:84532", "eip155:*"].map((network) => ({ x402Version: 2, scheme: "exact", network })), extensions: [], signers: {} }),
    ],
  });

/** A fake facilitator for channels, which has to know them by name: see `fake-facilitator.mjs`. */
export async function startFakeFacilitator() {
  const port = await freePort();
  const script = join(checkout, "benches", "fake-facilitator.mjs");
  return start({ name: "fake-facilitator", command: process.execPath, args: [script, String(port)], port, core: OTHER_CORE });
}

/** `/direct` is answered by the proxy itself, all else by the upstream. */
export const routesTo = (cluster) => [directly({ prefix: "/direct" }, ANSWER), { match: { prefix: "/" }, route: { cluster } }];

/** The payment filter, as an operator would write it. */
export const paymentFilter = (configuration, module = WASM) => ({
  name: "x402",
  typed_config: {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
    config: {
      name: "x402",
      root_id: "x402",
      failure_policy: "FAIL_RELOAD",
      allow_on_headers_stop_iteration: true,
      vm_config: { vm_id: "x402", runtime: "envoy.wasm.runtime.v8", code: { local: { filename: module } } },
      configuration: {
        "@type": "type.googleapis.com/google.protobuf.StringValue",
        value: typeof configuration === "string" ? configuration : JSON.stringify(configuration),
      },
    },
  },
});

/** The terms that every contender asks for. */
export const DEFAULTS = {
  pay_to: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
  accepts: [{ scheme: "exact", network: "base-sepolia", asset: "USDC" }],
  max_timeout_seconds: 300,
};

/** Envoy with the filter in front of the upstream. `priced` are its routes; what they leave is free. */
export function startGateway({ name, upstream, facilitator, verify = "remote", routes, defaults = DEFAULTS, more = {}, logLevel, isAdministered, edit }) {
  if (!existsSync(WASM)) throw new Error(`${WASM} is not there: run \`make build\``);
  const plugin = { facilitator: { cluster: "facilitator", url: facilitator.url, verify }, defaults, routes, unmatched: "free", ...more };
  return startEnvoy({
    name,
    logLevel,
    isAdministered,
    edit,
    filters: [paymentFilter(plugin)],
    routes: routesTo("upstream"),
    clusters: { upstream: upstream.port, facilitator: facilitator.port },
  });
}

/** Envoy with a filter that does nothing, or gives the same answer to all; see `ceiling.mjs` and `sdk.mjs`. */
export const startIdle = ({ name, upstream, module, configuration = {} }) =>
  startEnvoy({ name, filters: [paymentFilter(configuration, module)], routes: routesTo("upstream"), clusters: { upstream: upstream.port } });

/** Envoy that asks another service about each request (`ext_authz`). */
export const startAuthorizing = ({ name, upstream, service }) =>
  startEnvoy({
    name,
    filters: [
      {
        name: "ext_authz",
        typed_config: {
          "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
          allowed_headers: { patterns: [{ exact: "payment-signature" }] },
          http_service: {
            server_uri: { uri: service.url, cluster: "service", timeout: "10s" },
            authorization_response: {
              allowed_client_headers: { patterns: [{ exact: "payment-required" }] },
              allowed_client_headers_on_success: { patterns: [{ exact: "payment-response" }] },
            },
          },
        },
      },
    ],
    routes: routesTo("upstream"),
    clusters: { upstream: upstream.port, service: service.port },
  });

// ---- Other contenders ---------------------------------------------------------------------------------------------

/** `@x402/express`, whose handler answers by itself. */
export async function startExpress({ name, facilitator, settle = "after", scheme = "exact" }) {
  const port = await freePort();
  const script = join(checkout, "benches", "express.mjs");
  const server = await start({ name, command: process.execPath, args: [script, String(port), facilitator.url, settle, ANSWER, scheme], port, core: SERVER_CORE });
  return server;
}

/** `x402-axum`: `proxy` to the upstream, or the service that `authorize`s for another proxy. */
export async function startAxum({ name, facilitator, upstream, role = "proxy", settle = "after" }) {
  const port = await freePort();
  const command = join(AXUM, "target", "release", "bench-axum");
  return start({ name, command, args: [String(port), facilitator.url, role, settle, upstream.url], port, core: SERVER_CORE });
}

// ---- Load ---------------------------------------------------------------------------------------------------------

/**
 * One run of the load generator. Its options are explained there; an array of values is given as several of them.
 *
 * @param {Record<string, string | number | (string | number)[]>} options
 * @returns {Promise<{requests: number, sent: number, wrong: number, statuses: Record<string, number>, seconds: number, rate: number,
 *   p50_us: number, p99_us: number, cpu_us: number, busy: number, own_busy: number, rss_kb: number,
 *   samples: [number, number][]}>}
 */
export function load(options) {
  const values = Object.entries({ cpu: OTHER_CORE, ...options }).flatMap(([name, given]) => [given].flat().flatMap((value) => [`--${name}`, String(value)]));
  const child = spawn(join(TOOLS, "target", "release", "load"), values, { stdio: ["ignore", "pipe", "pipe"] });
  const output = { stdout: "", stderr: "" };
  for (const name of Object.keys(output)) child[name].on("data", (chunk) => (output[name] += chunk));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      if (code !== 0) return reject(new Error(`the load generator failed: ${output.stderr.trim()}`));
      const result = JSON.parse(output.stdout);
      // A benchmark of failures is worth nothing.
      if (result.wrong > 0 || result.requests === 0) {
        const { requests, statuses, broken, first_wrong: first } = result;
        const terms = /^payment-required: *(\S+)/im.exec(first ?? "")?.[1];
        const error = terms && JSON.parse(Buffer.from(terms, "base64")).error;
        return reject(new Error(`wrong answers: ${JSON.stringify({ requests, statuses, broken, error: error ?? first?.slice(0, 300), options })}`));
      }
      resolve(result);
    });
  });
}

// ---- Figures ------------------------------------------------------------------------------------------------------

/** The middle one of some numbers. */
export function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** What all this ran on, in one line. */
export function machine() {
  const version = (name) => JSON.parse(readFileSync(join(checkout, "node_modules", name, "package.json"), "utf8")).version;
  const envoy = /\/(\d+\.\d+\.\d+)\//.exec(execFileSync(ENVOY, ["--version"], { encoding: "utf8" }))?.[1] ?? "unknown";
  const axum = /name = "x402-axum"\nversion = "(.*)"/.exec(readFileSync(join(AXUM, "Cargo.lock"), "utf8"))?.[1];
  return `${cpus()[0].model.trim()}, ${cpus().length} cores; Envoy ${envoy}; Node ${process.versions.node}; @x402/express ${version("@x402/express")}; x402-axum ${axum}`;
}
