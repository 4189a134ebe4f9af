/** Envoy with the payment filter: renders `envoy/demo.yaml`, starts the real thing, waits until it serves. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { parse } from "yaml";
import { checkout, startProcess, until } from "./processes.mjs";

/** Where `make build` leaves the filter, or another build of it that the environment variable WASM names. */
export const WASM = process.env.WASM ?? join(checkout, "target", "wasm32-unknown-unknown", "release", "x402_proxy_wasm.wasm");
/** The build that has to be small: `make build-core`. */
export const CORE_WASM = join(checkout, "target", "core", "wasm32-unknown-unknown", "release", "x402_proxy_wasm.wasm");

/** Envoy itself, or another one that the environment variable ENVOY names. */
export const ENVOY = process.env.ENVOY ?? join(checkout, ".venv", "bin", "envoy");

/** Whether the filter may read bodies while it holds heads, where a test says nothing; Envoy's own default without it. */
const STOP_ITERATION = { true: true, false: false }[process.env.ALLOW_ON_HEADERS_STOP_ITERATION];

/** Whether the filter speaks HTTP/2 with client and API. */
const HTTP2 = process.env.HTTP2 === "1";

const BASE = join(checkout, "envoy", "demo.yaml");

function cluster(name, endpoint) {
  const [address, port] = typeof endpoint === "number" ? ["127.0.0.1", endpoint] : [endpoint?.address, endpoint?.port];
  const lbEndpoints = endpoint ? [{ endpoint: { address: { socket_address: { address, port_value: port } } } }] : [];
  return {
    name,
    type: "STATIC",
    connect_timeout: "2s",
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: lbEndpoints }] },
  };
}

const HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const pipe = (path) => ({ address: { pipe: { path } } });

// A listener that hands on what it gets, and changes as little as a proxy can.
function hop(name, address, codecType, to) {
  const router = {
    name: "envoy.filters.http.router",
    typed_config: { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers: true },
  };
  const manager = {
    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    stat_prefix: name,
    codec_type: codecType,
    generate_request_id: false,
    skip_xff_append: true,
    server_header_transformation: "PASS_THROUGH",
    http_filters: [router],
    route_config: {
      virtual_hosts: [{ name, domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: to, timeout: "0s" } }] }],
    },
  };
  return {
    name,
    ...address,
    filter_chains: [{ filters: [{ name: "envoy.filters.network.http_connection_manager", typed_config: manager }] }],
  };
}

/**
 * Puts a hop before the gateway and one behind it, so that it speaks HTTP/2 on both sides and nobody else has to: the
 * first takes what the tests send and speaks HTTP/2 to the gateway, the second takes HTTP/2 for the API.
 */
function throughHttp2({ static_resources: { listeners, clusters } }, port) {
  const [gateway] = listeners;
  const api = clusters.find(({ name }) => name === "api");
  const http2 = (name, path) => ({
    ...cluster(name),
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: pipe(path) }] }] },
    typed_extension_protocol_options: {
      "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": { "@type": HTTP, explicit_http_config: { http2_protocol_options: {} } },
    },
  });
  const [inner, outer] = [`@x402-${port}-gateway`, `@x402-${port}-api`]; // In the abstract namespace: no file stays behind.
  clusters.splice(clusters.indexOf(api), 1, { ...api, name: "api-itself" }, http2("api", outer), http2("gateway", inner));
  listeners.push(hop("to-gateway", { address: gateway.address }, "AUTO", "gateway"));
  listeners.push(hop("to-api", pipe(outer), "HTTP2", "api-itself"));
  Object.assign(gateway, pipe(inner));
}

/**
 * Renders a bootstrap from `envoy/demo.yaml`.
 *
 * @param {object} options
 * @param {number} options.port where the gateway listens
 * @param {number} options.adminPort
 * @param {number} options.apiPort the upstream
 * @param {number} options.facilitatorPort
 * @param {string} options.accessLog path
 * @param {string | null} [options.wasm] path of the filter; null leaves the filter out: a plain gateway
 * @param {object | string} [options.plugin] the plugin configuration in place of the demo's: an object, or the
 *   very text that the filter is to be given
 * @param {Record<string, number | {address: string, port: number} | null>} [options.clusters] clusters to add or to
 *   replace by name: a port on 127.0.0.1, an address and port, or null for a cluster without endpoints
 * @param {boolean} [options.allowOnHeadersStopIteration] the plugin option of that name
 * @param {(bootstrap: object) => void} [options.edit] changes the parsed bootstrap in any other way
 * @returns {string} JSON for Envoy, or the text of demo.yaml itself where nothing but placeholders had to change
 */
