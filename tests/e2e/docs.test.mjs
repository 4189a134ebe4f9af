/**
 * The documents: each configuration in them goes live in a real Envoy as it stands there, the README's command for an API of
 * one's own does what it says, and no link leads nowhere.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { makePayer } from "../../stage/client.mjs";
import { ENVOY } from "../../stage/envoy.mjs";
import { startEtcd } from "../../stage/etcd.mjs";
import { checkout, startProcess, until } from "../../stage/processes.mjs";
import { startStage } from "../../stage/stage.mjs";
import { startFakeDynamoDb } from "./fake-dynamodb.mjs";
import { startFakeFacilitator } from "./fake-facilitator.mjs";
import { eventually, handing, openBackends, payTo } from "./support.mjs";

const read = (page) => readFileSync(join(checkout, page), "utf8");
const chapters = readdirSync(join(checkout, "docs"), { recursive: true }).filter((file) => file.endsWith(".md")).sort();
const pages = [...readdirSync(checkout).filter((file) => file.endsWith(".md")), ...chapters.map((file) => `docs/${file}`)];

/** Every block of YAML on a page: [page, number, plugin's configuration]. */
const examples = pages.flatMap((page) =>
  [...read(page).matchAll(/^ *```ya?ml\n(.*?)^ *```/gms)].map(([, text], index) => [page, index + 1, parse(text)]),
);

const backends = await openBackends();
const fake = await startFakeFacilitator();
backends.atEnd(fake.stop);
// One that settles whatever the examples name.
const extra = { facilitatorAddress: "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", receiverAuthorizer: "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65", feePayer: "4grnnLTN5ehuHguSUwtNYnYTwTGHn1rtfTsQrDB7PoLP" };
const kinds = ["exact", "upto", "batch-settlement"].flatMap((scheme) =>
  ["eip155:*", "solana:*", "hedera:*"].map((network) => ({ x402Version: 2, scheme, network, extra })),
);
fake.always("/supported", { json: { kinds } });

test("README and chapters have examples, and each is a whole configuration", () => {
  const whole = examples.filter(([, , { facilitator, facilitators, routes }]) => (facilitator || facilitators) && routes);
  assert.deepEqual(examples.filter((example) => !whole.includes(example)).map(([page, number]) => `${page}, ${number}`), []);
  assert.ok(examples.some(([page]) => page === "README.md"));
  assert.ok(examples.length >= 7, `${examples.length} examples`);
});

/** The variables that an example takes from the environment. */
const variables = (plugin) => [...JSON.stringify(plugin).matchAll(/\{"env":"(\w+)"\}/g)].map(([, name]) => name);
/** A throwaway key: base64 of the seed 07…07 and its public key. */
process.env.CDP_API_KEY_SECRET = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwfqSmxj4pxSCr71UHsTLsX5lUd2rr6+e5JCHuppFEbSLA==";
process.env.CDP_API_KEY_ID = "docs";
process.env.NODE_URL = backends.chain.rpcUrl;

/** The store of a ledger. */
function startStore({ etcd, dynamodb }) {
  if (etcd) return startEtcd({ run: backends.run, size: 1 });
  if (dynamodb) return startFakeDynamoDb({ run: backends.run, table: dynamodb.table });
}

for (const [page, number, plugin] of examples) {
  test(`${page}: example ${number} goes live, and its first route asks for payment`, async () => {
    const store = await startStore(plugin.ledger?.store ?? {});
    const edit = (bootstrap) => (handing(...variables(plugin))(bootstrap), store?.edit(bootstrap));
    const stage = await startStage({ backends, plugin, facilitator: fake.url, allowOnHeadersStopIteration: true, edit });
    try {
      const [{ match }] = plugin.routes;
      const path = match.path.replace(/\{.*\}/, "x");
      const models = Object.keys(plugin.routes[0].price?.models ?? {});
      const body = models.length ? JSON.stringify({ model: models[0], messages: [] }) : undefined;
      const status = async () => (await fetch(`${stage.url}${path}`, { method: match.methods?.[0] ?? "GET", body })).status;
      // Some entries wait for the facilitator's word.
      await eventually(async () => (await status()) !== 503, "the route can be sold");
      // fetch cannot choose the host, so a route with hosts does not match here.
      assert.equal(await status(), match.hosts?.[0] ? 200 : 402);
    } finally {
      await stage.stop();
      await store?.stop();
    }
  });
}

/** What `make run` calls. */
const run = (...args) => spawnSync(process.execPath, [join(checkout, "stage", "run.mjs"), ...args], { encoding: "utf8" });

