/**
 * The compose files as they are shipped, and the image of the module, under a real Docker daemon. `run.sh` makes the
 * namespaces that this needs: the network's only interface is loopback, and no registry of images is reached.
 */
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:https";
import { join, relative } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { parse } from "yaml";
import { accounts, payTo } from "../../stage/accounts.mjs";
import { NETWORK, USDC } from "../../stage/chain.mjs";
import { makePayer } from "../../stage/client.mjs";
import { WASM } from "../../stage/envoy.mjs";
import { checkout, makeRunDirectory, until } from "../../stage/processes.mjs";
import { startBackends } from "../../stage/stage.mjs";
import { startDocker } from "./daemon.mjs";

const WEATHER = "http://127.0.0.1:8402/weather";
const FACILITATOR = "www.x402.org";

const run = makeRunDirectory("docker");
run.keep(); // It goes with the namespaces, of which parts are mounted in it.
const servicesOf = (file) => parse(readFileSync(join(checkout, "envoy", file), "utf8")).services;
const demo = servicesOf("compose.yaml");
const own = servicesOf("try.yaml");

const ends = [];
after(async () => {
  for (const end of ends.reverse()) await end();
  run.remove();
});

/** An authority that the images trust, and the public facilitator's certificate by it. */
function makeCertificates() {
  const openssl = (...args) => execFileSync("openssl", args, { cwd: run.path, stdio: "pipe" });
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=stage");
  openssl("req", "-x509", ...key, "-keyout", "public.key", "-out", "public.crt", "-subj", `/CN=${FACILITATOR}`,
    "-CA", "ca.crt", "-CAkey", "ca.key", "-addext", `subjectAltName=DNS:${FACILITATOR}`, "-addext", "basicConstraints=critical,CA:FALSE");
  return join(run.path, "ca.crt");
}

/** The stage's facilitator, where the world has the public one: behind TLS at its name, below its path. */
async function playPublicFacilitator(port) {
  const server = createServer({ key: readFileSync(join(run.path, "public.key")), cert: readFileSync(join(run.path, "public.crt")) }, (asked, answer) => {
    const path = asked.url.replace(/^\/facilitator(?=\/)/, "");
    const passed = request({ host: "127.0.0.1", port, path, method: asked.method, headers: asked.headers }, (response) => {
      answer.writeHead(response.statusCode, response.headers);
      response.pipe(answer);
    });
    asked.pipe(passed);
  });
  await new Promise((resolve) => server.listen(443, "127.0.0.1", resolve));
  ends.push(async () => (server.closeAllConnections(), server.close()));
  const hosts = join(run.path, "hosts");
  writeFileSync(hosts, `127.0.0.1 localhost ${FACILITATOR}\n`);
  execFileSync("mount", ["--bind", hosts, "/etc/hosts"]);
}

const backends = await startBackends({ label: "docker-stage" });
ends.push(backends.stop);
const authority = makeCertificates();
await playPublicFacilitator(backends.facilitator.port);
const { docker, env, makeImages, stop } = await startDocker(run);
ends.push(stop);
await makeImages({ node: demo.stage.image, envoy: demo.envoy.image }, authority);

// What try.yaml asks for is what a test says, and nothing that happens to be set here.
const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !(name in own.gateway.environment)));

/** Runs a program; its output and exit code, whatever that is. */
async function tell(program, args, more = {}) {
  const options = { cwd: checkout, env: { ...inherited, ...env, ...more }, maxBuffer: 64_000_000 };
  const { code = 0, stdout, stderr } = await promisify(execFile)(program, args, options).catch((error) => error);
  return { code, output: stdout + stderr };
}

async function succeed(...call) {
  const { code, output } = await tell(...call);
  assert.equal(code, 0, output);
  return output;
}

/** Debian's docker-compose, and Docker's own plugin where that is installed. */
const COMPOSE = [["docker-compose"], ["docker", "compose"]];
const installed = [];
for (const command of COMPOSE) {
  const { code, output } = await tell(command[0], [...command.slice(1), "version", "--short"]);
  if (code === 0) installed.push({ command, version: output.trim() });
}
assert.ok(installed.length > 0, "no Compose");

/** One compose file under one Compose. */
const composeOf = ([program, ...words], file) => (args, variables) => [program, [...words, "-f", `envoy/${file}`, ...args], variables];

/** Starts the services and waits for the terms; where they do not come, says what the containers said. */
async function upUntilAsked(url, compose, variables) {
  const asked = async () => (await fetch(url)).status === 402;
  try {
    await succeed(...compose(["up", "-d"], variables));
    await until(asked, { what: url, timeoutMs: 60_000 });
  } catch (error) {
    throw new Error(`${error.message}\n${(await tell(...compose(["logs"], variables))).output}`);
  }
}

async function assertNothingRuns() {
  assert.equal(await docker("ps", "--all", "--quiet"), "");
  await assert.rejects(fetch(WEATHER));
}

