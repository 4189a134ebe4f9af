/**
 * Child processes and their run directories. Two promises: whatever way this process ends, its children end
 * too; and what a killed process could not clean up, the next run does.
 */
import { spawn, execFileSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

/** The root of the checkout, an absolute path without a trailing slash. */
export const checkout = dirname(dirname(fileURLToPath(import.meta.url)));

/** Where runs keep their logs and records. */
export const runRoot = join(checkout, ".run");

const GRACE_MS = 3_000;
const live = new Set();
const runs = new Set();
let guarded = false;

// Node's default for a signal is to die without running exit handlers, which would leave the children behind.
function guard() {
  if (guarded) return;
  guarded = true;
  process.on("exit", () => {
    for (const child of live) child.kill("SIGKILL");
    for (const run of runs) run.remove();
  });
  for (const [signal, number] of [["SIGHUP", 1], ["SIGINT", 2], ["SIGTERM", 15]]) {
    process.on(signal, () => {
      // A program with something of its own to tidy (stage/up.mjs) handles the signal itself.
      if (process.listenerCount(signal) === 1) process.exit(128 + number);
    });
  }
}

/**
 * The command line of a process, or null if there is no such process.
 *
 * @param {number} pid
 * @returns {string | null} arguments joined by blanks
 */
export function commandOf(pid) {
  try {
    process.kill(pid, 0);
  } catch {
    return null;
  }
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").filter(Boolean).join(" ") || null;
  } catch {
    // No procfs: another system than Linux.
  }
  try {
    return execFileSync("ps", ["-o", "command=", "-p", String(pid)], { encoding: "utf8" }).trim() || null;
  } catch {
    return null;
  }
}

// A pid may have been given to someone else since it was noted: it counts only together with its command line.
const isStill = ({ pid, command }) => command !== null && commandOf(pid) === command;

/** Kilobytes that a process has in memory; Linux alone tells. */
export const residentKb = (pid) => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);

/**
 * Ends processes noted in a run's record, politely first.
 *
 * @param {{pid: number, command: string}[]} records
 * @returns {Promise<number>} how many of them were still there
 */
export async function endRecorded(records) {
  const there = records.filter(isStill);
  for (const signal of ["SIGTERM", "SIGKILL"]) {
    for (const record of there.filter(isStill)) {
      try {
        process.kill(record.pid, signal);
      } catch {
        // It ended by itself in between.
      }
    }
    for (let waited = 0; waited < GRACE_MS && there.some(isStill); waited += 20) await sleep(20);
  }
  return there.length;
}

/**
 * Reads the record that a run directory keeps about its processes.
 *
 * @param {string} directory
 * @returns {{pid: number, command: string, children: {name: string, pid: number, command: string}[]} | null}
 */
export function readRecord(directory) {
  try {
    return JSON.parse(readFileSync(join(directory, "processes.json"), "utf8"));
  } catch {
    return null;
  }
}

/** Cleans up after runs whose process was killed: ends their children, removes their directories. */
export async function sweepDeadRuns() {
  if (!existsSync(runRoot)) return;
  for (const name of readdirSync(runRoot)) {
    const directory = join(runRoot, name);
    const record = readRecord(directory);
    if (!record || isStill(record)) continue;
    await endRecorded(record.children);
    rmSync(directory, { recursive: true, force: true });
  }
}

let serial = 0;

/**
 * Makes a directory for the logs of one run and notes in it who owns it.
 *
 * @param {string} label first part of the directory's name
 * @param {{exact?: boolean}} [options] `exact`: take the label as the whole name
 * @returns {{path: string, note: (child: {name: string, pid: number, command: string}) => void,
 *   forget: (pid: number) => void, remove: () => void, keep: () => void}} `remove` deletes the directory,
 *   or only its record after `keep` (or with KEEP_LOGS=1 in the environment), so that the logs can be read
 */
export function makeRunDirectory(label, { exact = false } = {}) {
  const path = join(runRoot, exact ? label : `${label}-${process.pid}-${++serial}`);
  mkdirSync(path, { recursive: true });
  const record = { pid: process.pid, command: commandOf(process.pid), children: [] };
  const file = join(path, "processes.json");
  const write = () => existsSync(path) && writeFileSync(file, JSON.stringify(record, null, 2) + "\n");
  let kept = Boolean(process.env.KEEP_LOGS);
  write();
  const run = {
    path,
    note: (child) => (record.children.push(child), write()),
    forget: (pid) => {
      record.children = record.children.filter((child) => child.pid !== pid);
      write();
    },
    remove: () => {
      runs.delete(run);
      rmSync(kept ? file : path, { recursive: true, force: true });
    },
    keep: () => (kept = true),
  };
  runs.add(run);
  guard();
  return run;
}

/**
 * Starts a program whose output goes to `<name>.log` in the run directory.
 *
 * @param {{name: string, command: string, args: string[], env?: Record<string, string>,
 *   run: ReturnType<typeof makeRunDirectory>}} what `env` is added to this process's own
 * @returns {{pid: number, logPath: string, log: () => string, ended: () => boolean, onEnd: Promise<void>,
 *   stop: () => Promise<void>}} `log` gives all output so far; `stop` returns once the process is gone
 */
export function startProcess({ name, command, args, env, run }) {
  if (!existsSync(command)) throw new Error(`${command} is not there: run \`make setup\``);
  const logPath = join(run.path, `${name}.log`);
  const output = openSync(logPath, "a");
  const child = spawn(command, args, { stdio: ["ignore", output, output], cwd: checkout, env: { ...process.env, ...env } });
  closeSync(output);
  live.add(child);
  const onEnd = new Promise((resolve) => {
    const done = () => {
      live.delete(child);
      if (child.pid) run.forget(child.pid);
      resolve();
    };
    child.once("exit", done);
    child.once("error", done);
  });
  const ended = () => !live.has(child);
  const handle = {
    pid: child.pid,
    logPath,
    log: () => readFileSync(logPath, "utf8"),
    ended,
    onEnd,
    stop: async () => {
      if (ended()) return;
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), GRACE_MS);
      await onEnd;
      clearTimeout(late);
    },
  };
  if (child.pid) run.note({ name, pid: child.pid, command: [command, ...args].join(" ") });
  return handle;
}

/**
 * Waits until a check succeeds, and gives up early when the process it depends on has ended.
 *
 * @param {() => Promise<unknown>} check called again while it throws or gives something falsy
 * @param {{what: string, process?: ReturnType<typeof startProcess>, timeoutMs?: number}} about
 * @returns {Promise<unknown>} what the check gave
 */
export async function until(check, { what, process: child, timeoutMs = 15_000 }) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const result = await check().catch(() => null);
    if (result) return result;
    const why = child?.ended() ? "ended" : Date.now() > deadline ? `was not ready after ${timeoutMs / 1000} s` : null;
    if (why) {
      const tail = child ? `\n${child.log().trimEnd().split("\n").slice(-15).join("\n")}` : "";
      throw new Error(`${what} ${why}${tail}`);
    }
    await sleep(10);
  }
}
