/**
 * The whole stage in one call: chain, facilitator and model server (the backends), and Envoy with the filter in
 * front of them. Backends may be shared by several Envoys, one after the other or side by side.
 */
import { startChain } from "./chain.mjs";
import { startEnvoy } from "./envoy.mjs";
import { startFacilitator } from "./facilitator.mjs";
import { startInference } from "./inference.mjs";
import { claimPorts } from "./ports.mjs";
import { makeRunDirectory, sweepDeadRuns } from "./processes.mjs";

// Ends things in the reverse order of their start, all of them, whatever one of them may throw.
function endings() {
  const list = [];
  return {
    add: (stop) => list.push(stop),
    run: async () => {
      let failure;
      while (list.length) {
        try {
          await list.pop()();
        } catch (error) {
          failure ??= error;
        }
      }
      if (failure) throw failure;
    },
  };
}

/**
 * Starts chain, facilitator and model server.
 *
 * @param {object} [options]
 * @param {string} [options.label] beginning of the run directory's name
 * @param {boolean} [options.exactLabel] the label is the whole name
 * @param {Record<string, bigint>} [options.balances] USDC at the start, see startChain
 * @param {number} [options.interval] seconds between the chain's own blocks, see startChain
 * @param {number} [options.chunkDelay] see startInference
 * @param {boolean} [options.keepLogs] leave the run directory behind when stopped; `KEEP_LOGS=1` does it too
 * @returns {Promise<Backends>}
 *
 * @typedef {object} Backends
 * @property {import("./chain.mjs").Chain} chain
 * @property {import("./facilitator.mjs").Facilitator} facilitator
 * @property {import("./inference.mjs").Inference} inference
 * @property {Awaited<ReturnType<typeof claimPorts>>} ports `spareN` are free
 * @property {ReturnType<typeof makeRunDirectory>} run where the logs are
 * @property {Record<string, number>} startup milliseconds that each backend took
 * @property {() => Promise<void>} stop
 */
export async function startBackends({ label = "stage", exactLabel = false, balances, interval, chunkDelay, keepLogs } = {}) {
  await sweepDeadRuns();
  const ends = endings();
  const startup = {};
  const timed = async (name, starting) => {
    const started = performance.now();
    const backend = await starting;
    startup[name] = performance.now() - started;
    ends.add(backend.stop);
    return backend;
  };
  const run = makeRunDirectory(label, { exact: exactLabel });
  try {
    const ports = await claimPorts();
    ends.add(ports.release);
    const [chain, facilitator, inference] = await Promise.all([
      timed("chain", startChain({ port: ports.chain, run, balances, interval })),
      timed("facilitator", startFacilitator({ port: ports.facilitator, rpcUrl: `http://127.0.0.1:${ports.chain}` })),
      timed("inference", startInference({ port: ports.inference, adminPort: ports.inferenceAdmin, chunkDelay })),
    ]);
    const stop = async () => {
      await ends.run();
      if (keepLogs) run.keep();
      run.remove();
    };
    return { chain, facilitator, inference, ports, run, startup, stop };
  } catch (error) {
    await ends.run().catch(() => {});
    run.remove();
    throw error;
  }
}

let serial = 0;

/**
 * Starts Envoy with the filter in front of the backends; starts the backends too unless it is given some.
 *
 * @param {object} [options] besides these, everything that startEnvoy and startBackends take
 * @param {Backends} [options.backends] backends to share; they stay when this stage is stopped
 * @param {object | string} [options.plugin] the filter's configuration; without it the demo's. An object without
 *   `facilitator` is given the stage's
 * @param {"official" | string} [options.facilitator] `official`, or the URL (http, 127.0.0.1 or an address) of
 *   another one: the cluster `facilitator` then leads there
 * @param {number} [options.concurrency] Envoy's workers
 * @returns {Promise<Backends & {envoy: import("./envoy.mjs").Envoy, url: string}>} `url` is the gateway's
 */
export async function startStage({ backends: shared, plugin, facilitator = "official", clusters, label, balances, interval, chunkDelay, keepLogs, exactLabel, ...rest } = {}) {
  const ends = endings();
  const backends = shared ?? (await startBackends({ label, exactLabel, balances, interval, chunkDelay, keepLogs }));
  if (!shared) ends.add(backends.stop);
  try {
    // The block that the backends claimed has room for one Envoy only.
    const ports = shared ? await claimPorts() : backends.ports;
    if (shared) ends.add(ports.release);
    const at = new URL(facilitator === "official" ? backends.facilitator.url : facilitator);
    const endpoint = { address: at.hostname, port: Number(at.port || 80) };
    const given = typeof plugin === "object" && plugin !== null && !("facilitator" in plugin || "facilitators" in plugin);
    const started = performance.now();
    const envoy = await startEnvoy({
      run: backends.run,
      name: shared ? `envoy-${++serial}` : "envoy",
      port: ports.gateway,
      adminPort: ports.gatewayAdmin,
      apiPort: backends.inference.port,
      facilitatorPort: backends.facilitator.port,
      plugin: given ? { facilitator: { cluster: "facilitator", url: at.href.replace(/\/$/, "") }, ...plugin } : plugin,
      clusters: { ...(facilitator !== "official" && { facilitator: endpoint }), ...clusters },
      ...rest,
    });
    ends.add(envoy.stop);
    const startup = { ...backends.startup, envoy: performance.now() - started };
    return { ...backends, ports, startup, envoy, url: envoy.url, stop: ends.run };
  } catch (error) {
    await ends.run().catch(() => {});
    throw error;
  }
}