for (const { command, version } of installed) {
  test(`compose.yaml, Compose ${version}: up, asked to pay, paid, settled once, down; and again`, async () => {
    const compose = composeOf(command, "compose.yaml");
    const within = (...args) => succeed(...compose(["exec", "-T", ...args]));
    for (let round = 0; round < 2; round++) {
      await upUntilAsked(WEATHER, compose);
      const paid = await succeed("make", ["--no-print-directory", "pay", `URL=${WEATHER}`]);
      assert.match(paid, /HTTP 200, paid 0\.001 USDC, transaction 0x[0-9a-f]{64}/);

      const bootstrap = parse(await within("stage", "cat", "/run/x402/envoy.json"));
      const { load_assignment } = bootstrap.static_resources.clusters.find(({ name }) => name === "facilitator");
      const { port_value } = load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address;
      const calls = `fetch("http://127.0.0.1:${port_value}/calls").then((got) => got.text()).then(console.log)`;
      const { counts } = JSON.parse(await within("stage", "node", "-e", calls));
      assert.equal(counts["/settle"], 1);
      assert.match(await succeed(...compose(["logs", "envoy"])), /"path":"\/weather"/);

      await succeed(...compose(["down"]));
      await assertNothingRuns();
    }
  });
}

const ownApi = { API: `http://127.0.0.1:${backends.inference.port}`, PAY_TO: payTo };

/** Sells an API by try.yaml until something has been done with it. */
async function selling(command, variables, url, use) {
  const compose = composeOf(command, "try.yaml");
  try {
    await upUntilAsked(url, compose, variables);
    await use();
  } finally {
    await tell(...compose(["down"], variables));
  }
  await assertNothingRuns();
}

/** Pays once at a URL: the terms, and what moved on the chain. */
async function payAt(url) {
  const block = (await backends.chain.client.getBlockNumber()) + 1n;
  const settled = backends.facilitator.count("/settle");
  const payer = makePayer();
  const response = await payer.fetch(url);
  assert.equal(response.status, 200);
  assert.ok((await response.text()).length > 0);
  assert.equal(backends.facilitator.count("/settle") - settled, 1);
  return { terms: payer.exchanges[0].terms, transfers: await backends.chain.transfers(block) };
}

for (const { command, version } of installed) {
  test(`try.yaml, Compose ${version}: an API of one's own, by the public facilitator of the test networks`, () =>
    selling(command, ownApi, WEATHER, async () => {
      const { terms, transfers } = await payAt(WEATHER);
      const offers = terms.accepts.map(({ scheme, network, amount, asset, payTo }) => ({ scheme, network, amount, asset, payTo }));
      assert.deepEqual(offers, [{ scheme: "exact", network: NETWORK, amount: "1000", asset: USDC, payTo }]);
      assert.deepEqual(transfers.map(({ to, value }) => ({ to, value })), [{ to: payTo, value: 1000n }]);
    }));

  test(`try.yaml, Compose ${version}: price, recipient, facilitator, ports and module are what the variables say`, async () => {
    const recipient = accounts[5].address;
    const module = join(run.path, "plugin.wasm");
    copyFileSync(WASM, module);
    const more = { FACILITATOR: backends.facilitator.url, LISTEN: "8500", ADMIN: "8501", WASM: relative(checkout, module) };
    const variables = { ...ownApi, PAY_TO: recipient, PRICE: "0.25", ...more };
    const url = "http://127.0.0.1:8500/weather";
    await selling(command, variables, url, async () => {
      assert.equal((await fetch("http://127.0.0.1:8501/ready")).status, 200);
      const { transfers } = await payAt(url);
      assert.deepEqual(transfers.map(({ to, value }) => ({ to, value })), [{ to: recipient, value: 250_000n }]);
    });
  });

  test(`try.yaml, Compose ${version}: the network is what the variable says`, () => {
    const variables = { ...ownApi, NETWORK: "base" };
    return selling(command, variables, WEATHER, async () => {
      const payer = makePayer();
      await payer.watched(WEATHER);
      assert.deepEqual(payer.exchanges[0].terms.accepts.map(({ network }) => network), ["eip155:8453"]);
    });
  });

  test(`try.yaml, Compose ${version}: what is missing or wrong is said`, async () => {
    const compose = composeOf(command, "try.yaml");
    for (const [variables, expected] of [
      [{}, /set (API to http:\/\/HOST:PORT of your API|PAY_TO to the account)/],
      [{ ...ownApi, API: "" }, /set API to http:\/\/HOST:PORT of your API, such as http:\/\/127\.0\.0\.1:8000/],
      [{ ...ownApi, PAY_TO: "" }, /set PAY_TO to the account that is paid/],
      [{ ...ownApi, API: "https://api.example.com" }, /API: "https:\/\/api\.example\.com" is not http:\/\/HOST:PORT/],
      [{ ...ownApi, WASM: "dist/none.wasm" }, /WASM: "dist\/none\.wasm" cannot be read in this checkout: run `make build`/],
      // What the filter says of its configuration.
      [{ ...ownApi, NETWORK: "moon" }, /moon/],
    ]) {
      const { code, output } = await tell(...compose(["up"], variables));
      assert.match(output, expected);
      assert.ok(code !== 0 || /exited with code 1/.test(output), output);
      await tell(...compose(["down"], ownApi));
    }
    await assertNothingRuns();
  });
}

test("The module's image builds, and holds the module byte for byte", async () => {
  const context = join(run.path, "dist");
  mkdirSync(context);
  copyFileSync(WASM, join(context, "plugin.wasm"));
  await docker("build", "--quiet", "--tag", "x402:0", "-f", join(checkout, "envoy", "Dockerfile"), context);
  const container = await docker("create", "x402:0", "none");
  const copy = join(run.path, "copied.wasm");
  await docker("cp", `${container}:/plugin.wasm`, copy);
  assert.ok(readFileSync(copy).equals(readFileSync(WASM)));
  await docker("rm", container);
});
