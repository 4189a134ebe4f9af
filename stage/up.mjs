/**
 * `make up`: the stage of the demo, left running in the background until `make down`. One process holds it
 * all together (`node stage/up.mjs --foreground`); Envoy and the chain are its children.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { MODEL } from "./inference.mjs";
import { commandOf, checkout, readRecord, runRoot, sweepDeadRuns, until } from "./processes.mjs";
import { startStage } from "./stage.mjs";
import { bold, dim, item, line } from "./terminal.mjs";

const LABEL = "up";

/** The run directory of the stage that `make up` starts. */
export const upDirectory = join(runRoot, LABEL);

const stateFile = join(upDirectory, "state.json");
/** What the background process has to say when it cannot start. */
export const outputFile = join(runRoot, "up.log");

/**
 * What `make up` has running.
 *
 * @returns {{pid: number, urls: {gateway: string, admin: string, api: string, facilitator: string, chain: string}} | null}
 *   null when nothing runs
 */
export function readState() {
  const record = readRecord(upDirectory);
  if (!record || commandOf(record.pid) !== record.command) return null;
  try {
    return JSON.parse(readFileSync(stateFile, "utf8"));
  } catch {
    return null; // It is still starting.
  }
}

async function runInForeground() {
  if (readState()) throw new Error("it runs already; end it with `make down`");
  const stage = await startStage({ label: LABEL, exactLabel: true, chunkDelay: 30, interval: 1 });
  let ending = false;
  const end = async (status) => {
    if (ending) return;
    ending = true;
    await stage.stop();
    process.exit(status);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => end(0));
  // Half a stage would only puzzle: without Envoy or the chain, all of it goes.
  for (const part of [stage.envoy, stage.chain]) part.onEnd.then(() => end(1));
  const urls = {
    gateway: stage.url,
    admin: `http://127.0.0.1:${stage.envoy.adminPort}`,
    api: stage.inference.url,
    facilitator: stage.facilitator.url,
    chain: stage.chain.rpcUrl,
  };
  writeFileSync(stateFile, JSON.stringify({ pid: process.pid, urls }, null, 2) + "\n");
  describe({ pid: process.pid, urls });
}

async function startInBackground() {
  await sweepDeadRuns();
  mkdirSync(runRoot, { recursive: true });
  const output = openSync(outputFile, "w");
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), "--foreground"], {
    detached: true,
    stdio: ["ignore", output, output],
    cwd: checkout,
  });
  closeSync(output);
  let ended = false;
  child.once("exit", () => (ended = true));
  child.unref();
  const process_ = { ended: () => ended, log: () => readFileSync(outputFile, "utf8") };
  return until(async () => readState(), { what: "the stage", process: process_, timeoutMs: 30_000 });
}

function describe({ urls }) {
  const gateway = urls.gateway;
  const body = JSON.stringify({ model: MODEL, messages: [{ role: "user", content: "Hello" }] });
  line(bold("The stage is up."));
  line();
  item("gateway", gateway);
  item("Envoy admin", urls.admin);
  item("API", `${urls.api} ${dim("(without the gateway: free)")}`);
  item("facilitator", `${urls.facilitator} ${dim("(/calls shows what it was asked)")}`);
  item("chain", `${urls.chain} ${dim("(JSON-RPC, chain id 84532)")}`);
  item("logs", `${relative(process.cwd(), upDirectory) || "."}/`);
  line();
  line("Something free:");
  line(`   curl ${gateway}/v1/models`);
  line("Something for sale (402; the terms are in the body and, in base64, in PAYMENT-REQUIRED):");
  line(`   curl -i ${gateway}/weather`);
  line(`   curl -i ${gateway}/v1/chat/completions -d '${body}'`);
  line("Pay for it with the official client:");
  line("   make pay");
  line(`   node stage/pay.mjs ${gateway}/weather`);
  line(`   node stage/pay.mjs -d '${body}' ${gateway}/v1/chat/completions`);
  line("End it:");
  line("   make down");
}

async function main() {
  if (process.argv[2] === "--foreground") return runInForeground();
  describe(readState() ?? (await startInBackground()));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main().catch((error) => {
    console.error(error.message);
    process.exit(1);
  });
}
