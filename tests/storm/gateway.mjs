/**
 * The stage of the storm: a real Envoy with two workers, a real chain and the official facilitator, with proxies between
 * them that inject faults. Most of it can be killed and started again, and the filter be configured anew, under traffic.
 */
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { accounts, payTo } from "../../stage/accounts.mjs";
import { NETWORK } from "../../stage/chain.mjs";
import { startFacilitator } from "../../stage/facilitator.mjs";
import { startInference } from "../../stage/inference.mjs";
import { startBackends, startStage } from "../../stage/stage.mjs";
import { choicesOf, startFaultInjectingProxy } from "./faults.mjs";
import { randomOf } from "./random.mjs";
import { moodyUpstream } from "./upstream.mjs";

/** How long the filter waits for facilitator and node. */
const PATIENCE_MS = 1_000;

const MINTED = 1_000_000_000n;
const OTHER_PAY_TO = "0x000000000000000000000000000000000000dEaD";

/** Who can pay. */
export const payers = [1, 3, 4, 5, 6, 7].map((index) => accounts[index]);

/** Who has nothing to pay with. */
export const poorPayer = accounts[8];

/** What is sold out of channels. */
export const CHANNEL = { amount: "800", deposit: "$0.02" };

const OFFER = { scheme: "exact", network: "base-sepolia", asset: "USDC" };
const CONFIRMED = [{ ...OFFER, confirm: true }];

/**
 * What is for sale, by the first segment of its path. Each has a price of its own, but for the twins, which have one, and
 * the market, which has two by turns.
 */
const ROUTES = {
  after: { settle: "after", amount: "1000" },
  before: { settle: "before", amount: "2000", twin: "twin" },
  twin: { settle: "before", amount: "2000", twin: "before" },
  concurrent: { settle: "concurrent", amount: "3000", pay_to: OTHER_PAY_TO },
  market: { settle: "before", amount: "4000", otherAmount: "5000" },
  "confirmed-after": { settle: "after", amount: "6000", accepts: CONFIRMED },
  "confirmed-before": { settle: "before", amount: "7000", accepts: CONFIRMED },
};

/** The routes that are there; without a node nothing can be confirmed. */
const routesOf = (withRpc) => Object.entries(ROUTES).filter(([, { accepts }]) => withRpc || accepts !== CONFIRMED);

/** The plugin's configuration. Each version differs from the one before it, be it in nothing but its name. */
function pluginOf({ version, urls, withRpc, verify, isOtherMarket }) {
  const timeout = `${PATIENCE_MS / 1000}s`;
  const node = { cluster: "chain", url: urls.node, timeout, confirmations: 1, log_range: 100_000 };
  return {
    facilitator: { cluster: "facilitator", url: urls.facilitator, timeout, verify },
    ...(withRpc && { rpc: { [NETWORK]: node } }),
    defaults: { pay_to: payTo, accepts: [OFFER] },
    // Soon enough for claims to come in the storm.
    channels: { claim_every: "3s" },
    routes: routesOf(withRpc).map(([name, { amount, otherAmount = amount, twin, ...route }]) => ({
      name,
      match: { path: `/${name}/{*rest}` },
      price: { amount: isOtherMarket ? otherAmount : amount },
      description: `Version ${version}`,
      ...route,
    })).concat({
      name: "channel",
      match: { path: "/channel/{*rest}" },
      price: { amount: CHANNEL.amount },
      accepts: [{ ...OFFER, scheme: "batch-settlement", min_deposit: CHANNEL.deposit }],
      // A request whose answer was lost holds its channel for about as long.
      max_timeout_seconds: 20,
      description: `Version ${version}`,
    }),
    unmatched: "free",
  };
}

/** The nonce of the payment that a question is about; null where it is about none, or does not say. */
function nonceOf(body) {
  const logs = [body].flat().find(({ method }) => method === "eth_getLogs");
  const { authorization, voucher } = body.paymentPayload?.payload ?? {};
  return authorization?.nonce ?? voucher?.channelId ?? logs?.params[0].topics?.[2] ?? null;
}

/**
 * Starts everything.
 *
 * @param {object} options
 * @param {number} options.seed
 * @param {import("./books.mjs").Books} options.books
 * @param {boolean} options.withRpc whether the filter may ask the chain
 * @param {string[]} options.without names of faults that are left out
 * @returns {Promise<Gateway>}
 *
 * @typedef {object} Gateway
 * @property {number} port
 * @property {{name: string, isFickle: boolean, twin?: string}[]} routes what is for sale: the first segment of its path,
 *   whether its price changes, and another route at the same terms
 * @property {boolean} withRpc
 * @property {import("../../stage/chain.mjs").Chain} chain
 * @property {import("../../stage/envoy.mjs").Envoy} envoy
 * @property {{url: string}} facilitator the official one, without anything between
 * @property {((pause: () => Promise<unknown>) => Promise<void>)[]} troubles kill somebody and start it again after the
 *   pause, or configure the filter anew
 * @property {() => void} turnMarket gives the filter the configuration with the market's other price
 * @property {() => void} calm ends all faults
 * @property {() => boolean} isCalm
 * @property {() => boolean} isIdle whether nothing is under way behind Envoy
 * @property {() => void} keepLogs
 * @property {string} logs where they are
 * @property {() => Promise<void>} stop
 */
export async function startGateway(options) {
  const balances = Object.fromEntries(payers.map(({ address }) => [address, MINTED]));
  const backends = await startBackends({ label: "storm", balances });
  const ends = [backends.stop];
  const stop = async () => {
    for (const end of ends.splice(0).reverse()) await end();
  };
  try {
    return await open({ backends, ends, stop, ...options });
  } catch (error) {
    await stop();
    throw error;
  }
}