export function renderBootstrap(options) {
  const { wasm = WASM, plugin, clusters = {}, allowOnHeadersStopIteration = STOP_ITERATION, edit } = options;
  const values = {
    LISTEN_PORT: options.port,
    ADMIN_PORT: options.adminPort,
    API_PORT: options.apiPort,
    FACILITATOR_PORT: options.facilitatorPort,
    ACCESS_LOG: JSON.stringify(options.accessLog),
    WASM: JSON.stringify(wasm ?? ""),
  };
  const text = readFileSync(BASE, "utf8")
    .replace(/^#.*\n/gm, "") // The heading speaks about placeholders; it has none.
    .replace(/\$\{(\w+)\}/g, (placeholder, name) => {
      if (!(name in values)) throw new Error(`envoy/demo.yaml: nothing is known for ${placeholder}`);
      return values[name];
    });
  const asItStands =
    wasm !== null && plugin === undefined && allowOnHeadersStopIteration === undefined && !edit && !HTTP2 && !Object.keys(clusters).length;
  if (asItStands) return text;

  const bootstrap = parse(text);
  const { listeners, clusters: own } = bootstrap.static_resources;
  const manager = listeners[0].filter_chains[0].filters[0].typed_config;
  const { config } = manager.http_filters.find(({ name }) => name === "x402").typed_config;
  if (plugin !== undefined) {
    // As text, so that a test says to the letter what the filter gets.
    config.configuration = {
      "@type": "type.googleapis.com/google.protobuf.StringValue",
      value: typeof plugin === "string" ? plugin : JSON.stringify(plugin),
    };
  }
  if (allowOnHeadersStopIteration !== undefined) config.allow_on_headers_stop_iteration = allowOnHeadersStopIteration;
  if (wasm === null) manager.http_filters = manager.http_filters.filter(({ name }) => name !== "x402");
  for (const [name, endpoint] of Object.entries(clusters)) {
    const at = own.findIndex((one) => one.name === name);
    own.splice(at < 0 ? own.length : at, at < 0 ? 0 : 1, cluster(name, endpoint));
  }
  edit?.(bootstrap);
  if (HTTP2) throughHttp2(bootstrap, options.port);
  return JSON.stringify(bootstrap, null, 2);
}

const accepts = (port) =>
  new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    const answer = (yes) => (socket.destroy(), resolve(yes));
    socket.once("connect", () => answer(true));
    socket.once("error", () => answer(false));
  });

/**
 * Starts Envoy and waits until its listener accepts connections. A configuration that Envoy or the filter
 * refuses makes it reject, with the end of Envoy's log in the message and all of it in the error's `logs`.
 *
 * @param {Omit<Parameters<typeof renderBootstrap>[0], "accessLog"> & {
 *   run: ReturnType<import("./processes.mjs").makeRunDirectory>, name?: string, concurrency?: number,
 *   logLevel?: string, args?: string[], env?: Record<string, string>}} options those of renderBootstrap; `name` distinguishes
 *   several in one run directory; `concurrency` is the number of workers (1); `logLevel` is Envoy's (`info`); `args` are more
 *   of its own, and `env` more of its environment
 * @returns {Promise<Envoy>}
 *
 * @typedef {object} Envoy
 * @property {string} url of the gateway
 * @property {number} port
 * @property {number} adminPort
 * @property {number} pid
 * @property {() => string} logs everything Envoy and the filter have logged
 * @property {() => object[]} accessLog one object per finished request; an entry takes up to 50 ms to appear
 * @property {(filter?: string) => Promise<Record<string, number>>} stats counters and gauges whose name matches the
 *   regular expression
 * @property {(path: string, init?: RequestInit) => Promise<string>} admin a request to Envoy's admin interface
 * @property {Promise<void>} onEnd resolves when the process has ended, for whatever reason
 * @property {() => Promise<void>} stop
 */
export async function startEnvoy({ run, name = "envoy", concurrency = 1, logLevel = "info", args = [], env, ...options }) {
  const { port, adminPort, wasm = WASM } = options;
  if (wasm !== null && !existsSync(wasm)) throw new Error(`${wasm} is not there: run \`make build\``);
  const accessLog = join(run.path, `${name}-access.jsonl`);
  const text = renderBootstrap({ ...options, accessLog });
  const config = join(run.path, `${name}.${text.startsWith("{") ? "json" : "yaml"}`);
  writeFileSync(config, text);
  const child = startProcess({
    name,
    command: ENVOY,
    args: [
      "-c", config,
      // Lets several Envoys run side by side, as a dynamic base id would, and leaves no shared memory behind.
      "--disable-hot-restart",
      "--concurrency", String(concurrency),
      "--log-level", logLevel,
      "--file-flush-interval-msec", "50",
      ...args,
    ],
    env,
    run,
  });
  const adminUrl = `http://127.0.0.1:${adminPort}`;
  const admin = async (path, init) => {
    const response = await fetch(adminUrl + path, init);
    const body = await response.text();
    if (!response.ok) throw new Error(`Envoy's admin interface answered ${response.status} on ${path}: ${body.trim()}`);
    return body;
  };
  try {
    await until(async () => (await admin("/ready")).startsWith("LIVE") && (await accepts(port)), { what: "Envoy", process: child });
  } catch (error) {
    await child.stop();
    throw Object.assign(error, { logs: child.log() });
  }
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    adminPort,
    pid: child.pid,
    logs: child.log,
    // What stands behind the last line's end is a line that is still being written.
    accessLog: () =>
      existsSync(accessLog) ? readFileSync(accessLog, "utf8").split("\n").slice(0, -1).map((line) => JSON.parse(line)) : [],
    stats: async (filter = "") => {
      const { stats } = JSON.parse(await admin(`/stats?format=json&filter=${encodeURIComponent(filter)}`));
      return Object.fromEntries(stats.filter((stat) => "value" in stat).map((stat) => [stat.name, stat.value]));
    },
    admin,
    onEnd: child.onEnd,
    stop: child.stop,
  };
}