test("The README shows the configuration that `make run` gives the filter", () => {
  const [, , shown] = examples.find(([page]) => page === "README.md");
  const { stdout } = run("--api", "http://127.0.0.1:8000", "--pay-to", shown.routes[0].pay_to, "--print");
  const [manager] = parse(stdout).static_resources.listeners[0].filter_chains[0].filters;
  assert.deepEqual(manager.typed_config.http_filters[0].typed_config.config.configuration.value, shown);
});

test("Envoy takes what `make run` writes, and sells an API of one's own", async () => {
  const { spare1: port, spare2: admin } = backends.ports;
  const api = `http://127.0.0.1:${backends.inference.port}`;
  const { stdout, stderr } = run("--api", api, "--pay-to", payTo, "--listen", `${port}`, "--admin", `${admin}`, "--print");
  assert.equal(stderr, "");
  assert.doesNotMatch(stdout, /\$\{/);
  const file = join(backends.run.path, "own-api.yaml");
  writeFileSync(file, stdout);
  execFileSync(ENVOY, ["--mode", "validate", "-c", file, "--disable-hot-restart"], { stdio: "pipe" });

  // No test speaks to a facilitator that is not its own.
  const bootstrap = parse(stdout);
  const facilitator = bootstrap.static_resources.clusters.find(({ name }) => name === "facilitator");
  delete facilitator.transport_socket;
  const [{ endpoint }] = facilitator.load_assignment.endpoints[0].lb_endpoints;
  endpoint.address.socket_address = { address: "127.0.0.1", port_value: backends.facilitator.port };
  const { config } = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config;
  config.configuration.value.facilitator.url = backends.facilitator.url;
  writeFileSync(`${file}.json`, JSON.stringify(bootstrap));

  const args = ["-c", `${file}.json`, "--disable-hot-restart", "--concurrency", "1"];
  const envoy = startProcess({ name: "own-api", command: ENVOY, args, run: backends.run });
  try {
    await until(async () => (await fetch(`http://127.0.0.1:${admin}/ready`)).ok, { what: "Envoy", process: envoy });
    const url = `http://127.0.0.1:${port}/weather`;
    assert.equal((await fetch(url)).status, 402);
    assert.equal((await makePayer().fetch(url)).status, 200);
  } finally {
    await envoy.stop();
  }
});

test("`make run` says what it lacks", () => {
  const account = ["--pay-to", payTo];
  for (const [args, expected] of [
    [[], /usage: make run API=/],
    [["--api", "", "--pay-to", ""], /usage: make run API=/],
    [["--api", "http://127.0.0.1:8000", "--pay-to", "0x123"], /PAY_TO: "0x123" is no account/],
    [["--api", "https://api.example.com", ...account], /API: .* is not http:\/\/HOST:PORT/],
    [["--api", "localhost:8000", ...account], /API: .* is not http:\/\/HOST:PORT/],
    [["--api", "http://127.0.0.1:8000/v1", ...account], /API: .* is not http:\/\/HOST:PORT/],
  ]) {
    const { status, stderr } = run(...args);
    assert.equal(status, 1);
    assert.match(stderr, expected);
  }
});

/** The anchors of a page's headings, as Git hosts and mdBook make them. */
const anchorsOf = (text) =>
  [...text.replace(/^```.*?^```/gms, "").matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replace(/\s/g, "-"),
  );

/** Every link of a page to something in the repository: [as it is written, file, anchor]. */
const linksOf = (page) =>
  [...read(page).replace(/^```.*?^```/gms, "").matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, link]) => link)
    .filter((link) => !/^[a-z]+:/.test(link))
    .map((link) => {
      const [path, anchor] = link.split("#");
      return [link, path === "" ? page : join(dirname(page), path), anchor];
    });

test("Every link leads to a file that is there, and to a heading in it", () => {
  const broken = pages.flatMap((page) =>
    linksOf(page)
      .filter(([, file, anchor]) => !existsSync(join(checkout, file)) || (anchor && !anchorsOf(read(file)).includes(anchor)))
      .map(([link]) => `${page}: ${link}`),
  );
  assert.deepEqual(broken, []);
});

test("The book has every chapter", () => {
  const named = linksOf("docs/SUMMARY.md").map(([, file]) => relative("docs", file)).sort();
  assert.deepEqual(named, chapters.filter((file) => file !== "SUMMARY.md"));
});

test("The README is a page that is read in one go", () => assert.ok(read("README.md").split("\n").length <= 150));