async function open({ backends, ends, stop, seed, books, withRpc, without }) {
  const { chain, ports, run } = backends;
  const routes = routesOf(withRpc).map(([name, { otherAmount, twin }]) => ({ name, isFickle: Boolean(otherAmount), twin }));
  const isPriced = (path) => path.startsWith("/channel/") || routes.some(({ name }) => path.startsWith(`/${name}/`));
  const confirmed = routesOf(withRpc).flatMap(([, { accepts, amount }]) => (accepts === CONFIRMED ? amount : []));
  let isCalm = false;

  // ---- What injects faults ----
  const choices = choicesOf({ isConfirmed: (body) => confirmed.includes(body.paymentRequirements.amount), without });
  const asked = new Map();
  const between = async (name, port, target) => {
    const proxy = await startFaultInjectingProxy({
      port,
      target,
      patience: PATIENCE_MS,
      choose: choices[name],
      // The plan is the payment's own: the second question about it meets the same fault whenever it comes.
      randomFor: ({ path, body }) => {
        const key = `${name} ${path} ${nonceOf(body) ?? ""}`;
        asked.set(key, (asked.get(key) ?? 0) + 1);
        return randomOf(seed, key, asked.get(key));
      },
      tell: ({ path, body, fault, answer }) => {
        const who = name === "facilitator" ? path : name;
        if (answer === undefined) books.count(who, fault);
        const said = answer ? `said ${answer.status} ${answer.text.slice(0, 160)}` : "did not answer";
        const what = answer === undefined ? `befallen: ${fault}` : `${said}${fault ? ` (${fault})` : ""}`;
        books.note(nonceOf(body), `${who}: ${what}`);
      },
    });
    ends.push(() => proxy.stop());
    return proxy;
  };
  const facilitatorProxy = await between("facilitator", ports.spare1, backends.facilitator.url);
  const nodeProxy = await between("node", ports.spare2, chain.rpcUrl);
  const fartherNodeProxy = await between("farther node", ports.spare3, chain.rpcUrl);
  const proxies = [facilitatorProxy, nodeProxy, fartherNodeProxy];

  // ---- Who can be killed ----
  const openFacilitator = () =>
    startFacilitator({ port: backends.ports.facilitator, rpcUrl: `http://127.0.0.1:${ports.spare3}` });
  await backends.facilitator.stop();
  let facilitator = await openFacilitator();
  const upstream = moodyUpstream({ seed, books, isPriced });
  let inference = backends.inference;
  inference.intercept = upstream.intercept;
  ends.push(() => facilitator.stop(), () => inference.stop());
  const restart = (name, kill, revive) => async (pause) => {
    books.count("troubles", name);
    await kill();
    await pause();
    await revive();
  };

  // ---- Envoy, with a listener that it reads from a file, and reads again whenever the file is replaced ----
  const urls = { facilitator: `http://127.0.0.1:${ports.spare1}`, node: `http://127.0.0.1:${ports.spare2}` };
  const file = join(run.path, "listeners.json");
  let listener;
  let version = 0;
  let isOtherMarket = false;
  const publish = ({ verify = "remote" } = {}) => {
    const plugin = pluginOf({ version: ++version, urls, withRpc, verify, isOtherMarket });
    const { http_filters } = listener.filter_chains[0].filters[0].typed_config;
    const { config } = http_filters.find(({ name }) => name === "x402").typed_config;
    const text = "type.googleapis.com/google.protobuf.StringValue";
    config.configuration = { "@type": text, value: JSON.stringify(plugin) };
    const resource = { "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", ...listener };
    writeFileSync(`${file}.new`, JSON.stringify({ version_info: String(version), resources: [resource] }));
    renameSync(`${file}.new`, file); // Envoy watches for moves.
  };
  const { envoy, stop: stopEnvoy } = await startStage({
    backends,
    plugin: "{}", // The listener that has it is replaced below.
    facilitator: urls.facilitator,
    clusters: { chain: ports.spare2 },
    concurrency: 2,
    // What a new configuration replaces is soon gone, with all that was still under way there.
    args: ["--drain-time-s", "3"],
    edit: (bootstrap) => {
      [listener] = bootstrap.static_resources.listeners.splice(0);
      bootstrap.node = { id: "storm", cluster: "storm" };
      bootstrap.dynamic_resources = { lds_config: { path_config_source: { path: file }, resource_api_version: "V3" } };
      publish();
    },
  });
  ends.push(stopEnvoy);

  const random = randomOf(seed, "configurations");
  const reload = () => {
    books.count("troubles", "configuration");
    isOtherMarket = random.chance(0.5);
    publish({ verify: random.pick(["remote", "remote", "local"]) });
  };
  return {
    port: envoy.port,
    routes,
    withRpc,
    chain,
    envoy,
    facilitator: { url: `http://127.0.0.1:${backends.ports.facilitator}` },
    troubles: [
      reload,
      restart("official facilitator", () => facilitator.stop(), async () => (facilitator = await openFacilitator())),
      restart("facilitator's proxy", () => facilitatorProxy.stop(), facilitatorProxy.start),
      reload,
      restart("node's proxy", () => nodeProxy.stop(), nodeProxy.start),
      restart("upstream", () => inference.stop(), async () => {
        inference = await startInference({ port: ports.inference, adminPort: ports.inferenceAdmin });
        inference.intercept = upstream.intercept;
      }),
    ],
    turnMarket: () => {
      isOtherMarket = !isOtherMarket;
      publish();
    },
    calm: () => {
      isCalm = true;
      for (const quiet of [...proxies, upstream]) quiet.calm();
    },
    isCalm: () => isCalm,
    isIdle: () => proxies.every((proxy) => proxy.isIdle()),
    keepLogs: run.keep,
    logs: run.path,
    stop,
  };
}
